"""A stand-in for a GPU: the processor computes, and `torch.cuda` is told of all that a GPU would be.

It shows that each line that only a GPU runs can be run, and what it computes; not how fast, nor what a driver says.
Recorded graphs are true to CUDA's: recording computes nothing, a replay reads and writes the memory of the recording.
"""

import contextlib
import functools
import gc
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MEMORY_BYTES = 80 * 10**9


class OnTheProcessor(TorchFunctionMode):
    """Whoever asks for a GPU gets the processor."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        if function is Tensor.pin_memory:
            return args[0]
        return function(*map(_moved, args), **{key: _moved(value) for key, value in (kwargs or {}).items()})


def _moved(argument: Any) -> Any:
    on_gpu = isinstance(argument, torch.device) and argument.type == "cuda"
    return torch.device("cpu") if on_gpu or argument == "cuda" else argument


class Stream:
    """All work is done when it is asked for."""

    def wait_stream(self, other: "Stream") -> None: ...

    def wait_event(self, event: "Event") -> None: ...


class Event:
    """Has come as soon as it is recorded."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False) -> None: ...

    def record(self, stream: Stream | None = None) -> None: ...

    def wait(self, stream: Stream | None = None) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: "Event") -> float:
        """Milliseconds."""
        return 1.0


class Graph(TorchDispatchMode):
    """What is called inside is remembered and undone; `replay` calls it again in the same memory."""

    replays = 0

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        kwargs = kwargs or {}
        for argument, given in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._before.append((given, given.clone()))
        answer = function(*args, **kwargs)
        self._calls.append((function, args, kwargs, answer))
        return answer

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for changed, before in reversed(self._before):
            changed.copy_(before)

    def replay(self) -> None:
        """As CUDA's."""
        Graph.replays += 1
        with torch.no_grad():
            for function, args, kwargs, answer in self._calls:
                for kept, made in zip(tree_leaves(answer), tree_leaves(function(*args, **kwargs)), strict=True):
                    if isinstance(kept, Tensor) and kept.data_ptr() != made.data_ptr():
                        kept.copy_(made)


def _compile(function: Callable[..., Any], *, dynamic: bool) -> Callable[..., Any]:
    return function


@contextlib.contextmanager
def as_if_cuda(monkeypatch: Any) -> Iterator[type[Graph]]:
    """Inside the block this thread sees one GPU. What is compiled there is taken as it is."""
    properties = SimpleNamespace(name="a stand-in", total_memory=MEMORY_BYTES, uuid="none")
    for name, value in {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "set_device": lambda device: None,
        "synchronize": lambda: None,
        "get_device_properties": lambda device: properties,
        "get_device_name": lambda: properties.name,
        "cudart": lambda: SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0),
        "current_stream": Stream,
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": _graph(torch.cuda.graph),
    }.items():
        assert hasattr(torch.cuda, name)
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "compile", _compile)
    monkeypatch.setattr(torch.compiler, "reset", lambda: None)
    # Without the compiler's settings, which take seconds to import.
    deterministic = functools.partial(torch._C._set_deterministic_algorithms, warn_only=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", deterministic)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    was, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    Graph.replays = 0
    try:
        with OnTheProcessor():
            yield Graph
    finally:
        gc.collect()  # what a GPU would be told of memory that goes
        deterministic(was)
        torch.utils.deterministic.fill_uninitialized_memory = filled


def _graph(real: Any) -> Callable[..., Graph]:
    signature = inspect.signature(real.__init__)

    def graph(graph: Graph, **more: Any) -> Graph:
        signature.bind(None, graph, **more)
        return graph

    return graph
