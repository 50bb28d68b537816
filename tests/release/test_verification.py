"""A release folder is checked by its own manifest; scores and checkpoints are as the hub and transformers read them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor
from transformers import AutoModelForCausalLM

from isoflop.durable import sealed
from isoflop.errors import InputError
from isoflop.release import Card, SavedStep, Scored, release_model
from isoflop.release.card import render
from isoflop.release.manifest import environment
from isoflop.release.verification import read_manifest, verify_folder

SCORES = (
    Scored("piqa", 0, "acc", 0.61, 0.02, 0.5, 1838, "baber/piqa", "0.4.13"),
    Scored("heldout_last_word", 5, "perplexity", 41.25, None, None, 300, None, "0.4.13"),
)


@pytest.fixture
def full(card: Card) -> Card:
    """The card of a model with scores, two checkpoints on the way, and the documents of its run."""
    documents = {"family.json": '{"name": "tiny"}\n', "law.json": '{"forms": []}\n'}
    return replace(card, scores=SCORES, checkpoints=(SavedStep(3, 96), SavedStep(7, 224)), documents=documents)


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor], tokenizer_json: Path, full: Card) -> Path:
    def saved(step: SavedStep) -> Mapping[str, Tensor]:
        return {name: tensor * step.step for name, tensor in weights.items()}

    release_model(tmp_path / "tiny-a", weights, tokenizer_json, full, saved)
    return tmp_path / "tiny-a"


def test_a_release_is_good_as_it_was_written(folder: Path, full: Card) -> None:
    verified = verify_folder(folder)

    assert verified.faults == ()
    assert (verified.model, verified.params) == ("tiny-a", full.plan.shape.params)
    assert verified.weights_sha256 == full.weights_sha256
    assert verified.files == 8 + 2 + 2 * 3


def test_what_the_hub_puts_beside_it_is_no_fault(folder: Path) -> None:
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "x.lock").write_text("")

    assert verify_folder(folder).faults == ()


@pytest.mark.parametrize("name", ["README.md", "law.json", "model.safetensors", "checkpoints/step-3/model.safetensors"])
def test_one_bit_one_byte_or_one_file_less_is_seen(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()

    def faults() -> tuple[str, ...]:
        return verify_folder(folder).faults

    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert faults() == (f"{name}: its SHA-256 is not that of the manifest",)
    path.write_bytes(whole[:-1])
    assert faults() == (f"{name}: {len(whole) - 1:,} bytes, {len(whole):,} in the manifest",)
    path.unlink()
    assert faults() == (f"{name}: missing",)
    path.symlink_to(folder / "LICENSE")
    assert faults() == (f"{name}: a link, not a file",)
    path.unlink()
    path.write_bytes(whole)
    (folder / "stray").write_text("")
    assert faults() == ("stray: not in the manifest",)


def changed(folder: Path, change: Callable[[dict[str, dict[str, str]]], None]) -> tuple[str, ...]:
    """The faults after the manifest itself was changed, and sealed again by whoever changed it."""
    manifest = read_manifest(folder)
    del manifest["sha256"]
    change(manifest)
    (folder / "MANIFEST.json").write_text(json.dumps(sealed(manifest)))
    return verify_folder(folder).faults


def test_a_manifest_changed_with_its_files_contradicts_itself(folder: Path) -> None:
    (fault,) = changed(folder, lambda manifest: manifest.update(weights_sha256="0" * 64))  # type: ignore[arg-type]
    assert fault == "model.safetensors: its tensors have another weights_sha256 than the manifest"
    changed(folder, lambda manifest: manifest["data"].update(tokenizer_sha256="0" * 64))
    assert any(fault.startswith("tokenizer.json: another file") for fault in verify_folder(folder).faults)


def test_any_number_changed_in_the_manifest_alone_is_told(folder: Path) -> None:
    path = folder / "MANIFEST.json"
    manifest = json.loads(path.read_text())
    manifest["released_with"]["torch"] = "2.16.0"
    path.write_text(json.dumps(manifest))
    assert verify_folder(folder).faults == (
        "MANIFEST.json: its SHA-256 does not hold: it has changed since it was written",
    )


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format_version": 1, "files": {}}', "[" * 50_000])
def test_what_is_no_manifest_is_told(folder: Path, content: str) -> None:
    (folder / "MANIFEST.json").write_text(content)

    with pytest.raises(InputError, match=r"MANIFEST\.json: "):
        verify_folder(folder)


def test_a_checkpoint_on_the_way_loads_by_its_subfolder(folder: Path, weights: dict[str, Tensor]) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, subfolder="checkpoints/step-7")

    name = "transformer.wpe.weight"
    assert torch.equal(model.state_dict()[name], weights[name] * 7)


def test_a_release_generates_text(folder: Path, full: Card) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)

    tokens = model.generate(torch.tensor([[5, 9]]), max_length=12, do_sample=False)

    assert tokens.shape == (1, 12)
    assert model.generation_config.eos_token_id == full.data.tokenizer.end_of_text
    assert torch.equal(tokens[0, 2], model(torch.tensor([[5, 9]])).logits[0, -1].argmax())


def test_the_hub_reads_the_scores_from_the_card(full: Card) -> None:
    results = ModelCard(render(full)).data.eval_results

    found = {(one.dataset_type, one.dataset_name, one.metric_type): one for one in results}
    assert found["baber/piqa", "piqa", "acc"].metric_value == 0.61
    assert found["baber/piqa", "piqa", "acc_stderr"].metric_value == 0.02
    assert found["baber/piqa", "piqa", "acc"].dataset_args == {"num_few_shot": 0}
    assert found["text", "heldout_last_word", "perplexity"].metric_value == 41.25
    assert len(results) == 2 + 2 + 1


def test_the_card_shows_scores_costs_and_checkpoints(full: Card) -> None:
    measured = replace(full.measured, system_seconds=7200.0, mfu=0.4321, price=1.5, currency="EUR")

    body = render(replace(full, measured=measured))

    assert "| piqa | 0 | acc | 61.0 | 2.0 | 50.0 | 1,838 |" in body
    assert "| 5 | perplexity | 41.25 | - | - | 300 |" in body
    assert "| 7 | 224 |" in body
    assert "2 device-hours" in body
    assert "at 43.2 % of the machine's measured matrix rate" in body
    assert "| price | 1.5 EUR" in body


def test_the_environment_names_what_isoflop_draws_in() -> None:
    packages = environment()

    assert {"isoflop", "torch", "numpy", "safetensors", "tokenizers", "markupsafe"} <= set(
        packages
    )  # jinja2 draws in the last
    assert "pytest" not in packages
