"""Systems as processes of torch.distributed: how they come together, and how one that is gone is noticed and named."""

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from isoflop.errors import InputError, LostError
from isoflop.systems.group import Systems
from isoflop.systems.joining import Address, Meeting, meet, within
from isoflop.systems.machine import processor_name
from isoflop.systems.processes import is_system

# A system that has not been heard of for this long is given up: its processes are started again from the checkpoint.
SILENCE_SECONDS = 15.0
BEAT_SECONDS = 0.25
# One whose beat stands still for this long, after a connection broke, is the one that broke it.
DEAF_SECONDS = 3.0
# One exchange between systems that are all alive takes seconds at most.
EXCHANGE_SECONDS = 600.0
# Followers hear of the end within a tenth of a second, unless the network or their machine is slow.
CLOSING_SECONDS, CLOSING_AFTER_FAULT_SECONDS = 60.0, 5.0
ENDED_BY_WATCH = 75

Answer = TypeVar("Answer")


class Group(Systems):
    """This process among those that torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) describe.

    Four times a second each says to the store what it is about; each watches the next one, and ends itself (and it, on
    the same machine) if that falls silent: whoever started them starts them again.

    Raises:
        InputError: the variables cannot be, are not alike among systems, or the port is taken.
        LostError: the systems did not come together in time; in any call, one of them is gone.
    """

    def __init__(self) -> None:
        self._address = address = Address.of(os.environ)
        self.rank, self.size = address.rank, address.size
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._meeting = Meeting(address)

        def late() -> str:
            return (
                f"system {self.rank} of {self.size}: not all came together at {address.host}:{address.port} within "
                f"{address.join_seconds:.0f} s: {self._meeting.waits_for}"
            )

        self.place, self._doing = "", "starting"
        try:
            within(address.join_seconds, self._join, late)
        except (RuntimeError, ValueError) as error:
            raise LostError(f"{late()} ({str(error).splitlines()[0]})") from error
        self._orders = 0
        self._ending = threading.Event()
        threading.Thread(target=self._beat, name="beat", daemon=True).start()

    @property
    def attempt(self) -> int:
        """How often the systems of this launcher came together before."""
        return self._meeting.number - 1

    def _join(self) -> None:
        """Comes together with all others, to the first exchange."""
        self._common = self._address.connect(hosting=True)
        meet(self._meeting, self._common)
        self._meeting.waits_for = "they met there, and do not reach one another"
        self._store = PrefixStore(self._meeting.token, self._common)
        # A connection of its own for the thread that watches.
        self._common_watched = self._address.connect()
        self._watched = PrefixStore(self._meeting.token, self._common_watched)
        # Before the first exchange: who met has a beat, and is missed when it does not beat again.
        self._say_beat(0)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=EXCHANGE_SECONDS),
        )
        dist.all_gather(list(torch.empty(self.size, 1)), torch.zeros(1))

    def gather(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As `Systems` says."""
        own = torch.from_numpy(np.ascontiguousarray(numbers, dtype=np.float64))
        own = torch.cat([own, own.new_zeros(1)])  # gloo gathers nothing of nothing: an empty gather would not wait
        everyone = torch.empty(self.size, len(own), dtype=torch.float64)
        self._together(lambda: dist.all_gather(list(everyone), own))
        return everyone[:, :-1].numpy()

    def exchange(self, sends: Sequence[tuple[int, Tensor]], receives: Sequence[tuple[int, Tensor]]) -> None:
        """As `Systems` says."""

        # In one batch: NCCL would wait for ever for sends and receives that each system begins in another order.
        ways = [dist.P2POp(dist.irecv, tensor, rank) for rank, tensor in receives]
        ways += [dist.P2POp(dist.isend, tensor, rank) for rank, tensor in sends]

        def all_of_them() -> None:
            for one in dist.batch_isend_irecv(ways) if ways else ():
                one.wait()

        self._together(all_of_them)

    def doing(self, what: str) -> None:
        """As `Systems` says."""
        self._doing = f"{self.place}, {what}" if self.place else what

    def tell(self, order: str) -> None:
        """Says something to all others, who `hear` it in turn; the leader's alone."""
        self._orders += 1
        self._together(lambda: self._store.set(self._order(), order))

    def hear(self) -> str:
        """What the leader told next, however long it takes."""
        self._orders += 1
        self.place = ""
        self.doing("waiting for the leader")
        key = self._order()
        while not self._together(lambda: self._store.check([key])):
            time.sleep(0.05)
        return self._together(lambda: self._store.get(key)).decode()

    def agree(self, about: dict[str, str], arithmetic: dict[str, str], reproducible: bool, folder: Path) -> list[str]:
        """Checks that all systems are alike and see one run directory; what the user should know of them, a line each.

        `about` says what must be the same everywhere: {"isoflop": "1.0", …}; `arithmetic` what must be so if the run is
        to be `reproducible`, and is noted else.

        Raises:
            InputError: they differ, or do not share `folder`; on all of them, naming the difference.
        """
        token = folder / f"systems-{self._meeting.token}.token"
        if self.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            token.touch()
        self.gather(np.zeros(0))
        for _ in range(100):  # a network's file system may show a new file late
            seen = token.exists()
            if seen:
                break
            time.sleep(0.1)
        own = {**about, **arithmetic, "sees": str(seen), "host": socket.gethostname(), "processor": processor_name()}
        self._together(lambda: self._store.set(f"about/{self.rank}", json.dumps(own)))
        self.gather(np.zeros(0))
        if self.rank == 0:
            token.unlink(missing_ok=True)
            everyone = self._together(lambda: [self._about(rank) for rank in range(self.size)])
            said = json.dumps(_verdict(everyone, about, arithmetic, reproducible, folder))
            self._together(lambda: self._store.set("verdict", said))
        verdict: tuple[str | None, list[str]] = json.loads(self._together(lambda: self._store.get("verdict")))
        fault, notes = verdict
        if fault:
            raise InputError(fault)
        return notes

    def fault_before(self) -> str | None:
        """Why the systems were started again, as those of the attempt before have told it."""
        if not self._common.check(["fault"]):
            return None
        said = self._common.get("fault").decode()
        self._common.delete_key("fault")
        return said

    def close(self, patience_seconds: float = CLOSING_SECONDS) -> None:
        """This system needs the others no more; system 0, which may keep the store, waits until they say the same."""
        self._ending.set()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"closed/{self.rank}", "")
            keys = [f"closed/{rank}" for rank in range(self.size)]
            deadline = time.monotonic() + patience_seconds
            while self.rank == 0 and not self._store.check(keys) and time.monotonic() < deadline:
                time.sleep(0.02)
        dist.destroy_process_group()

    def _order(self) -> str:
        return f"order/{self._orders}"

    def _about(self, rank: int) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._store.get(f"about/{rank}"))
        return found

    def _together(self, call: Callable[[], Answer]) -> Answer:
        """What `call` answers; if a peer is gone, says which and what it was about.

        The beats tell: who does not answer any more has stopped them.
        """
        try:
            return call()
        except RuntimeError as error:
            with contextlib.suppress(RuntimeError):
                before = self._beats()
                time.sleep(DEAF_SECONDS)
                gone = [self._named(rank, beat) for rank, beat in before.items() if self._beats()[rank] == beat]
                if gone:
                    self._fault(f"{' and '.join(gone)} ended without a word")
            raise LostError(f"system {self.rank}: another system is gone ({str(error).splitlines()[0]})") from error

    def _beats(self) -> dict[int, str]:
        return {rank: self._store.get(f"beat/{rank}").decode() for rank in range(self.size) if rank != self.rank}

    def _fault(self, line: str) -> None:
        self._common.set("fault", line)

    def _named(self, rank: int, beat: str) -> str:
        said = json.loads(beat)
        return f"system {rank} ({said['host']}, process {said['process']}; was at: {said['doing']})"

    def _beat(self) -> None:
        """A thread's life: says what this system is about, and looks after the next one."""
        store, following = self._watched, (self.rank + 1) % self.size
        heard, since, count = "", time.monotonic(), 0
        while not self._ending.wait(BEAT_SECONDS):
            count += 1
            try:
                self._say_beat(count)
                said = store.get(f"beat/{following}").decode()
            except RuntimeError:
                # Whoever started this system is gone.
                if not self._ending.is_set():
                    os._exit(ENDED_BY_WATCH)
                return
            now = time.monotonic()
            if said != heard:
                heard, since = said, now
            elif now - since >= SILENCE_SECONDS:
                self._give_up(following, said)

    def _say_beat(self, count: int) -> None:
        own = {"doing": self._doing, "host": socket.gethostname(), "process": os.getpid(), "beat": count}
        self._watched.set(f"beat/{self.rank}", json.dumps(own))

    def _give_up(self, silent: int, beat: str) -> NoReturn:
        line = f"{self._named(silent, beat)} has not been heard of for {SILENCE_SECONDS:.0f} s"
        self._common_watched.set("fault", line)
        print(f"isoflop: {line}", file=sys.stderr, flush=True)
        said = json.loads(beat)
        if said["host"] == socket.gethostname() and is_system(said["process"], silent):
            with contextlib.suppress(OSError):
                os.kill(said["process"], signal.SIGKILL)
        os._exit(ENDED_BY_WATCH)


def _verdict(
    everyone: list[dict[str, str]],
    about: Iterable[str],
    arithmetic: Iterable[str],
    reproducible: bool,
    folder: Path,
) -> tuple[str | None, list[str]]:
    """The fault, if there is one, and notes."""
    for key in about:
        if differing := _differing(everyone, key):
            return f"{differing}; make them alike", []
    blind = [f"{rank} ({other['host']})" for rank, other in enumerate(everyone) if other["sees"] != "True"]
    if blind:
        return (
            f"{folder}: system {', '.join(blind[:4])} does not see what system 0 ({everyone[0]['host']}) writes there; "
            "--runs must be a folder that all nodes share",
            [],
        )
    notes = []
    for key in arithmetic:
        if differing := _differing(everyone, key):
            if reproducible:
                return (
                    f"{differing}: they round differently, and the run would depend on who computes what; make them "
                    "alike, or set reproducible = false",
                    [],
                )
            notes.append(f"{differing}: the bits depend on who computes what")
    processors = sorted({other["processor"] for other in everyone})
    if len(processors) > 1:
        notes.append(
            f"the systems run on different processors ({'; '.join(processors)}), which may round differently: "
            "the bits may not be those of one system"
        )
    return None, notes


def _differing(everyone: list[dict[str, str]], key: str) -> str | None:
    """In which system `key` is not what it is in system 0, in words."""
    for rank, other in enumerate(everyone):
        if other[key] != everyone[0][key]:
            return (
                f"systems 0 ({everyone[0]['host']}) and {rank} ({other['host']}) differ: {key} is "
                f"{everyone[0][key]} and {other[key]}"
            )
    return None
