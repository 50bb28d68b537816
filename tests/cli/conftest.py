"""Runs the real program, as a user's shell does."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Isoflop = Callable[..., "subprocess.CompletedProcess[str]"]

FAMILY = """
name = "tiny"
precision = "fp32"

[data]
source = "corpus.txt"
licence = "CC0-1.0"
tokenizer = {{ kind = "bpe", vocab_size = 300 }}
context_length = {context_length}

[recipe]
tokens_per_parameter = 1.0

[[models]]
name = "a"
n_layers = 1
d_model = {d_model}
n_heads = 2

[[models]]
name = "b"
n_layers = 1
d_model = 24
n_heads = 2
"""


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this machine's measurement is kept: it is made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def isoflop(tmp_path: Path, cache_folder: Path) -> Isoflop:
    """Calls the program in `tmp_path`; keyword arguments are environment variables."""

    def call(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "XDG_CACHE_HOME": str(cache_folder), **variables}
        command = [sys.executable, "-m", "isoflop", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return call


@pytest.fixture
def family_file(tmp_path: Path) -> Path:
    """A family on a short corpus in `tmp_path`."""
    (tmp_path / "corpus.txt").write_text("The quick brown fox jumps over the lazy dog. " * 400)
    path = tmp_path / "tiny.toml"
    path.write_text(FAMILY.format(context_length=32, d_model=16))
    return path


@pytest.fixture(scope="session")
def points_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six sizes at 20 tokens a parameter along L = 3 (C / 1e12)^-0.07, a third of a per cent off here and there."""
    off = (0.003, -0.002, 0.001, 0.002, -0.003, 0.001)
    lines = ["params,tokens,loss"]
    for params, share in zip((66e3, 118e3, 182e3, 282e3, 400e3, 600e3), off, strict=True):
        loss = 3 * (6 * params * 20 * params / 1e12) ** -0.07 * (1 + share)
        lines.append(f"{params:.0f},{20 * params:.0f},{loss:.5f}")
    path = tmp_path_factory.mktemp("points") / "points.csv"
    path.write_text("\n".join(lines) + "\n")
    return path
