"""The plan: every model of a family with all that its run needs and will cost."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from isoflop.config import Family
from isoflop.config.family import ModelSize, Recipe
from isoflop.errors import FamilyError
from isoflop.recipe.flops import training_flops
from isoflop.recipe.footprint import NOTHING, ROOM, Footprint, fitted_cut, resident_footprint, streamed_footprint
from isoflop.recipe.machine import Machine
from isoflop.recipe.memory import training_memory
from isoflop.recipe.parametrisation import STANDARD, Parametrisation, parametrisation_of
from isoflop.recipe.rules import batch_sequences, peak_lr, warmup_tokens, whole_steps
from isoflop.recipe.schedule import BatchStage, kept_steps, steps_of, tokens_until
from isoflop.recipe.shape import Shape
from isoflop.recipe.sizes import family_sizes
from isoflop.recipe.streaming import GPU_GROUP_TOKENS, GROUP_TOKENS, Cut, cut_of

MOST_TOKENS = 2**60


@dataclass(frozen=True)
class ModelPlan:
    """One run: what decides its bits, then what it will cost. Tokens are what its whole steps read."""

    name: str
    size: str
    held_out: bool
    shape: Shape
    seed: int
    precision: Literal["bf16", "fp32"]
    tokens: int
    batch_schedule: tuple[BatchStage, ...]
    microbatch_sequences: int
    steps: int
    peak_lr: float
    warmup_tokens: int
    decay: Literal["linear", "cosine"]
    final_lr_fraction: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    clip_norm: float
    flops: int
    flops_6nd: int
    flops_paper: int
    weights_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    seconds: float
    joules: float | None
    price: float | None
    parametrisation: Parametrisation = STANDARD
    reproducible: bool = True
    execution: Literal["resident", "streamed"] = "resident"
    store: Literal["disk", "host"] = "disk"
    group_tokens: int = GROUP_TOKENS
    on_spike: Literal["warn", "skip", "rewind"] = "warn"
    spikes_allowed: int = 10
    recompute: bool = False
    offload: bool = False
    staying: int = 0
    embeddings_stay: bool = False
    keep_checkpoints: int = 0
    resident: Footprint = NOTHING
    streamed: Footprint = NOTHING

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """After which steps the checkpoint stays."""
        return kept_steps(self.steps, self.keep_checkpoints)

    def tokens_until(self, step: int) -> int:
        """Tokens read when so many steps are done."""
        runs = steps_of(self.batch_schedule, self.tokens, self.shape.context_length)
        return tokens_until(runs, step, self.shape.context_length)

    @property
    def batch_sequences(self) -> int:
        """Sequences of the last stage's step."""
        return self.batch_schedule[-1].sequences

    @property
    def on_disk(self) -> bool:
        """Whether the weights are streamed from a disk: there may be no memory for all of them."""
        return self.execution == "streamed" and self.store == "disk"

    def cut(self, systems: int) -> Cut:
        """How a streamed run on so many systems cuts each one's part of a step."""
        size, length = self.microbatch_sequences, self.shape.context_length
        ways = (self.group_tokens, self.recompute, self.offload, self.staying, self.embeddings_stay)
        return cut_of(self.batch_schedule, size, length, systems, *ways)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the bits of the trained weights, beside the data."""
        document = asdict(self)
        costs = ("flops", "flops_6nd", "flops_paper", "weights_bytes", "optimizer_bytes", "activation_bytes")
        ways = ("execution", "store", "group_tokens", "recompute", "offload", "staying", "embeddings_stay")
        results = ("seconds", "joules", "price", "resident", "streamed")
        for key in ("name", "size", "held_out", "keep_checkpoints", *results, *costs, *ways):
            del document[key]
        del document["spikes_allowed"]  # decides whether a run ends, not how
        if self.on_spike == "warn":
            del document["on_spike"]  # changes no bit, and runs from before it was there go on
        return {**document.pop("shape"), **document.pop("parametrisation"), **document}

    def to_json(self) -> dict[str, Any]:
        """The model's entry in plan.json."""
        document = asdict(self)
        shape, parametrisation = document.pop("shape"), document.pop("parametrisation")
        derived = {
            "params": self.shape.params,
            "params_non_embedding": self.shape.params_non_embedding,
            "batch_sequences": self.batch_sequences,
            "batch_tokens": self.batch_sequences * self.shape.context_length,
            "tokens_per_parameter": self.tokens / self.shape.params,
        }
        return {
            "name": self.name,
            "size": self.size,
            "seed": self.seed,
            **shape,
            **derived,
            **parametrisation,
            "residual_init_std": self.parametrisation.residual_std(self.shape.n_layers),
            **document,
        }


@dataclass(frozen=True)
class Plan:
    """A family's runs on one machine, smallest model first."""

    family: str
    precision: str
    systems: int
    machine: Machine
    currency: str
    models: tuple[ModelPlan, ...]

    @property
    def ladder(self) -> tuple[ModelPlan, ...]:
        """The models that the law is fitted on."""
        return tuple(model for model in self.models if not model.held_out)

    @property
    def held_out(self) -> tuple[ModelPlan, ...]:
        """The model (every seed of it) whose loss is foretold."""
        return tuple(model for model in self.models if model.held_out)

    def totals(self) -> dict[str, Any]:
        """Sums over the models; null where a part is unknown."""
        prices = [model.price for model in self.models]
        joules = [model.joules for model in self.models]
        return {
            "models": len(self.models),
            "tokens": sum(model.tokens for model in self.models),
            "steps": sum(model.steps for model in self.models),
            "flops": sum(model.flops for model in self.models),
            "flops_6nd": sum(model.flops_6nd for model in self.models),
            "flops_paper": sum(model.flops_paper for model in self.models),
            "seconds": sum(model.seconds for model in self.models),
            "joules": None if None in joules else sum(one for one in joules if one is not None),
            "price": None if None in prices else sum(one for one in prices if one is not None),
        }

    def to_json(self) -> dict[str, Any]:
        """The family's own part of plan.json."""
        return {
            "family": self.family,
            "precision": self.precision,
            "systems": self.systems,
            "currency": self.currency,
            "machine": self.machine.to_json(),
            "models": [model.to_json() for model in self.models],
            "totals": self.totals(),
        }


def plan_family(family: Family, machine: Machine) -> Plan:
    """The runs of `family` as they will go on `machine`.

    Raises:
        FamilyError: the family asks for something that no run can do.
    """
    sizes = family_sizes(family)
    shapes = {size.name: _shape(size, family) for size in sizes}
    held_out = _held_out(family, shapes)
    models = [
        _plan_model(family, size, shapes[size.name], number, held_out == size.name, machine)
        for size in sizes
        for number in range(size.seeds)
    ]
    names = [model.name for model in models]
    doubled = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
    if doubled:
        raise FamilyError(f"models: {doubled[0]!r} is both a model and a further seed of another; rename it")
    # Smallest first; among equals the order of the file, seeds in a row.
    models.sort(key=lambda model: model.shape.params)
    return Plan(family.name, family.precision, family.systems, machine, family.cost.currency, tuple(models))


def check_against_data(plan: Plan, train_tokens: int, held_out_tokens: int) -> list[str]:
    """What a user should know about this plan on a data set of this size, one line a note: models that repeat data.

    Raises:
        FamilyError: the data does not fill one context.
    """
    for split, tokens in (("training", train_tokens), ("held-out", held_out_tokens)):
        context_length = plan.models[0].shape.context_length
        if tokens < context_length + 1:
            raise FamilyError(
                f"data.context_length = {context_length:,} is longer than the {split} data ({tokens:,} tokens); "
                "use a shorter context or more text"
            )
    return [
        f"{model.name} reads {model.tokens:,} tokens, {model.tokens / train_tokens:.1f} epochs of the data"
        for model in plan.models
        if model.tokens > train_tokens
    ]


def _held_out(family: Family, shapes: dict[str, Shape]) -> str | None:
    """The size whose loss is to be foretold."""
    if family.held_out is False:
        return None
    if family.held_out is None:
        return max(shapes, key=lambda name: shapes[name].params)
    if family.held_out not in shapes:
        raise FamilyError(f"held_out = {family.held_out!r} is none of the models; use one of {', '.join(shapes)}")
    return family.held_out


def _shape(size: ModelSize, family: Family) -> Shape:
    data = family.data
    return Shape(size.n_layers, size.d_model, size.n_heads, data.tokenizer.vocab_size, data.context_length)


def _plan_model(
    family: Family, size: ModelSize, shape: Shape, number: int, held_out: bool, machine: Machine
) -> ModelPlan:
    recipe = family.recipe_of(size)
    wanted = _wanted_tokens(recipe, size, shape)
    schedule = _batch_schedule(recipe, wanted, shape.context_length)
    runs = steps_of(schedule, wanted, shape.context_length)
    tokens = sum(run.steps * run.sequences for run in runs) * shape.context_length
    microbatch = _microbatch_sequences(recipe.microbatch_tokens, shape.context_length, schedule)
    at_once = min(machine.lanes, schedule[0].sequences // microbatch)
    memory = training_memory(shape, microbatch, at_once, family.precision)
    flops = training_flops(shape, tokens)
    # Of all systems together, a second on half of a machine's cores as half: what one takes, shared out among them.
    system_seconds = flops.model / (expected_share(shape) * machine.matrix_flops_per_second(family.precision))
    watts, hourly = family.cost.watts_per_system, family.cost.price_per_system_hour
    found = ModelPlan(
        name=size.name if number == 0 else f"{size.name}-s{number}",
        size=size.name,
        held_out=held_out,
        shape=shape,
        seed=family.seed + number,
        precision=family.precision,
        tokens=tokens,
        batch_schedule=schedule,
        microbatch_sequences=microbatch,
        steps=sum(run.steps for run in runs),
        peak_lr=recipe.peak_lr if recipe.peak_lr is not None else peak_lr(shape.params, family.parametrisation),
        warmup_tokens=_warmup_tokens(recipe, size, tokens, schedule[0].sequences * shape.context_length),
        decay=recipe.decay,
        final_lr_fraction=recipe.final_lr_fraction,
        beta1=recipe.beta1,
        beta2=recipe.beta2,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        clip_norm=recipe.clip_norm,
        flops=flops.model,
        flops_6nd=flops.six_nd,
        flops_paper=flops.paper,
        weights_bytes=memory.weights_bytes,
        optimizer_bytes=memory.optimizer_bytes,
        activation_bytes=memory.activation_bytes,
        seconds=system_seconds / machines_of(family, machine),
        joules=watts * system_seconds if watts is not None else None,
        price=hourly * system_seconds / 3600 if hourly is not None else None,
        parametrisation=parametrisation_of(family.parametrisation, recipe, shape),
        reproducible=family.reproducible,
        keep_checkpoints=family.keep_checkpoints,
        on_spike=recipe.on_spike,
        spikes_allowed=recipe.spikes_allowed,
        execution=family.execution,
        store=family.streaming.store or "disk",
        group_tokens=family.streaming.group_tokens or (GPU_GROUP_TOKENS if machine.device == "cuda" else GROUP_TOKENS),
        recompute=family.streaming.recompute,
    )
    if machine.device == "cuda":
        ways = (shape, family.precision, family.reproducible, found.cut(family.systems))
        fitted = fitted_cut(*ways, machine.memory_bytes)
        found = replace(found, offload=fitted.offload, staying=fitted.staying)
        if family.streaming.store is None and _store_fits_host(replace(found, store="host"), family, machine):
            found = replace(found, store="host")
    elif found.store == "disk":
        found = replace(found, embeddings_stay=family.streaming.embeddings_stay)
    streamed = _streamed(found, family, at_once, machine.device)
    resident = resident_footprint(shape, family.precision, microbatch, at_once, machine.device)
    return replace(found, resident=resident, streamed=streamed)


def _streamed(plan: ModelPlan, family: Family, lanes: int, device: str) -> Footprint:
    """Of one of the family's systems."""
    cut, store = plan.cut(family.systems), plan.store
    shape, precision = plan.shape, family.precision
    return streamed_footprint(shape, precision, family.reproducible, cut, store, lanes, family.systems, device)


def _store_fits_host(plan: ModelPlan, family: Family, machine: Machine) -> bool:
    """Whether host memory holds the stores of all systems of a machine: each of its GPUs is one."""
    sharing = family.systems if family.cluster is None else family.cluster.systems_per_node
    needed = sharing * _streamed(plan, family, 1, machine.device).host_bytes
    return needed <= ROOM * machine.host_memory_bytes


def machines_of(family: Family, machine: Machine) -> float:
    """How many of the measured machine the systems are: GPUs, or nodes, whose cores their systems share."""
    if machine.device == "cuda":
        return family.systems
    return 1 if family.cluster is None else max(1, family.systems / family.cluster.systems_per_node)


def expected_share(shape: Shape) -> float:
    """The share of the measured matrix rate that training reaches: 0.85 d / (d + 50).

    Drawn through what was measured on two Zen 4 cores (31 % of the bf16 rate at width 32, 36 % at 48, 47 % at 64, 48 %
    at 80, 80 % at 768 with a vocabulary of 50,257; 2026-11-25): narrow models are held up by everything that is not a
    matrix product.
    """
    return 0.85 * shape.d_model / (shape.d_model + 50)


def _wanted_tokens(recipe: Recipe, size: ModelSize, shape: Shape) -> int:
    if recipe.tokens is not None:
        return recipe.tokens
    wanted = shape.params * recipe.tokens_per_parameter
    if not 1 <= wanted <= MOST_TOKENS:
        raise FamilyError(
            f"recipe.tokens_per_parameter = {recipe.tokens_per_parameter:g}: model {size.name} would read {wanted:.3g} "
            "tokens; 20 is compute-optimal"
        )
    return math.ceil(wanted)


def _warmup_tokens(recipe: Recipe, size: ModelSize, tokens: int, first_batch_tokens: int) -> int:
    if recipe.warmup_fraction is not None:
        return round(recipe.warmup_fraction * tokens)
    if recipe.warmup_tokens is None:
        return warmup_tokens(tokens, first_batch_tokens)
    if recipe.warmup_tokens >= tokens:
        raise FamilyError(
            f"recipe.warmup_tokens = {recipe.warmup_tokens:,}: model {size.name} reads only {tokens:,} tokens; "
            "use less, or warmup_fraction"
        )
    return whole_steps(recipe.warmup_tokens, first_batch_tokens)


def _batch_schedule(recipe: Recipe, tokens: int, context_length: int) -> tuple[BatchStage, ...]:
    if recipe.batch_schedule is not None:
        return tuple(BatchStage(stage.from_tokens, stage.sequences) for stage in recipe.batch_schedule)
    return (BatchStage(0, batch_sequences(tokens, context_length)),)


def _microbatch_sequences(most_tokens: int, context_length: int, schedule: Sequence[BatchStage]) -> int:
    """Sequences that pass through the model at once: at most `most_tokens`, and a divisor of every stage's batch.

    A divisor, so that all microbatches have one shape and lanes share them evenly.
    """
    common = math.gcd(*(stage.sequences for stage in schedule))
    most = max(1, most_tokens // context_length)
    return max(size for size in _divisors(common) if size <= most)


def _divisors(number: int) -> list[int]:
    small = [one for one in range(1, math.isqrt(number) + 1) if number % one == 0]
    return sorted({*small, *(number // one for one in small)})
