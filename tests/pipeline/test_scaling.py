"""Which systems and hardware `isoflop plan --systems` foretells for."""

from pathlib import Path

import pytest

from isoflop.config import load_family
from isoflop.errors import InputError
from isoflop.pipeline.scaling import foretell_scaling, parse_systems
from isoflop.published import published_hardware
from isoflop.recipe import Machine, Plan, plan_family

MACHINE = Machine("test", 2, 2, 8 * 2**30, "2.13.0", "cpu", 9e11, 2e11, "2026-11-24T00:00:00+00:00")
FAMILY = """
name = "t"
[data]
source = "."
tokenizer = { kind = "gpt2" }
context_length = 2048
[sizes]
target_params = [111_000_000, 1_300_000_000]
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "t.toml"
    path.write_text(FAMILY)
    return plan_family(load_family(path), MACHINE)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4", [4]),
        ("1,2,7", [1, 2, 7]),
        ("1,2,4,...,64", [1, 2, 4, 8, 16, 32, 64]),
        ("1, 2, ..., 8", [1, 2, 4, 8]),
        ("1,2,3,...,6", [1, 2, 3, 4, 5, 6]),
        ("8,16,24,...,48", [8, 16, 24, 32, 40, 48]),
        ("1,10,100,...,10000", [1, 10, 100, 1000, 10000]),
    ],
)
def test_numbers_of_systems_are_read_and_rows_continued(text: str, numbers: list[int]) -> None:
    assert parse_systems(text) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "2,1",
        "1,1",
        "a",
        "1,...,8",
        "1,2,...",
        "...",
        "1,2,4,...,63",
        "99999999",
        "1,2,...,4,...,8",
        "-1",
        "1,2,3,...,3000",
    ],
)
def test_other_numbers_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match="--systems"):
        parse_systems(text)


def test_this_machine_and_a_gpu_are_foretold_for_unless_hardware_is_named(plan: Plan) -> None:
    ours, gpu = foretell_scaling(plan, [1, 2])
    assert (ours.model, ours.hardware.name) == (plan.models[-1].name, "this machine")
    assert [(row.systems, row.way) for row in ours.rows] == [
        (n, way) for n in (1, 2) for way in ("resident", "streamed")
    ]
    assert {row.way for row in gpu.rows} == {"resident", "streamed", "ZeRO-3", "3D"}
    named = foretell_scaling(plan, [1, 2], plan.models[0].name, "a100-80gb")
    assert [(one.model, one.hardware.name) for one in named] == [(plan.models[0].name, "a100-80gb")]


def test_one_of_this_machine_takes_as_long_as_the_plan_says(plan: Plan) -> None:
    ours, _ = foretell_scaling(plan, [1, 2])
    found = ours.rows[0].foretold
    assert found is not None
    model = plan.models[-1]
    assert found.step_seconds == pytest.approx(model.seconds / model.tokens * ours.work.tokens)


def test_hardware_of_ones_own_is_a_file_with_the_same_columns(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "ours.csv"
    columns = list(published_hardware()[0].__dict__)
    values = {name: "8" if name == "devices_per_node" else "1e12" for name in columns} | {"name": "x", "source": "y"}
    path.write_text(",".join(columns) + "\n" + ",".join(values.values()) + "\n")
    assert foretell_scaling(plan, [1, 2], None, str(path))[0].hardware.name == "x"
    for bad, said in (("1e12", "flops_per_second"), ("8", "devices_per_node")):
        path.write_text(",".join(columns) + "\n" + ",".join(values.values()).replace(bad, "nan", 1) + "\n")
        with pytest.raises(InputError, match=said):
            foretell_scaling(plan, [1, 2], None, str(path))


@pytest.mark.parametrize("name", ["abacus", "ethernet-10g", "nowhere.csv"])
def test_unknown_hardware_is_refused(plan: Plan, name: str) -> None:
    with pytest.raises(InputError, match=name):
        foretell_scaling(plan, [1, 2], None, name)


def test_every_row_of_published_hardware_says_where_it_is_from() -> None:
    assert all(len(row.source) > 20 for row in published_hardware())
