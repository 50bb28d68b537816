"""The shape of a GPT-3 style model and what follows from it alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Layers, width and heads, and the vocabulary and context that the data brings."""

    n_layers: int
    d_model: int
    n_heads: int
    vocab_size: int
    context_length: int

    @property
    def d_head(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def d_ff(self) -> int:
        """Width inside a layer's feed-forward network: 4 x d_model (Brown et al. 2020, sec. 2.1)."""
        return 4 * self.d_model

    @property
    def params_embedding(self) -> int:
        """Parameters of the token and position embeddings; the output head shares the former."""
        return (self.vocab_size + self.context_length) * self.d_model

    @property
    def params_per_layer(self) -> int:
        """Matrices 12 d^2 (QKV 3, projection 1, feed-forward 4 + 4), their biases 9 d, two LayerNorms 4 d."""
        return 12 * self.d_model**2 + 13 * self.d_model

    @property
    def params_non_embedding(self) -> int:
        """Parameters of the layers and the last LayerNorm."""
        return self.n_layers * self.params_per_layer + 2 * self.d_model

    @property
    def params(self) -> int:
        """All parameters, each counted once: 111,050,496 for Cerebras-GPT 111M (Dey et al. 2023, table 1)."""
        return self.params_embedding + self.params_non_embedding
