"""A small family with a plan, and results as training would leave them."""

import json
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family, load_family
from isoflop.pipeline import RunFolder
from isoflop.pipeline.plan import store_plan
from isoflop.pipeline.result import Result, fingerprint_of, write_result
from isoflop.recipe import Machine, ModelPlan, Plan, plan_family

MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 9e11, 2e11, "2026-11-24T00:00:00+00:00")

FAMILY = """
name = "tiny"
precision = "fp32"

[data]
source = "corpus.jsonl"
licence = "CC0-1.0"
tokenizer = { kind = "bpe", vocab_size = 300 }
context_length = 32
held_out_fraction = 0.1

[recipe]
tokens_per_parameter = 1.0
batch_schedule = [{ from_tokens = 0, sequences = 8 }]
""" + "".join(
    f'\n[[models]]\nname = "w{width}"\nn_layers = 1\nd_model = {width}\nn_heads = 2\n' for width in (8, 12, 16, 24, 32)
)


@pytest.fixture
def family_file(tmp_path: Path) -> Path:
    """A family of five sizes, the largest held out, with its corpus beside it."""
    return _write_family(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same family file; what one test trains there no other changes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _write_family(folder)
    return folder


def _write_family(folder: Path) -> Path:
    texts = [f"Number {i} squared is {i * i}. The next one follows at once. " * 8 for i in range(300)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = folder / "tiny.toml"
    path.write_text(FAMILY)
    return path


@pytest.fixture
def family(family_file: Path) -> Family:
    return load_family(family_file)


@pytest.fixture
def plan(family: Family) -> Plan:
    return plan_family(family, MACHINE)


@pytest.fixture
def folder(tmp_path: Path, family: Family, plan: Plan) -> RunFolder:
    """A run directory that holds the plan."""
    folder = RunFolder(tmp_path / "runs" / "tiny")
    store_plan(family, plan, folder)
    return folder


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *heard, **more: self.calls.append((name, heard[0]))

    @property
    def notes(self) -> str:
        return "\n".join(heard for name, heard in self.calls if name == "note")

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]


@pytest.fixture
def heard() -> Heard:
    return Heard()


def result_of(model: ModelPlan, nats_per_token: float | None = None) -> Result:
    """What training `model` would leave, its loss on a power law unless given."""
    loss = nats_per_token or 5.0 * (model.flops / 1e9) ** -0.07
    return Result(
        name=model.name,
        size=model.size,
        seed=model.seed,
        params=model.shape.params,
        params_non_embedding=model.shape.params_non_embedding,
        tokens=model.tokens,
        steps=model.steps,
        flops=model.flops,
        nats_per_token=loss,
        bits_per_byte=loss * 0.6,
        held_out_tokens=1000,
        held_out_bytes=2400,
        domains={},
        systems=1,
        seconds=1.5,
        joules=None,
        joules_origin=None,
        price=None,
        weights_sha256="0" * 64,
        threads=2,
        processor="a processor",
        torch="2.15.0",
        isoflop="0.1.0",
        time="2026-11-24T00:00:00+00:00",
        fingerprint=fingerprint_of(model, None),
    )


@pytest.fixture
def train_ladder(folder: RunFolder, plan: Plan) -> None:
    """Results for all but the held-out model."""
    for model in plan.ladder:
        write_result(folder, result_of(model))
