"""The machine is measured once; energy is counted or said to be unknown, never guessed low."""

import json
import os
import sys
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
    # Beside twenty other processes a core makes 4e8; no clock makes it one a microsecond.
    assert 1e6 < first.fp32_flops_per_second < 1e15
    assert measure_machine() == first
    (kept,) = (tmp_path / "isoflop").iterdir()
    for damage in ("", "[]", json.dumps({**first.to_json(), "cores": "two"})):
        kept.write_text(damage)
        assert measure_machine().cores == first.cores
        assert json.loads(kept.read_text())["cores"] == first.cores


def test_a_rate_among_other_programs_is_measured_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rates = iter((1e9, 3e11, 5e11))
    monkeypatch.setattr(machine, "_measure", lambda: machine._processor("none", rate := next(rates), rate))
    loads = iter((20.0 * (os.cpu_count() or 1), 0.0))
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 0.0, 0.0))
    assert [measure_machine().bf16_flops_per_second for _ in range(2)] == [1e9, 1e9]
    (kept,) = (tmp_path / "isoflop").iterdir()
    earlier = kept.stat().st_mtime - 2 * machine.BUSY_SECONDS
    os.utime(kept, (earlier, earlier))
    assert measure_machine().bf16_flops_per_second == 3e11
    os.utime(kept, (earlier, earlier))
    assert measure_machine().bf16_flops_per_second == 3e11


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


def test_without_counter_and_watts_the_cores_make_an_estimate_that_says_so(tmp_path: Path) -> None:
    assert EnergyMeter(None, share=0.5, powercap=tmp_path, cores=4).read(10.0) == Energy(
        100.0, "estimated: 5 W a core, the processor alone, by the share of the cores"
    )


class Driver:
    """As much of pynvml as a meter asks for; its counter is in millijoules."""

    millijoules: int | None = 5_000_000

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's names)
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != "GPU-1":
            raise LookupError(uuid)
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        if self.millijoules is None:
            raise OSError("not supported")
        return self.millijoules


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)  # type: ignore[arg-type]
    return driver


def test_a_gpu_is_counted_by_its_driver(driver: Driver, tmp_path: Path) -> None:
    meter = EnergyMeter(300.0, powercap=tmp_path, gpu="GPU-1", cores=8)
    driver.millijoules = 5_250_000

    assert meter.read(1.0) == Energy(250.0, "measured: NVML, the GPU alone")
    driver.millijoules = 6_000_000
    assert meter.read(2.0).joules == 1000.0


def test_a_gpu_and_its_processor_add_up(driver: Driver, tmp_path: Path) -> None:
    _package(tmp_path, 0, 0)
    meter = EnergyMeter(None, share=0.5, powercap=tmp_path, gpu="GPU-1")
    _package(tmp_path, 0, 800_000)
    driver.millijoules = 5_001_000

    energy = meter.read(1.0)
    assert energy.joules == pytest.approx(1.0 + 0.4)
    assert energy.origin.startswith("measured: NVML and RAPL")


def test_a_gpu_whose_counter_is_not_there_is_no_measurement(driver: Driver, tmp_path: Path) -> None:
    assert EnergyMeter(None, powercap=tmp_path, gpu="GPU-2", cores=8).read(1.0).joules is None
    assert EnergyMeter(300.0, powercap=tmp_path, gpu="GPU-2").read(2.0) == Energy(
        600.0, "estimated: watts_per_system x time"
    )
    meter = EnergyMeter(None, powercap=tmp_path, gpu="GPU-1")
    driver.millijoules = 4_000_000  # the driver was loaded anew
    assert meter.read(1.0).origin == "unknown: no energy counter"
    driver.millijoules = None
    assert EnergyMeter(None, powercap=tmp_path, gpu="GPU-1").read(1.0).joules is None
