"""The laws that quotes are foretold by: those of finished ladders here, and the published one of Cerebras-GPT."""

import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.durable import refuse_broken_seal
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.studio.places import Places
from isoflop.studio.texts import Asked, Texts

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
    """Every law there is; what was read once is read again only when its file has changed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._texts = Texts(places)
        self._laws: dict[tuple[str, bool], tuple[int, Foreteller]] = {}

    def nearest(self, asked: Asked, wanted: str = "", visible: Collection[str] | None = None) -> Foreteller:
        """The law named `wanted`; without it that of the newest ladder on the same text, else the published one.

        Raises:
            InputError: there is no law of that name.
        """
        if wanted == PUBLISHED:
            return published()
        names = [name for name in self.names(visible) if wanted in ("", name)]
        for name in names if wanted else self._texts.same(asked, names):
            found = self._of_run(name, asked)
            if found is not None:
                return found
        if wanted:
            raise InputError(f"law = {wanted[:80]!r}: no such run with a law; use {PUBLISHED}, or leave it out")
        return published()

    def names(self, visible: Collection[str] | None = None) -> list[str]:
        """Runs that have a law, newest first."""
        found = []
        for name in self._places.names():
            if visible is None or name in visible:
                try:
                    found.append((os.stat(self._path(name)).st_mtime_ns, name))
                except OSError:
                    continue
        return [name for _, name in sorted(found, reverse=True)]

    def tokens(self, asked: Asked) -> int | None:
        """Training tokens of the text, where a run here has prepared it."""
        for name in self._texts.same(asked, self._places.names()):
            text = self._texts.of_run(name)
            if text is not None and text.train_tokens:
                return text.train_tokens
        return None

    def _path(self, name: str) -> str:
        return f"{self._places.runs}/{name}/law.json"

    def _of_run(self, name: str, asked: Asked) -> Foreteller | None:
        try:
            stamp = os.stat(self._path(name)).st_mtime_ns
        except OSError:
            return None
        same = asked.is_that_of(self._texts.of_run(name))
        kept = self._laws.get((name, same))
        if kept is None or kept[0] != stamp:
            found = _read(name, self._places.run(name), same)
            if found is None:
                return None
            kept = self._laws[name, same] = (stamp, found)
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


def _times(times: float) -> str:
    return f"{times:,.0f} times" if times < 1e6 else f"{times:.1e} times"
