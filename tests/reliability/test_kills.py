"""Killed again and again at whatever instant, in whatever execution, a family ends as if nothing had happened."""

from pathlib import Path

import pytest

from tests.reliability.kills import chain, undisturbed


@pytest.mark.slow  # ten starts of a whole run, each of which imports PyTorch
def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    found, told = chain(tmp_path / "killed", seed=1, count=10, latest_seconds=5.0)
    assert found == undisturbed(tmp_path / "undisturbed"), "\n".join(told)
