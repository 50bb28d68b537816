"""Whatever changes in a log after it was written shows, and speaks against no other line."""

import json
import random
from pathlib import Path

import pytest

from isoflop.durable import SealedLines

STEPS = 30


def log(path: Path) -> list[bytes]:
    seals = SealedLines(path)
    return [seals.seal({"step": i, "loss": 5 / i}) for i in range(1, STEPS + 1)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w8" / "metrics.jsonl"


def intact(path: Path, content: bytes) -> tuple[list[bytes], SealedLines]:
    seals = SealedLines(path)
    return seals.intact(content).splitlines(keepends=True), seals


def test_lines_are_json_and_what_was_written_holds_in_whatever_pieces(path: Path) -> None:
    lines = log(path)
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    for cut in range(STEPS):
        seals = SealedLines(path)
        assert seals.intact(b"".join(lines[:cut])) + seals.intact(b"".join(lines[cut:])) == b"".join(lines)
        assert (seals.lines, seals.damaged) == (STEPS, 0)


def test_a_flipped_bit_costs_its_line_and_at_most_the_next(path: Path) -> None:
    lines, dice = log(path), random.Random(1)
    content = b"".join(lines)
    first = len(lines[0])  # without its seal a first line would be an older version's
    for _ in range(300):
        at = dice.randrange(first, len(content))
        changed = bytearray(content)
        changed[at] ^= 1 << dice.randrange(8)
        found, seals = intact(path, bytes(changed[: changed.rfind(b"\n") + 1]))
        assert set(found) <= set(lines)
        assert STEPS - 2 <= len(found) < STEPS
        if at < len(content) - 1:
            assert seals.first_damaged == content[:at].count(b"\n") + 1


def test_a_flipped_bit_of_the_first_line_changes_no_number_or_is_seen(path: Path) -> None:
    lines = log(path)
    for bit in range(8 * len(lines[0])):
        changed = bytearray(b"".join(lines))
        changed[bit // 8] ^= 1 << bit % 8
        found, seals = intact(path, bytes(changed))
        assert seals.damaged
        figures = lines[0][: lines[0].index(b', "crc')]
        assert all(line in lines or line.startswith(figures) or not is_json(line) for line in found)


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def test_another_models_log_is_not_taken_for_ones_own(path: Path) -> None:
    found, seals = intact(path, b"".join(log(path.parent.with_name("w16") / path.name)))
    assert (found, seals.damaged, seals.first_damaged) == ([], STEPS, 1)


def test_a_line_gone_or_given_twice_shows(path: Path) -> None:
    lines = log(path)
    assert intact(path, b"".join(lines[:4] + lines[5:]))[1].first_damaged == 5
    assert intact(path, b"".join(lines[:5] + lines[4:]))[1].first_damaged == 6


def test_lines_of_older_versions_count_until_the_first_sealed_one(path: Path) -> None:
    old = b'{"step": 1}\n{"step": 2}\n'
    assert intact(path, old)[1].damaged == 0
    seals = SealedLines(path)
    seals.intact(old)
    new = seals.seal({"step": 3})
    assert intact(path, old + new)[1].damaged == 0
    assert intact(path, old.replace(b"2", b"7") + new)[1].first_damaged == 3
    found, seals = intact(path, old + new + old)
    assert b"".join(found) == old + new
    assert seals.damaged == 2
