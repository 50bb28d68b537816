"""A disk that fills up on the way loses nothing: with room made, the run ends as one that never stopped."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 300 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small tmpfs here: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    family_file: Path, small_disk: Path, tmp_path: Path
) -> None:
    def train(runs: Path) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "isoflop", "train", str(family_file), "--runs", str(runs)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200)

    def hashes(runs: Path) -> dict[str, str]:
        found = sorted(runs.glob("tiny/models/*/result.json"))
        return {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in found}

    assert train(tmp_path / "roomy").returncode == 0
    full = train(small_disk)
    assert full.returncode == 1
    last = full.stderr.splitlines()[-1]
    assert last.startswith("isoflop: ")
    assert "No space left on device" in last
    assert "Traceback" not in full.stderr
    before = hashes(small_disk)
    assert before.items() <= hashes(tmp_path / "roomy").items()

    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = train(small_disk)
    assert again.returncode == 0, again.stderr
    assert hashes(small_disk) == hashes(tmp_path / "roomy")
