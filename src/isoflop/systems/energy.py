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
    number that is too small.
    """

    def __init__(self, watts: float | None, powercap: Path = POWERCAP) -> None:
        self._watts = watts
        self._packages = sorted(powercap.glob("intel-rapl:[0-9]*")) if powercap.is_dir() else []
        self._packages = [package for package in self._packages if package.name.count(":") == 1]
        self._last = self._counters()
        self._joules = 0.0

    def read(self, seconds: float) -> Energy:
        """Energy since creation, of which `seconds` have passed (for the estimate)."""
        now = self._counters()
        if now is None or self._last is None:
            self._last = None
            return estimated(self._watts, seconds)
        for (counter, wrap), (before, _) in zip(now, self._last, strict=True):
            self._joules += (counter - before if counter >= before else counter - before + wrap) / 1e6
        self._last = now
        return Energy(self._joules, "measured: RAPL, all packages")

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


def estimated(watts: float | None, seconds: float) -> Energy:
    """Watts times seconds, or nothing where the family file states no watts."""
    if watts is None:
        return Energy(None, "unknown: no energy counter")
    return Energy(watts * seconds, "estimated: watts_per_system x time")
