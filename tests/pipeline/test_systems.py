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
from pathlib import Path

import pytest

# One model that is quick, one that lasts some seconds on two busy cores.
FAMILY = """
name = "tiny"
held_out = false
checkpoint_seconds = 1

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
recipe = { tokens = 80_000 }
"""


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


def command(place: Path, runs: str, systems: int, *options: str) -> list[str]:
    isoflop = [sys.executable, "-m", "isoflop", "train", str(place / "tiny.toml")]
    return [*isoflop, "--runs", str(place / runs), "--systems", str(systems), *options]


def train(place: Path, runs: str, systems: int, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(place, runs, systems, *options), capture_output=True, text=True, timeout=LONGEST)


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
    done = train(place, "alone", 1)
    assert done.returncode == 0, done.stderr
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


@pytest.fixture
def running(place: Path, request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[str]"]:
    """The command on two systems, some steps into the second model."""
    process = subprocess.Popen(
        command(place, request.node.name, 2), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = place / request.node.name / "tiny" / "models" / "w16" / "metrics.jsonl"
    end = time.monotonic() + LONGEST
    while time.monotonic() < end and not (metrics.exists() and metrics.read_bytes().count(b"\n") > 20):
        time.sleep(0.02)
    yield process
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


@pytest.mark.parametrize("systems", [2, 3])
def test_the_bits_are_those_of_one_system(place: Path, alone: dict[str, object], systems: int) -> None:
    # Five microbatches a step: some systems get fewer than others.
    done = train(place, f"on-{systems}", systems)
    assert done.returncode == 0, done.stderr
    assert bits(place, f"on-{systems}") == alone


@pytest.mark.parametrize("who", [0, 1])
def test_one_that_is_killed_is_named_and_all_go_on(
    place: Path, alone: dict[str, object], running: "subprocess.Popen[str]", request: pytest.FixtureRequest, who: int
) -> None:
    victim = workers_of(running)[who]
    os.kill(victim, signal.SIGKILL)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == 0, said
    assert f"system {who} (" in said
    assert f"process {victim}; was at: w16 step" in said
    assert "started again from the last checkpoint" in said
    assert bits(place, request.node.name) == alone


def test_one_that_is_stopped_is_noticed_within_half_a_minute(
    place: Path, alone: dict[str, object], running: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    os.kill(workers_of(running)[1], signal.SIGSTOP)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == 0, said
    assert "has not been heard of for 15 s" in said
    assert "was at: w16 step" in said
    assert bits(place, request.node.name) == alone


def test_a_signal_to_any_of_them_stops_all_at_one_step_and_another_number_goes_on(
    place: Path, alone: dict[str, object], running: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    os.kill(workers_of(running)[1], signal.SIGTERM)
    _, said = running.communicate(timeout=LONGEST)
    assert running.returncode == 128 + signal.SIGTERM, said
    assert "everything is saved" in said
    for changed in ("changed on 2", "changed on 1"):
        shutil.copytree(place / request.node.name, place / changed)
    done = train(place, request.node.name, 3)
    assert done.returncode == 0, done.stderr
    assert bits(place, request.node.name) == alone


def test_changed_settings_are_accepted_on_any_number_of_systems(place: Path) -> None:
    """From where the test before has stopped two systems"""
    changed = place / "changed.toml"
    changed.write_text(FAMILY.replace("tokens = 80_000", "tokens = 80_000, weight_decay = 0.3"))
    for systems in (2, 1):
        runs = f"changed on {systems}"
        if not (place / runs).exists():
            pytest.skip("the test before was not run, or failed")
        options = ["--runs", str(place / runs), "--systems", str(systems)]
        isoflop = [sys.executable, "-m", "isoflop", "train", str(changed), *options]
        if systems == 2:
            refused = subprocess.run(isoflop, capture_output=True, text=True, timeout=LONGEST)
            assert refused.returncode == 2
            assert "weight_decay was 0.1 and is 0.3" in refused.stderr
        done = subprocess.run([*isoflop, "--accept-changes"], capture_output=True, text=True, timeout=LONGEST)
        assert done.returncode == 0, done.stderr
        assert "weight_decay was 0.1 and is 0.3 from step" in done.stderr
        result = json.loads((place / runs / "tiny" / "models" / "w16" / "result.json").read_text())
        assert [(one["setting"], one["is"]) for one in result["changes"]] == [("weight_decay", 0.3)]
    assert bits(place, "changed on 2") == bits(place, "changed on 1")


def test_killed_right_after_a_signal_it_goes_on_from_what_was_committed(
    place: Path, alone: dict[str, object], running: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    running.terminate()
    time.sleep(0.2)
    running.kill()
    running.communicate(timeout=LONGEST)
    done = train(place, request.node.name, 1)
    assert done.returncode == 0, done.stderr
    assert bits(place, request.node.name) == alone


def test_none_outlives_the_launcher_and_one_system_goes_on(
    place: Path, alone: dict[str, object], running: "subprocess.Popen[str]", request: pytest.FixtureRequest
) -> None:
    workers = workers_of(running)
    running.kill()
    end = time.monotonic() + 10
    while time.monotonic() < end and any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]
    assert train(place, request.node.name, 1).returncode == 0
    assert bits(place, request.node.name) == alone


# Laid on the path of the systems: number 1 tells where its weights lie after a step, and waits until that was read.
TELLS = """
import os, time
from pathlib import Path
if os.environ.get("RANK") == "1":
    from isoflop.train.learner import Learner
    update, told = Learner.update, Path(__file__).with_name("told")
    def telling(self, *given):
        update(self, *given)
        if self._systems.place == "w16 step 30":
            flat = self.weights.flat
            told.with_name("part").write_text(f"{os.getpid()} {flat.data_ptr() + flat.nbytes // 2}")
            told.with_name("part").rename(told)
            while told.exists():
                time.sleep(0.01)
    Learner.update = telling
"""


def test_a_bit_that_flips_in_one_systems_memory_is_found_and_the_system_named(
    place: Path, alone: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELLS)
    process = subprocess.Popen(
        command(place, "flipped", 2),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told, end = tmp_path / "told", time.monotonic() + LONGEST
    while not told.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    worker, address = map(int, told.read_text().split())
    with open(f"/proc/{worker}/mem", "r+b", buffering=0) as memory:
        memory.seek(address)
        (byte,) = memory.read(1)
        memory.seek(address)
        memory.write(bytes([byte ^ 16]))
    told.unlink()
    _, said = process.communicate(timeout=LONGEST)
    assert process.returncode == 1, said
    (line,) = [one for one in said.splitlines() if one.startswith("isoflop: ")]
    assert "w16 step 31: system 1: bits of the weights of " in line
    assert "Traceback" not in said
    done = train(place, "flipped", 1)
    assert done.returncode == 0, done.stderr
    assert bits(place, "flipped") == alone


def test_a_fault_that_no_restart_mends_is_told_once_in_one_line(place: Path, alone: dict[str, object]) -> None:
    file = place / "tiny.toml"
    other = place / "other.toml"
    other.write_text(file.read_text().replace("tokens = 80_000", "tokens = 160_000"))
    isoflop = [sys.executable, "-m", "isoflop", "train", str(other), "--runs", str(place / "alone"), "--systems", "2"]
    done = subprocess.run(isoflop, capture_output=True, text=True, timeout=LONGEST)
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
