"""systems = N: the bits of one system for any N, through stops, resumes at another N, kills and silence."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isoflop.config import Family, load_family
from isoflop.pipeline import RunFolder, train_family
from isoflop.pipeline.changes import accept_family_changes
from tests.held import Hold
from tests.pipeline.conftest import Heard

FAMILY = """
name = "tiny"
held_out = false
checkpoint_seconds = 0.1

[data]
source = "corpus.jsonl"
licence = "CC0-1.0"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 32
epochs = 5

[recipe]
batch_schedule = [{ from_tokens = 0, sequences = 10 }]
microbatch_tokens = 64

[[models]]
name = "w8"
n_layers = 1
d_model = 8
n_heads = 2
recipe = { tokens = 6_400 }

[[models]]
name = "w16"
n_layers = 2
d_model = 16
n_heads = 2
recipe = { tokens = 12_800 }
"""


# Where systems wait for what a test does to them: in the middle of the second of two models of 20 and 40 steps.
PLACE = "w16 step 21"
# A bound for what hangs; the machine may be busy with much else.
LONGEST = 400
pytestmark = pytest.mark.timeout(2 * LONGEST)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("systems")
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "tiny.toml").write_text(FAMILY)
    return folder


def command(place: Path, runs: str, systems: int, *options: str, family: str = "tiny.toml") -> list[str]:
    isoflop = [sys.executable, "-m", "isoflop", "train", str(place / family)]
    return [*isoflop, "--runs", str(place / runs), "--systems", str(systems), *options]


def train(
    place: Path, runs: str, systems: int, *options: str, family: str = "tiny.toml"
) -> "subprocess.CompletedProcess[str]":
    started = command(place, runs, systems, *options, family=family)
    return subprocess.run(started, capture_output=True, text=True, timeout=LONGEST)


def open_runs(place: Path, runs: str, family: str = "tiny.toml") -> tuple[Family, RunFolder]:
    return load_family(place / family), RunFolder(place / runs / "tiny")


def train_here(place: Path, runs: str, family: str = "tiny.toml") -> None:
    """On one system, this process: as the command does, without another start of PyTorch."""
    for model in ("w8", "w16"):
        train_family(*open_runs(place, runs, family), Heard(), model)  # type: ignore[arg-type]


def bits(place: Path, runs: str) -> dict[str, object]:
    """Everything of a finished run that must not depend on the number of systems."""
    found: dict[str, object] = {}
    for model in sorted((place / runs / "tiny" / "models").iterdir()):
        result = json.loads((model / "result.json").read_text())
        lines = [json.loads(line) for line in (model / "metrics.jsonl").read_text().splitlines()]
        last = json.loads(
            (
                model / "checkpoints" / (model / "checkpoints" / "LATEST").read_text().strip() / "manifest.json"
            ).read_text()
        )
        found[model.name] = (
            result["weights_sha256"],
            result["nats_per_token"],
            [(line["step"], line["loss"], line["grad_norm"], line["lr"]) for line in lines],
            last["files"],
        )
    return found


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, object]:
    """What one system makes of the family."""
    train_here(place, "alone")
    return bits(place, "alone")


def test_streamed_on_two_systems_gives_the_bits_of_a_resident_one(place: Path, alone: dict[str, object]) -> None:
    done = train(place, "streamed", 2, "--execution", "streamed", "--model", "w8")
    assert done.returncode == 0, done.stderr
    weights, *rest = bits(place, "streamed")["w8"]  # type: ignore[misc]
    assert (weights, *rest[:2]) == alone["w8"][:3]  # type: ignore[index]
    metrics = (place / "streamed" / "tiny" / "models" / "w8" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["link_bytes"] > 0 for line in metrics)


def test_an_execution_that_does_not_exist_is_refused(place: Path) -> None:
    done = train(place, "none", 1, "--execution", "stream")
    assert (done.returncode, done.stderr.strip().splitlines()[-1].endswith("use resident or streamed")) == (2, True)


@dataclass(frozen=True)
class Running:
    """The command on two systems, the second of which waits until it is let go or told to end."""

    runs: str
    process: "subprocess.Popen[str]"
    hold: Hold

    def end(self) -> tuple[int, str]:
        """Lets it go: its exit code and what it said."""
        self.hold.let_go()
        _, said = self.process.communicate(timeout=LONGEST)
        return self.process.returncode, said


@pytest.fixture
def running(place: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    yield from run_and_hold(place, request.node.name, tmp_path)


def run_and_hold(place: Path, runs: str, folder: Path) -> Iterator[Running]:
    hold = Hold(folder)
    hold.at(PLACE)
    process = subprocess.Popen(
        command(place, runs, 2), env=hold.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        hold.wait(process)
        yield Running(runs, process, hold)
    finally:
        hold.let_go()
        process.kill()
        process.communicate()


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """The systems below a running command, in order of rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [one.removeprefix(b"RANK=") for one in variables if one.startswith(b"RANK=")]
        if ranks:
            found[int(ranks[0])] = int(child)
    return [found[rank] for rank in sorted(found)]


def wait_for_the_end(workers: list[int]) -> None:
    end = time.monotonic() + LONGEST
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, "a system outlives its launcher"
        time.sleep(0.05)


@pytest.mark.parametrize("systems", [2, 3])
def test_the_bits_are_those_of_one_system(place: Path, alone: dict[str, object], systems: int) -> None:
    # Five microbatches a step: some systems get fewer than others.
    done = train(place, f"on-{systems}", systems)
    assert done.returncode == 0, done.stderr
    assert bits(place, f"on-{systems}") == alone


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_killed_is_named_and_all_go_on(
    place: Path, alone: dict[str, object], running: Running, who: int
) -> None:
    victim = workers_of(running.process)[who]
    os.kill(victim, signal.SIGKILL)
    code, said = running.end()
    assert code == 0, said
    assert f"system {who} (" in said
    assert f"process {victim}; was at: w16 step" in said
    assert "started again from the last checkpoint" in said
    assert bits(place, running.runs) == alone


def test_one_that_is_stopped_is_noticed_within_half_a_minute(
    place: Path, alone: dict[str, object], running: Running
) -> None:
    os.kill(workers_of(running.process)[1], signal.SIGSTOP)
    code, said = running.end()
    assert code == 0, said
    assert "has not been heard of for 15 s" in said
    assert "was at: w16 step" in said
    assert bits(place, running.runs) == alone


@pytest.fixture(scope="module")
def stopped(place: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Runs of two systems of which one was told to end."""
    for running in run_and_hold(place, "stopped", tmp_path_factory.mktemp("stopped")):
        os.kill(workers_of(running.process)[1], signal.SIGTERM)
        code, said = running.end()
        assert code == 128 + signal.SIGTERM, said
        assert "everything is saved" in said
    return "stopped"


def test_a_signal_to_any_of_them_stops_all_at_one_step_and_another_number_goes_on(
    place: Path, alone: dict[str, object], stopped: str
) -> None:
    shutil.copytree(place / stopped, place / "on three")
    done = train(place, "on three", 3)
    assert done.returncode == 0, done.stderr
    assert bits(place, "on three") == alone


@pytest.fixture(scope="module")
def changed(place: Path) -> str:
    """The family with another setting."""
    (place / "changed.toml").write_text(FAMILY.replace("tokens = 12_800", "tokens = 12_800, weight_decay = 0.3"))
    return "changed.toml"


def test_changed_settings_are_refused_by_two_systems(place: Path, stopped: str, changed: str) -> None:
    refused = train(place, stopped, 2, family=changed)
    assert refused.returncode == 2
    assert "weight_decay was 0.1 and is 0.3" in refused.stderr


def test_changed_settings_are_accepted_on_any_number_of_systems(place: Path, stopped: str, changed: str) -> None:
    for systems in (1, 2):
        shutil.copytree(place / stopped, place / f"changed on {systems}")
    done = train(place, "changed on 2", 2, "--accept-changes", family=changed)
    assert done.returncode == 0, done.stderr
    assert "weight_decay was 0.1 and is 0.3 from step" in done.stderr
    accept_family_changes(*open_runs(place, "changed on 1", changed), Heard())  # type: ignore[arg-type]
    train_here(place, "changed on 1", changed)
    for systems in (1, 2):
        result = json.loads((place / f"changed on {systems}" / "tiny" / "models" / "w16" / "result.json").read_text())
        assert [(one["setting"], one["is"]) for one in result["changes"]] == [("weight_decay", 0.3)]
    assert bits(place, "changed on 2") == bits(place, "changed on 1")


def test_killed_right_after_a_signal_it_goes_on_from_what_was_committed(
    place: Path, alone: dict[str, object], running: Running
) -> None:
    workers = workers_of(running.process)
    running.hold.let_go()
    running.process.terminate()
    time.sleep(0.2)
    running.process.kill()
    wait_for_the_end(workers)
    train_here(place, running.runs)
    assert bits(place, running.runs) == alone


def test_none_outlives_the_launcher_and_one_system_goes_on(
    place: Path, alone: dict[str, object], running: Running
) -> None:
    workers = workers_of(running.process)
    running.process.kill()
    wait_for_the_end(workers)
    train_here(place, running.runs)
    assert bits(place, running.runs) == alone


def test_a_bit_that_flips_in_one_systems_memory_is_found_and_the_system_named(
    place: Path, alone: dict[str, object], running: Running
) -> None:
    worker, address = running.hold.wait(running.process)
    with open(f"/proc/{worker}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        (byte,) = memory.read(1)
        memory.seek(address)
        memory.write(bytes([byte ^ 16]))
    code, said = running.end()
    assert code == 1, said
    (line,) = [one for one in said.splitlines() if one.startswith("isoflop: ")]
    assert "w16 step 22: system 1: bits of the weights of " in line
    assert "Traceback" not in said
    train_here(place, running.runs)
    assert bits(place, running.runs) == alone


def test_a_fault_that_no_restart_mends_is_told_once_in_one_line(place: Path, alone: dict[str, object]) -> None:
    (place / "other.toml").write_text(FAMILY.replace("tokens = 12_800", "tokens = 25_600"))
    done = train(place, "alone", 2, family="other.toml")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("isoflop: ")]
    assert len(lines) == 1
    assert "w16" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_folder_that_is_not_shared_is_told(place: Path) -> None:
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "isoflop", "worker", str(place / "tiny.toml"), "--runs", str(place / f"own-{rank}")],
            env={**os.environ, **variables, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        _, said = process.communicate(timeout=LONGEST)
        assert process.returncode == 2, said
        assert "must be a folder that all nodes share" in said


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("localhost", 0))
        port: int = one.getsockname()[1]
        return port
