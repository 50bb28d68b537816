"""A model piece by piece, and the passes through all of its pieces."""

from typing import Any, Protocol

import torch
from torch import Tensor

from isoflop.model.gradients import Gradients
from isoflop.model.weights import Weights
from isoflop.recipe import Shape


class Passes(Protocol):
    """Loss and gradients on the calling thread. Holds no weights and no state: lanes share it.

    Of a piece's tensors, vectors are read from the fp32 `weights` (`w`, a layer's in the order of LAYER_TENSORS) and
    matrices from their `image`, but for the rows that `embed` looks up. Letters: B sequences of T tokens, n = B T rows.
    """

    shape: Shape
    dtype: torch.dtype
    embedding_multiplier: float

    def image(self, weights: Weights) -> Weights:
        """The weights as products take them."""

    def embed(self, weights: Any, ids: Tensor) -> Tensor:
        """The residual stream (n, d) at the bottom, of ids (B, T)."""

    def layer(
        self, w: list[Tensor], image: list[Tensor], x: Tensor, B: int, memory: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        """One layer on x (n, d) of B sequences, and what its backward pass needs.

        Given `memory`, (kept_bytes,) uint8, all that `recall` needs is left there, and x itself becomes the output.
        """

    def kept_bytes(self, B: int, T: int) -> int:
        """Bytes of the `memory` of a layer."""

    def recall(self, w: list[Tensor], image: list[Tensor], memory: Tensor, B: int, T: int) -> Any:
        """What the layer's backward pass needs, to the bit, from what its forward pass left in `memory`."""

    def layer_backward(
        self, i: int, w: list[Tensor], image: list[Tensor], saved: Any, dx: Tensor, gradients: Gradients
    ) -> None:
        """Turns dx (n, d) fp32, the gradient by the output of layer i, into that by its input, in place."""

    def head(
        self, weights: Any, image: Any, x: Tensor, targets: Tensor, gradients: Gradients | None
    ) -> tuple[Tensor, Tensor]:
        """Nats of the targets (n), each or their sum, and the sum's gradient by x (n, d).

        Without `gradients`, each, and no gradient.
        """

    def embed_backward(self, ids: Tensor, dx: Tensor, gradients: Gradients) -> None:
        """Gives on the gradients of both embeddings, of dx (n, d)."""

    def gradients(self, weights: Weights, image: Weights, samples: Tensor, gradients: Gradients) -> float:
        """Nats summed over the targets of `samples`, int64 (B, T + 1); `gradients` receives that sum's gradient."""
        return float(self.backpropagate(weights, image, samples, gradients))

    def backpropagate(self, weights: Weights, image: Weights, samples: Tensor, gradients: Gradients) -> Tensor:
        """As `gradients`, with the nats left where they are computed, fp64 (): nothing waits for a GPU."""
        ids, targets = samples[:, :-1].contiguous(), samples[:, 1:].contiguous().view(-1)
        x = self.embed(weights, ids)
        saved = []
        for i in range(self.shape.n_layers):
            x, kept = self.layer(weights.layer(i), image.layer(i), x, ids.shape[0])
            saved.append(kept)
        nats, dx = self.head(weights, image, x, targets, gradients)
        for i in reversed(range(self.shape.n_layers)):
            self.layer_backward(i, weights.layer(i), image.layer(i), saved.pop(), dx, gradients)
        self.embed_backward(ids, dx, gradients)
        return nats.double().sum()

    @torch.no_grad()
    def nats(self, weights: Weights, image: Weights, samples: Tensor) -> Tensor:
        """Nats of each target of `samples`, int64 (B, T + 1): fp32 (B, T)."""
        ids, targets = samples[:, :-1].contiguous(), samples[:, 1:].contiguous()
        x = self.embed(weights, ids)
        for i in range(self.shape.n_layers):
            x, _ = self.layer(weights.layer(i), image.layer(i), x, ids.shape[0])
        return self.head(weights, image, x, targets.view(-1), None)[0].view_as(targets)
