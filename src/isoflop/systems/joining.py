"""How systems come together: whoever is alive meets at one store, agrees on a token of this meeting, or hears why not.

The store may be a launcher's, which outlives its workers: what those of an earlier meeting left there must not be
read. A count of restarts does not tell meetings apart, since launchers of several nodes count on their own.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import Store

from isoflop.errors import InputError, LostError

# From a system's start to its first exchange with all others. Those of a launcher start at the same time; without one,
# nodes come when they come.
JOIN_SECONDS, LAUNCHED_JOIN_SECONDS = 300.0, 120.0
GREETING_SECONDS = 0.25
# How long system 0, whose store it may be, stays for the others to hear why nothing comes of it.
REFUSAL_SECONDS = 5.0

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Address:
    """Which system this is, and where all meet: torchrun's variables."""

    rank: int
    size: int
    host: str
    port: int
    # The launcher keeps the store; else system 0 does.
    launched: bool = False

    @staticmethod
    def of(variables: Mapping[str, str]) -> "Address":
        """What the variables say.

        Raises:
            InputError: one is missing, no number, or out of its bounds.
        """

        def number(name: str, least: int, most: int) -> int:
            if name not in variables:
                raise InputError(
                    f"isoflop worker: {name} is not set; isoflop train --systems N or torchrun starts workers"
                )
            said = variables[name]
            if not said.isascii() or not said.isdigit() or not least <= int(said) <= most:
                raise InputError(f"isoflop worker: {name} is {said!r}; it must be a number from {least:,} to {most:,}")
            return int(said)

        if "RANK" not in variables:
            number("RANK", 0, 0)
        size = number("WORLD_SIZE", 1, 65_536)
        rank = number("RANK", 0, size - 1)
        if not variables.get("MASTER_ADDR"):
            raise InputError("isoflop worker: MASTER_ADDR is not set; it is the address of system 0")
        launched = variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return Address(rank, size, variables["MASTER_ADDR"], number("MASTER_PORT", 1, 65_535), launched)

    @property
    def join_seconds(self) -> float:
        """How long joining may take."""
        return LAUNCHED_JOIN_SECONDS if self.launched else JOIN_SECONDS

    def connect(self, hosting: bool = False) -> Store:
        """A connection of its own to the store; `hosting` it, where nobody else does.

        Raises:
            InputError: the port is taken.
        """
        timeout = timedelta(seconds=self.join_seconds)
        try:
            store = TCPStore(
                self.host,
                self.port,
                is_master=hosting and self.rank == 0 and not self.launched,
                timeout=timeout,
                wait_for_workers=False,
            )
        except RuntimeError as error:
            if "EADDRINUSE" in str(error):
                raise InputError(
                    f"isoflop worker: port {self.port} is taken on this machine; "
                    "set MASTER_PORT to a free one, the same for all systems, and RANK=0 for one of them only"
                ) from error
            raise
        return PrefixStore("isoflop", store)


@dataclass
class Meeting:
    """What came of joining.

    Attributes:
        token: what all who met call it, and nobody else; keys of the store begin with it.
        number: how many meetings this store has seen, from 1 on.
        waits_for: what it is about, for a message when time is over.
    """

    address: Address
    token: str = ""
    number: int = 0
    waits_for: str = "the store does not answer: see that system 0 is up, and that this is its address"
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


def within(seconds: float, call: Callable[[], Answer], late: Callable[[], str]) -> Answer:
    """What `call` answers, if it does within `seconds`: libraries below it keep no time over all that they wait for.

    Raises:
        LostError: it has not; `late` says what then is to be said.
        Whatever `call` raises.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="join", daemon=True)
    thread.start()
    # In pieces: a signal is seen between them.
    deadline = time.monotonic() + seconds
    while thread.is_alive() and time.monotonic() < deadline:
        thread.join(0.1)
    if errors:
        raise errors[0]
    if not answers:
        raise LostError(late())
    return answers[0]


def meet(meeting: Meeting, store: Store) -> None:
    """Waits for all others, and fills in the meeting's `token` and `number`; for ever, if they do not come.

    Raises:
        InputError: RANK is taken by another process, or WORLD_SIZE is not the same everywhere.
    """
    if meeting.address.rank == 0:
        _invite(meeting, store)
    else:
        _come(meeting, store)


def _come(meeting: Meeting, store: Store) -> None:
    """A follower: says again and again that it is there, under a name of its own, until system 0 answers that name."""
    address, count = meeting.address, 0
    answer = f"answer/{meeting.name}"
    own = {"name": meeting.name, "size": address.size, "host": socket.gethostname(), "process": os.getpid()}
    meeting.waits_for = "system 0 does not answer, or waits for others"
    older = ""
    while not store.check([answer]):
        count += 1
        store.set(f"greeting/{address.rank}", json.dumps({**own, "count": count}))
        older = older or _members(store)
        _refuse_a_second(meeting, store, older)
        time.sleep(GREETING_SECONDS)
    said = json.loads(store.get(answer))
    store.set(f"heard/{meeting.name}", "")
    if said["fault"]:
        raise InputError(said["fault"])
    meeting.token, meeting.number = said["token"], said["number"]


def _members(store: Store) -> str:
    return store.get("members").decode() if store.check(["members"]) else ""


def _refuse_a_second(meeting: Meeting, store: Store, older: str) -> None:
    """If those who met before are alive and at work, this one came too late or has a wrong number.

    Raises:
        InputError: so it is.
    """
    if not older or older != _members(store):
        return
    met, rank, size = json.loads(older), meeting.address.rank, meeting.address.size
    key = f"{met['token']}/beat/{min(rank, met['size'] - 1)}"
    if not store.check([key]):
        return
    before = store.get(key)
    time.sleep(4 * GREETING_SECONDS)
    if store.get(key) == before or store.check([f"answer/{meeting.name}"]):
        return
    if met["size"] != size:
        raise InputError(f"system {rank}: WORLD_SIZE is {size} here and {met['size']} at system 0; make them alike")
    raise InputError(f"system {rank} is at work already; each needs a RANK of its own")


def _invite(meeting: Meeting, store: Store) -> None:
    """System 0: gives all the same token once each of them has been heard twice, and so is alive."""
    size = meeting.address.size
    latest: dict[int, dict[str, str | int]] = {}
    before: dict[int, set[str]] = {rank: set() for rank in range(1, size)}
    alive: dict[int, str] = {}
    while len(alive) < size - 1:
        for rank in range(1, size):
            if not store.check([f"greeting/{rank}"]):
                continue
            said = json.loads(store.get(f"greeting/{rank}"))
            last = latest.get(rank)
            latest[rank] = said
            if last is None or said == last:
                continue
            name = said["name"]
            if name != last["name"]:
                before[rank].add(str(last["name"]))
                alive.pop(rank, None)
            else:
                alive[rank] = name
            if name in before[rank]:
                _refuse(
                    store,
                    latest,
                    f"system {rank} is there twice: process {last['process']} on {last['host']} and process "
                    f"{said['process']} on {said['host']}; each needs a RANK of its own",
                    before[rank],
                )
            if said["size"] != size:
                _refuse(
                    store,
                    latest,
                    f"WORLD_SIZE is {size} at system 0 and {said['size']} at system {rank} ({said['host']}); "
                    "make them alike",
                )
        missing = [str(rank) for rank in range(1, size) if rank not in alive]
        meeting.waits_for = (
            f"no word from system{'s' * (len(missing) > 1)} {', '.join(missing[:8])}{' ...' * (len(missing) > 8)}; "
            "see that every node is up and reaches that address"
        )
        time.sleep(GREETING_SECONDS / 5)
    meeting.number = store.add("meetings", 1)
    meeting.token = f"{meeting.number}-{meeting.name[:12]}"
    store.set("members", json.dumps({"token": meeting.token, "size": size}))
    for name in alive.values():
        said = {"fault": None, "token": meeting.token, "number": meeting.number}
        store.set(f"answer/{name}", json.dumps(said))


def _refuse(store: Store, latest: dict[int, dict[str, str | int]], fault: str, others: set[str] | None = None) -> None:
    """Tells all who are known, waits until they have heard, and gives up.

    Raises:
        InputError: `fault`, always.
    """
    names = {str(said["name"]) for said in latest.values()} | (others or set())
    for name in names:
        store.set(f"answer/{name}", json.dumps({"fault": fault}))
    deadline = time.monotonic() + REFUSAL_SECONDS
    while not all(store.check([f"heard/{name}"]) for name in names) and time.monotonic() < deadline:
        time.sleep(0.05)
    raise InputError(fault)
