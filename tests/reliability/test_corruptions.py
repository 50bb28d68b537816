"""Damage of any kind to any file of a run: its own numbers, or a line that names the file; never anything else."""

from pathlib import Path

import pytest

from tests.reliability.corruptions import Place, losses_in, prepare, wrong

DAMAGES = 24


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[Place]:
    return prepare(tmp_path_factory.mktemp("places"))


def test_no_damage_gives_a_wrong_number_or_a_traceback(
    places: list[Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = [wrong(places[seed % len(places)], tmp_path / "scratch", seed) for seed in range(DAMAGES)]
    assert [one for one in found if one is not None] == []


def test_the_check_sees_wrong_numbers_and_tracebacks(places: list[Place], tmp_path: Path) -> None:
    def breaks(folder: Path) -> tuple[list[str], str]:
        raise ZeroDivisionError

    folder, wanted = places[0].folder, places[0].wanted
    losses = losses_in(folder)
    other = Place("other", folder, lambda folder: ([], "other weights"), wanted, losses)
    assert "other numbers" in str(wrong(other, tmp_path / "scratch", 3))
    step = Place("step", folder, lambda folder: ([], wanted), wanted, dict.fromkeys(losses, 1.0))
    assert "other losses of steps" in str(wrong(step, tmp_path / "scratch", 3))
    broken = Place("broken", folder, breaks, None, losses)
    assert "ZeroDivisionError" in str(wrong(broken, tmp_path / "scratch", 3))
