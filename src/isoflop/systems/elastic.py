"""`python -m isoflop.systems.elastic`: torchrun, with its options, whose launchers tell one another JSON.

PyTorch's c10d rendezvous keeps its state in a store that whoever reaches its port can write to, and reads it as a
pickle, which can run code (`_BackendRendezvousStateHolder.sync` in its dynamic_rendezvous.py).
"""

import json
import os
from datetime import datetime
from typing import Any

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.elastic.rendezvous import dynamic_rendezvous
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import _NodeDesc, _RendezvousState
from torch.distributed.launcher.api import LaunchConfig

from isoflop.systems.slurm import SHUTDOWN_VARIABLE


class JsonState:
    """Stands where PyTorch's rendezvous has the module `pickle`."""

    PickleError = ValueError

    @staticmethod
    def dumps(state: _RendezvousState) -> bytes:
        """The state of a rendezvous as JSON.

        Raises:
            TypeError: it holds what this PyTorch's does not.
        """
        return json.dumps({name: _told(value) for name, value in vars(state).items()}).encode()

    @staticmethod
    def loads(content: bytes) -> _RendezvousState:
        """The state that `dumps` wrote.

        Raises:
            ValueError: it did not write that.
        """
        state, fields = _RendezvousState(), json.loads(content)
        if not isinstance(fields, dict) or fields.keys() != vars(state).keys():
            raise ValueError("this is no state of a rendezvous of isoflop's launchers")
        try:
            vars(state).update({name: _heard(value) for name, value in fields.items()})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError("this is no state of a rendezvous of isoflop's launchers") from error
        return state


def _told(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case datetime():
            return {"time": value.isoformat()}
        case _NodeDesc():
            return {"node": [value.addr, value.pid, value.local_id]}
        case set():
            return {"set": [_told(one) for one in value]}
        case dict():
            return {"pairs": [[_told(key), _told(one)] for key, one in value.items()]}
    raise TypeError(f"a rendezvous of this PyTorch holds a {type(value).__name__}, which isoflop does not know")


def _heard(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case {"time": str(time)}:
            return datetime.fromisoformat(time)
        case {"node": [str(addr), int(pid), int(local_id)]}:
            return _NodeDesc(addr, pid, local_id)
        case {"set": list(ones)}:
            return {_heard(one) for one in ones}
        case {"pairs": list(pairs)}:
            return {_heard(key): _heard(one) for key, one in pairs}
    raise ValueError("this is no state of a rendezvous of isoflop's launchers")


def wait_for_saving() -> None:
    """Has PyTorch 2.11 wait for workers that save as long as SHUTDOWN_VARIABLE says; later ones read it."""
    seconds = os.environ.get(SHUTDOWN_VARIABLE)
    if seconds is not None and "shutdown_timeout" not in LaunchConfig.__dataclass_fields__:
        PContext.close.__defaults__ = (None, int(seconds))


def main() -> None:
    """As torchrun's."""
    wait_for_saving()
    dynamic_rendezvous.__dict__["pickle"] = JsonState
    run.main()


if __name__ == "__main__":
    main()
