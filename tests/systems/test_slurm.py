"""A job of two nodes on a real Slurm: it trains, saves when it is warned, goes back to the queue, and ends its work."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isoflop.systems.slurm import Job, script, state_of, submit

# A worker as the launcher starts them: counts to WORK, and keeps the count when it is told to stop.
WORKER = """
import os, pathlib, signal, sys, time
from isoflop.outcome import die_with

die_with(int(os.environ["ISOFLOP_LAUNCHER"]))
folder, work = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rank = os.environ["RANK"]
kept = folder / f"count-{rank}"
count = int(kept.read_text()) if kept.exists() else 0
told = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
print(f"worker {rank} of {os.environ['WORLD_SIZE']} goes on from {count}", flush=True)
(folder / f"up-{rank}").touch()
while count < work and not told:
    if count < 1 or (folder / "go").exists():
        count += 1
    time.sleep(0.05)
time.sleep(0.5 if told else 0)
kept.write_text(str(count))
latest = folder / "models" / rank / "checkpoints" / "LATEST"
latest.parent.mkdir(parents=True, exist_ok=True)
latest.write_text(str(count))
print(f"worker {rank} kept {count}", flush=True)
sys.exit(143 if told else 0)
"""

# Does what PyTorch's launcher does of it: starts a node's worker, passes SIGTERM on, and ends when it has ended. It is
# up at once; PyTorch is not imported twice for each start of a job.
LAUNCHER = """#!/bin/bash
until [[ "$1" == */worker.py ]]; do shift; done
RANK=$SLURM_NODEID WORLD_SIZE=2 {python} "$@" &
worker=$!
trap 'kill $worker' TERM
wait $worker
[ $? -le 128 ] || wait $worker
"""


@pytest.fixture
def job(tmp_path: Path, slurm: Any) -> Job:
    """One worker on each of two nodes, in a folder whose name has a blank."""
    folder = tmp_path / "a folder"
    (folder / "logs").mkdir(parents=True)
    (folder / "worker.py").write_text(WORKER)
    worker = (str(folder / "worker.py"), str(folder), "20")
    return Job("isoflop-test", 2, 1, worker, sys.executable, folder / "logs", partition="all", time_limit="10:00")


@pytest.fixture
def quick(job: Job) -> Job:
    """The same with a launcher that is up at once."""
    launcher = job.logs.parent / "launcher"
    launcher.write_text(LAUNCHER.format(python=sys.executable))
    launcher.chmod(0o755)
    return replace(job, python=str(launcher))


def start(job: Job, slurm: Any) -> tuple[str, Path]:
    """The number of the job, its workers up, and its folder."""
    folder = job.logs.parent
    number = submit(script(job))
    slurm.wait(lambda: all((folder / f"up-{rank}").exists() for rank in (0, 1)), "both workers")
    return number, folder


@pytest.mark.slow  # two starts of two launchers, each of which imports PyTorch
def test_a_job_whose_time_is_nearly_over_saves_goes_back_and_ends_its_work(job: Job, slurm: Any) -> None:
    number, folder = start(job, slurm)
    assert state_of(number) == "RUNNING"
    # What --signal=B:USR1@120 does two minutes before the limit.
    slurm.ask("scancel", "--batch", "--signal=USR1", number)
    slurm.wait(lambda: slurm.state(number) == "PENDING", "the job to go back")
    (folder / "go").touch()
    slurm.wait(lambda: slurm.state(number) == "COMPLETED", "the job's end")
    assert state_of(number) is None

    logs = {path.name: path.read_text() for path in (folder / "logs").iterdir()}
    assert sorted(logs) == [f"job-{number}{node}.txt" for node in ("-node0", "-node1", "")]
    said = sorted(line for text in logs.values() for line in text.splitlines() if line.startswith("worker"))
    assert said == sorted(
        f"worker {rank} {what}"
        for rank in (0, 1)
        for what in ("of 2 goes on from 0", "kept 1", "of 2 goes on from 1", "kept 20")
    )
    own = logs[f"job-{number}.txt"]
    assert own.index("the time limit is near: job") < own.index("exit code 0")


def test_a_cancelled_job_saves_and_does_not_come_back(quick: Job, slurm: Any) -> None:
    number, folder = start(quick, slurm)
    slurm.ask("scancel", number)
    slurm.wait(lambda: not slurm.ask("squeue", "-h"), "an empty queue")
    assert slurm.state(number) == "CANCELLED"
    assert [(folder / f"count-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert "goes back" not in (folder / "logs" / f"job-{number}.txt").read_text()


def test_workers_that_somebody_told_to_end_go_back_to_the_queue(quick: Job, slurm: Any) -> None:
    number, folder = start(quick, slurm)
    slurm.ask("scancel", "--signal=TERM", f"{number}.0")
    slurm.wait(lambda: slurm.state(number) == "PENDING", "the job to go back")
    assert "its workers were told to end: job" in (folder / "logs" / f"job-{number}.txt").read_text()


def test_a_launcher_that_is_killed_takes_the_job_back_to_the_queue_once_something_is_kept(
    quick: Job, slurm: Any
) -> None:
    number, folder = start(quick, slurm)
    latest = folder / "models" / "w" / "checkpoints" / "LATEST"
    latest.parent.mkdir(parents=True)
    latest.write_text("1")
    kill_a_launcher(folder)
    slurm.wait(lambda: slurm.state(number) == "PENDING", "the job to go back")
    assert "a launcher is lost" in (folder / "logs" / f"job-{number}.txt").read_text()


def test_a_job_that_keeps_nothing_new_does_not_come_back_for_ever(quick: Job, slurm: Any) -> None:
    number, folder = start(quick, slurm)
    (folder / "models").touch()  # the other worker, which Slurm tells to end, can keep nothing
    kill_a_launcher(folder)
    slurm.wait(lambda: slurm.state(number) == "FAILED", "the job's end")
    assert "has kept nothing new" in (folder / "logs" / f"job-{number}.txt").read_text()


def kill_a_launcher(folder: Path) -> None:
    """Kills that of the second node."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes()
        except OSError:
            continue
        if b"isoflop.systems.elastic" in said and b"is_host=0" in said and str(folder).encode() in said:
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_the_script_says_all_that_the_family_asks_for(tmp_path: Path) -> None:
    worker = ("-m", "isoflop", "worker", "/a b/f.toml", "--runs", "/runs")
    text = script(
        Job("n", 4, 8, worker, "/venv/bin/python", tmp_path, "gpus", "lab", "1-0", 300, ("--gpus-per-node=8",))
    )
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=4", "--partition=gpus", "--account=lab", "--time=1-0", "--signal=B:USR1@300"} <= set(asked)
    assert {"--requeue", "--exclusive", "--gpus-per-node=8"} <= set(asked)
    assert "--nnodes=4 --nproc-per-node=8" in text
    assert "-m isoflop worker '/a b/f.toml' --runs /runs" in text
    # What a launcher that is lost must not do: leave the others waiting for it.
    assert "--kill-on-bad-exit=1" in text
    commented = script(Job("n", 1, 1, worker, "python", tmp_path, options=("--comment=hello world", "--hold")))
    assert "#SBATCH --comment='hello world'\n#SBATCH --hold\n" in commented
    counted = script(Job("n", 1, 1, worker, "python", tmp_path, options=("--cpus-per-task=4",)))
    assert "--exclusive" not in counted
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
