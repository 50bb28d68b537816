"""`isoflop plan` of a published family, and `isoflop import`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from isoflop.errors import InputError
from isoflop.model import initialise
from isoflop.pipeline.interchange import import_folder
from isoflop.recipe import Shape
from isoflop.release.exporting import export_model

FAMILIES = Path(__file__).parents[2] / "families"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = initialise(Shape(1, 16, 2, 300, 32), 0)
    folder = tmp_path_factory.mktemp("model") / "small"
    export_model(folder, weights, dict.fromkeys(weights, torch.float16), {"eos_token_id": 299})
    return folder


def test_plan_shows_the_published_figures_and_every_deviation(isoflop) -> None:
    done = isoflop("plan", str(FAMILIES / "cerebras-gpt.toml"))
    assert done.returncode == 0
    row = next(line for line in done.stdout.splitlines() if line.startswith("13B ") and "12,853,386,240" in line)
    assert row.split() == ["13B", "12,853,386,240", "12,853,386,240", "257,066,680,320", "257,067,417,600"]
    flops = next(line for line in done.stdout.splitlines() if line.startswith("111M ") and "2.6e18" in line)
    assert flops.split() == ["111M", "1.88e18", "1.48e18", "2.64e18", "2.6e18", "+1.5", "%"]
    assert "- tokens: " in done.stdout
    # Wrapped, not cut: the longest reason has over 300 characters.
    assert max(map(len, done.stdout.partition("\nDeviations")[2].splitlines())) <= 80
    assert "so that no update of ours has rate 0 and the last" in " ".join(done.stdout.split())
    assert "371,000,000,000 tokens that the family file states" in done.stderr


def test_plan_json_has_the_published_family_beside_ours(isoflop, tmp_path: Path) -> None:
    done = isoflop("plan", str(FAMILIES / "cerebras-gpt-mup.toml"), "--json")
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "runs" / "cerebras-gpt-mup" / "plan.json").read_text())
    assert [one["model"] for one in document["published"]["models"]] == ["111M", "256M", "590M", "1.3B", "2.7B"]
    assert all(one["reason"] for one in document["published"]["deviations"])
    assert {model["parametrisation"] for model in document["models"]} == {"mup"}


def test_training_it_without_its_corpus_is_refused(isoflop, tmp_path: Path) -> None:
    done = isoflop("train", str(FAMILIES / "cerebras-gpt.toml"), "--model", "111M")
    assert done.returncode == 2
    assert "corpora/pile" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_import_says_what_a_folder_holds_and_writes_it_anew(isoflop, model_folder: Path, tmp_path: Path) -> None:
    done = isoflop("import", str(model_folder), "--to", "copy", "--dtype", "fp32")
    assert done.returncode == 0
    assert "GPT-2 of 1 layer, width 16, 2 heads" in done.stdout
    assert "stored as fp16" in done.stdout
    again = json.loads(isoflop("import", "copy", "--json").stdout)
    assert (again["dtypes"], again["params"]) == (["fp32"], 300 * 16 + 32 * 16 + 12 * 256 + 13 * 16 + 32)
    assert f"SHA-256 of its weights, read as fp32: {again['weights_sha256']}\n" in done.stdout
    assert f"SHA-256 of the weights written, read as fp32: {again['weights_sha256']}\n" in done.stdout
    assert "differ" not in done.stdout


def test_import_into_a_type_that_rounds_gives_the_hash_of_either(isoflop, model_folder: Path) -> None:
    done = isoflop("import", str(model_folder), "--to", "half", "--dtype", "bf16")
    source, written = (json.loads(isoflop("import", str(one), "--json").stdout) for one in (model_folder, "half"))
    assert source["weights_sha256"] != written["weights_sha256"]
    assert f"SHA-256 of its weights, read as fp32: {source['weights_sha256']}\n" in done.stdout
    assert "written to half, stored as bf16\n" in done.stdout
    assert f"SHA-256 of the weights written, read as fp32: {written['weights_sha256']}\n" in done.stdout
    assert "the two differ" in done.stdout
    assert (source["written_to"], source["written_weights_sha256"]) == (None, None)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_import_refuses_weights_that_are_not_finite_and_writes_nothing(
    isoflop, model_folder: Path, tmp_path: Path, number: float
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model_folder, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["transformer.h.0.mlp.c_fc.weight"][3, :2] = number
    save_file(tensors, broken / "model.safetensors")
    done = isoflop("import", "broken", "--to", "copy")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "tensor transformer.h.0.mlp.c_fc.weight holds NaN or infinity (2 of 1,024 numbers)" in done.stderr
    assert not (tmp_path / "copy").exists()


def test_a_folder_that_cannot_work_is_one_line(isoflop, model_folder: Path, tmp_path: Path) -> None:
    done = isoflop("import", "gone", "--json")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "gone/config.json: cannot read" in done.stderr


@pytest.mark.parametrize(
    ("to", "dtype", "said"),
    [
        ("there", None, "there: already there"),
        ("new", "fp8", "--dtype fp8: use fp32, bf16, fp16"),
        (None, "fp32", "--dtype fp32: goes with --to"),
    ],
)
def test_what_cannot_be_written_is_refused_before_reading(
    model_folder: Path, tmp_path: Path, to: str | None, dtype: str | None, said: str
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match=said):
        import_folder(model_folder, None if to is None else tmp_path / to, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
