"""Trains one model from its plan and the shards; stops at any step and goes on with the same bits."""

import math
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from isoflop.data import ReadAhead, TokenStream, sample_ids
from isoflop.durable import sha256_of_file
from isoflop.errors import DivergenceError, InputError, Interrupted, WorkError
from isoflop.interrupts import deferred
from isoflop.model import Lanes, Weights, as_standard, load_kernels
from isoflop.model.lanes import THREADS
from isoflop.recipe import ModelPlan, learning_rate, steps_of, training_flops
from isoflop.recipe.schedule import BatchRun, StepPlan, step_at
from isoflop.systems.group import ALONE, Systems
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.checkpoint import Generation, Position, load_at, load_together, save_generation
from isoflop.train.learner import CPU, Learner, Learns
from isoflop.train.learners import make_learner
from isoflop.train.metrics import Metrics
from isoflop.train.reach import LOOK_EVERY
from isoflop.train.recovery import recover, remove_store
from isoflop.train.saving import Saving
from isoflop.train.spikes import Healthy, Spike, SpikeFile, rewind_base

# Steps over which the time left is estimated.
RECENT_STEPS = 20
# An energy counter wraps within a minute on a large machine: read less often, it would lose turns.
SECONDS_BETWEEN_JOULES = 5.0


@dataclass(frozen=True)
class Step:
    """One finished step, as metrics.jsonl has it, and how much is left.

    `unreached` names matrices that no gradient reaches; every 16th step is looked at, the log has their number.
    """

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
    unreached: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trained:
    """A finished run. `weights` are a standard GPT-2's.

    `seconds`, `system_seconds` and `joules` add up over all its sessions; `system_seconds` are those
    of whole GPUs or machines: a second on half of a machine's cores counts as half. `changes` are the settings that
    were changed on the way, as `isoflop.train.changes` has them.
    """

    weights: Weights
    tokens: int
    steps: int
    seconds: float
    system_seconds: float
    joules: float | None
    threads: int
    changes: tuple[dict[str, Any], ...] = ()


def train(
    plan: ModelPlan,
    data: Path,
    folder: Path,
    *,
    lanes: Lanes,
    whole_systems: float,
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
    checkpoint. `whole_systems` is how many GPUs, or machines with all their cores, the lanes of all systems are.
    `read_joules` counts up from any start, or says None; it is asked every few seconds. `on_event` hears what a user
    should know, a line each.

    Raises:
        Interrupted: SIGINT or SIGTERM came; the last finished step is saved.
        DivergenceError: the loss is not finite and is not to be answered, or there are more spikes than allowed.
        WorkError: a checkpoint cannot be written, or the data cannot be read.
        InputError: the checkpoints belong to other settings, or need a C compiler that is not there.
    """
    checkpoints, store, leads = folder / "checkpoints", folder / "store", systems.rank == 0
    data_sha256 = _manifest_sha256(data)
    recover(store, checkpoints, plan, data_sha256, lanes, systems, on_event)
    generation = load_together(checkpoints, plan, data_sha256, on_event, systems)
    # A GPU computes without them; the optimizer of streamed weights is the processor's in any case.
    kernels = load_kernels() if device.type == "cpu" or plan.execution == "streamed" else None
    unbegun = Position(0, 0, 0.0, 0.0, 0.0, THREADS, kernels is not None, device.type)
    position = unbegun if generation is None else generation.position
    if position.fused and kernels is None and device.type == "cpu" and position.steps < plan.steps:
        raise InputError(f"{folder}: began with kernels that a C compiler built, and there is none now; install gcc")
    if position.device != device.type and position.steps < plan.steps:
        on_event(f"{plan.name} began on {position.device} and goes on on {device.type}: its bits are those of neither")
    used = kernels if position.fused else None
    keep_freed_memory()

    def learner_from(source: Generation | None) -> Learns:
        return make_learner(
            plan, data_sha256, store, lanes=lanes, kernels=used, systems=systems, device=device, source=source
        )

    def back_at(steps: int, learner: Learns) -> tuple[Learns, Position]:
        source = load_at(checkpoints, steps, plan, data_sha256, systems) if steps else None
        if source is not None and isinstance(learner, Learner):  # in the memory that it has
            learner.discard()
            learner.restore(source)
            return learner, source.position
        learner.close()
        return learner_from(source), unbegun if source is None else source.position

    def save(now: Position) -> None:
        kept_steps = rewind_base(plan, now.steps)
        save_generation(checkpoints, plan, data_sha256, now, session.learner, systems, kept_steps)

    spikes = SpikeFile(folder / "spikes.json", data, position.steps, on_event) if leads else None
    # Several systems speak to each other while they save, and write a part each; a store on disk has its files.
    saving = Saving(save, beside=systems.size == 1 and not plan.on_disk)
    session = _Session(
        plan,
        data,
        learner_from(generation),
        systems,
        position,
        peak_flops_per_second,
        back_at,
        spikes,
        on_event,
        saving,
    )

    def trained(position: Position) -> Trained:
        session.learner.check()
        weights = as_standard(session.learner.complete(), plan.parametrisation)
        session.learner.close()
        remove_store(store, systems)
        return Trained(
            weights=weights,
            tokens=position.tokens,
            steps=position.steps,
            seconds=position.seconds,
            system_seconds=position.system_seconds,
            joules=position.joules,
            threads=position.threads,
            changes=position.changes,
        )

    if position.steps == plan.steps:
        return trained(position)

    metrics = Metrics(folder / "metrics.jsonl", position.steps, on_event) if leads else None
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
            system_seconds=position.system_seconds + (perf_counter() - started) * whole_systems,
            joules=position.joules + of_all if known else None,  # type: ignore[operator]
            threads=position.threads,
            fused=position.fused,
            device=device.type,
            skipped=step.step - session.updates,
            spikes=session.spikes,
            recent=session.healthy.recent,
            changes=position.changes,
        )

    try:
        with deferred() as pending:
            for step in session.steps():
                if step.step == plan.steps or perf_counter() - counted >= SECONDS_BETWEEN_JOULES:
                    own, counted = joules_now(), perf_counter()
                if metrics is not None:
                    line = {key: value for key, value in asdict(step).items() if key in _METRIC_KEYS}
                    if step.unreached:
                        line["unreached"] = len(step.unreached)
                    joules = position.joules + of_all - heard + own if position.joules is not None else math.nan
                    line["joules"] = None if math.isnan(joules) else round(joules, 3)
                    metrics.write({key: value for key, value in line.items() if value is not None})
                    on_step(step)
                if session.updated and session.learner.lasting:
                    if metrics is not None:
                        metrics.sync()
                    session.learner.commit(asdict(position_now(step)))
                elif session.updated:
                    session.learner.commit({})
                due = not session.learner.lasting and perf_counter() - saved >= checkpoint_seconds
                if rewind_base(plan, step.step) is not None:  # a function of the steps alone, not of the clock
                    due = rewind_base(plan, step.step) == step.step
                due = due or step.step in kept
                # All stop at the same step, at a signal to any; all save at the same, when the leader's clock says so.
                if due or pending.signal_number:
                    own = joules_now()
                said = systems.gather(np.array([float(pending.signal_number or 0), float(due), own]))
                of_all, heard = float(said[:, 2].sum()), own
                signal_number = int(said[:, 0].max())
                if not (signal_number or step.step == plan.steps or said[0, 1]):
                    continue
                if metrics is not None:
                    metrics.sync()
                now = position_now(step)
                saving.begin(now)
                saved = perf_counter()
                if signal_number:
                    saving.settle()
                    session.learner.close()
                    remove_store(store, systems)
                    pending.signal_number = None
                    raise Interrupted(signal_number)
            saving.settle()
    except BaseException:
        saving.wait()
        session.learner.close()
        raise
    finally:
        if metrics is not None:
            metrics.close()
    return trained(now)


def _manifest_sha256(data: Path) -> str:
    try:
        return sha256_of_file(data / "manifest.json")
    except OSError as error:
        raise WorkError(f"{error.filename}: cannot read ({error.strerror}); run isoflop data") from None


_METRIC_KEYS = (
    *("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "wait_seconds", "time"),
    "link_bytes",
)


class _Session:
    """The steps that one process takes of a run."""

    def __init__(
        self,
        plan: ModelPlan,
        data: Path,
        learner: Learns,
        systems: Systems,
        position: Position,
        peak: float,
        back_at: Callable[[int, Learns], tuple[Learns, Position]],
        spike_file: SpikeFile | None,
        on_event: Callable[[str], None],
        saving: Saving,
    ) -> None:
        self._plan, self._peak, self._systems = plan, peak, systems
        self._start = position.steps
        self._stream = TokenStream(data, "train")
        self._back_at, self._spike_file, self._on_event = back_at, spike_file, on_event
        self.learner, self._saving = learner, saving
        # As a checkpoint has them: of the last step, whether it made an update; updates and spikes so far.
        self.updated, self.updates, self.spikes = True, position.updates, position.spikes
        self.healthy = Healthy(position.recent)

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
            unreached = self.learner.unreached() if (i + 1) % LOOK_EVERY == 0 else ()
            spike = self.healthy.judge(loss, norm)
            self._saving.settle()
            self.updated = spike is None or self._goes_on(spike, this, loss, norm)
            lr = learning_rate(
                tokens,
                tokens=plan.tokens,
                warmup_tokens=plan.warmup_tokens,
                peak_lr=plan.peak_lr,
                final_lr_fraction=plan.final_lr_fraction,
                decay=plan.decay,
            )
            if self.updated:
                self.updates += 1
                self.healthy.add(loss, norm)
                self.learner.update(norm, lr, self.updates)
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
                mfu=speed * training_flops(plan.shape).model / self._peak,
                wait_seconds=reader.wait_seconds - waited,
                time=time(),
                seconds_left=statistics.median(recent) * (plan.steps - i - 1),
                link_bytes=self.learner.link_bytes or None,
                unreached=unreached,
            )

    def _goes_on(self, spike: Spike, this: StepPlan, loss: float, norm: float) -> bool:
        """Whether the step makes its update all the same; if not, all is as the plan's answer wants it.

        Every system judges the same numbers: nothing needs to be agreed.

        Raises:
            DivergenceError: it is not to be answered.
        """
        plan, told, step = self._plan, spike.told(loss, norm), this.step + 1
        if spike.limit is None and step == 1:
            raise DivergenceError(
                f"{plan.name}: {told} at step 1: the initial weights give no finite numbers; lower recipe.init_std"
            )
        if spike.limit is None and plan.on_spike == "warn":
            self._tell(step, spike, this, loss, norm, "training stopped")
            raise DivergenceError(
                f"{plan.name}: {told} at step {step}: training has diverged before this update; what was saved before "
                "is good; lower recipe.peak_lr and train in another --runs folder, or set recipe.on_spike"
            )
        if plan.on_spike == "warn":
            self.spikes += 1
            if self.spikes <= plan.spikes_allowed:
                self._tell(step, spike, this, loss, norm, "the update was made")
            return True
        if self.spikes >= plan.spikes_allowed:
            self._tell(step, spike, this, loss, norm, "training stopped")
            raise DivergenceError(
                f"{plan.name}: {told} at step {step}: over recipe.spikes_allowed = {plan.spikes_allowed}; what "
                "was saved before is good; lower recipe.peak_lr and train in another --runs folder, or allow more"
            )
        self.spikes += 1
        if plan.on_spike == "skip":
            self._tell(step, spike, this, loss, norm, "the batch was passed over")
            self.learner.discard()
            return False
        base = rewind_base(plan, this.step) or 0
        self._tell(step, spike, this, loss, norm, f"back to the weights of step {base}, on with the batches from here")
        self.learner, then = self._back_at(base, self.learner)
        self.updates, self.healthy = then.updates, Healthy(then.recent)
        return False

    def _tell(self, step: int, spike: Spike, this: StepPlan, loss: float, norm: float, answer: str) -> None:
        if self._spike_file is None:
            return
        length = self._plan.shape.context_length
        samples = sample_ids(this.first_sequence, this.sequences, self._stream.n_samples(length), self._plan.seed)
        self._spike_file.add(step, spike, loss, norm, answer, samples.tolist(), length)
        self._on_event(
            f"warning: {self._plan.name}: step {step}: {spike.told(loss, norm)}; {answer}; "
            "spikes.json names its documents"
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
