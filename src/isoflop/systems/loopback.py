"""Where a launcher and the systems that it starts on its own machine meet: a store that only this machine reaches.

PyTorch's elastic rendezvous would listen to the whole network, and reads pickles from what it is sent.
"""

import socket
from datetime import timedelta

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousParameters
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry as registry
from torch.distributed.elastic.rendezvous.api import RendezvousStoreInfo

BACKEND = "isoflop-loopback"
ADDRESS = "127.0.0.1"
# An answer of a store on this machine takes milliseconds.
ANSWER_SECONDS = 60.0


class Loopback(RendezvousHandler):
    """The rendezvous of one launcher, which is alone and number 0 whenever it starts its systems."""

    use_agent_store = True

    def __init__(self, run_id: str) -> None:
        self._run_id, self._closed = run_id, False
        listening = socket.socket()
        listening.bind((ADDRESS, 0))
        listening.listen(1024)
        self._port: int = listening.getsockname()[1]
        self._store = TCPStore(
            ADDRESS,
            self._port,
            is_master=True,
            timeout=timedelta(seconds=ANSWER_SECONDS),
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )

    def get_backend(self) -> str:
        """Its name."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """At once: there is nobody to wait for."""
        return RendezvousInfo(PrefixStore("launcher", self._store), 0, 1, RendezvousStoreInfo(ADDRESS, self._port))

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def set_closed(self) -> None:
        """Closes it."""
        self._closed = True

    def num_nodes_waiting(self) -> int:
        """None ever."""
        return 0

    def get_run_id(self) -> str:
        """The launcher's name of this run."""
        return self._run_id

    def shutdown(self) -> bool:
        """Nothing is left to close: the store ends with this process."""
        return True


def _create(parameters: RendezvousParameters) -> RendezvousHandler:
    return Loopback(parameters.run_id)


registry.register(BACKEND, _create)
