"""Logs survive kills, and thinned curves keep what matters."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isoflop.durable import SealedLines
from isoflop.report.metrics import COLUMNS, MetricsLog, _row, _rows, _rows_alike, read_metrics, smoothed, thinned
from isoflop.report.run import read_run


def write_log(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_torn_last_line_and_foreign_lines_are_skipped(tmp_path: Path) -> None:
    log = write_log(tmp_path / "m.jsonl", '{"tokens": 1, "loss": 5.0}', "[]", "12", "{}", '{"tokens": 2, "lo')
    metrics = read_metrics(log)
    assert metrics is not None
    assert metrics.tokens.tolist() == [1.0]
    assert metrics.loss.tolist() == [5.0]


def test_steps_logged_again_after_a_resume_count_once(tmp_path: Path) -> None:
    steps = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5), (3, 3.5), (4, 2.0)]
    log = write_log(tmp_path / "m.jsonl", *(json.dumps({"tokens": t, "loss": y}) for t, y in steps))
    metrics = read_metrics(log)
    assert metrics is not None
    assert metrics.tokens.tolist() == [1, 2, 3, 4]
    assert metrics.loss.tolist() == [5.0, 4.5, 3.5, 2.0]


def test_null_nan_and_words_are_unknown_not_errors(tmp_path: Path) -> None:
    losses = ["null", "NaN", '"high"', "1e999", "1" + "0" * 400]
    log = write_log(tmp_path / "m.jsonl", *(f'{{"tokens": {i + 1}, "loss": {y}}}' for i, y in enumerate(losses)))
    metrics = read_metrics(log)
    assert metrics is not None
    assert not np.isfinite(metrics.loss).any()
    assert len(thinned(metrics.tokens, metrics.loss, 100)[0]) == 0
    assert len(smoothed(metrics.tokens, metrics.loss, 100)[0]) == 0


def test_no_log_and_an_empty_log_are_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") is None
    assert read_metrics(write_log(tmp_path / "m.jsonl", "")) is None


@given(seed=st.integers(0, 2**32), n=st.integers(1, 3000), points=st.integers(4, 400))
def test_thinned_curves_are_short_and_keep_ends_of_the_range_and_every_extreme(seed: int, n: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, loss = np.cumsum(rng.integers(1, 100, n)).astype(float), rng.normal(4, 1, n)
    t, y = thinned(tokens, loss, points)
    assert len(t) <= max(points, 2)
    assert (np.diff(t) > 0).all()
    assert y.min() == loss.min()
    assert y.max() == loss.max()
    assert set(zip(t, y, strict=True)) <= set(zip(tokens, loss, strict=True))


@given(seed=st.integers(0, 2**32), n=st.integers(1, 500))
def test_smoothed_is_the_mean_over_a_window_of_log_tokens(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    tokens, loss = np.cumsum(rng.integers(1, 100, n)).astype(float), rng.normal(4, 1, n)
    at, means = smoothed(tokens, loss, 50, width=1.3)
    assert at[0] == tokens[0]
    assert len(at) <= 50
    for t, mean in zip(at, means, strict=True):
        window = loss[(tokens >= t / 1.3) & (tokens <= t * 1.3)]
        assert mean == pytest.approx(window.mean())


def test_a_growing_log_reads_as_it_would_at_once_wherever_it_was_cut(tmp_path: Path) -> None:
    steps = [(t, 5 - t / 10) for t in range(1, 9)] + [(t, 4 - t / 10) for t in range(5, 12)]
    text = "".join(json.dumps({"step": t, "tokens": t, "loss": y, "mfu": None}) + "\n" for t, y in steps).encode()
    whole = tmp_path / "whole.jsonl"
    whole.write_bytes(text)
    at_once = read_metrics(whole)
    assert at_once is not None
    assert at_once.tokens.tolist() == list(range(1, 12))
    growing = tmp_path / "growing.jsonl"
    for cut in range(1, len(text), 7):
        growing.write_bytes(b"")
        log = MetricsLog(growing)
        for part in (text[:cut], text[cut:]):
            with growing.open("ab") as file:
                file.write(part)
            seen = log.read()
        assert seen is not None
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(seen, name), getattr(at_once, name))


def test_a_changed_digit_is_told_and_its_line_left_out(tmp_path: Path) -> None:
    path = tmp_path / "models" / "w8" / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    seals = SealedLines(path)
    lines = [seals.seal({"step": t, "tokens": t, "loss": 5 / t}) for t in range(1, 9)]
    (path.parent / "result.json").write_text('{"name": "w8", "steps": 9}')
    path.write_bytes(b"".join(lines))
    (told,) = [gap for gap in read_run(tmp_path).gaps if "metrics" in gap]
    assert told == "models/w8/metrics.jsonl has 8 of 9 steps; its curve lacks the others."
    path.write_bytes(b"".join(lines).replace(b'"loss": 2.5', b'"loss": 3.5'))
    run = read_run(tmp_path)
    (told,) = [gap for gap in run.gaps if "metrics" in gap]
    assert told == (
        "models/w8/metrics.jsonl is damaged (line 2 changed since it was written); those lines are left out."
    )
    assert run.models[0].metrics is not None
    assert run.models[0].metrics.tokens.tolist() == [1, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("foreign", [0, 1, 2, 7])
def test_lines_that_are_alike_are_read_as_one_by_one(foreign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(foreign)
    lines = []
    for step in range(1, 400):
        loss, lr = dice.choice([2.5, 1e-7, 31.408820663333874]), dice.random() * 10.0 ** dice.randrange(-12, 0)
        line: dict[str, Any] = {"step": step, "tokens": 16 * step, "loss": loss, "lr": lr, "mfu": dice.random()}
        if foreign and dice.random() < 0.2:
            line |= dice.choice([{"unreached": 3}, {"link_bytes": 5, "unreached": 1}, {"joules": 1.5}][: 1 + foreign])
        text = json.dumps({**line, "crc": "0123abcd"})
        if foreign == 7 and step == 300:  # as many commas, and no number where one should be
            text = text.replace('"mfu": ', '"mfu": "a" "')
        lines.append(text)
    content = "\n".join(lines).encode() + b"\n"
    monkeypatch.setattr("isoflop.report.metrics.BLOCK", 4096)
    found = _rows(content)
    assert (_rows_alike(content) is None) == (foreign == 7)
    wanted = [row for line in lines if (row := _row(line)) is not None]
    np.testing.assert_array_equal(found, np.array(wanted))


@pytest.mark.parametrize(
    "line",
    [
        '{"tokens": 3, "loss": 2.0, "crc": "x"',
        '{"tokens": 3, "lose": 2.0, "crc": "x"}',
        '{"tokens": 3, "loss": "2,0", "crc": "x"}',
        '{"tokens": 3, "loss": null, "crc": "x"}',
        '{"loss": 2.0, "tokens": 3, "crc": "x"}',
        '{"tokens": 3,\r"loss": 2.0, "crc": "x"}',
        "[1, 2, 3]",
        "\x00",
        '\n{"tokens": 3, "loss": 2.0, "lr": 1.0, "crc": "x"}',
    ],
)
def test_a_line_unlike_the_others_is_read_as_json(line: str) -> None:
    content = ('{"tokens": 1, "loss": 4.0, "crc": "x"}\n' * 3 + line + "\n").encode()
    wanted = [row for one in content.split(b"\n") if (row := _row(one)) is not None]
    np.testing.assert_array_equal(_rows(content), np.array(wanted))


def test_a_log_that_was_begun_again_is_read_again(tmp_path: Path) -> None:
    path = write_log(tmp_path / "m.jsonl", *(f'{{"tokens": {t}, "loss": 5}}' for t in range(1, 9)), "")
    log = MetricsLog(path)
    log.read()
    path.unlink()
    write_log(path, '{"tokens": 1, "loss": 3}', "")
    seen = log.read()
    assert seen is not None
    assert seen.loss.tolist() == [3.0]


def test_a_plain_log_and_one_with_foreign_lines_read_alike(tmp_path: Path) -> None:
    lines = [f'{{"step": {t}, "tokens": {t}, "loss": {5 / t}, "lr": 1e-3, "mfu": null}}' for t in range(1, 50)]
    plain, foreign = write_log(tmp_path / "a", *lines), write_log(tmp_path / "b", *lines[:9], "{oops", *lines[9:])
    one, other = read_metrics(plain), read_metrics(foreign)
    assert one is not None
    assert other is not None
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
