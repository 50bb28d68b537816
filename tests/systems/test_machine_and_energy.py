"""The machine is measured once; energy is counted or said to be unknown, never guessed low."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isoflop.systems import Energy, EnergyMeter, machine, measure_machine


def test_the_machine_is_measured_once_and_a_damaged_cache_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = measure_machine()
    assert 1e9 < first.fp32_flops_per_second < 1e15
    assert measure_machine() == first
    (kept,) = (tmp_path / "isoflop").iterdir()
    for damage in ("", "[]", json.dumps({**first.to_json(), "cores": "two"})):
        kept.write_text(damage)
        assert measure_machine().cores == first.cores
        assert json.loads(kept.read_text())["cores"] == first.cores


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "isoflop").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert measure_machine().cores >= 1


def _package(root: Path, number: int, counter: int) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(exist_ok=True)
    (folder / "max_energy_range_uj").write_text("1000000\n")
    (folder / "energy_uj").write_text(f"{counter}\n")
    return folder


def test_joules_add_up_over_packages_and_wraps(tmp_path: Path) -> None:
    _package(tmp_path, 0, 900_000)
    _package(tmp_path, 1, 0)
    meter = EnergyMeter(None, powercap=tmp_path)
    _package(tmp_path, 0, 100_000)
    _package(tmp_path, 1, 300_000)
    energy = meter.read(1.0)
    assert energy.joules == pytest.approx(0.2 + 0.3)
    assert energy.origin.startswith("measured")


def test_a_counter_that_vanishes_makes_an_estimate(tmp_path: Path) -> None:
    package = _package(tmp_path, 0, 5)
    meter = EnergyMeter(100.0, powercap=tmp_path)
    (package / "energy_uj").unlink()
    assert meter.read(2.0).joules == 200
    assert meter.read(2.0).origin.startswith("estimated")
    assert EnergyMeter(None, powercap=tmp_path / "none").read(2.0).joules is None


def test_a_processor_that_emulates_bf16_is_measured_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []

    def slow(a: Tensor) -> float:
        sides.append(len(a))
        return (len(a) / 2048) ** 3 * 60

    monkeypatch.setattr(machine, "_seconds", slow)
    rate = machine._matrix_rate(torch.randn(2048, 2048))
    assert rate == pytest.approx(2 * 2048**3 / 60)
    assert max(sides) == 256


def test_work_on_a_share_of_the_cores_has_that_share_of_the_energy(tmp_path: Path) -> None:
    assert EnergyMeter(100.0, share=0.5, powercap=tmp_path).read(10.0) == Energy(
        500.0, "estimated: watts_per_system x time, by the share of the cores"
    )
