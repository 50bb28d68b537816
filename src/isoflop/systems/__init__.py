"""The machine beneath, and the systems that train together: their collectives, the reproducible reduction.

What needs PyTorch is imported from its module: this package starts without.
"""

from isoflop.systems.energy import Energy, EnergyMeter
from isoflop.systems.machine import available_cores, measure_machine

__all__ = ["Energy", "EnergyMeter", "available_cores", "measure_machine"]
