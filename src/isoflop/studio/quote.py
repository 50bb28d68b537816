"""A quote: what a family would be, need, cost and reach, from the fields of a form."""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.config import DataSource, Family, load_family
from isoflop.config.family import Cost, Sizes
from isoflop.errors import FamilyError, InputError
from isoflop.pipeline.needs import unmet_needs
from isoflop.recipe import Machine, ModelPlan, Plan, check_against_data, machines_of, plan_family
from isoflop.recipe.footprint import Footprint
from isoflop.studio.laws import Foreteller, Laws
from isoflop.studio.places import Places, checked_name
from isoflop.studio.question import Question, listed_sizes
from isoflop.studio.texts import Asked

if TYPE_CHECKING:
    from isoflop.report.figure import Figure

# Rounds in which a budget is scaled until its plan costs what was given: the shares of the peak change with the sizes.
ROUNDS = 6
NEAR = 0.01
# What a family file can allow: with data that are not known yet a quote tells that they may be repeated.
MOST_EPOCHS = 1_000_000.0


@dataclass(frozen=True)
class Quote:
    """The answer. `foretold` has a row a model, as `Foreteller.foretell`; `beware` is said before all else, `notes`
    after; `lacks` is why it would be refused here. `prepared` holds the tokens, where they are made already."""

    question: Question
    family: Family
    plan: Plan
    foretold: tuple[dict[str, float], ...]
    law: Foreteller
    beware: tuple[str, ...]
    notes: tuple[str, ...]
    lacks: tuple[str, ...]
    joules: float | None
    joules_origin: str
    price: float | None
    time: str
    prepared: Path | None = None

    @property
    def largest(self) -> ModelPlan:
        return self.plan.models[-1]

    def to_json(self) -> dict[str, Any]:
        """What /quote.json answers, and what is kept."""
        totals = self.plan.totals()
        return {
            "family": self.family.name,
            "time": self.time,
            "question": self.question.to_json(),
            "address": f"/quote?{self.question.query()}",
            "systems": self.plan.systems,
            "execution": self.family.execution,
            "beware": list(self.beware),
            "notes": list(self.notes),
            "lacks": list(self.lacks),
            "law": {"name": self.law.name, "of": self.law.told, "same_data": self.law.same_data},
            "models": [
                {
                    "name": model.name,
                    "held_out": model.held_out,
                    "n_layers": model.shape.n_layers,
                    "d_model": model.shape.d_model,
                    "n_heads": model.shape.n_heads,
                    "params": model.shape.params,
                    "tokens": model.tokens,
                    "steps": model.steps,
                    "flops": model.flops,
                    "device_bytes": memory_of(model, self.plan.machine.device),
                    "disk_bytes": footprint_of(model).disk_bytes,
                    "seconds": model.seconds,
                    "foretold": foretold,
                }
                for model, foretold in zip(self.plan.models, self.foretold, strict=True)
            ],
            "totals": {
                **{key: totals[key] for key in ("models", "tokens", "steps", "flops", "seconds")},
                "joules": self.joules,
                "joules_origin": self.joules_origin,
                "price": self.price,
                "currency": self.plan.currency,
            },
            "bits_per_nat": self.law.bits,
        }


class Quotes:
    """Answers questions on one machine; what does not change between them is kept."""

    def __init__(self, places: Places, machine: Callable[[], Machine]) -> None:
        self._places = places
        self._machine = machine
        self.laws = Laws(places)
        self._families: dict[Path, tuple[int, Family]] = {}

    def answer(self, question: Question, visible: Collection[str] | None = None) -> Quote:
        """`visible` are the runs whose laws may be used; all, unless given.

        Raises:
            InputError: the question asks for what there is not, or for what no run can do.
        """
        machine = self._machine()
        prepared = prepared_folder(question.corpus)
        base = _changed(self._family(question.family), question, prepared)
        name = checked_name(question.name) if question.name else self.free_name(base.name)
        base = base.model_copy(update={"name": name})
        asked = Asked(base.data, prepared)
        law = self.laws.nearest(asked, question.law, visible)
        try:
            family, plan = _sized(base, question, law, machine)
        except FamilyError as error:
            raise InputError(str(error)) from None
        tokens = self.laws.tokens(asked) or family.data.tokens
        family = _consenting(family, plan, tokens)
        foretold = law.foretell(plan.models)
        joules, origin = energy_of(family, plan)
        # What is prepared is linked or copied from there: the corpus that it was made of may be gone.
        known = family
        if prepared is not None and tokens is not None:
            known = family.model_copy(update={"data": family.data.model_copy(update={"tokens": tokens})})
        folder = self._places.run(name)
        return Quote(
            question=question,
            family=family,
            plan=plan,
            foretold=tuple(foretold),
            law=law,
            beware=tuple(law.beware(foretold)),
            notes=tuple(_epochs(plan, tokens)),
            lacks=tuple(unmet_needs(known, plan, plan.models, folder)),
            joules=joules,
            joules_origin=origin,
            price=plan.totals()["price"],
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            prepared=prepared,
        )

    def free_name(self, name: str) -> str:
        """`name`, or with the first number that no run here has."""
        taken = set(self._places.names())
        number = 2
        found = name
        while found in taken:
            found, number = f"{name[:58]}-{number}", number + 1
        return found

    def price_of(self, name: str) -> float | None:
        """What the family file says that a system costs an hour."""
        return self._family(name).cost.price_per_system_hour

    def _family(self, name: str) -> Family:
        files = self._places.family_files()
        if name not in files:
            there = ", ".join(files) or "none; start isoflop studio beside a folder families/, or give --families"
            raise InputError(f"family = {name[:80]!r}: no such family file; there are {there}")
        path = files[name]
        stamp = path.stat().st_mtime_ns
        kept = self._families.get(path)
        if kept is None or kept[0] != stamp:
            kept = self._families[path] = (stamp, load_family(path))
        return kept[1]


def footprint_of(model: ModelPlan) -> Footprint:
    """What a system holds at its fullest in the execution that was asked for."""
    return model.resident if model.execution == "resident" else model.streamed


def memory_of(model: ModelPlan, device: str) -> int:
    """The bytes of memory among it: a GPU's own; a processor has one memory for all."""
    found = footprint_of(model)
    return found.device_bytes + (0 if device == "cuda" else found.host_bytes)


def _consenting(family: Family, plan: Plan, tokens: int | None) -> Family:
    """Whoever launches what a quote tells to repeat its data has agreed to it. `tokens` are the data's, where known."""
    if tokens is None:
        epochs = family.data.epochs if "epochs" in family.data.model_fields_set else MOST_EPOCHS
    else:
        epochs = math.ceil(10 * max(model.tokens for model in plan.models) / tokens) / 10
    if epochs <= family.data.epochs:
        return family
    return family.model_copy(update={"data": family.data.model_copy(update={"epochs": epochs})})


def _epochs(plan: Plan, tokens: int | None) -> list[str]:
    if tokens is None:
        return ["how often models read the data is known once they are prepared; launching agrees to it"]
    try:
        return check_against_data(plan, tokens, tokens)
    except FamilyError as error:
        raise InputError(str(error)) from None


def energy_of(family: Family, plan: Plan) -> tuple[float | None, str]:
    """Joules of a plan and how they are known: as a run without an energy counter will say."""
    from isoflop.systems.energy import WATTS_PER_CORE

    totals = plan.totals()
    if totals["joules"] is not None:
        return totals["joules"], "watts_per_system x time"
    if plan.machine.device == "cuda":
        return None, "unknown: give watts per system"
    cores = plan.machine.cores * machines_of(family, plan.machine)
    return WATTS_PER_CORE * cores * totals["seconds"], f"estimated: {WATTS_PER_CORE:g} W a core"


def _changed(family: Family, question: Question, prepared: Path | None) -> Family:
    """The family file's family with what the question says instead, but for its sizes."""
    changes: dict[str, Any] = {}
    if question.systems is not None:
        changes["systems"] = question.systems
    if question.execution:
        changes["execution"] = question.execution
    if question.corpus:
        changes["data"] = data_of(prepared) if prepared else family.data.model_copy(update=_corpus(question.corpus))
    if question.ratio is not None:
        changes["recipe"] = family.recipe.model_copy(update={"tokens_per_parameter": question.ratio, "tokens": None})
    cost = {"watts_per_system": question.watts, "price_per_system_hour": question.price}
    if any(value is not None for value in cost.values()):
        said = {key: value for key, value in cost.items() if value is not None}
        changes["cost"] = (family.cost if "cost" in family.model_fields_set else Cost()).model_copy(update=said)
    return family.model_copy(update=changes)


def prepared_folder(corpus: str) -> Path | None:
    """The folder of tokens that `corpus` names: one with a manifest, in the run directory that made it."""
    path = Path(corpus).expanduser().absolute()
    if not corpus or "://" in corpus or "\0" in corpus or not (path / "manifest.json").is_file():
        return None
    if not (path.parent / "family.json").is_file():
        raise InputError(f"corpus: {path} has a manifest, but no family.json beside it says what it was made of")
    return path


def data_of(prepared: Path) -> DataSource:
    """What the tokens were made of, and how.

    Raises:
        InputError: family.json beside them cannot be read.
    """
    path = prepared.parent / "family.json"
    try:
        return DataSource.model_validate_json(json.dumps(json.loads(path.read_bytes())["data"]))
    except (OSError, ValueError, TypeError, KeyError):
        raise InputError(f"corpus: {path}: damaged; give the corpus itself") from None


def _corpus(text: str) -> dict[str, Any]:
    if "://" in text:
        return {"source": text, "licence": "not stated", "tokens": None}
    path = Path(text).expanduser().absolute()
    if "\0" in text or not path.exists():
        raise InputError(f"corpus: nothing at {path}; give the path of a file or folder on this machine")
    return {"source": path, "licence": "not stated", "tokens": None}


def _sized(family: Family, question: Question, law: Foreteller, machine: Machine) -> tuple[Family, Plan]:
    match question.by:
        case "file":
            return family, plan_family(family, machine)
        case "params":
            wanted = sorted(listed_sizes(question.sizes))
        case "loss":
            assert question.amount is not None
            largest = law.cheapest_params(question.amount)
            wanted = [round(largest / 2**k) for k in range(question.count) if largest / 2**k >= 10_000][::-1]
            if not wanted:
                raise InputError(f"amount = {question.amount:g}: a model of less than 10k parameters reaches it")
        case _:
            return _for_budget(family, question, machine)
    sized = _with_sizes(family, Sizes(target_params=wanted))
    return sized, plan_family(sized, machine)


def _for_budget(family: Family, question: Question, machine: Machine) -> tuple[Family, Plan]:
    """The family whose plan costs the amount: FLOPs are asked for until its time, energy or price is as given."""
    assert question.amount is not None
    price = family.cost.price_per_system_hour
    if question.by == "money" and not price:
        raise InputError("amount: money buys time at a price; give the price of a system and hour as well")

    def cost(plan: Plan) -> float:
        seconds = plan.totals()["seconds"]
        match question.by:
            case "hours":
                return float(seconds / 3600)
            case "kwh":
                joules, origin = energy_of(family, plan)
                if joules is None:
                    raise InputError(f"amount: energy is {origin}")
                return joules / 3.6e6
            case "money":
                return float(plan.totals()["price"])
            case _:
                return float(plan.totals()["flops"])

    # The first guess is at a third of the machine's rate; then in proportion to what the plan costs.
    flops = question.amount if question.by == "flops" else _first_guess(family, question, machine)
    best: tuple[float, Family, Plan] | None = None
    for _ in range(1 if question.by == "flops" else ROUNDS):
        sized = _with_sizes(family, Sizes(budget_flops=float(flops), count=question.count))
        plan = plan_family(sized, machine)
        off = abs(math.log(cost(plan) / question.amount))
        if best is None or off < best[0]:
            best = (off, sized, plan)
        if off < NEAR:
            break
        flops *= question.amount / cost(plan)
    assert best is not None
    return best[1], best[2]


def _first_guess(family: Family, question: Question, machine: Machine) -> float:
    from isoflop.systems.energy import WATTS_PER_CORE

    assert question.amount is not None
    watts = family.cost.watts_per_system or WATTS_PER_CORE * machine.cores
    hourly = family.cost.price_per_system_hour or 1.0
    seconds = {"hours": 3600.0, "kwh": 3.6e6 / watts, "money": 3600.0 / hourly}[question.by] * question.amount
    return seconds * machine.matrix_flops_per_second(family.precision) / 3


def _with_sizes(family: Family, sizes: Sizes) -> Family:
    """Derived sizes in the place of listed ones; what named one of those goes with them."""
    return family.model_copy(update={"models": None, "sizes": sizes, "held_out": None, "published": None})


def draw_quote(quote: Quote) -> "Figure | None":
    """The members foretold on the chart of the published families."""
    from isoflop.report.drawing import Line
    from isoflop.report.published import beside_published, draw_published
    from isoflop.report.records import Compared
    from isoflop.report.run import Run

    if quote.law.bits is None:
        return None
    import numpy as np

    run = Run(quote.family.name, None, (), None, None, None, ())
    beside = beside_published(run)
    rows = list(zip(quote.plan.models, quote.foretold, strict=True))
    ours = tuple(
        Compared(
            family=f"{quote.family.name}, foretold",
            model=model.name,
            ours=True,
            params=float(model.shape.params),
            tokens=float(model.tokens),
            flops=float(model.flops_paper),
            bits_per_byte=quote.law.bits * said["loss"],
            text=beside.text if quote.law.paper else "its own held-out text",
            source="this quote",
        )
        for model, said in rows
    )
    figure = draw_published(replace_models(beside, (*ours, *beside.models)))
    if figure is None:
        return None
    (panel,) = figure.drawing.panels
    intervals = tuple(
        Line(
            np.full(2, float(model.flops_paper)),
            quote.law.bits * np.array([said[f"low_{level}"], said[f"high_{level}"]]),
            f"interval-{level}",
            f"{model.name}: {level} % interval",
            f"{quote.family.name}, foretold",
            silent=True,
        )
        for level in (95, 80)
        for model, said in rows
    )
    drawing = replace(figure.drawing, panels=(replace(panel, lines=(*panel.lines, *intervals)),), name="quote")
    return replace(figure, drawing=drawing)


def replace_models(comparison: Any, models: tuple[Any, ...]) -> Any:
    """The comparison with other models."""
    return comparison.model_copy(update={"models": models})
