"""The real program on a small family, from a corpus to report and releases, stopped and run again."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NAMES = ("w8", "w12", "w16", "w24", "w32")
Program = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


SECRET = "canary-4711"
# Any socket but a local one ends the program at once, whoever opens it.
NO_NETWORK = """
import os, sys

def watch(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        os.write(2, f"network: {event} {arguments[1:]}".encode())
        os._exit(99)

sys.addaudithook(watch)
"""
# Four commands with one start; prints a list of what they print.
NOTHING_TO_DO = """
import contextlib, io, json
from isoflop.cli.main import _run

said = []
for command in (["evaluate", "tiny.toml"], ["train", "tiny.toml"], ["law", "runs"], ["report", "runs"]):
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())) as out:
        _run([*command, "--json"])
    out.seek(0)
    said.append(json.load(out))
print(json.dumps(said))
"""


@pytest.fixture
def environment(cache_folder: Path) -> dict[str, str]:
    """Models of a second each are not worth a compiler's ten. There is no network, and there are secrets to spill."""
    (cache_folder / "sitecustomize.py").write_text(NO_NETWORK)
    secrets = dict.fromkeys(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"), SECRET)
    return {**os.environ, **secrets, "XDG_CACHE_HOME": str(cache_folder), "PYTHONPATH": str(cache_folder)}


def test_the_guard_against_the_network_bites(environment: dict[str, str]) -> None:
    code = "import socket; socket.create_connection(('localhost', 9))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 99, done.stderr


@pytest.fixture
def isoflop(tmp_path: Path, environment: dict[str, str]) -> Program:
    def call(*arguments: str, folder: Path = tmp_path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "isoflop", *arguments]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)

    return call


@pytest.mark.usefixtures("family_file")
def test_run_trains_foretells_judges_and_releases_and_then_has_nothing_to_do(
    isoflop: Program, environment: dict[str, str], tmp_path: Path
) -> None:
    done = isoflop("run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    order = ["Family tiny", "w24: held-out loss", "Fitted to", "w32 is foretold"]
    order += ["80 % interval", "95 % interval", "w32: held-out loss", "w32 measured", "report ", "release ", "done in"]
    places = [done.stdout.index(text) for text in order]
    assert places == sorted(places)
    assert places[0] < done.stdout.index("w8: held-out loss") < places[2]  # side by side: any rung may end first
    for line in re.findall(r".*held-out loss .*", done.stdout):
        assert "nats/token" in line
        assert "bits/byte" in line
    assert "step" in done.stderr
    assert "tokens/s" in done.stderr

    folder = tmp_path / "runs" / "tiny"
    forecast = json.loads((folder / "forecast.json").read_text())
    first = json.loads((folder / "models/w32/metrics.jsonl").read_text().splitlines()[0])
    assert first.keys() >= {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second", "mfu", "time"}
    assert forecast["model"] == "w32"
    assert (folder / "forecast.json").stat().st_mtime_ns < (folder / "models/w32/metrics.jsonl").stat().st_mtime_ns
    assert "w32" in (folder / "report.html").read_text()
    assert sorted(path.name for path in (folder / "release").iterdir()) == sorted(NAMES)
    assert not (folder / "lock").exists()
    assert SECRET not in done.stdout + done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    (folder / "release" / f"{NAMES[0]}.part").mkdir()  # a kill leaves it where a release was written anew
    again = isoflop("run", "tiny.toml", "--json")
    assert again.returncode == 0
    assert sorted(path.name for path in (folder / "release").iterdir()) == sorted(NAMES)
    document = json.loads(again.stdout)
    assert [result["name"] for result in document["results"]] == list(NAMES)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before

    with_nothing_to_do = subprocess.run(
        [sys.executable, "-c", NOTHING_TO_DO],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert with_nothing_to_do.returncode == 0, with_nothing_to_do.stderr
    assert all(json.loads(with_nothing_to_do.stdout))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}

    family_file = tmp_path / "tiny.toml"
    family_file.write_text(family_file.read_text().replace("[recipe]", "[recipe]\nclip_norm = 0.5"))
    changed = isoflop("run", "tiny.toml", "--json")
    assert (changed.returncode, changed.stdout) == (2, "")
    assert "clip_norm was 1.0 and is 0.5" in changed.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(
    isoflop: Program, environment: dict[str, str], tmp_path: Path, family_file: Path
) -> None:
    longer = family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 4.0")
    family_file.write_text(longer.replace("= 0.1\n\n[recipe]", "= 0.1\nepochs = 4\n\n[recipe]"))
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(tmp_path, undisturbed)
    arguments = ("train", "tiny.toml", "--model", "w24")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):  # one after the other, on the way to one result
        command = [sys.executable, "-m", "isoflop", *arguments]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as stopped:
            assert stopped.stderr is not None
            said = []
            for line in stopped.stderr:
                said.append(line)
                if line.startswith("w24: step"):
                    stopped.send_signal(number)
                    break
            said += stopped.stderr.readlines()
        assert stopped.returncode == (-number if number == signal.SIGKILL else 128 + number), "".join(said)
        if number != signal.SIGKILL:
            assert said[-1].startswith("isoflop: interrupted")
            assert "Traceback" not in "".join(said)
        assert not (tmp_path / "runs/tiny/models/w24/result.json").exists()
    hashes = []
    for folder in (tmp_path, undisturbed):
        assert isoflop(*arguments, folder=folder).returncode == 0
        hashes.append(json.loads((folder / "runs/tiny/models/w24/result.json").read_text())["weights_sha256"])
    assert hashes[0] == hashes[1]
