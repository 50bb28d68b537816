"""One process works in a run directory, and one that is gone holds nothing."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.errors import WorkError
from isoflop.pipeline import RunFolder, locked

HOLD = "import sys; from pathlib import Path; from isoflop.pipeline import RunFolder, locked\n"
HOLD += "with locked(RunFolder(Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"


def _holder(path: Path) -> "subprocess.Popen[str]":
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    with _holder(tmp_path / "run") as holder:
        with pytest.raises(WorkError, match=f"process {holder.pid} is at work"), locked(RunFolder(tmp_path / "run")):
            pass
        assert (tmp_path / "run" / "lock").exists()
        holder.communicate()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    with _holder(tmp_path / "run") as holder:
        holder.kill()
        holder.wait()
    assert (tmp_path / "run" / "lock").exists()
    with locked(RunFolder(tmp_path / "run")):
        pass


def test_a_folder_that_stayed_empty_is_gone_afterwards(tmp_path: Path) -> None:
    with locked(RunFolder(tmp_path / "runs" / "family")):
        assert (tmp_path / "runs" / "family").is_dir()
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "family").mkdir()
    with locked(RunFolder(tmp_path / "family")):
        pass
    assert (tmp_path / "family").is_dir()
    assert not list((tmp_path / "family").iterdir())


def test_what_came_into_the_folder_stays_when_the_work_fails(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "family")

    def fail() -> None:
        with locked(folder):
            folder.plan.write_text("{}")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in folder.path.iterdir()] == ["plan.json"]


def test_a_full_disk_is_told_with_its_folder_and_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(WorkError, match=rf"{tmp_path}.*cannot write \(No space left"), locked(RunFolder(tmp_path)):
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    with locked(RunFolder(tmp_path)):
        pass
