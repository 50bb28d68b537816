"""A stand-in for `torch.cuda` on the processor: it computes, and refuses what a GPU might do too early.

What is "on cuda" lies in the processor's memory and is computed at once, so values are those of the processor. Beside
that, every stream and every thread of the host keeps a vector clock (Fidge 1988, Mattern 1989): how much of every other
is surely done before what comes next on it. A launch comes after what its thread has done, an event after what its
stream was asked for; waiting for an event, or for a future of another thread, passes that on, and so does every call
that keeps the host until the device has answered. Memory must be read after it was written, and written after it was
read, by these clocks; else a stream of a real device might be early, and `RaceError` says with what.

It refuses as well: operations on tensors of both, a copy that should not keep the host waiting from or to memory that
is not locked, the processor reading a tensor of the device, memory that the allocator would give to others while a
stream is still at it, and a thread that speaks to another device than the one that it locks memory for.
"""

import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

Clock = Mapping["Line", int]
# A line of the code that waits: its file's name and its number.
Site = tuple[str, int]
ALLOCATED = 512  # the allocator's smallest unit, in bytes


class RaceError(AssertionError):
    """Something may happen before what it needs."""


@dataclass(eq=False)
class Line:
    """A stream, or a thread of the host: one thing after the other, after all that is in `clock`."""

    name: str
    is_stream: bool
    clock: dict["Line", int] = field(default_factory=dict)

    def after(self, clock: Clock) -> None:
        """What comes next comes after all of that."""
        for line, time in clock.items():
            self.clock[line] = max(time, self.clock.get(line, 0))

    def tick(self) -> int:
        """One more thing; its number."""
        self.clock[self] = self.clock.get(self, 0) + 1
        return self.clock[self]


@dataclass(frozen=True)
class Access:
    """Bytes [start : stop] of a memory were read or written."""

    line: Line
    time: int
    start: int
    stop: int
    writes: bool
    what: str


@dataclass
class Memory:
    """Of one storage; `stream` is the one that it was allocated for, where it is the device's."""

    stream: Line | None
    n_bytes: int
    accesses: list[Access] = field(default_factory=list)


class Cuda:
    """`install` puts it in the place of torch.cuda; `device` is the one that is trained on.

    `deaf` are lines of code that wait in vain, `waits` all that have waited; `blocked` where the host had to wait for
    the device's answer.
    """

    def __init__(self, device: torch.device, total_memory: int = 80 * 10**9) -> None:
        self.device, self.total_memory = device, total_memory
        self.deaf: set[Site] = set()
        self.waits: set[Site] = set()
        self.blocked: list[Site] = []
        self.faults: list[str] = []
        self.allocated = self.peak = 0
        self._memory: dict[int, Memory] = {}
        self._locked: dict[int, int] = {}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._own = threading.local()
        self._lock = threading.RLock()
        self._default = Stream(self, "default stream")

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """In the place of torch.cuda and torch.compile; threads and futures hand on their clocks."""
        cuda = {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "current_device": lambda: self.current_device,
            "set_device": self.set_device,
            "Stream": lambda: Stream(self, "stream"),
            "Event": lambda blocking=False, enable_timing=False: Event(self),
            "stream": self.on_stream,
            "current_stream": lambda device=None: self.stream,
            "synchronize": self.synchronize,
            "cudart": lambda: self,
            "get_device_name": lambda: "a stand-in",
            "get_device_properties": lambda device: SimpleNamespace(
                total_memory=self.total_memory, name="a stand-in", uuid="0"
            ),
            "max_memory_allocated": lambda: self.peak,
        }
        for name, stand_in in cuda.items():
            patch.setattr(torch.cuda, name, stand_in)
        patch.setattr(torch, "compile", lambda function, dynamic: function)
        patch.setattr(torch.compiler, "reset", lambda: None)
        patch.setattr(ThreadPoolExecutor, "submit", self._submitting(ThreadPoolExecutor.submit))
        patch.setattr(threading.Thread, "start", self._starting(threading.Thread.start))
        patch.setattr(threading.Thread, "run", self._running(threading.Thread.run))
        patch.setattr(Future, "set_result", self._setting(Future.set_result))
        patch.setattr(Future, "set_exception", self._setting(Future.set_exception))
        patch.setattr(Future, "result", self._asking(Future.result))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What the calling thread does is seen."""
        with Functions(self), Operations(self):
            yield

    def fault(self, what: str) -> None:
        """Kept as well as raised: who catches it does not make it good."""
        self.faults.append(what)
        raise RaceError(what)

    # Threads of the host.

    @property
    def host(self) -> Line:
        """The calling thread."""
        if not hasattr(self._own, "host"):
            self._own.host = Line(f"thread {threading.current_thread().name}", False)
        host: Line = self._own.host
        return host

    def _submitting(self, submit: Callable[..., Any]) -> Callable[..., Any]:
        def submitted(pool: Any, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
            clock = dict(self.host.clock)

            def told() -> Any:
                self.host.after(clock)
                return function(*arguments, **named)

            return submit(pool, told)

        return submitted

    def _starting(self, start: Callable[..., None]) -> Callable[..., None]:
        def started(thread: Any) -> None:
            thread.clock = dict(self.host.clock)
            start(thread)

        return started

    def _running(self, run: Callable[..., None]) -> Callable[..., None]:
        def running(thread: Any) -> None:
            self.host.after(getattr(thread, "clock", {}))
            with self.watching():
                run(thread)

        return running

    def _setting(self, set_it: Callable[..., None]) -> Callable[..., None]:
        def setting(future: Any, answer: Any) -> None:
            future.clock = dict(self.host.clock)
            set_it(future, answer)

        return setting

    def _asking(self, result: Callable[..., Any]) -> Callable[..., Any]:
        def asking(future: Any, timeout: float | None = None) -> Any:
            try:
                return result(future, timeout)
            finally:
                self.host.after(getattr(future, "clock", {}))

        return asking

    # Devices and streams.

    @property
    def current_device(self) -> int:
        """The calling thread's."""
        return getattr(self._own, "device", 0)

    def set_device(self, device: torch.device) -> None:
        """For the calling thread."""
        self._own.device = device.index or 0

    @property
    def stream(self) -> "Stream":
        """The calling thread's, on the device that is trained on."""
        current: Stream = getattr(self._own, "stream", self._default)
        return current

    @contextmanager
    def on_stream(self, stream: "Stream") -> Iterator[None]:
        """What the calling thread asks for within goes to the stream, and to its device."""
        before, self._own.stream = self.stream, stream
        try:
            yield
        finally:
            self._own.stream = before

    def synchronize(self) -> None:
        """The host waits for all streams."""
        self.block()
        with self._lock:
            for memory in self._memory.values():
                for access in memory.accesses:
                    if access.line.is_stream:
                        self.host.after(access.line.clock)

    def hears(self) -> bool:
        """Whether the code that waits, the first outside this file, does not wait in vain."""
        site = self._site()
        self.waits.add(site)
        return site not in self.deaf

    def block(self) -> None:
        """The host waits for the device."""
        self.blocked.append(self._site())

    def _site(self) -> Site:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and ("/torch/" in (name := frame.f_code.co_filename) or name == __file__):
            frame = frame.f_back
        assert frame is not None
        return name, frame.f_lineno

    # Host memory that the device reads by itself.

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        """As CUDA's runtime: 0 for done."""
        if self.current_device != (self.device.index or 0):
            self.fault(f"memory is locked by a thread whose device is number {self.current_device}, not {self.device}")
        self._locked[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        """As CUDA's runtime."""
        del self._locked[address]
        return 0

    def _is_locked(self, tensor: Tensor) -> bool:
        place = tensor.data_ptr()
        return any(first <= place < first + size for first, size in list(self._locked.items()))

    # Memory.

    def on_device(self, tensor: Tensor) -> bool:
        """Whether it is the device's."""
        memory = self._memory.get(tensor.untyped_storage()._cdata)
        return memory is not None and memory.stream is not None

    def _new(self, tensor: Tensor, on_device: bool) -> Memory:
        """The memory of a storage that is seen for the first time."""
        storage = tensor.untyped_storage()
        key, memory = storage._cdata, Memory(self.stream.line if on_device else None, storage.nbytes())
        with self._lock:
            self._memory[key] = memory
            self._alive[key] = weakref.ref(storage, lambda _: self._gone(key))
            if on_device:
                self.allocated += -(-memory.n_bytes // ALLOCATED) * ALLOCATED
                self.peak = max(self.peak, self.allocated)
        if on_device:
            # It may have been another's before: of what its own stream was asked for.
            self._access(tensor, self.stream.launch(), True, "allocated", whole=True)
        return memory

    def _gone(self, key: int) -> None:
        with self._lock:
            del self._alive[key]
            memory = self._memory.pop(key)
            if memory.stream is None:
                return
            self.allocated -= -(-memory.n_bytes // ALLOCATED) * ALLOCATED
            next_one = Line("", True)
            next_one.after(memory.stream.clock)
            next_one.after(self.host.clock)
            late = [one for one in memory.accesses if next_one.clock.get(one.line, 0) < one.time]
        if late:
            # Nobody hears what a callback raises.
            self.faults.append(f"given back while {late[0].line.name} may be at it: {late[0].what}")

    def _access(self, tensor: Tensor, line: Line, writes: bool, what: str, whole: bool = False) -> None:
        if not tensor.numel() and not whole:
            return
        memory = self._memory.get(tensor.untyped_storage()._cdata) or self._new(tensor, False)
        start, stop = 0, memory.n_bytes
        if not whole:
            start = tensor.storage_offset() * tensor.itemsize
            reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            stop = start + (reach + 1) * tensor.itemsize
        now = Access(line, line.clock[line], start, stop, writes, what)
        with self._lock:
            kept = []
            for one in memory.accesses:
                apart = one.stop <= start or stop <= one.start or not (one.writes or writes)
                threads = not (one.line.is_stream or line.is_stream)
                if not apart and not threads and line.clock.get(one.line, 0) < one.time:
                    self.fault(f"{what} on {line.name} may come before {one.what} on {one.line.name}")
                covered = start <= one.start and one.stop <= stop
                if not (covered and (writes or (one.line is line and not one.writes))):
                    kept.append(one)
            memory.accesses = [*kept, now]

    # What is asked of PyTorch.

    def call(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """A call in Python: what has to do with devices becomes one about the processor."""
        name = getattr(function, "__name__", "")
        first = arguments[0] if arguments and isinstance(arguments[0], Tensor) else None
        if first is not None and name in ("__get__", "to", "cpu", "numpy", "data_ptr", "pin_memory"):
            if function == torch.Tensor.device.__get__:
                return self.device if self.on_device(first) else torch.device("cpu")
            if name == "cpu" or (name == "to" and isinstance(arguments[1], torch.device)):
                wanted = name == "to" and arguments[1].type == "cuda"
                waits = not named.get("non_blocking", False)
                return first if self.on_device(first) == wanted else self._moved(first, wanted, waits)
            if name == "pin_memory":
                locked = first.clone()
                self._locked[locked.data_ptr()] = locked.untyped_storage().nbytes()
                return locked
            if name in ("numpy", "data_ptr"):
                if self.on_device(first):
                    self.fault(f"{name} of a tensor of the device")
                self.host.tick()
                self._access(first, self.host, True, f"the processor's {name}")
        device = named.get("device")
        if device is None:
            wanted = function is torch.autograd.grad and self.on_device(next(_tensors(arguments)))
            return self._creating(wanted, function, arguments, named)
        made = self._creating(device.type == "cuda", function, arguments, {**named, "device": "cpu"})
        if device.type == "cuda" and not self.on_device(made):  # of Python's numbers, which no operation makes
            self._new(made, True)
        return made

    def _creating(self, on_device: bool, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Calls it; tensors that come of no other are the device's, or not."""
        before, self._own.creates = getattr(self._own, "creates", False), on_device
        try:
            return function(*arguments, **named)
        finally:
            self._own.creates = before

    def _moved(self, tensor: Tensor, to_device: bool, waits: bool) -> Tensor:
        made: Tensor = self._creating(to_device, torch.empty, tuple(tensor.shape), {"dtype": tensor.dtype})
        return made.copy_(tensor, non_blocking=not waits)

    def operate(self, function: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """An operation of ATen: done at once, with a look at the clocks."""
        given = list(_tensors([*arguments, *named.values()]))
        result = function(*arguments, **named)
        name, places = _known(function)
        storages = {one.untyped_storage()._cdata for one in given}
        made = [one for one in _tensors([result]) if one.untyped_storage()._cdata not in storages]
        written = list(_tensors([arguments[place] for place in places if place < len(arguments)]))
        if name in ("set_", "requires_grad_") or (given and not written and not made and name != "_local_scalar_dense"):
            return result  # nothing was read: a view, or what is known of a tensor
        kinds = {self.on_device(one) for one in given if one.dim() or self.on_device(one)}
        link = name == "copy_" and len(kinds) == 2
        if len(kinds) == 2 and not link:
            self.fault(f"{name} of tensors of the device and of the host")
        on_device = True in kinds if given else getattr(self._own, "creates", False)
        for one in made:
            self._new(one, on_device)
        if name.startswith("empty"):
            return result
        line = self.stream.launch() if on_device else self.host
        if not on_device:
            line.tick()
        for one in given:
            self._access(one, line, any(one is other for other in written), name)
        for one in made:
            self._access(one, line, True, name)
        if name == "_local_scalar_dense" and on_device:
            self._answer()
        if link:
            host = next(one for one in given if not self.on_device(one))
            if not (arguments[2] if len(arguments) > 2 else named.get("non_blocking", False)):
                self._answer()
            elif host.numel() and not self._is_locked(host):
                self.fault("a copy that is not to keep the host waiting, with memory that is not locked")
        return result

    def _answer(self) -> None:
        self.block()
        self.host.after(self.stream.line.clock)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among the values, and in lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@functools.cache
def _known(function: Any) -> tuple[str, list[int]]:
    """An operation's name, and which of its arguments it writes."""
    writes = [one.alias_info is not None and one.alias_info.is_write for one in function._schema.arguments]
    return function._schema.name.removeprefix("aten::"), [place for place, one in enumerate(writes) if one]


class Stream:
    """As torch.cuda.Stream."""

    def __init__(self, cuda: Cuda, name: str) -> None:
        self._cuda, self.line = cuda, Line(name, True)

    def launch(self) -> Line:
        """The calling thread asks it for something."""
        self.line.after(self._cuda.host.clock)
        self.line.tick()
        return self.line

    def wait_event(self, event: "Event") -> None:
        """What is asked for from now on comes after it."""
        if self._cuda.hears():
            self.line.after(event.clock)


class Event:
    """As torch.cuda.Event."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.clock: Clock = {}

    def record(self) -> None:
        """After all that the calling thread's stream was asked for."""
        self.clock = dict(self._cuda.stream.launch().clock)

    def wait(self) -> None:
        """As `Stream.wait_event`, of the calling thread's."""
        self._cuda.stream.wait_event(self)

    def synchronize(self) -> None:
        """The host waits."""
        self._cuda.block()
        if self._cuda.hears():
            self._cuda.host.after(self.clock)


class Functions(TorchFunctionMode):
    """Sees calls in Python."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._cuda.call(func, args, kwargs or {})


class Operations(TorchDispatchMode):
    """Sees what PyTorch makes of them."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self._cuda = cuda

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self._cuda.operate(func, args, kwargs or {})
