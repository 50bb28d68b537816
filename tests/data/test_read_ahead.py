"""Reading ahead changes nothing but the wait."""

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


def test_waiting_is_counted_and_reading_goes_on_meanwhile() -> None:
    class Slow:
        """Takes 20 ms a batch, as a cold disk may."""

        def batch(self, samples: list[int], context_length: int) -> np.ndarray:
            time.sleep(0.02)
            return np.array(samples)

    with ReadAhead(Slow(), 64, ([i] for i in range(100))) as reader:  # type: ignore[arg-type]
        reader.take()
        assert 0.015 < reader.wait_seconds < 0.2
        time.sleep(0.15)
        before = reader.wait_seconds
        for i in range(1, 5):
            assert reader.take().tolist() == [i]
        assert reader.wait_seconds - before < 0.01


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
