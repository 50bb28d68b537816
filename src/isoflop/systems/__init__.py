"""The machine beneath: its matrix rate, its threads, its energy."""

from isoflop.systems.energy import Energy, EnergyMeter
from isoflop.systems.machine import available_cores, measure_machine

__all__ = ["Energy", "EnergyMeter", "available_cores", "measure_machine"]
