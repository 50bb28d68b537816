"""Reading ahead changes nothing but the wait."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from isoflop.config import DataSource
from isoflop.data import ReadAhead, TokenStream, prepare, sample_ids
from isoflop.errors import WorkError


@pytest.fixture
def folder(tmp_path: Path, corpus: DataSource) -> Path:
    prepare(corpus, tmp_path / "data", lambda line: None, chunk_bytes=20_000)
    return tmp_path / "data"


def test_the_same_batches_in_the_same_order(folder: Path) -> None:
    stream = TokenStream(folder, "train")
    n = stream.n_samples(64)
    asked = [sample_ids(first, 5, n, seed=2) for first in range(0, 3 * n, 5)]
    with ReadAhead(stream, 64, asked) as reader:
        for samples in asked:
            assert np.array_equal(reader.take(), stream.batch(samples, 64))
        for _ in range(2):
            with pytest.raises(IndexError):
                reader.take()


def test_waiting_is_counted_and_a_batch_that_is_there_costs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        """Gives nothing until somebody waits for it, as a cold disk may."""

        may = threading.Event()

        def batch(self, samples: list[int], context_length: int) -> np.ndarray:
            self.may.wait()
            return np.array(samples)

    def get(block: bool = True, timeout: float | None = None) -> object:
        if block:
            Held.may.set()
        return really(block, timeout)

    with ReadAhead(Held(), 64, ([i] for i in range(5)), depth=4) as reader:  # type: ignore[arg-type]
        really = reader._ready.get
        monkeypatch.setattr(reader._ready, "get", get)
        reader.take()
        waited = reader.wait_seconds
        assert waited > 0
        while reader._ready.qsize() < 4:
            time.sleep(0.001)
        assert [reader.take().tolist() for _ in range(4)] == [[1], [2], [3], [4]]
        assert reader.wait_seconds == waited


def test_a_fault_reaches_who_takes_the_batch(folder: Path) -> None:
    stream = TokenStream(folder, "train")
    path = folder / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    with ReadAhead(stream, 64, [[0], range(stream.n_samples(64))]) as reader:
        assert reader.take().shape == (1, 65)
        with pytest.raises(WorkError, match=r"train-00001\.bin: changed since it was written"):
            reader.take()


def test_closing_early_ends_the_thread(folder: Path) -> None:
    stream = TokenStream(folder, "train")
    reader = ReadAhead(stream, 64, ([0] for _ in range(10**9)))
    reader.take()
    reader.close()
    assert not reader._thread.is_alive()
