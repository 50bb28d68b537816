"""A signal ends what the main thread does, wherever it comes."""

import signal
import subprocess
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
    monkeypatch.setattr(interrupts, "AGAIN_SECONDS", 1000.0)
    __import__(swallows)
    sys.modules.pop(swallows)
    with interrupts.deferred() as pending:
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        signal.raise_signal(signal.SIGALRM)  # that time is over
        noted, pending.signal_number = pending.signal_number, None
    assert noted == signal.SIGINT


def test_elsewhere_it_comes_at_once(installed: None) -> None:
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)  # a second one is not heard


STARTS = """
import signal
from multiprocessing import get_context

from isoflop.interrupts import held_back


def held() -> None:
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))


if __name__ == "__main__":
    with held_back():
        process = get_context("spawn").Process(target=held)
        process.start()
    process.join()
    print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
"""


def test_the_first_process_that_starts_is_spared_signals_too(tmp_path: Path) -> None:
    """It starts after multiprocessing's tracker of resources, which lets signals come on its way."""
    (tmp_path / "starts.py").write_text(STARTS)
    done = subprocess.run([sys.executable, tmp_path / "starts.py"], capture_output=True, text=True, check=True)
    both = sorted(signal.Signals(number) for number in interrupts.SIGNALS)
    assert done.stdout.splitlines() == [str(both), "[]"]
