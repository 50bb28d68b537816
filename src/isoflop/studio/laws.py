"""The laws that quotes are foretold by: those of finished ladders here, and the published one of Cerebras-GPT."""

import json
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.config import DataSource
from isoflop.durable import refuse_broken_seal
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.studio.places import Places

if TYPE_CHECKING:
    from isoflop.law import Law
    from isoflop.recipe import ModelPlan

PUBLISHED = "Cerebras-GPT"
LEVELS = ("low_95", "low_80", "loss", "high_80", "high_95")
# Beyond so many times the compute of the largest run, or so far below the smallest, it is said before all else.
FAR = 30.0
# How far around its points a law is searched for a loss, and at how many sizes.
REACH, PATH_POINTS = 1e6, 121


@dataclass(frozen=True)
class Foreteller:
    """A law with what its losses are of: `bits` of a byte for each nat of its losses, None where that is not known.

    `paper` says that its FLOPs are counted as the Cerebras-GPT paper counts them; `same_data` that its text is the
    quote's.
    """

    name: str
    told: str
    law: "Law"
    bits: float | None
    paper: bool
    same_data: bool

    def foretell(self, models: "Sequence[ModelPlan]") -> list[dict[str, float]]:
        """For each model its loss in nats/token and the intervals of 80 and 95 %, and how far it lies beyond."""
        params = [float(model.shape.params) for model in models]
        tokens = [float(model.tokens) for model in models]
        flops = [float(model.flops_paper if self.paper else model.flops) for model in models]
        found = np.exp(self.law.forecast.quantiles(*(np.log(one) for one in (params, tokens, flops))))
        seen = [point.flops for point in self.law.points if point.flops]
        return [
            {
                **{level: float(value) for level, value in zip(LEVELS, found[:, i], strict=True)},
                "times_largest_flops": flops[i] / max(seen),
                "times_smallest_flops": flops[i] / min(seen),
            }
            for i in range(len(models))
        ]

    @cached_property
    def _path(self) -> tuple[Any, Any]:
        """Losses, falling, and the parameters that reach them at the points' ratio of tokens to parameters."""
        flops = [point.flops for point in self.law.points if point.flops]
        curve = self.law.curve(np.geomspace(min(flops) / REACH, max(flops) * REACH, PATH_POINTS))
        ratio, per_token = (
            float(np.median([math.log(one) for one in ones]))
            for ones in (
                [point.tokens / point.params for point in self.law.points],
                [(point.flops or 0) / (point.params * point.tokens) for point in self.law.points],
            )
        )
        return np.minimum.accumulate(curve.loss), np.exp(0.5 * (np.log(curve.flops) - per_token - ratio))

    @cached_property
    def _unidentified(self) -> list[str]:
        return self.law.unidentified

    def cheapest_params(self, loss: float) -> float:
        """The size that reaches a loss for the least compute.

        Raises:
            InputError: the law does not say that any run within reach gets there.
        """
        if self.law.forecast.ratios is None:
            from isoflop.law import cheapest_for_loss

            return cheapest_for_loss(self.law, loss).prediction.params
        losses, params = self._path
        if not losses[-1] <= loss <= losses[0]:
            raise InputError(f"amount = {loss:g}: {self.told} reaches {losses[-1]:.3g} to {losses[0]:.3g} nats/token")
        return float(np.exp(np.interp(-loss, -losses, np.log(params))))

    def beware(self, foretold: Sequence[dict[str, float]]) -> list[str]:
        """What comes before all else: a law that is none, another text, or one followed far."""
        said = []
        if not self.same_data:
            said.append(f"foretold by the law of {self.told}, which is another text than this family's")
        beyond, below = foretold[-1]["times_largest_flops"], 1 / foretold[-1]["times_smallest_flops"]
        if beyond > FAR:
            said.append(f"far extrapolated: {_times(beyond)} the compute of the law's largest run")
        elif below > FAR:
            said.append(f"far extrapolated: the law's smallest run had {_times(below)} the compute")
        if self._unidentified:
            said.append("not identified: " + "; ".join(self._unidentified))
        return said


class Laws:
    """Every law there is; what was read once is read again only when its file has changed. Safe between threads."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._data: dict[Path, tuple[int, str | None]] = {}
        self._laws: dict[tuple[Path, bool], tuple[int, Foreteller]] = {}

    def nearest(self, data: DataSource, wanted: str = "", visible: Sequence[str] | None = None) -> Foreteller:
        """The law named `wanted`; without it that of the newest ladder on the same data, else the published one.

        Raises:
            InputError: there is no law of that name.
        """
        if wanted == PUBLISHED:
            return published()
        for name in [wanted] if wanted else self._on_same(data, visible):
            found = self._of_run(name, data) if visible is None or name in visible else None
            if found is not None:
                return found
        if wanted:
            raise InputError(f"law = {wanted[:80]!r}: no such run with a law; use {PUBLISHED}, or leave it out")
        return published()

    def names(self, visible: Sequence[str] | None = None) -> list[str]:
        """Runs that have a law, newest first."""
        return [name for name, _ in self._with_laws() if visible is None or name in visible]

    def tokens(self, data: DataSource) -> int | None:
        """Training tokens of the data, where a run here has prepared them."""
        for name in self._on_same(data, None, needs_law=False):
            try:
                manifest = json.loads((self._places.run(name).data / "manifest.json").read_bytes())
                return int(manifest["splits"]["train"]["tokens"])
            except (OSError, ValueError, TypeError, KeyError):
                continue
        return None

    def _with_laws(self) -> list[tuple[str, int]]:
        found = []
        for name in self._places.names():
            try:
                found.append((name, self._places.run(name).law.stat().st_mtime_ns))
            except OSError:
                continue
        return sorted(found, key=lambda one: -one[1])

    def _on_same(self, data: DataSource, visible: Sequence[str] | None, needs_law: bool = True) -> list[str]:
        key = _data_key(data.model_dump(mode="json"))
        names = [name for name, _ in self._with_laws()] if needs_law else self._places.names()
        return [
            name
            for name in names
            if (visible is None or name in visible) and self._data_of(self._places.run(name).family) == key
        ]

    def _data_of(self, path: Path) -> str | None:
        try:
            stamp = path.stat().st_mtime_ns
        except OSError:
            return None
        with self._lock:
            kept = self._data.get(path)
        if kept is None or kept[0] != stamp:
            try:
                kept = (stamp, _data_key(json.loads(path.read_bytes())["data"]))
            except (OSError, ValueError, TypeError, KeyError):
                kept = (stamp, None)
            with self._lock:
                self._data[path] = kept
        return kept[1]

    def _of_run(self, name: str, data: DataSource) -> Foreteller | None:
        folder = self._places.run(name)
        try:
            stamp = folder.law.stat().st_mtime_ns
        except OSError:
            return None
        same = self._data_of(folder.family) == _data_key(data.model_dump(mode="json"))
        with self._lock:
            kept = self._laws.get((folder.law, same))
        if kept is None or kept[0] != stamp:
            found = _read(name, folder, same)
            if found is None:
                return None
            kept = (stamp, found)
            with self._lock:
                self._laws[folder.law, same] = kept
        return kept[1]


@cache
def published() -> Foreteller:
    """The law of Cerebras-GPT's seven models on the Pile, in GPT-2's tokens (Dey et al. 2023)."""
    from isoflop.law import Point, fit_law
    from isoflop.published import gpt2_tokens_per_byte, published_models

    models = published_models(PUBLISHED)
    points = [
        Point(
            params=float(model.params or 0),
            tokens=float(model.tokens or 0),
            loss=float(model.nats_per_gpt2_token or 0),
            flops=model.flops,
            run=model.model,
            convention="paper",
        )
        for model in models
    ]
    a_byte = gpt2_tokens_per_byte(models[0].text)
    told = f"{PUBLISHED} on the Pile, in GPT-2's tokens"
    return Foreteller(PUBLISHED, told, fit_law(points), a_byte and a_byte / math.log(2), True, False)


def _read(name: str, folder: RunFolder, same: bool) -> Foreteller | None:
    from isoflop.law import Law
    from isoflop.pipeline.predict import bits_per_byte

    try:
        law = Law.from_json(refuse_broken_seal(json.loads(folder.law.read_bytes())))
        bits = bits_per_byte(folder.path, None)
    except (OSError, ValueError, RecursionError, InputError, WorkError):
        return None
    return Foreteller(name, f"{name}'s ladder", law, bits, paper=False, same_data=same)


def _data_key(data: dict[str, Any]) -> str:
    """What decides whether losses compare: the text, its tokens, and how many a model sees."""
    full = DataSource.model_validate_json(json.dumps(data)).model_dump(mode="json")
    full["source"] = str(Path(str(full["source"])).resolve()) if "://" not in str(full["source"]) else full["source"]
    for key in ("licence", "faults_allowed", "tokens", "epochs"):
        full.pop(key)
    return json.dumps(full, sort_keys=True)


def _times(times: float) -> str:
    return f"{times:,.0f} times" if times < 1e6 else f"{times:.1e} times"
