"""Log-likelihoods of continuations, many at once: rows of like length together, a shared context read once.

A row is a context and the continuations that were asked of it, one after the other. Each continuation attends to the
context and to itself and takes the positions that follow the context: four choices cost one reading of their question,
and choices of one token nothing beyond it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isoflop.model import Lanes, Reader
from isoflop.model.head import chunk_rows

# On a CPU more tokens at once are no faster; a GPU starts with many and halves what its memory cannot hold.
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 4_096, 2**18
# A row may grow this many times as long as a context: attention costs its square.
LONGEST_ROW = 2

Request = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class Likelihood:
    """Of a continuation given its context: the logarithm (nats), and whether greedy decoding would have written it."""

    log: float
    greedy: bool


@dataclass
class _Row:
    """A context and continuations of it; `parts` are the requests' numbers and what of them is asked here."""

    context: tuple[int, ...]
    parts: list[tuple[int, tuple[int, ...]]]

    @property
    def length(self) -> int:
        """Tokens to read: the last one of a continuation is only foretold."""
        return len(self.context) + sum(len(part) - 1 for _, part in self.parts)


class Scorer:
    """Scores requests with one model, on `lanes` side by side (a GPU takes one).

    `batch_tokens` is what is read at once: found by itself, smaller from the first time on that memory did not suffice.
    """

    def __init__(self, model: Reader, lanes: Lanes) -> None:
        self._model = model
        self._lanes = lanes
        self.batch_tokens = GPU_BATCH_TOKENS if model.device.type == "cuda" else CPU_BATCH_TOKENS

    def score(self, requests: Sequence[Request], on_done: Callable[[int], None] = lambda n: None) -> list[Likelihood]:
        """The likelihood of each (context, continuation); `on_done` hears how many more are done, from any lane.

        A context holds one token or more. Of a request that is too long the last tokens count, as in
        lm-evaluation-harness: its context loses its beginning. A continuation that is itself longer than the model's
        context is read piece by piece.
        """
        logs, greedy = [0.0] * len(requests), [True] * len(requests)
        waiting = _batches(_rows(requests, self._model.shape.context_length), self.batch_tokens)
        while waiting:
            too_large: list[list[_Row]] = []
            answers = self._lanes.map(lambda batch: self._try(batch, on_done), waiting)
            for batch, said in zip(waiting, answers, strict=True):
                if said is None:
                    too_large.append(batch)
                    continue
                for number, log, is_greedy in said:
                    logs[number] += log
                    greedy[number] &= is_greedy
            if too_large:
                self.batch_tokens //= 2
            waiting = _batches([row for batch in too_large for row in batch], self.batch_tokens)
        return [Likelihood(log, is_greedy) for log, is_greedy in zip(logs, greedy, strict=True)]

    def _try(self, batch: list[_Row], on_done: Callable[[int], None]) -> list[tuple[int, float, bool]] | None:
        """What `_read` says, or None where memory did not suffice."""
        try:
            said = self._read(batch)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(batch) == 1:
                raise
            return None
        on_done(len(said))
        return said

    @torch.inference_mode()
    def _read(self, batch: list[_Row]) -> list[tuple[int, float, bool]]:
        """By part of the batch: the request's number, the logarithm, and whether greedy."""
        packed = [_pack(row) for row in batch]
        device = self._model.device
        ids, positions, segments = (
            torch.nn.utils.rnn.pad_sequence([torch.tensor(one[i]) for one in packed], True, -1 if i == 2 else 0).to(
                device
            )
            for i in range(3)
        )
        plain = all(len(row.parts) == 1 for row in batch)
        x = self._model.features(ids, positions, None if plain else _mask(segments))
        width = ids.shape[1]
        spots = torch.tensor([i * width + spot for i, one in enumerate(packed) for spot in one[3]], device=device)
        targets = torch.tensor([token for row in batch for _, part in row.parts for token in part], device=device)
        logs, right = self._foretold(x.flatten(0, 1)[spots], targets)
        ends = [len(part) for row in batch for _, part in row.parts]
        return [
            (number, float(log.sum()), bool(was_right.all()))
            for number, log, was_right in zip(
                (number for row in batch for number, _ in row.parts),
                torch.split(logs, ends),
                torch.split(right, ends),
                strict=True,
            )
        ]

    def _foretold(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each target, fp64, and whether it is the likeliest token, on the CPU: chunk by chunk."""
        logs, right = [], []
        size = chunk_rows(self._model.shape.vocab_size)
        for part, wanted in zip(torch.split(x, size), torch.split(targets, size), strict=True):
            logits = self._model.logits(part)
            logs.append(torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0].double().cpu())
            right.append((logits.argmax(-1) == wanted).cpu())
        return torch.cat(logs), torch.cat(right)


def _rows(requests: Sequence[Request], context_length: int) -> list[_Row]:
    """Rows in which every context occurs as few times as row lengths allow."""
    by_context: dict[tuple[int, ...], list[tuple[int, tuple[int, ...]]]] = {}
    for number, (context, continuation) in enumerate(requests):
        for seen, part in _pieces(tuple(context), tuple(continuation), context_length):
            by_context.setdefault(seen, []).append((number, part))
    rows = []
    for seen, parts in by_context.items():
        row = _Row(seen, [])
        for number, part in parts:
            if row.parts and row.length + len(part) - 1 > LONGEST_ROW * context_length:
                rows.append(row)
                row = _Row(seen, [])
            row.parts.append((number, part))
        rows.append(row)
    return rows


def _pieces(
    context: tuple[int, ...], continuation: tuple[int, ...], context_length: int
) -> Iterable[tuple[tuple[int, ...], tuple[int, ...]]]:
    """(what is seen, what is asked), cut so that all but the last token of both fit the context."""
    for start in range(0, len(continuation), context_length):
        part = continuation[start : start + context_length]
        before = context + continuation[:start]
        yield before[-(context_length + 1 - len(part)) :], part


def _batches(rows: list[_Row], batch_tokens: int) -> list[list[_Row]]:
    """Rows of like length together, longest first, those with a single continuation apart: they need no mask."""
    batches: list[list[_Row]] = []
    for plain in (True, False):
        alike = [row for row in rows if (len(row.parts) == 1) == plain]
        alike.sort(key=lambda row: row.length, reverse=True)
        while alike:
            count = max(1, batch_tokens // alike[0].length)
            batches.append(alike[:count])
            alike = alike[count:]
    return batches


def _pack(row: _Row) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, their positions and segments (0 the context, then one a continuation), and where targets are foretold."""
    n = len(row.context)
    ids, positions, segments, spots = list(row.context), list(range(n)), [0] * n, []
    for segment, (_, part) in enumerate(row.parts, start=1):
        spots += [n - 1, *range(len(ids), len(ids) + len(part) - 1)]
        ids += part[:-1]
        positions += range(n, n + len(part) - 1)
        segments += [segment] * (len(part) - 1)
    return ids, positions, segments, spots


def _mask(segments: Tensor) -> Tensor:
    """Who attends to whom, bool (B, 1, T, T): to what lies before in the context or in one's own continuation."""
    T = segments.shape[1]
    own = (segments[:, None, :] == segments[:, :, None]) | (segments[:, None, :] == 0)
    return (own & torch.ones(T, T, dtype=torch.bool, device=segments.device).tril())[:, None]
