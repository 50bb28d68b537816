"""The plan of a family: what DESIGN's contract names, one rule of growth, and refusals in one line."""

from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.config import load_family
from isoflop.errors import InputError
from isoflop.recipe import Machine, ModelPlan, Plan, check_against_data, plan_family

MACHINE = Machine("test", 2, 2, 8 * 2**30, "2.13.0", "cpu", 9e11, 2e11, "2026-11-24T00:00:00+00:00")
HEAD = """
name = "t"
[data]
source = "."
tokenizer = { kind = "gpt2" }
context_length = 2048
"""


def plan(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "t.toml"
    path.write_text(HEAD + text)
    return plan_family(load_family(path), MACHINE)


def test_target_parameters_are_met_within_a_tenth(tmp_path: Path) -> None:
    targets = [60_000_000, 111_000_000, 590_000_000, 1_300_000_000, 13_000_000_000]
    models = plan(tmp_path, f"[sizes]\ntarget_params = {targets}").models
    for target, model in zip(targets, models, strict=True):
        assert model.shape.params == pytest.approx(target, rel=0.1)
        assert model.shape.d_model % model.shape.n_heads == 0


def test_a_budget_is_spent_and_each_model_costs_four_times_the_one_before(tmp_path: Path) -> None:
    made = plan(tmp_path, "[sizes]\nbudget_flops = 1e21\ncount = 4")
    assert made.totals()["flops"] == pytest.approx(1e21, rel=0.1)
    for small, large in zip(made.models, made.models[1:], strict=False):
        assert large.flops / small.flops == pytest.approx(4, rel=0.25)


def test_a_model_departs_from_the_recipe_only_where_its_own_table_says(tmp_path: Path) -> None:
    table = "\n[[models]]\nname = '{}'\nn_layers = 2\nd_model = {}\nn_heads = 2\n"
    text = "[recipe]\npeak_lr = 1e-3\neps = 1e-7\n" + table.format("a", 32) + table.format("b", 64)
    own = "recipe = { eps = 1e-9, decay = 'cosine', batch_schedule = [{ from_tokens = 0, sequences = 3 }] }"
    first, second = plan(tmp_path, text + own).models
    assert (first.peak_lr, first.eps, first.decay) == (1e-3, 1e-7, "linear")
    assert (second.peak_lr, second.eps, second.decay, second.batch_sequences) == (1e-3, 1e-9, "cosine", 3)
    with pytest.raises(InputError, match=r"models\[2\].recipe.epsilon: unknown key"):
        plan(tmp_path, text + "recipe = { epsilon = 1e-9 }")


def test_tokens_are_twenty_a_parameter_and_whole_steps(tmp_path: Path) -> None:
    for model in plan(tmp_path, "[sizes]\ntarget_params = [111_000_000, 256_000_000]").models:
        batch = model.batch_sequences * 2048
        assert model.tokens == model.steps * batch
        assert 0 <= 20 * model.shape.params - model.tokens < batch
        assert model.batch_sequences % model.microbatch_sequences == 0


def test_seeds_become_models_and_the_largest_is_held_out(tmp_path: Path) -> None:
    made = plan(
        tmp_path,
        """
[[models]]
name = "b"
n_layers = 2
d_model = 64
n_heads = 2
[[models]]
name = "a"
n_layers = 2
d_model = 32
n_heads = 2
seeds = 2
""",
    )
    assert [(model.name, model.seed, model.held_out) for model in made.models] == [
        ("a", 0, False),
        ("a-s1", 1, False),
        ("b", 0, True),
    ]
    document = made.to_json()
    wanted = {
        "name n_layers d_model n_heads params params_non_embedding tokens batch_sequences steps peak_lr flops "
        "weights_bytes optimizer_bytes activation_bytes seconds held_out"
    }
    assert set(" ".join(wanted).split()) <= set(document["models"][0])
    assert {"family", "models", "totals"} <= set(document)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[sizes]\ntarget_params = [20_000]", "sizes.target_params"),
        (f"[sizes]\ntarget_params = {[111_000_000 + i for i in range(40)]}", "sizes: two of the models come out as"),
        ("[sizes]\nbudget_flops = 1e3", "sizes"),
        (
            "[sizes]\ntarget_params = [111_000_000]\n[recipe]\ntokens_per_parameter = 1e30",
            "recipe.tokens_per_parameter",
        ),
        ("held_out = 'x'\n[sizes]\ntarget_params = [111_000_000]", "held_out"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    if text.startswith("held_out"):
        line, text = text.split("\n", 1)
        path = tmp_path / "t.toml"
        path.write_text(line + HEAD + text)
        with pytest.raises(InputError, match=named):
            plan_family(load_family(path), MACHINE)
        return
    with pytest.raises(InputError, match=named) as caught:
        plan(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_data_shorter_than_the_context_is_refused_and_epochs_are_told(tmp_path: Path) -> None:
    made = plan(tmp_path, "[sizes]\ntarget_params = [111_000_000]")
    with pytest.raises(InputError, match=r"context_length = 2,048 is longer than the held-out data"):
        check_against_data(made, 10**6, 2048)
    assert "2.2 epochs" in check_against_data(made, 10**9, 10**6)[0]


def test_more_systems_share_the_time_and_cost_what_one_does(tmp_path: Path) -> None:
    cost = "[cost]\nwatts_per_system = 60\nprice_per_system_hour = 0.5\n"
    nodes = '[cluster]\nkind = "slurm"\nsystems_per_node = 2\n'
    gpu = replace(MACHINE, device="cuda")

    def planned(systems: int, more: str = "", machine: Machine = MACHINE) -> Plan:
        path = tmp_path / "family.toml"
        path.write_text(f"systems = {systems}\n{HEAD}[sizes]\ntarget_params = [60_000_000]\n{cost}{more}")
        return plan_family(load_family(path), machine)

    one, on_one_gpu = planned(1).totals(), planned(1, machine=gpu).totals()
    assert one["price"] == pytest.approx(one["seconds"] / 3600 * 0.5)
    assert one["joules"] == pytest.approx(one["seconds"] * 60)
    for systems, more, machine, alone, machines in (
        (4, "", MACHINE, one, 1),  # they share its cores
        (4, nodes, MACHINE, one, 2),
        (4, "", gpu, on_one_gpu, 4),
    ):
        totals = planned(systems, more, machine).totals()
        assert totals["seconds"] == pytest.approx(alone["seconds"] / machines)
        assert (totals["price"], totals["joules"]) == (alone["price"], alone["joules"])


def test_images_of_layers_stay_where_a_gpu_has_room_and_inputs_leave_it_where_it_has_none(tmp_path: Path) -> None:
    text = '[sizes]\ntarget_params = [1_300_000_000]\n[streaming]\nstore = "host"\n'

    def planned(memory_bytes: int) -> ModelPlan:
        path = tmp_path / "family.toml"
        path.write_text(f'execution = "streamed"\n{HEAD}{text}')
        machine = replace(MACHINE, device="cuda", memory_bytes=memory_bytes)
        return plan_family(load_family(path), machine).models[0]

    all_there = planned(80 * 10**9)
    there = planned(all_there.streamed.device_bytes)
    away = planned(there.streamed.device_bytes // 2)
    assert [one.offload for one in (all_there, there, away)] == [False, False, True]
    assert all_there.staying == 22 > there.staying > 0
    assert all_there.fingerprint() == there.fingerprint() == away.fingerprint()
    assert all_there.streamed.device_bytes > there.streamed.device_bytes > away.streamed.device_bytes
    assert away.streamed.host_bytes > there.streamed.host_bytes == all_there.streamed.host_bytes
    assert there.streamed.link_bytes > all_there.streamed.link_bytes
    assert away.streamed.link_bytes > there.streamed.link_bytes


def test_embeddings_stay_in_memory_where_the_family_file_says_so(tmp_path: Path) -> None:
    def planned(more: str, device: str = "cpu") -> ModelPlan:
        path = tmp_path / "family.toml"
        sizes = "[sizes]\ntarget_params = [100_000_000]\n"
        path.write_text(f'execution = "streamed"\n{HEAD}{sizes}[streaming]\n{more}')
        return plan_family(load_family(path), replace(MACHINE, device=device)).models[0]

    there, away = planned("embeddings_stay = true"), planned("")
    assert (there.embeddings_stay, away.embeddings_stay) == (True, False)
    assert there.streamed.host_bytes > away.streamed.host_bytes == 0
    assert there.streamed.device_bytes > away.streamed.device_bytes  # their sums
    assert there.streamed.disk_bytes < away.streamed.disk_bytes
    assert there.fingerprint() == away.fingerprint()
    # Elsewhere they have nowhere else to be, or no place.
    assert not planned('embeddings_stay = true\nstore = "host"').embeddings_stay
    assert not planned("embeddings_stay = true", device="cuda").embeddings_stay


def test_a_store_lies_in_host_memory_beside_a_gpu_where_it_fits_there(tmp_path: Path) -> None:
    def store(host_gib: int, systems: int = 1, more: str = "", device: str = "cuda") -> str:
        path = tmp_path / "family.toml"
        sizes = "[sizes]\ntarget_params = [1_300_000_000]\n"
        path.write_text(f'systems = {systems}\nexecution = "streamed"\n{HEAD}{sizes}{more}')
        machine = replace(MACHINE, device=device, memory_bytes=80 * 10**9, host_memory_bytes=host_gib * 2**30)
        return plan_family(load_family(path), machine).models[0].store

    assert store(128) == "host"
    assert store(24) == "disk"  # 1.3B: 18 bytes a parameter
    assert store(24, systems=2) == "disk"  # together they hold one store, and share the memory
    two_nodes = '[cluster]\nkind = "slurm"\n'
    assert store(24, systems=2, more=two_nodes) == "host"
    assert store(24, more='[streaming]\nstore = "host"\n') == "host"  # whoever says so is heard
    assert store(128, device="cpu") == "disk"
