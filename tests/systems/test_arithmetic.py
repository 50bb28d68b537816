"""Systems whose arithmetic differs are refused, or noted where the bits are not promised."""

from pathlib import Path

import pytest

from isoflop.model import load_kernels
from isoflop.systems.arithmetic import arithmetic_of
from isoflop.systems.distributed import _verdict


def test_what_the_bits_depend_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    here = arithmetic_of(load_kernels())
    assert here == arithmetic_of(load_kernels())
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    limited = arithmetic_of(None)
    changed = [key for key in here if here[key] != limited[key]]
    assert "the limits on instructions in the environment" in changed
    assert limited["the limits on instructions in the environment"].endswith("ONEDNN_MAX_CPU_ISA=AVX2")


@pytest.mark.parametrize("key", arithmetic_of(None))
def test_arithmetic_that_differs_is_refused_or_noted(key: str) -> None:
    own = {**arithmetic_of(None), "torch": "1", "sees": "True", "host": "a", "processor": "p"}
    other = {**own, "host": "b", key: "another"}
    fault, _ = _verdict([own, own, other], ["torch"], arithmetic_of(None), True, Path("runs"))
    assert fault is not None
    assert f"systems 0 (a) and 2 (b) differ: {key} is {own[key]} and another" in fault
    assert "reproducible = false" in fault
    fault, notes = _verdict([own, own, other], ["torch"], arithmetic_of(None), False, Path("runs"))
    assert fault is None
    assert len(notes) == 1
    assert _verdict([own, own], ["torch"], arithmetic_of(None), True, Path("runs")) == (None, [])


@pytest.mark.parametrize("key", ["isoflop", "torch", "the family file", "a C compiler"])
def test_systems_that_are_not_alike_say_what_differs(key: str) -> None:
    own = {key: "one", "sees": "True", "host": "a", "processor": "p"}
    for reproducible in (True, False):
        fault, _ = _verdict([own, {**own, "host": "b", key: "another"}], [key], [], reproducible, Path("runs"))
        assert fault == f"systems 0 (a) and 1 (b) differ: {key} is one and another; make them alike"
