"""A signal ends what the main thread does, wherever it comes."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoflop import interrupts
from isoflop.errors import Interrupted

# As NumPy and PyTorch do: what an import raises is swallowed, and the module stays as far as it came.
SWALLOWS = """
import signal, time
try:
    signal.raise_signal(signal.SIGINT)
    for _ in range(20):
        time.sleep(0.01)
    whole = True
except BaseException:
    pass
"""


@pytest.fixture
def installed() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*interrupts.SIGNALS, signal.SIGALRM)}
    interrupts.install()
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def swallows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "swallows_what_it_is_told.py").write_text(SWALLOWS)
    monkeypatch.syspath_prepend(tmp_path)
    return "swallows_what_it_is_told"


def test_a_signal_within_an_import_comes_right_after_it(installed: None, swallows: str) -> None:
    def imports() -> None:
        __import__(swallows)
        time.sleep(10)

    with pytest.raises(Interrupted) as raised:
        imports()
    assert raised.value.signal_number == signal.SIGINT
    assert sys.modules.pop(swallows).whole


def test_it_is_noted_where_signals_are_deferred_by_then(
    installed: None, swallows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "AGAIN_SECONDS", 0.3)
    __import__(swallows)
    sys.modules.pop(swallows)
    with interrupts.deferred() as pending:
        time.sleep(0.5)
        noted, pending.signal_number = pending.signal_number, None
    assert noted == signal.SIGINT


def test_elsewhere_it_comes_at_once(installed: None) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)  # a second one is not heard
