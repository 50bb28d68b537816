"""docs/streaming.md shows what the kept results of its benchmark say, and the plan foretells them."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("streaming_table", ROOT / "benchmarks" / "streaming_table.py")
assert spec is not None
assert spec.loader is not None
streaming_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(streaming_table)
CASES = json.loads(streaming_table.RESULTS.read_text())["cases"]


def test_the_table_is_that_of_the_results() -> None:
    assert streaming_table.table() in (ROOT / "docs" / "streaming.md").read_text()


@pytest.mark.parametrize("case", list(CASES))
def test_measured_memory_is_within_a_tenth_of_what_is_foretold(case: str) -> None:
    peak = CASES[case]["runners"]["streamed"]["peak_anonymous_bytes"]
    assert peak == pytest.approx(streaming_table.foretold_bytes(CASES[case]), rel=0.1)


@pytest.mark.parametrize("case", list(CASES))
def test_promises_of_memory_are_kept_with_the_losses_of_resident_training(case: str) -> None:
    assert CASES[case]["promise_kept"] is not False
    assert CASES[case]["same_losses_as_resident"] is not False
