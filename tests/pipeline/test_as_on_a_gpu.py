"""A family trained as on a GPU, with a stand-in for it: every line that only a GPU runs is run."""

import math
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family
from isoflop.pipeline import RunFolder
from isoflop.pipeline.train import train_family
from isoflop.systems import machine
from tests.as_if_cuda import as_if_cuda


@pytest.mark.parametrize("execution", ["resident", "streamed"])
def test_it_learns_what_the_processor_learns(
    family: Family, tmp_path: Path, heard: Any, execution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(machine, "GPU_SIDE", 32)
    # Two of its microbatches in a step.
    recipe = family.recipe.model_copy(update={"microbatch_tokens": 4 * 32})
    family = family.model_copy(update={"recipe": recipe, "execution": execution, "precision": "bf16"})
    resident = family.model_copy(update={"execution": "resident"})
    wanted = train_family(resident, RunFolder(tmp_path / "cpu"), heard, "w8")
    with as_if_cuda(monkeypatch) as graphs:
        got = train_family(family, RunFolder(tmp_path / "gpu"), heard, "w8")
    assert got[0].processor == "a stand-in"
    assert got[0].steps == wanted[0].steps
    assert math.isclose(got[0].nats_per_token, wanted[0].nats_per_token, rel_tol=5e-3)
    # All passes but the first two of the one shape that they have.
    assert graphs.replays == (2 * got[0].steps - 1 if execution == "resident" else 0)
