"""Training FLOPs, counted by one function for plan, trainer, law and report: ours, and two countings for comparison."""

from dataclasses import dataclass
from typing import TypeVar

from isoflop.recipe.shape import Shape

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Flops:
    """FLOPs of training, forward and backward, counted three ways.

    Attributes:
        model: 72 L d^2 + 12 L S d + 6 V d a token. Six for every weight of a matrix that the token passes, the head
            included, and 12 L S d for attention as if it were not causal (Chowdhery et al. 2022, appendix B).
            Embedding look-ups, norms and recomputation count nothing. This is what `flops` means everywhere.
        six_nd: 6 N D with all parameters (Kaplan et al. 2020, sec. 2.1; Hoffmann et al. 2022, sec. 3.3).
        paper: what Cerebras-GPT's table of training FLOPs counts: 72 L d^2 + 24 L S d + 10 V d a token. Found by
            fitting: it gives all seven published numbers (Dey et al. 2023, zero-shot table) within their two digits.
    """

    model: int
    six_nd: int
    paper: int


def training_flops(shape: Shape, tokens: int = 1) -> Flops:
    """The FLOPs of training on so many tokens."""
    layers, head = shape.n_layers * layer_flops(shape), head_flops(shape)
    attention_again = shape.n_layers * 4 * shape.context_length * shape.d_model
    embedding = 4 * shape.vocab_size * shape.d_model
    return Flops(
        model=3 * (layers + head) * tokens,
        six_nd=six_nd(shape.params, tokens),
        paper=(3 * (layers + attention_again + head) + embedding) * tokens,
    )


def six_nd(params: Number, tokens: Number) -> Number:
    """6 N D: all that can be counted where a model's shape is not known."""
    return 6 * params * tokens


def layer_flops(shape: Shape) -> int:
    """Of one layer and token, forward: 24 d^2 + 4 S d (Narayanan et al. 2021, eq. 3 without the logits)."""
    return 24 * shape.d_model**2 + 4 * shape.context_length * shape.d_model


def head_flops(shape: Shape) -> int:
    """Of the logits of one token, forward: 2 V d (Narayanan et al. 2021, eq. 3)."""
    return 2 * shape.vocab_size * shape.d_model
