"""benchmarks/streaming_gpu.py goes its way on a GPU to the end, under a stand-in for one."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from inspect import CO_OPTIMIZED
from multiprocessing.dummy import Pipe
from pathlib import Path
from types import CodeType, FrameType, ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.streaming.cuda import Cuda

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "streaming_gpu.py"
# What a GPU, or a whole minute, has no need of.
ELSEWHERE = ("parser.error(", "print(json", "signal.signal(", "except ", 'return {"why": "', 'connection.send({"why"')


class Worker(threading.Thread):
    """A thread in the place of a process."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
        super().__init__(target=target, args=args, daemon=daemon)

    def kill(self) -> None:
        """It has said all."""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """The benchmark as a module, of tiny models, on a GPU as the stand-in is one."""
    spec = spec_from_file_location("streaming_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "streaming_gpu", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(module, "MIB", 2**10)
    monkeypatch.setattr(module, "STEPS", 2)
    monkeypatch.setattr(module, "get_context", lambda _: SimpleNamespace(Pipe=Pipe, Process=Worker))
    monkeypatch.setattr("isoflop.train.on_device.RECORDED_FLOPS", 0.0)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    cuda = Cuda(torch.device("cuda", 0))
    cuda.install(monkeypatch)
    try:
        with cuda.watching():
            yield module
    finally:
        torch.use_deterministic_algorithms(False)
    assert not cuda.faults


def lines_of(code: CodeType) -> set[int]:
    """All lines of functions that can be run."""
    inner = [one for one in code.co_consts if isinstance(one, CodeType)]
    own = {number for _, _, number in code.co_lines() if number is not None} - {code.co_firstlineno}
    return (own if code.co_flags & CO_OPTIMIZED else set()).union(*map(lines_of, inner))


def test_every_line_for_a_gpu_runs(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != str(SCRIPT):
            return None
        seen.add(frame.f_lineno)
        return trace

    all_cases = script.cases
    shape, too_large = script.Shape(3, 16, 2, 40, 8), script.Shape(3, 16_384, 2, 40, 8)
    cases = [
        script.Case("a", shape, "resident", 2, 2),
        script.Case("a", shape, "host", 2, 2, spare=False),
        script.Case("a", shape, "host", 2, 2),
        script.Case("a", shape, "disk", 2, 2),
        script.Case("b", too_large, "resident", 2, 2),
    ]
    monkeypatch.setattr(script, "cases", lambda tiny: iter(cases))
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        for arguments in (["--store", str(tmp_path)], ["--foretell"]):
            monkeypatch.setattr(sys, "argv", ["streaming_gpu.py", *arguments])
            script.main()
        assert len(list(all_cases(True))) == len(list(all_cases(False)))
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["device"] == "a stand-in"
    assert all(rate > 0 for rate in found["bytes_per_second"].values())
    *rows, too_large = found["cases"]
    assert "why" in too_large
    resident, *streamed = rows
    for row in rows:
        assert row["loss"] == pytest.approx(resident["loss"], rel=1e-3)
        assert row["device_bytes"] > 0
    assert streamed[0]["link_bytes"] > streamed[1]["link_bytes"]  # images stayed
    assert all(row["foretold_seconds"] > 0 for row in streamed)
    text = SCRIPT.read_text().splitlines()
    left = [text[number - 1].strip() for number in sorted(lines_of(compile("\n".join(text), SCRIPT, "exec")) - seen)]
    assert [line for line in left if not line.startswith(ELSEWHERE)] == []
