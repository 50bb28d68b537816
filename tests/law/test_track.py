"""A run beside the finished runs of its family: healthy ones raise no alarm, faults do, soon after they begin."""

from dataclasses import replace

import numpy as np
import pytest

from isoflop.errors import InputError
from isoflop.law.forms import Array
from isoflop.law.schedule import schedule_effect
from isoflop.law.track import SHARES, Record, Track
from isoflop.law.watch import Alarm, Watch
from isoflop.published import published_set
from tests.law.test_published import rates

STEPS, FAULT_AT = 600, 300
FALLING = np.linspace(1, 0.1, 400)


def run_of(params: float, seed: int) -> Record:
    """A loss curve as families have them: a power of size and of the share read, 0.4 % from seed to seed, slow
    wandering of 0.2 %, and 1.5 % from step to step."""
    rng = np.random.default_rng([int(params), seed])
    progress = np.arange(1, STEPS + 1) / STEPS
    slow = 0.002 * np.interp(progress, np.linspace(0, 1, 8), rng.normal(size=8))
    level = np.log(4 * (params / 1e4) ** -0.08 + 2 * np.exp(-8 * progress)) - 0.05 * np.log(progress)
    off = level + 0.004 * rng.normal() + slow
    loss = np.exp(off + 0.015 * rng.normal(size=STEPS))
    return Record(f"{params:.0f}, seed {seed}", params, progress, loss, np.full(STEPS, 512.0), FALLING, np.exp(off[-1]))


@pytest.fixture(scope="module")
def track() -> Track:
    return Track([run_of(params, seed) for params in (1e4, 1.5e4, 2.2e4, 3.3e4) for seed in (0, 1, 2)])


def alarms(track: Track, run: Record) -> list[Alarm]:
    watch = Watch(track, run.run, run.params, run.rate)
    seen = (watch.see(*step) for step in zip(run.progress, run.loss, run.step_tokens, strict=True))
    return [alarm for alarm in seen if alarm is not None]


def changed(run: Record, factor: Array | float) -> Record:
    """With the losses from the fault on times `factor`"""
    loss = run.loss.copy()
    loss[FAULT_AT:] *= factor
    return replace(run, loss=loss)


def test_of_twenty_healthy_runs_none_raises_an_alarm(track: Track) -> None:
    healthy = [run_of(params, seed) for params in (2.2e4, 5e4) for seed in range(10, 20)]
    assert [alarms(track, run) for run in healthy] == [[]] * 20


@pytest.mark.parametrize(
    ("factor", "within"),
    [(1.10, 8), (0.90, 8), (1.05, 24), (1 + 0.3 * np.linspace(0, 1, STEPS - FAULT_AT), 120)],
    ids=["a tenth up", "a tenth down", "a twentieth up", "a slow climb"],
)
def test_a_fault_raises_an_alarm_within_so_many_steps(track: Track, factor: Array | float, within: int) -> None:
    for seed in (20, 21, 22):
        first = alarms(track, changed(run_of(5e4, seed), factor))[0]
        assert FAULT_AT < first.step <= FAULT_AT + within


def test_an_alarm_is_given_once_while_the_run_stays_off_its_track(track: Track) -> None:
    assert len(alarms(track, changed(run_of(5e4, 30), 1.5))) == 1


def test_the_end_is_foretold_with_an_interval_that_holds_it(track: Track) -> None:
    inside = 0
    for seed in range(40, 60):
        run = run_of(5e4, seed)
        watch = Watch(track, run.run, run.params, run.rate)
        for step in zip(run.progress[: STEPS // 2], run.loss, run.step_tokens, strict=False):
            watch.see(*step)
        said = watch.standing()
        assert run.final is not None
        inside += said.final_low_95 <= run.final <= said.final_high_95
        assert said.final_high_95 / said.final_low_95 < 1.12
    assert inside >= 18


def test_below_a_ceiling_the_end_is_foretold_without_leaning_to_one_side() -> None:
    """Losses that saturate: a straight line over log size ends too high, all seeds on one side."""

    def saturating(params: float, seed: int) -> Record:
        run = run_of(params, seed)
        factor = 6.0 / (1 + (params / 4e3) ** 0.3) / (4 * (params / 1e4) ** -0.08)
        assert run.final is not None
        return replace(run, loss=run.loss * factor, final=run.final * factor)

    finished = [saturating(params, seed) for params in (1e4, 1.5e4, 2.2e4, 3.3e4) for seed in (0, 1, 2)]
    off: dict[float | None, list[float]] = {None: [], 6.0: []}
    inside = 0
    for ceiling, found in off.items():
        track = Track(finished, ceiling)
        for seed in range(40, 50):
            run = saturating(1.5e5, seed)
            assert run.final is not None
            watch = Watch(track, run.run, run.params, run.rate)
            watch.follow(run.progress[: STEPS // 2], run.loss[: STEPS // 2], run.step_tokens[: STEPS // 2])
            said = watch.standing()
            found.append(said.final / run.final - 1)
            inside += ceiling is not None and said.final_low_80 <= run.final <= said.final_high_80
    assert np.mean(off[None]) > 0.01
    assert abs(np.mean(off[6.0])) < 0.5 * np.mean(off[None])
    assert inside >= 8


def test_a_finished_run_is_judged_by_the_others_alone() -> None:
    runs = [run_of(params, seed) for params in (1e4, 1.5e4, 2.2e4, 3.3e4) for seed in (0, 1)]
    strange = changed(runs[5], 1.3)
    mine = replace(strange, final=1.3 * (strange.final or 0.0))
    track, without = Track([*runs[:5], mine, *runs[6:]]), Track([*runs[:5], *runs[6:]])
    said, other = (one.expected(mine.run, mine.params, FALLING) for one in (track, without))
    assert np.array_equal(said.mean, other.mean)


def test_too_few_runs_and_a_size_off_a_single_one_are_refused() -> None:
    with pytest.raises(InputError, match="3 finished runs; to expect another's curve takes 6"):
        Track([run_of(1e4, seed) for seed in range(3)])
    one_size = Track([run_of(1e4, seed) for seed in range(6)])
    assert len(alarms(one_size, run_of(1e4, 9))) == 0
    with pytest.raises(InputError, match="all finished runs are of one size"):
        one_size.expected("other", 2e4, FALLING)


@pytest.mark.parametrize(("size", "error"), [("25M", 0.012), ("100M", 0.004)])
@pytest.mark.parametrize("curve", ["wsd_20000_24000", "wsdld_20000_24000"])
def test_what_another_schedule_brings_is_foretold(size: str, error: float, curve: str) -> None:
    """From a cosine and a constant run of Luo et al. 2025; without the law the constant run is off by over 2 %."""

    def read(name: str) -> tuple[Array, Array]:
        table = published_set(f"multipower_{size}")
        own = np.array(table.texts("curve")) == name
        steps, loss = (np.array(table.numbers(column))[own] for column in ("step", "loss"))
        rate = rates(name)
        smooth = np.convolve(np.pad(np.log(loss), 5, mode="edge"), np.ones(11) / 11, "valid")
        cells = rate[np.arange(1, 401) * (len(rate) - 1) // 400]
        return np.interp(SHARES * (len(rate) - 1), steps, smooth), cells / rate.max()

    known = [read("cosine_24000"), read("constant_24000")]
    curves = np.stack([loss for loss, _ in known])
    measured, rate = read(curve)
    foretold = curves + schedule_effect([rate for _, rate in known], curves, SHARES, rate)
    assert np.abs(foretold - measured)[:, -1].max() < error
    assert (curves - measured)[1, -1] > 0.02


def test_the_same_schedule_changes_nothing() -> None:
    curves = np.zeros((2, len(SHARES)))
    assert not schedule_effect([FALLING, FALLING + 1e-4], curves, SHARES, FALLING).any()
