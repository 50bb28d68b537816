"""Energy drawn by the processor packages, where the machine counts it."""

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Energy:
    """Joules, and how they are known."""

    joules: float | None
    origin: str


class EnergyMeter:
    """Adds up the RAPL package counters from its creation on; `read` at least once a minute, as they wrap around.

    A counter that cannot be read, now or later, turns the result into an estimate, or into nothing: never into a
    number that is too small. Work that has only a `share` of the machine's cores is given that share of its energy.
    """

    def __init__(self, watts: float | None, share: float = 1.0, powercap: Path = POWERCAP) -> None:
        self._watts, self._share = watts, share
        self._packages = sorted(powercap.glob("intel-rapl:[0-9]*")) if powercap.is_dir() else []
        self._packages = [package for package in self._packages if package.name.count(":") == 1]
        self._last = self._counters()
        self._joules = 0.0

    def read(self, seconds: float) -> Energy:
        """Energy since creation, of which `seconds` have passed (for the estimate)."""
        now = self._counters()
        if now is None or self._last is None:
            self._last = None
            return self._estimated(seconds)
        for (counter, wrap), (before, _) in zip(now, self._last, strict=True):
            self._joules += (counter - before if counter >= before else counter - before + wrap) / 1e6
        self._last = now
        return Energy(self._joules * self._share, "measured: RAPL, all packages" + self._of_cores())

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

    def _estimated(self, seconds: float) -> Energy:
        """Watts times seconds, or nothing where the family file states no watts."""
        if self._watts is None:
            return Energy(None, "unknown: no energy counter")
        return Energy(self._watts * self._share * seconds, "estimated: watts_per_system x time" + self._of_cores())

    def _of_cores(self) -> str:
        return "" if self._share == 1 else ", by the share of the cores"
