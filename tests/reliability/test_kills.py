"""Killed again and again at whatever instant, in whatever execution, a family ends as if nothing had happened."""

from pathlib import Path
from typing import Any

import pytest

from tests.reliability.kills import chain, undisturbed


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow  # a start more than there are kills of a whole run, each of which imports PyTorch
@pytest.mark.parametrize(("seed", "kills"), [(1, 4), (2, 3), (3, 3)])
def test_kills_lose_nothing(tmp_path: Path, wanted: dict[str, Any], seed: int, kills: int) -> None:
    found, told = chain(tmp_path, seed, count=kills, latest_seconds=5.0)
    assert found == wanted, "\n".join(told)
