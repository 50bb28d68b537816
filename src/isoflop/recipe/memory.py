"""Bytes that training holds at once, by what they are for."""

from dataclasses import dataclass

from isoflop.recipe.shape import Shape


@dataclass(frozen=True)
class Memory:
    """Weights (fp32 master), optimizer (two fp32 moments and the fp32 gradient), and activations of one microbatch."""

    weights_bytes: int
    optimizer_bytes: int
    activation_bytes: int


def training_memory(shape: Shape, microbatch_sequences: int, precision: str) -> Memory:
    """What a resident run needs.

    Activations a layer keeps for its backward pass, a token: the fp32 residual stream twice, and in the compute
    precision two normalised inputs (2 d), QKV (3 d), attention's output (d), the feed-forward's inside before and
    after GELU (8 d), and the scores where attention is not fused: on a CPU, the lower triangle of h x S x S. The head
    adds the gradient of its input; the logits of a chunk are left out (under 20 MB).
    """
    item = 2 if precision == "bf16" else 4
    tokens = microbatch_sequences * shape.context_length
    d = shape.d_model
    layer = tokens * d * (2 * 4 + 14 * item) + tokens * shape.n_heads * shape.context_length * item // 2
    return Memory(
        weights_bytes=4 * shape.params,
        optimizer_bytes=12 * shape.params,
        activation_bytes=shape.n_layers * layer + 2 * 4 * tokens * d,
    )
