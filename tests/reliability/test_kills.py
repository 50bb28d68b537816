"""Killed again and again at whatever instant, in whatever execution, a family ends as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest

from tests.reliability.kills import chain, undisturbed


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow  # six starts of a whole run, each of which imports PyTorch
@pytest.mark.parametrize("seed", [1, 2])
def test_five_kills_lose_nothing(tmp_path: Path, wanted: dict[str, Any], seed: int) -> None:
    found, told = chain(tmp_path, seed, count=5, latest_seconds=5.0)
    assert found == wanted, "\n".join(told)
