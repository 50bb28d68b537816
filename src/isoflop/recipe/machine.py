"""What a machine is, as far as a plan needs to know."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Machine:
    """A measured machine. `isoflop.systems.measure_machine` makes one.

    `memory_bytes` are the device's, `host_memory_bytes` those of the machine around it: on a processor they are the
    same. 0 where nobody looked (plans written before 2026-11-26).
    """

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    torch: str
    device: str
    bf16_flops_per_second: float
    fp32_flops_per_second: float
    measured: str
    host_memory_bytes: int = 0

    @property
    def lanes(self) -> int:
        """Microbatches that compute side by side: one a core, or one on a GPU."""
        return 1 if self.device == "cuda" else self.cores

    def matrix_flops_per_second(self, precision: str) -> float:
        """Measured rate of a large matrix product in `precision` ("bf16" or "fp32")."""
        return self.bf16_flops_per_second if precision == "bf16" else self.fp32_flops_per_second

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object; `from_json` reads it."""
        return asdict(self)

    @staticmethod
    def from_json(document: Any) -> "Machine":
        """The machine that `to_json` described.

        Raises:
            TypeError, ValueError: something else was given.
        """
        machine = Machine(**document)
        for name, kind in Machine.__annotations__.items():
            if not isinstance(getattr(machine, name), kind):
                raise TypeError(f"{name} is not {kind.__name__}")
        if machine.bf16_flops_per_second <= 0 or machine.fp32_flops_per_second <= 0:
            raise ValueError("a rate is not positive")
        return machine
