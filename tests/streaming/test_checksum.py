"""Checksums of the store are zlib's CRC-32, whoever computes them."""

import zlib

import pytest
import torch

from isoflop.streaming import checksum as module
from isoflop.streaming.checksum import checksum


def contents(n_bytes: int) -> torch.Tensor:
    return torch.randint(0, 256, (n_bytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(n_bytes))


@pytest.mark.parametrize("n_bytes", [0, 1, 16, 63, 64, 65, 127, 128, 200, 4096, 4096 + 15, 2**20 + 60])
def test_it_is_zlibs(n_bytes: int) -> None:
    content = contents(n_bytes)
    assert checksum(content) == zlib.crc32(bytes(content.tolist()))
    moved = contents(n_bytes + 3)[3:]
    assert checksum(moved) == zlib.crc32(bytes(moved.tolist()))


def test_of_other_types_the_bytes_count() -> None:
    content = torch.randn(1003, dtype=torch.bfloat16)
    assert checksum(content) == zlib.crc32(content.view(torch.uint8).numpy().tobytes())


def test_without_a_compiler_or_the_instruction_zlib_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    content = contents(1000)
    wanted = checksum(content)

    class Unable:
        def fold(self, *_: object) -> int:
            return 0

    for folding in (None, Unable()):
        monkeypatch.setattr(module, "_folding", lambda folding=folding: folding)
        assert checksum(content) == wanted
