"""Steps that go wrong: a loss or gradient that is not finite, or far above what came before."""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoflop.data import DocumentIndex
from isoflop.durable import refuse_broken_seal, write_sealed
from isoflop.recipe import ModelPlan

# A spike lies so many standard deviations above the mean of so many steps before it, of which there must be enough.
DEVIATIONS, WINDOW, LEAST = 6.0, 64, 16
# Norms of gradients have a long tail in healthy runs too: a spike is so many times their mean as well.
TIMES_MEAN_NORM = 5.0
# With on_spike = "rewind" weights go back to the last multiple of so many steps, at which a checkpoint is made.
REWIND_STEPS = 50


def rewind_base(plan: ModelPlan, steps: int) -> int | None:
    """The step that a run with so many steps done may have to go back to: its checkpoint must stay."""
    return steps // REWIND_STEPS * REWIND_STEPS if plan.on_spike == "rewind" else None


@dataclass(frozen=True)
class Spike:
    """What is wrong with a step: its "loss" or "gradient" is over `limit`, or one of them is "not finite"."""

    kind: str
    limit: float | None

    def told(self, loss: float, norm: float) -> str:
        """In words."""
        if self.limit is None:
            return f"loss {loss:g}, gradient norm {norm:g}: not finite"
        what, value = ("loss", loss) if self.kind == "loss" else ("gradient norm", norm)
        return f"{what} {value:.4g} is a spike (the steps before lead to expect at most {self.limit:.4g})"


class Healthy:
    """The losses and gradient norms of the last steps that nothing was wrong with: what the next one is held to.

    A function of what the steps computed, so that every system and every resumed run judges alike.
    """

    def __init__(self, recent: Sequence[tuple[float, float]]) -> None:
        self._recent = deque(recent, maxlen=WINDOW)

    @property
    def recent(self) -> tuple[tuple[float, float], ...]:
        """(loss, norm) of each, to go on from."""
        return tuple(self._recent)

    def judge(self, loss: float, norm: float) -> Spike | None:
        """What is wrong with a step, if anything."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Spike("not finite", None)
        if len(self._recent) >= LEAST:
            losses, norms = zip(*self._recent, strict=True)
            for kind, value, before in (("loss", loss, losses), ("gradient", norm, norms)):
                mean = statistics.fmean(before)
                limit = mean + DEVIATIONS * statistics.pstdev(before)
                if kind == "gradient":
                    limit = max(limit, TIMES_MEAN_NORM * mean)
                if value > limit:
                    return Spike(kind, limit)
        return None

    def add(self, loss: float, norm: float) -> None:
        """A step that counts."""
        self._recent.append((loss, norm))


def read_spikes(path: Path) -> list[dict[str, Any]]:
    """The spikes that a spikes.json lists; none where there is no such file.

    Raises:
        OSError, ValueError, TypeError, KeyError, RecursionError: it is not what was written.
    """
    if not path.exists():
        return []
    document = refuse_broken_seal(json.loads(path.read_bytes()))
    return list(document["spikes"])


class SpikeFile:
    """spikes.json: each spike with what was done about it and the documents of its batch.

    Opened at the step that training goes on from, later ones are dropped: they will come again. If the file has changed
    since it was written, `on_event` hears of it and the list begins anew.
    """

    def __init__(self, path: Path, data: Path, steps_done: int, on_event: Callable[[str], None]) -> None:
        self._path, self._data = path, data
        try:
            self._spikes = [one for one in read_spikes(path) if one["step"] <= steps_done]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            on_event(f"{path}: damaged ({error}); the spikes before step {steps_done + 1} are not listed any more")
            self._spikes = []

    def add(
        self, step: int, spike: Spike, loss: float, norm: float, answer: str, samples: Sequence[int], length: int
    ) -> None:
        """One more, on the disk when this returns.

        Raises:
            WorkError: the disk is full, or the list of documents has changed.
        """
        documents = [asdict(passage) for passage in DocumentIndex(self._data, "train").passages(samples, length)]
        numbers = {"loss": loss, "grad_norm": norm, "limit": spike.limit}
        self._spikes.append({"step": step, "kind": spike.kind, **numbers, "answer": answer, "documents": documents})
        write_sealed(self._path, {"spikes": self._spikes})
