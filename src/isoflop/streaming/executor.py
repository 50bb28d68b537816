"""Forward and backward passes over pieces that visit the device, the whole group of microbatches before the next piece.

One visit is at work while the next one's weights arrive and the last one's gradients leave.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.model import Lanes, Piece, Shard, Weights
from isoflop.model.passes import Passes
from isoflop.streaming.embedding import Rows
from isoflop.streaming.exchange import WPE, WTE, Both, Exchange, Surroundings, vectors_of
from isoflop.streaming.kept import Kept
from isoflop.streaming.pages import BLOCK, give_back
from isoflop.streaming.store import Store, Window
from isoflop.streaming.visits import Microbatch, Pass, Visit
from isoflop.systems.group import bring_home
from isoflop.systems.sums import Sums


@dataclass(frozen=True)
class Slots:
    """Where in the buffers of images and sums a piece lies: elements from the beginning.

    Layers alternate between two slots. The last layer's is beside the embeddings' image, which the head needs between
    its two visits; sums have no such third place, as the embeddings' are by far the largest. What the embeddings alone
    use is `above` the layers' first slot of images, or both of sums: nothing of sums where the embeddings' stay, beside
    the layers' slots.
    """

    image: dict[str, int]
    sums: dict[str, int]
    image_elements: int
    sums_elements: int
    image_above: slice
    sums_above: slice


def slots_of(pieces: Sequence[Piece], embeddings_stay: bool = False) -> Slots:
    """A place for every piece."""
    embedding, *layers, final = pieces
    block = BLOCK // 2  # elements of the smallest type
    sizes = {piece.name: -(-(piece.stop - piece.start) // block) * block for piece in pieces}
    wide, layer = sizes[embedding.name], sizes[layers[0].name]
    # A single layer has nothing to alternate with.
    first, two = layer if len(layers) > 1 else 0, min(2, len(layers)) * layer
    beside = max(wide, first)
    alone = two if embeddings_stay else 0
    both = alone + wide if embeddings_stay else max(wide, two)
    image, sums = {embedding.name: 0}, {embedding.name: alone, final.name: both}
    for i, piece in enumerate(reversed(layers)):
        image[piece.name] = 0 if i % 2 else beside
        sums[piece.name] = layer if i % 2 else 0
    return Slots(
        image,
        sums,
        beside + layer,
        both + sizes[final.name],
        slice(first, beside),
        slice(both if embeddings_stay else two, both),
    )


class Executor(Exchange):
    """On the lanes of a CPU: one visit is at work while others come and go. Layers keep things in `kept`."""

    def __init__(self, model: Passes, store: Store, kept: Kept, lanes: Lanes, given: Surroundings) -> None:
        super().__init__(model, store, torch.device("cpu"), given)
        self._kept, self._lanes = kept, lanes
        self._stays = given.embeddings_stay
        self._slots = slots_of(self._pieces, self._stays)
        self._images = self._elements(self._slots.image_elements, model.dtype)
        self._sums = self._elements(self._slots.sums_elements, self._sums_dtype)
        self._drains: list[tuple[int, int, Future[None]]] = []

    def close(self) -> None:
        """No more passes."""
        self._kept.close()
        super().close()

    @torch.no_grad()
    def _group(self, samples: Sequence[Tensor], first: bool, last: bool) -> list[float]:
        batch = self._batch(samples, self._stream)
        ids = torch.cat([one.ids for one in batch]) if batch else torch.zeros(0, 1, dtype=torch.int64)
        rows = Rows(self._model.shape, ids)
        forward = [self._forward(i) for i in range(len(self._layers))]
        backward = [self._backward(i, first, last) for i in reversed(range(len(self._layers)))]
        visits = [self._embed(rows), *forward, self._head(batch, first, last), *backward]
        above = (self._images[self._slots.image_above], self._sums[self._slots.sums_above])
        # As much again for what lanes leave in holes at the head.
        forward[-1].leave = lambda: self._kept.rest(2 * sum(one.numel() * one.itemsize for one in above))
        run = Pass(visits, batch)
        conducting = self._conductor.submit(run.conduct)
        self._lanes.map(run.run, run.tasks)
        conducting.result()
        run.check()
        self._finish_drains(0, self._slots.sums_elements)
        self._embed_backward(rows, last)
        return [float(one.nats.double().sum()) for one in batch if one.nats is not None]

    # The visits, from the bottom up.

    def _embed(self, rows: Rows) -> Visit:
        def work(_: None, one: Microbatch) -> None:
            own = torch.arange(one.ids.numel()).view(one.ids.shape)
            one.x.copy_(self._model.embed({WTE: one.x, WPE: self._positions}, own))

        return Visit(lambda: self._look_up(rows), work)

    def _forward(self, i: int) -> Visit:
        piece = self._layers[i]

        def work(tensors: tuple[list[Tensor], list[Tensor]], one: Microbatch) -> None:
            with self._kept.leave(i, one.number) as memory:
                self._model.layer(*tensors, one.x, len(one.ids), memory)

        return Visit(lambda: self._layer_tensors(i), work, uses=[self._image_range(piece)])

    def _head(self, batch: Sequence[Microbatch], first: bool, last: bool) -> Visit:
        embedding, final = self._embedding, self._final
        sums = Both(self._sums_of(embedding), self._sums_of(final))

        def prepare() -> tuple[dict[str, Tensor], Weights]:
            self._fetch(embedding, self._image(embedding))
            self._fetch(final, self._image(final))
            self._finish_drains(*self._sums_range(embedding)[1:])
            vectors = Weights(self._model.shape, self._image(final), final)
            image = Weights(self._model.shape, self._image(embedding), embedding)
            return vectors_of(vectors, self._store.vectors.piece(final)), image

        def work(tensors: tuple[dict[str, Tensor], Weights], one: Microbatch) -> None:
            one.nats, dx = self._model.head(*tensors, one.x, one.targets, sums)
            one.x.copy_(dx)

        def leave() -> None:
            give_back(self._images[self._slots.image_above])
            self._kept.expect([(i, one.number) for i in reversed(range(len(self._layers))) for one in batch])
            # What the rows of the embeddings get comes at the very end.
            self._drain(sums.one, embedding, earlier=not first, last=False)
            self._drain(sums.other, final, earlier=not first, last=last)

        # All sums: no layer's backward pass begins before what the head needs is given back.
        uses = [self._image_range(embedding), ("sums", 0, self._slots.sums_elements)]
        return Visit(prepare, work, leave, uses)

    def _backward(self, i: int, first: bool, last: bool) -> Visit:
        piece = self._layers[i]
        sums = self._sums_of(piece)

        def prepare() -> tuple[list[Tensor], list[Tensor]]:
            # The last layer's image is still there.
            tensors = self._layer_tensors(i, fetch=piece != self._layers[-1])
            self._finish_drains(*self._sums_range(piece)[1:])
            return tensors

        def work(tensors: tuple[list[Tensor], list[Tensor]], one: Microbatch) -> None:
            with self._kept.find(i, one.number) as memory:
                # Nobody else holds what is recalled, so that it can be let go of bit by bit.
                self._model.layer_backward(
                    i, *tensors, self._model.recall(*tensors, memory, *one.ids.shape), one.x, sums
                )

        def leave() -> None:
            self._drain(sums, piece, earlier=not first, last=last)

        return Visit(prepare, work, leave, [self._image_range(piece), self._sums_range(piece)])

    def _layer_tensors(self, i: int, fetch: bool = True) -> tuple[list[Tensor], list[Tensor]]:
        piece = self._layers[i]
        if fetch:
            self._fetch(piece, self._image(piece))
        image = Weights(self._model.shape, self._image(piece), piece)
        return self._tensors(i, image, self._store.vectors.piece(piece))

    # What leaves.

    def _drain(self, sums: Sums, piece: Piece, earlier: bool, last: bool) -> None:
        """The sums of a piece leave for the store, where `earlier` ones of the step are; their memory is zero again."""
        for name, bound in zip(sums.into, sums.bounds, strict=True):
            self._bound(name, float(bound))
        flat, base = sums.into.flat, self._slots.sums[piece.name]
        shards = self._shards[piece.name]
        parts = [flat[shard.start - piece.start : shard.stop - piece.start] for shard in shards]
        bring_home(self._systems, [(shard.index, part) for shard, part in zip(shards, parts, strict=True)])
        if piece == self._embedding and self._stays:
            for shard, own in zip(shards, parts, strict=True):
                if shard not in self.own:
                    own.zero_()
            return

        def leave(part: tuple[Shard, Window]) -> None:
            shard, window = part
            own = flat[window.start - piece.start : window.stop - piece.start]
            if shard in self.own:
                self._leave_window(shard, window, own, earlier, last)
            if base + window.start - piece.start >= self._slots.sums_above.start:
                give_back(own)
            else:
                own.zero_()

        for part in self._windows(piece):
            start, stop = base + part[1].start - piece.start, base + part[1].stop - piece.start
            self._drains.append((start, stop, self._clerks.submit(leave, part)))

    def _take_up(self, shard: Shard, window: Window) -> Tensor:
        if not self._stays:
            return super()._take_up(shard, window)
        start = self._slots.sums[self._embedding.name] - self._embedding.start
        return self._sums[start + window.start : start + window.stop]

    def _put_down(self, shard: Shard, window: Window, sums: Tensor, last: bool) -> None:
        if not self._stays:
            super()._put_down(shard, window, sums, last)
            return
        if shard in self.own and last:
            self._leave_window(shard, window, sums, earlier=False, last=True)
        if shard not in self.own or last:
            sums.zero_()

    def _finish_drains(self, start: int, stop: int) -> None:
        """Waits until what was in that part of the sums' memory has left it."""
        left = []
        for drain in self._drains:
            if drain[0] < stop and start < drain[1]:
                drain[2].result()
            else:
                left.append(drain)
        self._drains = left

    # Memory.

    def _image(self, piece: Piece) -> Tensor:
        start = self._slots.image.get(piece.name, 0)
        return self._images[start : start + piece.stop - piece.start]

    def _sums_of(self, piece: Piece) -> Sums:
        _, start, stop = self._sums_range(piece)
        sums = Sums(Weights(self._model.shape, self._sums[start:stop], piece), self._kernels)
        sums.begin(self._step_tokens)
        return sums

    def _image_range(self, piece: Piece) -> tuple[str, int, int]:
        start = self._slots.image[piece.name]
        return "images", start, start + piece.stop - piece.start

    def _sums_range(self, piece: Piece) -> tuple[str, int, int]:
        start = self._slots.sums[piece.name]
        return "sums", start, start + piece.stop - piece.start
