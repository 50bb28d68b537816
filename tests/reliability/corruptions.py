"""Seeded damage to whatever a family leaves on disk, and what the program makes of it.

`python -m tests.reliability.corruptions FOLDER FIRST COUNT` does COUNT damages from number FIRST on and prints what was
wrong with the answers: nothing, if each was the undamaged run's own numbers or one line that names the file. Losses of
steps may be missing where that is told; none may be another.
"""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.errors import InputError, Interrupted, WorkError
from isoflop.model import weights_sha256
from isoflop.pipeline import law_of, release_run, report_run
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import read_results
from isoflop.recipe import ModelPlan
from isoflop.report.metrics import read_metrics
from isoflop.train import Step
from tests.pipeline.conftest import Heard, _write_family
from tests.streaming.runs import DISK, RESIDENT, prepare_data, run, stop_at

KINDS = ("flip", "truncate", "swap", "delete", "duplicate")


@dataclass(frozen=True)
class Place:
    """A folder to damage, and what then is done with it; it says what was told and what came of it."""

    name: str
    folder: Path
    use: Callable[[Path], tuple[list[str], Any]]
    wanted: Any
    losses: dict[str, float]


class CrashError(Exception):
    """Ends a run without a checkpoint."""


def crash_at(number: int) -> Callable[[Step], None]:
    def on_step(step: Step) -> None:
        if step.step == number:
            raise CrashError

    return on_step


def prepare(folder: Path) -> list[Place]:
    """Runs to damage: one with two checkpoints, one with a store, prepared data, a finished family."""
    (folder / "corpus").mkdir(parents=True)
    data = prepare_data(folder / "corpus")
    wanted = weights_sha256(run(data, folder / "whole" / "run", RESIDENT).weights)
    losses = losses_in(folder / "whole")
    places = []
    for name, plan, ends in (
        ("checkpoints", RESIDENT, (stop_at(4), stop_at(9))),
        ("store", DISK, (stop_at(2), crash_at(6))),
    ):
        begun = folder / name
        shutil.copytree(data, begun / "data")
        for end in ends:
            with contextlib.suppress(Interrupted, CrashError):
                run(begun / "data", begun / "run", plan, end)
        places.append(Place(name, begun, _goes_on(plan), wanted, losses))
    finished = folder / "finished"
    finished.mkdir()
    _write_family(finished)
    command = [sys.executable, "-m", "isoflop", "run", "tiny.toml"]
    subprocess.run(command, cwd=finished, check=True, capture_output=True)
    (finished / "corpus.jsonl").unlink()
    places.append(Place("finished", finished, _shown, _shown(finished)[1], losses_in(finished)))
    return places


def _goes_on(plan: ModelPlan) -> Callable[[Path], tuple[list[str], Any]]:
    def use(folder: Path) -> tuple[list[str], Any]:
        events: list[str] = []
        return events, weights_sha256(run(folder / "data", folder / "run", plan, on_event=events.append).weights)

    return use


def _shown(place: Path) -> tuple[list[str], Any]:
    """Every number that a finished run directory gives out, and what its page leaves out."""
    folder = RunFolder(place / "runs" / "tiny")
    heard = Heard()
    _, plan = stored_plan(folder)
    results = [result.to_json() for result in read_results(folder, plan)]
    law, tests = law_of(folder.path)
    os.utime(folder.plan)  # the page is to be drawn
    page = report_run(folder.path).read_text()
    release_run(folder.path, heard)
    releases = {
        path.name: json.loads((path / "MANIFEST.json").read_text())["files"]
        for path in sorted((folder.path / "release").iterdir())
    }
    numbers = [results, law.to_json(), [test.to_json() for test in tests], releases]
    return [
        heard.notes,
        *(
            line
            for line in page.splitlines()
            if any(word in line for word in ("no result yet", "damaged (", " lacks "))
        ),
    ], numbers


def losses_in(folder: Path) -> dict[str, float]:
    """By folder and tokens, the loss of each step that a reader of the logs sees."""
    losses = {}
    for path in sorted(folder.rglob("metrics.jsonl")):
        metrics = read_metrics(path)
        for tokens, loss in zip(metrics.tokens, metrics.loss, strict=True) if metrics else ():
            losses[f"{path.parent.name} {tokens:.0f}"] = float(loss)
    return losses


def damage(folder: Path, seed: int) -> tuple[Path, str, Path | None]:
    """One file's damage: the file, the kind, and the other file that a swap has touched too."""
    dice = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("tiny.toml", "lock"))
    path, kind = dice.choice(files), dice.choice(KINDS)
    content = path.read_bytes()
    other = None
    if kind == "delete":
        path.unlink()
    elif kind == "duplicate":
        path.write_bytes(content * 2)
    elif kind == "truncate" or not content:
        path.write_bytes(content[: dice.randrange(len(content) or 1)])
    elif kind == "flip":
        changed = bytearray(content)
        changed[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
    else:
        other = dice.choice([one for one in files if one.suffix == path.suffix])
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
    return path, kind, other


def wrong(place: Place, scratch: Path, seed: int) -> str | None:
    """What is wrong with the answer to one damage."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(place.folder, scratch, copy_function=shutil.copy)
    path, kind, other = damage(scratch, seed)
    what = f"{place.name} {seed}: {kind} {path.relative_to(scratch)}" + (f" with {other.name}" if other else "")
    try:
        told, found = place.use(scratch)
    except (InputError, WorkError) as error:
        line = str(error)
        names = {path.name, path.parent.name, *((other.name, other.parent.name) if other else ())}
        # Data are known to a checkpoint by the hash of their manifest.
        known = any(name in line for name in names) or "data" in line
        return None if known and "\n" not in line else f"{what}: not named: {line}"
    except Exception as error:
        return f"{what}: {type(error).__name__}: {error}"
    losses = losses_in(scratch)
    if not losses.items() <= place.losses.items():
        return f"{what}: other losses of steps, told: {told}"
    if losses != place.losses and not any("metrics.jsonl" in line for line in told):
        return f"{what}: losses of steps are missing and nothing told: {told}"
    if (kind, path.name) == ("delete", "result.json") and any(path.parent.name in line for line in told):
        return None  # as if it had not been trained yet, and so told
    if (kind, path.name) == ("delete", "forecast.json") and any("will tell no forecast" in line for line in told):
        return None
    return None if found == place.wanted else f"{what}: other numbers, told: {told}"


def main(folder: Path, first: int, count: int) -> None:
    """As the module says."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    places = prepare(folder)
    faults = 0
    for seed in range(first, first + count):
        found = wrong(places[seed % len(places)], folder / "scratch", seed)
        if found is not None:
            faults += 1
            print(found, flush=True)
    print(f"{count} damages, {faults} wrong answers")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
