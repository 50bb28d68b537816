"""A disk that fills up on the way loses nothing: with room made, the run ends as one that never stopped."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family
from isoflop.pipeline import RunFolder
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.train import train_family


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 64 MB, of which tests fill what they like."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a small tmpfs here: {error}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def isoflop(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "isoflop", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


def leave(disk: Path, n_bytes: int) -> None:
    """Fills the disk up to so many free bytes."""
    (disk / "filler").unlink(missing_ok=True)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - n_bytes))


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    family_file: Path, family: Family, small_disk: Path, tmp_path: Path, heard: Any
) -> None:
    def train(runs: Path) -> "subprocess.CompletedProcess[str]":
        return isoflop("train", str(family_file), "--model", "w24", "--runs", str(runs))

    def weights(runs: Path) -> str:
        (result,) = train_family(family, RunFolder(runs / "tiny"), heard, only="w24")
        return result.weights_sha256

    prepare_data(family, RunFolder(small_disk / "tiny"), heard)
    leave(small_disk, 2**17)
    before = {path for path in small_disk.rglob("*") if path.is_file()}
    refused = train(small_disk)
    assert refused.returncode == 2
    assert re.search(r"isoflop: .*needs .* for the checkpoints of 1 models, .* free; free some space", refused.stderr)
    assert {path for path in small_disk.rglob("*") if path.is_file()} - before <= {
        small_disk / "tiny" / "plan.json",
        small_disk / "tiny" / "family.json",
    }

    # Enough for the numbers in the checkpoints, too little for headers, manifests and metrics beside them.
    needed = float(re.search(r"needs ([0-9.]+) KB for", refused.stderr)[1]) * 1000  # type: ignore[index]
    leave(small_disk, int(needed) + 2**13)
    full = train(small_disk)
    assert full.returncode == 1, full.stderr
    last = full.stderr.splitlines()[-1]
    assert last.startswith("isoflop: ")
    assert "No space left on device" in last
    assert "Traceback" not in full.stderr
    assert not (small_disk / "tiny/models/w24/result.json").exists()

    (small_disk / "filler").unlink()
    assert weights(small_disk) == weights(tmp_path / "roomy")


def test_a_disk_that_becomes_read_only_is_one_line(
    family_file: Path, family: Family, small_disk: Path, heard: Any
) -> None:
    prepare_data(family, RunFolder(small_disk / "tiny"), heard)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = isoflop("train", str(family_file), "--runs", str(small_disk))
    assert done.returncode in (1, 2)
    assert re.fullmatch(r"isoflop: .*Read-only file system.*", done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
