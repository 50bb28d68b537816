"""Trains one model from its plan and the shards; stops at any step and goes on with the same bits."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, time

import numpy as np
import numpy.typing as npt
import torch

from isoflop.data import ReadAhead, TokenStream, sample_ids
from isoflop.durable import sha256_of_file
from isoflop.errors import DivergenceError, InputError, Interrupted
from isoflop.interrupts import deferred
from isoflop.model import Lanes, Weights, as_standard, load_kernels
from isoflop.model.lanes import THREADS
from isoflop.recipe import ModelPlan, flops_per_token, learning_rate, steps_of
from isoflop.recipe.schedule import BatchRun, StepPlan, step_at
from isoflop.systems.group import ALONE, Systems
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.checkpoint import Position, load_together, save_generation
from isoflop.train.learner import CPU, Learns
from isoflop.train.learners import make_learner
from isoflop.train.metrics import Metrics
from isoflop.train.recovery import recover, remove_store

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
    wait_seconds: float
    time: float
    seconds_left: float
    link_bytes: int | None = None


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
    systems: Systems = ALONE,
    device: torch.device = CPU,
) -> Trained:
    """Trains to the end of the plan, or goes on from the newest good checkpoint in `folder`.

    Weights are a function of plan and data, on machines that compute alike; the numbers of lanes and of systems do not
    change them. All `systems` call this alike; the leader writes and speaks, each system writes its shards of a
    checkpoint. `system_share` is the share of the machine that the lanes of all systems on it are. `read_joules` counts
    up from any start, or says None; it is asked every few seconds. `on_event` hears what a user should
    know, a line each.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the last finished step is saved.
        DivergenceError: the loss is not finite.
        WorkError: a checkpoint cannot be written.
        InputError: the checkpoints belong to other settings, or need a C compiler that is not there.
    """
    checkpoints, store, leads = folder / "checkpoints", folder / "store", systems.rank == 0
    data_sha256 = sha256_of_file(data / "manifest.json")
    recover(store, checkpoints, plan, data_sha256, lanes, systems, on_event)
    generation = load_together(checkpoints, plan, data_sha256, on_event, systems)
    kernels = load_kernels() if device.type == "cpu" else None
    unbegun = Position(0, 0, 0.0, 0.0, 0.0, THREADS, kernels is not None, device.type)
    position = unbegun if generation is None else generation.position
    if position.fused and kernels is None and device.type == "cpu" and position.steps < plan.steps:
        raise InputError(f"{folder}: began with kernels that a C compiler built, and there is none now; install gcc")
    if position.device != device.type and position.steps < plan.steps:
        on_event(f"{plan.name} began on {position.device} and goes on on {device.type}: its bits are those of neither")
    used = kernels if position.fused else None
    keep_freed_memory()
    learner = make_learner(
        plan, data_sha256, store, lanes=lanes, kernels=used, systems=systems, device=device, source=generation
    )
    session = _Session(plan, data, learner, systems, position.steps, peak_flops_per_second)

    def trained(position: Position) -> Trained:
        weights = as_standard(learner.complete(), plan.parametrisation)
        learner.close()
        remove_store(store, systems)
        return Trained(
            weights=weights,
            tokens=position.tokens,
            steps=position.steps,
            seconds=position.seconds,
            system_seconds=position.system_seconds,
            joules=position.joules,
            threads=position.threads,
        )

    if position.steps == plan.steps:
        return trained(position)

    def save(now: Position) -> None:
        if metrics is not None:
            metrics.sync()
        save_generation(checkpoints, plan, data_sha256, now, learner, systems)

    metrics = Metrics(folder / "metrics.jsonl", position.steps) if leads else None
    kept = set(plan.kept_steps)
    started = saved = counted = perf_counter()
    joules_before = read_joules()
    # Of this system, of all together as they were last heard, and what this one then said; NaN where one is not known.
    own, of_all, heard = 0.0, 0.0, 0.0

    def joules_now() -> float:
        joules = read_joules()
        return math.nan if joules is None or joules_before is None else joules - joules_before

    def position_now(step: Step) -> Position:
        known = position.joules is not None and not math.isnan(of_all)
        return Position(
            steps=step.step,
            tokens=step.tokens,
            seconds=position.seconds + perf_counter() - started,
            system_seconds=position.system_seconds + (perf_counter() - started) * system_share,
            joules=position.joules + of_all if known else None,  # type: ignore[operator]
            threads=position.threads,
            fused=position.fused,
            device=device.type,
        )

    try:
        with deferred() as pending:
            for step in session.steps():
                if step.step == plan.steps or perf_counter() - counted >= SECONDS_BETWEEN_JOULES:
                    own, counted = joules_now(), perf_counter()
                if metrics is not None:
                    line = {key: value for key, value in asdict(step).items() if key in _METRIC_KEYS}
                    joules = position.joules + of_all - heard + own if position.joules is not None else math.nan
                    line["joules"] = None if math.isnan(joules) else round(joules, 3)
                    metrics.write({key: value for key, value in line.items() if value is not None})
                    on_step(step)
                if learner.lasting:
                    if metrics is not None:
                        metrics.sync()
                    learner.commit(asdict(position_now(step)))
                else:
                    learner.commit({})
                due = not learner.lasting and perf_counter() - saved >= checkpoint_seconds
                due = due or step.step in kept
                # All stop at the same step, at a signal to any; all save at the same, when the leader's clock says so.
                if due or pending.signal_number:
                    own = joules_now()
                said = systems.gather(np.array([float(pending.signal_number or 0), float(due), own]))
                of_all, heard = float(said[:, 2].sum()), own
                signal_number = int(said[:, 0].max())
                if signal_number:
                    save(position_now(step))
                    learner.close()
                    remove_store(store, systems)
                    pending.signal_number = None
                    raise Interrupted(signal_number)
                if step.step == plan.steps or said[0, 1]:
                    now = position_now(step)
                    save(now)
                    saved = perf_counter()
    except BaseException:
        learner.close()
        raise
    finally:
        if metrics is not None:
            metrics.close()
    return trained(now)


_METRIC_KEYS = (
    *("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "wait_seconds", "time"),
    "link_bytes",
)


class _Session:
    """The steps that one process takes of a run."""

    def __init__(
        self, plan: ModelPlan, data: Path, learner: Learns, systems: Systems, steps_done: int, peak: float
    ) -> None:
        self._plan, self._peak, self._systems = plan, peak, systems
        self._start = steps_done
        self._stream = TokenStream(data, "train")
        self.learner = learner

    def steps(self) -> Iterator[Step]:
        """Trains on from the start position, a step each time the next one is asked for."""
        plan = self._plan
        runs = steps_of(plan.batch_schedule, plan.tokens, plan.shape.context_length)
        with ReadAhead(self._stream, plan.shape.context_length, self._batches(runs)) as reader:
            yield from self._steps(runs, reader)

    def _steps(self, runs: list[BatchRun], reader: ReadAhead) -> Iterator[Step]:
        plan = self._plan
        recent: deque[float] = deque(maxlen=RECENT_STEPS)
        for i in range(self._start, plan.steps):
            began = perf_counter()
            self._systems.place = f"{plan.name} step {i + 1}"
            this = step_at(runs, i)
            tokens = (this.first_sequence + this.sequences) * plan.shape.context_length
            waited = reader.wait_seconds
            # Lanes take what is next, so which of them has which differs; the sums do not.
            microbatches = [lambda: torch.from_numpy(reader.take())] * len(self._microbatches(this))
            loss = self.learner.gradients(microbatches, this.sequences * plan.shape.context_length)
            norm = self.learner.norm()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                told = f"{plan.name}: loss {loss:g}, gradient norm {norm:g} at step {i + 1}"
                if i == 0:
                    raise DivergenceError(f"{told}: the initial weights give no finite numbers; lower recipe.init_std")
                raise DivergenceError(
                    f"{told}: training has diverged before this update; what was saved before is good; "
                    "lower recipe.peak_lr and train in another --runs folder"
                )
            lr = learning_rate(
                tokens,
                tokens=plan.tokens,
                warmup_tokens=plan.warmup_tokens,
                peak_lr=plan.peak_lr,
                final_lr_fraction=plan.final_lr_fraction,
                decay=plan.decay,
            )
            self.learner.update(norm, lr, i + 1)
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
                wait_seconds=reader.wait_seconds - waited,
                time=time(),
                seconds_left=statistics.median(recent) * (plan.steps - i - 1),
                link_bytes=self.learner.link_bytes or None,
            )

    def _batches(self, runs: list[BatchRun]) -> Iterator[npt.NDArray[np.int64]]:
        """The numbers of the samples of each of this system's microbatches, from the first step to come on."""
        length, size = self._plan.shape.context_length, self._plan.microbatch_sequences
        n_samples = self._stream.n_samples(length)
        for i in range(self._start, self._plan.steps):
            this = step_at(runs, i)
            ids = sample_ids(this.first_sequence, this.sequences, n_samples, self._plan.seed)
            for first in self._microbatches(this):
                yield ids[first : first + size]

    def _microbatches(self, this: StepPlan) -> range:
        """Where this system's microbatches of a step begin among its sequences."""
        firsts = range(0, this.sequences, self._plan.microbatch_sequences)
        return firsts[self._systems.rank :: self._systems.size]
