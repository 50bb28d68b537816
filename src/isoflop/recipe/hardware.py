"""What systems are made of, as far as foretelling their speed needs to know: a device, its memory, its wires."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Wire:
    """A way between devices: what one device sends over it in a second, and how long until the first byte is there.

    Collectives in a group of n devices cost what Thakur, Rabenseifner and Gropp 2005 (sec. 3 and 4) give: (n - 1)/n of
    the bytes for an all-gather or a reduce-scatter, and ceil(log2 n) times the latency. A group of one costs nothing.
    """

    bytes_per_second: float
    latency_seconds: float

    def send_seconds(self, n_bytes: float) -> float:
        """One message from one device to another."""
        return self.latency_seconds + n_bytes / self.bytes_per_second

    def all_gather_seconds(self, n_bytes: float, devices: int) -> float:
        """Until every device has all `n_bytes`, of which each held 1/devices; a reduce-scatter takes as long."""
        if devices == 1:
            return 0.0
        hops = math.ceil(math.log2(devices))
        return hops * self.latency_seconds + shared(n_bytes, devices) / self.bytes_per_second

    def all_reduce_seconds(self, n_bytes: float, devices: int) -> float:
        """Until every device has the sum of `n_bytes` that each held: a reduce-scatter and an all-gather."""
        return 2 * self.all_gather_seconds(n_bytes, devices)


def shared(n_bytes: float, devices: int) -> float:
    """Bytes that each of `devices` sends so that all have `n_bytes` of which each held its part: (n - 1)/n of them."""
    return n_bytes * (devices - 1) / devices


@dataclass(frozen=True)
class Hardware:
    """Systems of one kind, a device each.

    Attributes:
        peak_flops_per_second: what the model FLOPs utilisation is a share of.
        flops_per_second: what its matrix products reach within training.
        memory_bytes: the device's.
        memory_bytes_per_second: what work that is no matrix product reads and writes the device's memory at; None where
            `flops_per_second` was measured with that work in it.
        link_bytes_per_second: each way between the device and the store of a streamed run; None where they are one.
        store_bytes_per_second: a system's share of the memory that holds the store, for the optimizer; None: not known,
            and not counted.
        devices_per_node: as many are joined by `node`, all others by `network`.
    """

    name: str
    peak_flops_per_second: float
    flops_per_second: float
    memory_bytes: float
    memory_bytes_per_second: float | None
    link_bytes_per_second: float | None
    store_bytes_per_second: float | None
    devices_per_node: int
    node: Wire
    network: Wire
    source: str

    def wire(self, devices: int) -> Wire:
        """What joins a group that spans so many neighbouring devices."""
        return self.node if devices <= self.devices_per_node else self.network

    def memory_seconds(self, n_bytes: float) -> float:
        """Time to read or write so many bytes of the device's memory."""
        return _seconds(n_bytes, self.memory_bytes_per_second)

    def link_seconds(self, n_bytes: float) -> float:
        """Time for so many bytes from the store to the device, or back."""
        return _seconds(n_bytes, self.link_bytes_per_second)

    def store_seconds(self, n_bytes: float) -> float:
        """Time to read or write so many bytes of a system's part of the store."""
        return _seconds(n_bytes, self.store_bytes_per_second)

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def _seconds(n_bytes: float, bytes_per_second: float | None) -> float:
    return 0.0 if bytes_per_second is None else n_bytes / bytes_per_second
