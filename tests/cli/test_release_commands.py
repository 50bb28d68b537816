"""isoflop release --push and isoflop verify, as a shell calls them; the hub is a stand-in on loopback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoflop.cli.main import _run, _told
from isoflop.errors import WorkError
from isoflop.pipeline.verification import push_releases
from tests.cli.conftest import FAMILY, Isoflop
from tests.release.hub import TOKEN, Hub, serving

BATCH = "[recipe]\nbatch_schedule = [{ from_tokens = 0, sequences = 8 }]"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def variables(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """What leads huggingface_hub to the stand-in; Xet, the hub's other way for large files, is no part of it."""
    return {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> Path:
    """A folder with a trained family of two sizes that keep two checkpoints on the way each."""
    folder = tmp_path_factory.mktemp("trained")
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    text = FAMILY.format(context_length=32, d_model=16).replace("corpus.txt", "corpus.jsonl")
    text = text.replace("[data]", "keep_checkpoints = 2\n\n[data]\nepochs = 100").replace("[recipe]", BATCH)
    (folder / "tiny.toml").write_text(text)
    command = [sys.executable, "-m", "isoflop", "train", "tiny.toml"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_folder)}
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained family in the folder in which `isoflop` runs; its run directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "tiny"


@pytest.fixture
def here(
    tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Isoflop:
    """The same program in this process, which has imported already what a new one takes seconds to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache_folder))

    def call(*arguments: str) -> "subprocess.CompletedProcess[str]":
        line = ""
        try:
            code = _run(arguments)
        except (Exception, SystemExit) as error:
            code, line = _told(error)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err + line)

    return call


def test_a_release_goes_to_the_hub_whole_and_comes_back_good(
    isoflop: Isoflop, here: Isoflop, runs: Path, hub: Hub, variables: dict[str, str], tmp_path: Path
) -> None:
    dry = isoflop("release", "runs/tiny", "--push", "me", "--dry-run", **variables)
    assert dry.returncode == 0, dry.stderr
    assert "me/tiny-b" in dry.stdout
    assert "nothing was sent" in dry.stdout
    assert hub.requests == []

    done = isoflop("release", "runs/tiny", "--push", "me", "--private", "--json", **variables)
    assert done.returncode == 0, done.stderr
    uploads = json.loads(done.stdout)["uploads"]
    assert hub.repositories == {"me/tiny-a": True, "me/tiny-b": True}
    revisions = [upload["revision"] for upload in uploads if upload["repository"] == "me/tiny-b"]
    assert len(revisions) == 3
    assert revisions[0] == "main"
    folder = runs / "release" / "b"
    for revision in revisions:
        inner = folder if revision == "main" else folder / "checkpoints" / revision
        sent = hub.files["me/tiny-b", revision]
        assert sent["model.safetensors"] == (inner / "model.safetensors").read_bytes()
        assert sent["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert all(upload["address"].startswith(hub.address) for upload in uploads)

    for name, content in hub.files["me/tiny-b", "main"].items():
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fetched" / name).write_bytes(content)
    assert here("verify", "fetched").returncode == 0

    sent = sum(request.startswith("PUT") for request in hub.requests)
    assert isoflop("release", "runs/tiny", "--push", "me", **variables).returncode == 0
    assert sum(request.startswith("PUT") for request in hub.requests) == sent  # what is there is not sent again


def test_what_the_hub_does_not_take_is_told_in_a_line(
    isoflop: Isoflop, runs: Path, hub: Hub, variables: dict[str, str]
) -> None:
    def push(owner: str = "me", **other: str) -> tuple[int, str]:
        done = isoflop("release", "runs/tiny", "--push", owner, **{**variables, **other})
        return done.returncode, done.stderr.splitlines()[-1]

    assert push(HF_TOKEN="hf_other") == (
        2,
        f"isoflop: me/tiny-a: the hub at {hub.address} does not take the token (401); "
        "set HF_TOKEN to one that may write there",
    )
    assert push(owner="not/an owner")[0] == 2
    code, line = push(HF_ENDPOINT="http://127.0.0.1:9")
    assert (code, "is not reached" in line) == (1, True)
    hub.refuse = "/commit/"
    code, line = push()
    assert (code, "me/tiny-a: the hub at" in line) == (1, True)
    damaged = runs / "release" / "b" / "LICENSE"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(WorkError, match="LICENSE: its SHA-256 is not that of the manifest"):
        push_releases("me", [runs / "release" / "a", runs / "release" / "b"], None, False, dry_run=True)  # type: ignore[arg-type]


def test_verify_trains_the_smallest_anew_to_the_same_bits(here: Isoflop, runs: Path, tmp_path: Path) -> None:
    assert here("release", "runs/tiny").returncode == 0
    # As somebody else has it: the folders alone, and the corpus under another name.
    shutil.move(runs / "release", tmp_path / "fetched")
    shutil.move(tmp_path / "corpus.jsonl", tmp_path / "text.jsonl")

    asked = here("verify", "fetched", "--retrain")
    assert (asked.returncode, "corpus.jsonl: the corpus is not here; give it with --data PATH" in asked.stderr) == (
        2,
        True,
    )
    done = here("verify", "fetched", "--retrain", "--data", "text.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    retrained = json.loads(done.stdout)["retrained"]
    assert (retrained["model"], retrained["same"]) == ("a", True)

    texts = [f"Item {i} cubed is {i**3}; what comes after it is not far. " * 9 for i in range(300)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    other = here("verify", "fetched", "--retrain", "--data", "text.jsonl")
    assert (other.returncode, "another corpus than the model was trained on" in other.stderr) == (2, True)


def test_verify_tells_what_is_not_as_it_was_released(here: Isoflop, runs: Path) -> None:
    assert here("release", "runs/tiny").returncode == 0
    weights = runs / "release" / "a" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)

    done = here("verify", "runs/tiny")

    assert done.returncode == 1
    assert "a/model.safetensors" not in done.stdout
    assert "model.safetensors: its SHA-256 is not that of the manifest" in done.stdout
    assert here("verify", "nowhere").returncode == 2
    assert here("verify", "runs").returncode == 2
