"""Cerebras-GPT to and fro: the logits of transformers, the same bits back, refusals that name the tensor."""

import json
import math
import pickle
import resource
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from isoflop.errors import InputError
from isoflop.model import GPT, initialise, weights_sha256
from isoflop.pipeline.interchange import import_folder
from isoflop.published import published_recipes
from isoflop.recipe import Shape
from isoflop.release.exporting import export_model
from isoflop.release.importing import import_model
from isoflop.release.tensor_files import open_pickled

RECIPES = {one.model: one for one in published_recipes("Cerebras-GPT")}
VOCAB = 211  # the published 50,257 only make the largest widths slow: see the test with all of it
TOKENS = torch.randint(0, VOCAB, (2, 25), generator=torch.Generator().manual_seed(7))


def theirs(name: str, n_layers: int, vocab_size: int = VOCAB) -> GPT2LMHeadModel:
    """A published configuration at reduced depth, every tensor random."""
    one = RECIPES[name]
    config = GPT2Config(
        n_layer=n_layers,
        n_embd=one.d_model,
        n_head=one.n_heads,
        n_inner=one.d_ff,
        vocab_size=vocab_size,
        n_positions=one.context_length,
        activation_function="gelu",
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.device("meta"):  # its own initialisation would be drawn only to be replaced
        model = GPT2LMHeadModel(config)
    model.to_empty(device="cpu").tie_weights()
    numbers = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            repeated = numbers.repeat(-(-parameter.numel() // len(numbers)))[: parameter.numel()]
            parameter.copy_(repeated.view_as(parameter).mul_(0.02 if parameter.ndim == 2 else 0.1))
            if "ln_" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return model.eval()


def assert_same_model(ours: Any, model: GPT2LMHeadModel) -> None:
    """Logits and loss within 1e-5 of their size, in fp32."""
    gpt = GPT(ours.shape, "fp32")
    with torch.inference_mode():
        expected = model(TOKENS[:, :-1]).logits
        logits = gpt.logits(ours.weights, TOKENS[:, :-1])
        loss = gpt.summed_loss(ours.weights, TOKENS) / TOKENS[:, 1:].numel()
        wanted = torch.nn.functional.cross_entropy(expected.flatten(0, 1), TOKENS[:, 1:].flatten())
    assert float((logits - expected).abs().max() / expected.abs().max()) < 1e-5
    assert float((loss - wanted).abs() / wanted) < 1e-5


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_configuration_computes_alike_in_both_directions_and_comes_back_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    n_layers = 2 if RECIPES[name].d_model <= 2048 else 1
    model = theirs(name, n_layers)
    model.save_pretrained(tmp_path / "theirs")

    imported = import_model(tmp_path / "theirs")
    assert_same_model(imported, model)

    export_model(tmp_path / "ours", imported.weights, imported.dtypes, imported.token_ids)
    given, back = load_file(tmp_path / "theirs" / "model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    assert given.keys() == back.keys()
    assert all(torch.equal(given[key], back[key]) and given[key].dtype == back[key].dtype for key in given)

    loaded: Any = GPT2LMHeadModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(loaded[1][what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_model(imported, loaded[0].eval())


def test_the_whole_vocabulary_and_our_own_weights(tmp_path: Path) -> None:
    one = RECIPES["111M"]
    shape = Shape(1, one.d_model, one.n_heads, one.vocab_size, one.context_length)
    weights = initialise(shape, 3)
    export_model(tmp_path / "ours", weights, dict.fromkeys(weights, torch.float32), {"eos_token_id": 50256})
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    imported = import_model(tmp_path / "ours")
    assert_same_model(imported, model)
    assert weights_sha256(imported.weights) == weights_sha256(weights)
    assert imported.token_ids == {"eos_token_id": 50256}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GPT-2 folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("small") / "model"
    config = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=VOCAB, n_positions=32, activation_function="gelu", eos_token_id=3
    )
    torch.manual_seed(2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    shutil.copytree(small, tmp_path / "model")
    return tmp_path / "model"


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def put(folder: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("form", ["one file", "shards", "pickled"])
def test_every_type_and_form_of_file_comes_back_bit_for_bit(
    folder: Path, tmp_path: Path, dtype: torch.dtype, form: str
) -> None:
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype)
    given = tmp_path / "given"
    model.save_pretrained(given, max_shard_size="20KB" if form == "shards" else "1GB")
    if form == "shards":
        assert len(list(given.glob("*.safetensors"))) > 1
    if form == "pickled":
        (given / "model.safetensors").unlink()
        torch.save(model.state_dict(), given / "pytorch_model.bin")
    imported = import_model(given)
    export_model(tmp_path / "back", imported.weights, imported.dtypes, imported.token_ids)
    back = tensors_of(tmp_path / "back")
    wanted = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert back.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert back[name].dtype == dtype
        assert torch.equal(back[name], tensor), name
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def test_bare_names_and_stored_masks_are_read(folder: Path) -> None:
    wanted = weights_sha256(import_model(folder).weights)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors_of(folder).items()}
    put(folder, {**bare, "h.0.attn.bias": torch.ones(1, 1, 32, 32), "lm_head.weight": bare["wte.weight"].clone()})
    assert weights_sha256(import_model(folder).weights) == wanted


C_ATTN = "transformer.h.1.attn.c_attn.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop(C_ATTN), f"tensor {C_ATTN} is missing; fetch .* or the config.json"),
        (lambda t: t.update({C_ATTN: t[C_ATTN].T}), rf"tensor {C_ATTN} has shape \(96, 32\), .* \(32, 96\)"),
        (lambda t: t.update({C_ATTN: t[C_ATTN].double()}), f"tensor {C_ATTN} is F64"),
        (lambda t: t.update({"transformer.h.2.ln_1.bias": torch.ones(32)}), "transformer.h.2.ln_1.bias is none of"),
        (lambda t: t.update({"lm_head.weight": torch.ones(VOCAB, 32)}), "lm_head.weight is not transformer.wte.weight"),
        (lambda t: t.update({"wte.weight": torch.ones(VOCAB, 32)}), "transformer.wte.weight"),
        (lambda t: t[C_ATTN][0, 0].fill_(math.nan), f"tensor {C_ATTN} holds NaN or infinity"),
        (
            lambda t: t.update({"lm_head.weight": torch.full((VOCAB, 32), math.inf)}),
            "tensor lm_head.weight holds NaN or infinity",
        ),
    ],
    ids=["missing", "transposed", "fp64", "another layer", "untied head", "twice", "NaN", "infinite head"],
)
def test_wrong_tensors_are_named(folder: Path, change: Any, said: str) -> None:
    tensors = tensors_of(folder)
    change(tensors)
    put(folder, tensors)
    with pytest.raises(InputError, match=said) as caught:
        import_model(folder)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_more_layers_than_there_are_is_named_as_a_possible_cause(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_layer": 3}))
    with pytest.raises(InputError) as caught:
        import_model(folder)
    assert str(caught.value) == (
        f"{folder}: tensors transformer.h.2.attn.c_attn.weight and 11 more are missing; fetch what the download lacks, "
        "or the config.json that belongs to it (this one says n_layer = 3)"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "llama"}, "model_type = 'llama'"),
        ({"activation_function": "gelu_new"}, "activation_function = 'gelu_new'"),
        ({"activation_function": None}, "activation_function = None"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"n_inner": 100}, "n_inner = 100"),
        ({"n_head": 3}, "n_head = 3 does not divide n_embd = 32"),
        ({"n_layer": "2"}, "n_layer = '2'"),
        ({"n_embd": 10**30}, "n_embd = 10"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "architectures = .'GPT2ForSequenceClassification'"),
        ({"architectures": "GPT2LMHeadModel"}, "architectures = 'GPT2LMHeadModel'"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "has quantization_config: .* stored quantised"),
        ({"pruned_heads": {"0": [1]}}, "has pruned_heads: heads were taken out"),
        ({"auto_map": {"AutoModelForCausalLM": "own.Model"}}, "has auto_map: it computes by code of its own"),
    ],
)
def test_another_architecture_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError, match=said):
        import_model(folder)


def test_special_tokens_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "generation_config.json").unlink(missing_ok=True)
    for ids in ({"bos_token_id": 3, "eos_token_id": [4, 5], "pad_token_id": None}, {"eos_token_id": 7}, {}):
        kept = {key: value for key, value in config.items() if not key.endswith("token_id")}
        (folder / "config.json").write_text(json.dumps({**kept, "architectures": ["GPT2Model"], **ids}))
        out = import_folder(folder, tmp_path / f"out-{len(ids)}", None).written_to
        assert out is not None
        written = json.loads((out / "config.json").read_text())
        assert {key: value for key, value in written.items() if key.endswith("token_id")} == ids


def test_a_generation_config_that_says_otherwise_is_refused_and_one_that_agrees_goes_along(
    folder: Path, tmp_path: Path
) -> None:
    config, generation = folder / "config.json", folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token_id": 7, "bos_token_id": 7}))
    generation.write_text('{"eos_token_id": 8}')
    with pytest.raises(
        InputError, match=r"generation_config.json: eos_token_id = 8, but config.json says 7; make them"
    ):
        import_model(folder)
    generation.write_text("{")
    with pytest.raises(InputError, match=r"generation_config.json: not JSON"):
        import_model(folder)
    generation.write_text('{"eos_token_id": [7, 8], "temperature": 0.7}')
    out = import_folder(folder, tmp_path / "out", None).written_to
    assert out is not None
    assert (out / "generation_config.json").read_text() == generation.read_text()


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_that_runs_code_is_refused_unrun(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin: not read"):
        import_model(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(InputError, match=r"pytorch_model.bin: not read"):
        import_model(folder)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("left", [0, 8, 100, -1])
def test_a_cut_file_is_refused(folder: Path, left: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(InputError, match=r"model.safetensors: not read"):
        import_model(folder)


def header_of(document: Any, size: int | None = None) -> bytes:
    """A safetensors header, of a length that may be a lie."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


def entry(first: int, last: int, dtype: str = "F32", shape: tuple[int, ...] = (2, 2)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


HOSTILE = {
    "endless header": struct.pack("<Q", 2**63 - 1) + b"{}",
    "header beyond the file": header_of({}, size=2**30),
    "not JSON": header_of(b"{" * 64),
    "not UTF-8": header_of(b"\xff" * 64),
    "deep": header_of(b"[" * 2**20),
    "overlap": header_of({"wte.weight": entry(0, 16), "wpe.weight": entry(8, 24)}) + bytes(24),
    "gap": header_of({"wte.weight": entry(0, 16), "wpe.weight": entry(20, 36)}) + bytes(36),
    "bytes left over": header_of({"wte.weight": entry(0, 16)}) + bytes(64),
    "unknown type": header_of({"wte.weight": entry(0, 16, dtype="F33")}) + bytes(16),
    "wrong size": header_of({"wte.weight": entry(0, 16, shape=(2, 3))}) + bytes(16),
    "overflow": header_of({"wte.weight": entry(0, 16, shape=(2**62, 2**62))}) + bytes(16),
    "backwards": header_of({"wte.weight": entry(16, 0)}) + bytes(16),
    "twice": header_of(b'{"wte.weight":%s,"wte.weight":%s}' % ((json.dumps(entry(0, 16)).encode(),) * 2)) + bytes(16),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_safetensors_are_refused_without_taking_memory(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"model(\.safetensors)?: "):
        import_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**16  # KiB


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../model.safetensors"}}, "which is not a file of this folder"),
        ({"weight_map": {"a": "gone.safetensors"}}, "gone.safetensors: missing"),
        ({}, "no weight_map"),
        ([], "not a JSON object"),
    ],
)
def test_an_index_that_leads_elsewhere_is_refused(folder: Path, index: Any, said: str) -> None:
    (folder / "model.safetensors").rename(folder.with_name("model.safetensors"))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=said):
        import_model(folder)


def test_a_folder_without_weights_or_config_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights here"):
        import_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="cannot read"):
        import_model(folder)


def test_export_refuses_what_is_there_and_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    imported = import_model(folder)
    with pytest.raises(InputError, match="already there"):
        export_model(folder, imported.weights, imported.dtypes, {})
    for beside in ("mine.old", "mine.part"):  # a backup of the user's, say
        (tmp_path / beside).mkdir()
        (tmp_path / beside / "kept").touch()
        with pytest.raises(InputError, match=rf"{beside}: already there"):
            export_model(tmp_path / "mine", imported.weights, imported.dtypes, {})
        assert (tmp_path / beside / "kept").exists()
        shutil.rmtree(tmp_path / beside)
    imported.weights["transformer.ln_f.bias"][0] = 1e6
    with pytest.raises(InputError, match=r"transformer.ln_f.bias: .* too large for torch.float16"):
        export_model(tmp_path / "out", imported.weights, dict.fromkeys(imported.weights, torch.float16), {})
    imported.weights["transformer.ln_f.bias"][0] = math.nan
    with pytest.raises(InputError, match=r"transformer.ln_f.bias: holds NaN"):
        export_model(tmp_path / "out", imported.weights, imported.dtypes, {})
    assert not (tmp_path / "out").exists()


def test_a_bin_file_of_the_format_before_zip_is_read(tmp_path: Path) -> None:
    path, tensors = tmp_path / "pytorch_model.bin", {"transformer.wte.weight": torch.arange(6.0).view(2, 3)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert open_pickled(path) is not None


@pytest.mark.parametrize("tensor", [torch.eye(3).to_sparse(), torch.empty(3, 3, device="meta")], ids=["sparse", "meta"])
def test_a_pickled_tensor_without_all_its_numbers_is_named(tmp_path: Path, tensor: Tensor) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"transformer.wte.weight": tensor}, path)
    with pytest.raises(InputError, match=r"tensor transformer.wte.weight is sparse or without its numbers"):
        open_pickled(path)


def test_a_hostile_pickle_is_refused_without_advice_to_load_it_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"transformer.wte.weight": print}, path)
    with pytest.raises(InputError, match="asks for code to be run, which is refused") as caught:
        open_pickled(path)
    assert "weights_only" not in str(caught.value)
