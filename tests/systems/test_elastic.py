"""Launchers of several nodes tell one another JSON, and read nothing that could run code."""

import inspect
import pickle
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.elastic.rendezvous import RendezvousParameters, RendezvousStateError, dynamic_rendezvous
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import (
    DynamicRendezvousHandler,
    _NodeDesc,
    _RendezvousState,
)

from isoflop.systems import elastic
from isoflop.systems.elastic import JsonState, wait_for_saving
from isoflop.systems.slurm import SHUTDOWN_VARIABLE


class Canary:
    """A pickle of it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_every_field_of_a_state_comes_back() -> None:
    state, now = _RendezvousState(), datetime.now(UTC)
    first, second = _NodeDesc("node0", 17, 0), _NodeDesc("node1", 18, 1)
    state.round, state.complete, state.deadline = 3, True, now
    state.participants, state.last_heartbeats = {first: 0, second: 1}, {first: now}
    state.wait_list, state.redundancy_list = {second}, {first}
    assert vars(JsonState.loads(JsonState.dumps(state))) == vars(state)
    assert vars(JsonState.loads(JsonState.dumps(_RendezvousState()))) == vars(_RendezvousState())


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{}", b"\x80\x05N.", JsonState.dumps(_RendezvousState()).replace(b"0", b'{"set": [{"pairs": []}]}')],
)
def test_what_is_no_state_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"no state of a rendezvous|Expecting value|codec can't decode"):
        JsonState.loads(content)


def test_a_pickle_sent_to_the_launchers_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    parameters = RendezvousParameters("c10d", f"127.0.0.1:{port}", "run", 1, 1, is_host="1", read_timeout="60")
    backend, store = create_backend(parameters)
    sent = pickle.dumps(Canary(tmp_path / "ran"))

    def sync() -> None:
        backend.set_state(sent, backend.get_state() and backend.get_state()[1])
        DynamicRendezvousHandler.from_backend("run", store, backend, 1, 1)._state_holder.sync()

    # PyTorch's own launchers do run it, and then find no state.
    with pytest.raises(AttributeError):
        sync()
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    monkeypatch.setattr(dynamic_rendezvous, "pickle", pickle)  # so that it is put back afterwards
    monkeypatch.setattr(elastic.run, "main", lambda: None)
    elastic.main()
    with pytest.raises(RendezvousStateError, match="corrupt"):
        sync()
    assert not (tmp_path / "ran").exists()


def test_a_launcher_that_does_not_know_the_variable_waits_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHUTDOWN_VARIABLE, "1234")
    monkeypatch.setattr(PContext.close, "__defaults__", (None, 30))
    monkeypatch.setattr("isoflop.systems.elastic.LaunchConfig", type("Older", (), {"__dataclass_fields__": {}}))
    wait_for_saving()
    assert inspect.signature(PContext.close).parameters["timeout"].default == 1234
