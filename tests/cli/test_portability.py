"""Planning, fitting, comparing and reporting ask for no PyTorch and for nothing that only Linux has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.pipeline import RunFolder
from isoflop.pipeline.result import write_result
from isoflop.recipe import Plan
from tests.pipeline.conftest import family, family_file, folder, plan, result_of, train_ladder

__all__ = ["family", "family_file", "folder", "plan", "train_ladder"]

# A machine without PyTorch and without what POSIX does not know.
BARE = """
import builtins, importlib.abc, importlib.metadata, os, pathlib, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "pynvml"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def version(name, version=importlib.metadata.version):
    if name == "torch":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)

def without_proc(path, *more, opened=builtins.open, **named):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return opened(path, *more, **named)

sys.meta_path.insert(0, Blocked())
importlib.metadata.version = version
builtins.open = without_proc
for name in ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "posix_fallocate", "O_DIRECT", "pidfd_open"):
    if hasattr(os, name):
        delattr(os, name)

from isoflop.cli.main import _run
for words in WORDS:
    assert _run(words) == 0, words
    print("done:", words[0], file=sys.stderr)
assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
"""


@pytest.mark.usefixtures("train_ladder")
def test_plan_law_compare_and_report_need_neither_torch_nor_linux(
    family_file: Path, plan: Plan, folder: RunFolder
) -> None:
    write_result(folder, result_of(plan.held_out[0]))
    run = str(folder.path)
    words = [
        ["plan", str(family_file), "--runs", str(family_file.parent / "planned")],
        ["law", run],
        ["predict", run, "--target", "1e6,2e7"],
        ["compare", run],
        ["report", run],
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"WORDS = {json.dumps(words)}\n{BARE}"],
        env={**os.environ, "XDG_CACHE_HOME": str(family_file.parent / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("done: ")] == [f"done: {w[0]}" for w in words]
    assert (folder.path / "report.html").exists()
    planned = json.loads((family_file.parent / "planned" / "tiny" / "plan.json").read_text())
    assert planned["machine"]["torch"] == "none"
    assert planned["machine"]["fp32_flops_per_second"] > 0
