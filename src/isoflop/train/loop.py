"""Trains one model from its plan and the shards; stops at any step and goes on with the same bits."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, time

import torch
from torch import Tensor

from isoflop.data import TokenStream, sample_ids
from isoflop.durable import sha256_of_file
from isoflop.errors import DivergenceError, InputError, Interrupted
from isoflop.interrupts import deferred
from isoflop.model import Kernels, Lanes, Weights, as_standard, load_kernels
from isoflop.model.lanes import THREADS
from isoflop.recipe import ModelPlan, flops_per_token, learning_rate, steps_of
from isoflop.recipe.schedule import StepPlan, step_at
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.checkpoint import Position, State, load_newest, save_generation
from isoflop.train.learner import Learner
from isoflop.train.metrics import Metrics

# Steps over which the time left is estimated.
RECENT_STEPS = 20
# An energy counter wraps within a minute on a large machine: read less often, it would lose turns.
SECONDS_BETWEEN_JOULES = 5.0


@dataclass(frozen=True)
class Step:
    """One finished step, as metrics.jsonl has it, and how much is left."""

    step: int
    steps: int
    tokens: int
    total_tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    mfu: float
    time: float
    seconds_left: float


@dataclass(frozen=True)
class Trained:
    """A finished run. `weights` are a standard GPT-2's.

    `seconds`, `system_seconds` and `joules` add up over all its sessions; `system_seconds` counts a second on half of a
    system's cores as half.
    """

    weights: Weights
    tokens: int
    steps: int
    seconds: float
    system_seconds: float
    joules: float | None
    threads: int


def train(
    plan: ModelPlan,
    data: Path,
    folder: Path,
    *,
    lanes: Lanes,
    system_share: float,
    peak_flops_per_second: float,
    checkpoint_seconds: float,
    read_joules: Callable[[], float | None],
    on_step: Callable[[Step], None],
    on_event: Callable[[str], None],
) -> Trained:
    """Trains to the end of the plan, or goes on from the newest good checkpoint in `folder`.

    Weights are a function of plan and data, on machines that compute alike; the number of lanes does not change them.
    `system_share` is the share of the machine that the lanes are. `read_joules` counts up from any start, or says None;
    it is asked every few seconds. `on_event` hears what a user should know, a line each.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the last finished step is saved.
        DivergenceError: the loss is not finite.
        WorkError: a checkpoint cannot be written.
        InputError: the checkpoints belong to other settings, or need a C compiler that is not there.
    """
    checkpoints = folder / "checkpoints"
    data_sha256 = sha256_of_file(data / "manifest.json")
    state = load_newest(checkpoints, plan, data_sha256, on_event)
    kernels = load_kernels()
    unbegun = Position(0, 0, 0.0, 0.0, 0.0, THREADS, kernels is not None)
    position = unbegun if state is None else state.position
    if position.fused and kernels is None and position.steps < plan.steps:
        raise InputError(f"{folder}: began with kernels that a C compiler built, and there is none now; install gcc")
    session = _Session(plan, data, lanes, kernels if position.fused else None, state, peak_flops_per_second)
    if position.steps == plan.steps:
        return session.trained(position)

    def save(now: Position) -> None:
        metrics.sync()
        save_generation(checkpoints, plan, data_sha256, State(now, session.tensors()))

    metrics = Metrics(folder / "metrics.jsonl", position.steps)
    started = saved = counted = perf_counter()
    joules_before = read_joules()

    def position_now(step: Step) -> Position:
        joules = read_joules()
        known = position.joules is not None and joules is not None and joules_before is not None
        return Position(
            steps=step.step,
            tokens=step.tokens,
            seconds=position.seconds + perf_counter() - started,
            system_seconds=position.system_seconds + (perf_counter() - started) * system_share,
            joules=position.joules + joules - joules_before if known else None,  # type: ignore[operator]
            threads=position.threads,
            fused=position.fused,
        )

    try:
        with deferred() as pending:
            for step in session.steps():
                metrics.write({key: value for key, value in asdict(step).items() if key in _METRIC_KEYS})
                on_step(step)
                if perf_counter() - counted >= SECONDS_BETWEEN_JOULES:
                    read_joules()
                    counted = perf_counter()
                if pending.signal_number is not None:
                    save(position_now(step))
                    raise Interrupted(pending.signal_number)
                if step.step == plan.steps or perf_counter() - saved >= checkpoint_seconds:
                    now = position_now(step)
                    save(now)
                    saved = perf_counter()
    finally:
        metrics.close()
    return session.trained(now)


_METRIC_KEYS = ("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "time")


class _Session:
    """Everything that one process holds of a run."""

    def __init__(
        self, plan: ModelPlan, data: Path, lanes: Lanes, kernels: Kernels | None, state: State | None, peak: float
    ) -> None:
        keep_freed_memory()
        self._plan, self._peak = plan, peak
        self._start = 0 if state is None else state.position.steps
        self._stream = TokenStream(data, "train")
        self._learner = Learner(
            plan.shape,
            seed=plan.seed,
            precision=plan.precision,
            lanes=lanes,
            kernels=kernels,
            parametrisation=plan.parametrisation,
            beta1=plan.beta1,
            beta2=plan.beta2,
            eps=plan.eps,
            weight_decay=plan.weight_decay,
            clip_norm=plan.clip_norm,
        )
        self.tensors = self._learner.tensors
        if state is not None:
            self._learner.restore(state.tensors)

    def trained(self, position: Position) -> Trained:
        return Trained(
            weights=as_standard(self._learner.weights, self._plan.parametrisation),
            tokens=position.tokens,
            steps=position.steps,
            seconds=position.seconds,
            system_seconds=position.system_seconds,
            joules=position.joules,
            threads=position.threads,
        )

    def steps(self) -> Iterator[Step]:
        """Trains on from the start position, a step each time the next one is asked for."""
        plan = self._plan
        runs = steps_of(plan.batch_schedule, plan.tokens, plan.shape.context_length)
        recent: deque[float] = deque(maxlen=RECENT_STEPS)
        for i in range(self._start, plan.steps):
            began = perf_counter()
            this = step_at(runs, i)
            tokens = (this.first_sequence + this.sequences) * plan.shape.context_length
            loss = self._learner.gradients(self._microbatches(this), this.sequences * plan.shape.context_length)
            norm = self._learner.norm()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise DivergenceError(
                    f"{plan.name}: loss {loss:g}, gradient norm {norm:g} at step {i + 1}: training has diverged before "
                    "this update; the last checkpoint is good; lower recipe.peak_lr and train in another --runs folder"
                )
            lr = learning_rate(
                tokens,
                tokens=plan.tokens,
                warmup_tokens=plan.warmup_tokens,
                peak_lr=plan.peak_lr,
                final_lr_fraction=plan.final_lr_fraction,
                decay=plan.decay,
            )
            self._learner.update(norm, lr, i + 1)
            seconds = perf_counter() - began
            recent.append(seconds)
            speed = this.sequences * plan.shape.context_length / seconds
            yield Step(
                step=i + 1,
                steps=plan.steps,
                tokens=tokens,
                total_tokens=plan.tokens,
                loss=loss,
                lr=lr,
                grad_norm=norm,
                tokens_per_second=speed,
                mfu=speed * flops_per_token(plan.shape) / self._peak,
                time=time(),
                seconds_left=statistics.median(recent) * (plan.steps - i - 1),
            )

    def _microbatches(self, this: StepPlan) -> list[Callable[[], Tensor]]:
        """What reads each microbatch of a step."""
        length, size = self._plan.shape.context_length, self._plan.microbatch_sequences
        ids = sample_ids(this.first_sequence, this.sequences, self._stream.n_samples(length), self._plan.seed)

        def read(first: int) -> Tensor:
            return torch.from_numpy(self._stream.batch(ids[first : first + size], length))

        return [partial(read, first) for first in range(0, this.sequences, size)]
