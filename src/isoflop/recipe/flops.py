"""Training FLOPs, counted by one function for plan, trainer, law and report; two other countings for comparison."""

from isoflop.recipe.shape import Shape


def flops_per_token(shape: Shape) -> int:
    """Model FLOPs to train on one token, forward and backward: 72 L d^2 + 12 L S d + 6 V d.

    Six for every weight of a matrix that the token passes, the head included, and 12 L S d for attention as if it
    were not causal (Chowdhery et al. 2022, appendix B). Embedding look-ups, norms and recomputation count nothing.
    """
    L, d, S, V = shape.n_layers, shape.d_model, shape.context_length, shape.vocab_size
    return 72 * L * d * d + 12 * L * S * d + 6 * V * d


def flops_6nd(shape: Shape, tokens: int) -> int:
    """C = 6 N D with all parameters (Kaplan et al. 2020, sec. 2.1; Hoffmann et al. 2022, sec. 3.3)."""
    return 6 * shape.params * tokens


def flops_paper(shape: Shape, tokens: int) -> int:
    """What Cerebras-GPT's table of training FLOPs counts: 72 L d^2 + 24 L S d + 10 V d a token.

    Found by fitting: it gives all seven published numbers (Dey et al. 2023, zero-shot table) within their two digits.
    """
    L, d, S, V = shape.n_layers, shape.d_model, shape.context_length, shape.vocab_size
    return (72 * L * d * d + 24 * L * S * d + 10 * V * d) * tokens
