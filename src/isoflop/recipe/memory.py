"""Bytes that training holds at once, by what they are for."""

from dataclasses import dataclass

from isoflop.recipe.shape import Shape


@dataclass(frozen=True)
class Memory:
    """Weights (fp32 master and their bf16 image), optimizer (two fp32 moments, 64-bit gradient sums), activations."""

    weights_bytes: int
    optimizer_bytes: int
    activation_bytes: int


def training_memory(shape: Shape, microbatch_sequences: int, microbatches_at_once: int, precision: str) -> Memory:
    """What a resident run needs.

    Activations a layer keeps for its backward pass, a token: the fp32 residual stream twice, and in the compute
    precision two normalised inputs (2 d), QKV (3 d), attention's output (d), the feed-forward's inside before and
    after GELU (8 d), and the softmax, of which a little more than the lower triangle of h x S x S is kept. The head
    adds the gradient of its input; the logits of a chunk are left out.
    """
    item = 2 if precision == "bf16" else 4
    tokens = microbatch_sequences * shape.context_length
    d = shape.d_model
    layer = tokens * d * (2 * 4 + 14 * item) + tokens * shape.n_heads * shape.context_length * item // 2
    return Memory(
        weights_bytes=(4 + (2 if precision == "bf16" else 0)) * shape.params,
        optimizer_bytes=16 * shape.params,
        activation_bytes=microbatches_at_once * (shape.n_layers * layer + 2 * 4 * tokens * d),
    )
