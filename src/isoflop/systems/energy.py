"""Energy drawn while a system works: counted where the machine counts it, else an estimate that says so."""

import importlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
# Thermal design power over cores of server processors: 360 W over 96 (AMD EPYC 9654), 350 W over 56 (Xeon 8480+).
WATTS_PER_CORE = 5.0


@dataclass(frozen=True)
class Energy:
    """Joules, and how they are known."""

    joules: float | None
    origin: str


class EnergyMeter:
    """Adds up energy from its creation on; `read` at least once a minute, as RAPL's counters wrap around.

    On a GPU (`gpu` is its UUID) NVML's counter of that device, and RAPL's of the processor packages where readable; on
    a processor RAPL's. A counter that cannot be read, now or later, turns the result into an estimate: `watts` times
    the time, or 5 W for each of `cores`, the processor alone; without either into nothing. It is never a number of
    which a part is missing unsaid. Work that has only a `share` of the machine's cores is given that share of its
    energy.
    """

    def __init__(
        self,
        watts: float | None,
        share: float = 1.0,
        powercap: Path = POWERCAP,
        gpu: str | None = None,
        cores: int | None = None,
    ) -> None:
        self._watts, self._share, self._cores = watts, share, cores
        self._packages = _Packages(powercap)
        self._device = None if gpu is None else _Device(gpu)

    def read(self, seconds: float) -> Energy:
        """Energy since creation, of which `seconds` have passed (for the estimate)."""
        packages = self._packages.read()
        if self._device is not None:
            device = self._device.read()
            if device is None:
                return self._estimated(seconds, on_gpu=True)
            if packages is None:
                return Energy(device, "measured: NVML, the GPU alone")
            return Energy(device + packages * self._share, "measured: NVML and RAPL, all packages" + self._of_cores())
        if packages is None:
            return self._estimated(seconds, on_gpu=False)
        return Energy(packages * self._share, "measured: RAPL, all packages" + self._of_cores())

    def _estimated(self, seconds: float, on_gpu: bool) -> Energy:
        if self._watts is not None:
            return Energy(self._watts * self._share * seconds, "estimated: watts_per_system x time" + self._of_cores())
        if self._cores is None or on_gpu:
            return Energy(None, "unknown: no energy counter")
        watts = WATTS_PER_CORE * self._cores * self._share
        return Energy(
            watts * seconds, f"estimated: {WATTS_PER_CORE:g} W a core, the processor alone" + self._of_cores()
        )

    def _of_cores(self) -> str:
        return "" if self._share == 1 else ", by the share of the cores"


class _Packages:
    """RAPL's counters of all processor packages."""

    def __init__(self, powercap: Path) -> None:
        found = sorted(powercap.glob("intel-rapl:[0-9]*")) if powercap.is_dir() else []
        self._packages = [package for package in found if package.name.count(":") == 1]
        self._last = self._counters()
        self._joules = 0.0

    def read(self) -> float | None:
        """Joules since creation; None from the first time on that a counter is not read."""
        now = self._counters()
        if now is None or self._last is None:
            self._last = None
            return None
        for (counter, wrap), (before, _) in zip(now, self._last, strict=True):
            self._joules += (counter - before if counter >= before else counter - before + wrap) / 1e6
        self._last = now
        return self._joules

    def _counters(self) -> list[tuple[int, int]] | None:
        """Microjoules and where they wrap, a package each."""
        try:
            found = [
                (int((package / "energy_uj").read_text()), int((package / "max_energy_range_uj").read_text()))
                for package in self._packages
            ]
        except (OSError, ValueError):
            return None
        return found or None


class _Device:
    """NVML's energy counter of one GPU: millijoules since its driver was loaded; from Volta on."""

    def __init__(self, uuid: str) -> None:
        self._nvml: Any = None
        self._handle: Any = None
        with suppress(Exception):  # the library raises its own error for every way in which a driver is not there
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        self._first = self._counter()

    def read(self) -> float | None:
        """Joules since creation; None if the counter is not there, or began anew."""
        now = self._counter()
        if now is None or self._first is None or now < self._first:
            self._first = None
            return None
        return (now - self._first) / 1e3

    def _counter(self) -> int | None:
        if self._handle is None:
            return None
        with suppress(Exception):
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None
