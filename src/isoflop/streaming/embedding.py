"""The embeddings' piece as a matrix of rows, of which a group of microbatches uses some.

Token embeddings are its rows 0 to V - 1, positions those from V on. It comes by in windows, which cut rows where they
like: rows are looked up in them, and gradients added.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from isoflop.recipe import Shape
from isoflop.systems.sums import Adder

# Rows of a gradient that are gathered at once: a few MiB.
ROWS = 1024


class Rows:
    """Which rows the tokens of a group use. `ids` are those of its microbatches, (B, T) each, one after the other."""

    def __init__(self, shape: Shape, ids: Tensor) -> None:
        tokens, d = ids.reshape(-1), shape.d_model
        self.tokens = len(tokens)
        positions = shape.vocab_size + torch.arange(ids.shape[-1], device=ids.device)
        rows = torch.cat([tokens, positions.expand(ids.shape).reshape(-1)])
        order = torch.argsort(rows, stable=True)
        self._rows = rows[order]  # ascending
        self._tokens = order % max(1, self.tokens)  # which token uses the row
        self._first_position = shape.vocab_size * d
        self._d = d

    def look_up(self, start: int, values: Tensor, x: Tensor, positions: Tensor) -> None:
        """Copies what a window has: rows of tokens to `x` (tokens, d), of positions to `positions` (T, d).

        `values` (elements,) are the piece's from `start` on.
        """
        flat = positions.view(-1)
        here = slice(max(start, self._first_position), min(start + len(values), self._first_position + len(flat)))
        if here.start < here.stop:
            part = values[here.start - start : here.stop - start]
            flat[here.start - self._first_position : here.stop - self._first_position] = part
        for row, columns, within in self._parts(start, min(start + len(values), self._first_position)):
            used = self._used(row, row + 1)
            x[self._tokens[used], columns] = values[within]
        for whole, first, last in self._whole(start, min(start + len(values), self._first_position)):
            rows = values[whole].view(-1, self._d)
            x[self._tokens[first:last]] = rows[self._rows[first:last] - (start + whole.start) // self._d]

    def add(self, start: int, sums: Tensor, dx: Tensor, adder: Adder) -> float:
        """Adds the gradient by the rows, of `dx` (tokens, d), to a window's `sums` (elements,).

        They are the piece's from `start` on. Returns a bound of what an element can have got, in the adder's units.
        """
        bound = 0.0
        for row, columns, within in self._parts(start, start + len(sums)):
            for token in self._tokens[self._used(row, row + 1)].tolist():
                bound += _or_infinite(adder.add(sums[within], dx[token, columns]))
        for whole, first, last in self._whole(start, start + len(sums)):
            ids = self._rows[first:last] - (start + whole.start) // self._d
            most = adder.add_rows(sums[whole].view(-1, self._d), ids, dx[self._tokens[first:last]])
            bound += _or_infinite(most) * (last - first)
        return bound

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, slice, slice]]:
        """Rows that [start : stop] has a part of: the row, its columns, and where in the window they are."""
        d = self._d
        for row in sorted({start // d, max(start, stop - 1) // d}):
            first, last = max(start, row * d), min(stop, row * d + d)
            if first < last and last - first < d:
                yield row, slice(first - row * d, last - row * d), slice(first - start, last - start)

    def _whole(self, start: int, stop: int) -> Iterator[tuple[slice, int, int]]:
        """Whole rows in [start : stop]: where in the window they are, and [first : last] of what uses them."""
        rows = range(-(-start // self._d), stop // self._d)
        if len(rows):
            whole = slice(rows.start * self._d - start, rows.stop * self._d - start)
            used = self._used(rows.start, rows.stop)
            for first in range(used.start, used.stop, ROWS):
                yield whole, first, min(first + ROWS, used.stop)

    def _used(self, first: int, last: int) -> slice:
        """What uses the rows [first : last]."""
        ends = torch.searchsorted(self._rows, torch.tensor([first, last], device=self._rows.device)).tolist()
        return slice(*ends)


def _or_infinite(bound: float) -> float:
    return bound if math.isfinite(bound) else math.inf
