"""docs/streaming.md shows what the kept results of its benchmark say, and the plan foretells them."""

import importlib.util
import json
from pathlib import Path

import pytest

from isoflop.recipe import Shape
from isoflop.recipe.footprint import resident_footprint

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
    runners = CASES[case]["runners"]
    peak = runners["streamed"]["peak_anonymous_bytes"]
    assert peak == pytest.approx(streaming_table.foretold_bytes(CASES[case]), rel=0.1)
    if "resident" in runners:
        shape, sequences = Shape(**CASES[case]["shape"]), CASES[case]["cut"]["sequences"]
        foretold = resident_footprint(shape, "bf16", sequences, CASES[case]["cores"], "cpu").device_bytes
        assert runners["resident"]["peak_anonymous_bytes"] == pytest.approx(foretold, rel=0.1)


def test_two_sizes_of_resident_training_were_measured() -> None:
    assert [case for case, row in CASES.items() if "resident" in row["runners"]] == ["111M", "590M", "111M-stay"]


@pytest.mark.parametrize("case", list(CASES))
def test_promises_of_memory_are_kept_with_the_losses_of_resident_training(case: str) -> None:
    assert CASES[case]["promise_kept"] is not False
    assert CASES[case]["same_losses_as_resident"] is not False
