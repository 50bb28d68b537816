"""Reads other people's GPT-2 folders as Hugging Face's transformers writes them, Cerebras-GPT's first of all.

Everything is checked before a tensor is copied, and nothing that a file says is executed.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from isoflop.errors import InputError
from isoflop.given import read_given
from isoflop.model import Weights, tensor_sizes
from isoflop.recipe import Shape
from isoflop.release.tensor_files import TensorFile, open_pickled, open_safetensors
from isoflop.release.tensors import WEIGHTS

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
HEAD, EMBEDDING = "lm_head.weight", "transformer.wte.weight"
# Causal masks that transformers once stored; they are constants.
_MASKS = re.compile(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)")
_WEIGHT_FILES: tuple[tuple[str, Callable[[Path], TensorFile]], ...] = (
    (WEIGHTS, open_safetensors),
    ("pytorch_model.bin", open_pickled),
)
# What config.json must say for the model to be the one that isoflop computes, and what transformers assumes without it.
_FIXED: dict[str, tuple[Any, Any]] = {
    "activation_function": ("gelu", "gelu_new"),
    "layer_norm_epsilon": (1e-5, 1e-5),
    "scale_attn_weights": (True, True),
    "scale_attn_by_inverse_layer_idx": (False, False),
    "tie_word_embeddings": (True, True),
    "add_cross_attention": (False, False),
}
# What config.json must not have, and why.
_REFUSED = {
    "quantization_config": "its weights are stored quantised; give the folder with them in fp32, bf16 or fp16",
    "pruned_heads": "heads were taken out of its layers, which isoflop's model has not; give the folder before pruning",
    "auto_map": "it computes by code of its own; give a folder that transformers loads without it",
}
# The bare model lacks the head, which is tied to the embedding; others have a head for another task.
_ARCHITECTURES = ("GPT2LMHeadModel", "GPT2Model")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Imported:
    """A model as its folder has it: fp32 weights, each tensor's type there, the special tokens that config.json states.

    Of `token_ids` each is a number, a list of them, or None, under the name that config.json has it by.
    """

    shape: Shape
    weights: Weights
    dtypes: dict[str, torch.dtype]
    token_ids: dict[str, Any]


def import_model(folder: Path) -> Imported:
    """The GPT-2 in a Hugging Face folder: config.json with model.safetensors or pytorch_model.bin, whole or in shards.

    Names may lack the prefix `transformer.`; a stored head must equal the embedding. Pickled files are read by
    PyTorch's loader for weights alone, which runs no code.

    Raises:
        InputError: a file is missing or damaged, the architecture is another, or a tensor is missing, of the wrong
            shape or type, unknown, or holds NaN or infinity; names the file and the tensor.
    """
    shape, token_ids = _read_config(folder / "config.json")
    _check_generation(folder / "generation_config.json", token_ids)
    tensors = _tensors(folder)
    _check_tensors(folder, tensors, shape)
    weights = Weights.zeros(shape)
    dtypes = {}
    for name, view in weights.items():
        tensor = tensors[name].tensor(name)
        _check_finite(tensors[name], name, tensor)
        dtypes[name] = tensor.dtype
        view.copy_(tensor)
    if HEAD in tensors:
        head = tensors[HEAD].tensor(HEAD)
        _check_finite(tensors[HEAD], HEAD, head)
        if not torch.equal(head, tensors[EMBEDDING].tensor(EMBEDDING)):
            raise InputError(f"{folder}: {HEAD} is not {EMBEDDING}; isoflop's head is tied to the embedding")
    return Imported(shape, weights, dtypes, token_ids)


def _read_config(path: Path) -> tuple[Shape, dict[str, Any]]:
    document = _read_json(path)
    architecture = document.get("model_type")
    if architecture != "gpt2":
        raise InputError(
            f"{path}: model_type = {architecture!r}; isoflop imports GPT-2 models only (model_type 'gpt2')"
        )
    architectures = document.get("architectures") or ["GPT2LMHeadModel"]
    if not isinstance(architectures, list) or not all(one in _ARCHITECTURES for one in architectures):
        raise InputError(
            f"{path}: architectures = {architectures!r}; isoflop imports language models only (GPT2LMHeadModel)"
        )
    for key, reason in _REFUSED.items():
        if document.get(key):
            raise InputError(f"{path}: has {key}: {reason}")
    for key, (wanted, assumed) in _FIXED.items():
        if (said := document.get(key, assumed)) != wanted:
            raise InputError(f"{path}: {key} = {said!r}; isoflop's model has {wanted!r}, the weights would not fit it")
    limits = {"n_layer": 1000, "n_embd": 2**17, "n_head": 1024, "vocab_size": 2**32 - 1, "n_positions": 2**20}
    n_layers, d_model, n_heads, vocab_size, context_length = (
        _whole_number(path, document, key, most) for key, most in limits.items()
    )
    if d_model % n_heads:
        raise InputError(f"{path}: n_head = {n_heads} does not divide n_embd = {d_model}")
    shape = Shape(n_layers, d_model, n_heads, vocab_size, context_length)
    if document.get("n_inner") not in (None, shape.d_ff):
        raise InputError(f"{path}: n_inner = {document['n_inner']!r}; isoflop's feed-forward network has {shape.d_ff}")
    return shape, {key: document[key] for key in _TOKEN_IDS if key in document}


def _check_generation(path: Path, token_ids: Mapping[str, Any]) -> None:
    """`generate` obeys generation_config.json, which goes along: it may name more tokens that end a text, no others."""
    if not path.is_file():
        return
    document = _read_json(path)
    for key, stated in token_ids.items():
        said = document.get(key)
        if stated is not None and said is not None and not _listed(stated) <= _listed(said):
            raise InputError(
                f"{path}: {key} = {said!r}, but config.json says {stated!r}; make them agree, or delete this file"
            )


def _listed(ids: Any) -> set[str]:
    return {str(one) for one in (ids if isinstance(ids, list) else [ids])}


def _whole_number(path: Path, document: Mapping[str, Any], key: str, most: int) -> int:
    value = document.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"{path}: {key} = {value!r}; must be a whole number from 1 to {most:,}")
    return value


def _tensors(folder: Path) -> dict[str, TensorFile]:
    """The open file of every tensor by its full name."""
    for name, open_file in _WEIGHT_FILES:
        if (folder / name).is_file():
            return _by_name([open_file(folder / name)])
        if (folder / f"{name}.index.json").is_file():
            return _by_name([open_file(path) for path in _shards(folder / f"{name}.index.json")])
    wanted = " or ".join(name for name, _ in _WEIGHT_FILES)
    raise InputError(f"{folder}: no weights here; {wanted} (or its .index.json with shards) is missing")


def _shards(index: Path) -> list[Path]:
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index}: holds no weight_map from tensors to files")
    for name in names.values():
        if Path(name).name != name:
            raise InputError(f"{index}: names {name!r}, which is not a file of this folder")
    return [index.parent / name for name in sorted(set(names.values()))]


def _by_name(files: list[TensorFile]) -> dict[str, TensorFile]:
    found: dict[str, TensorFile] = {}
    for file in files:
        for name in file.names():
            if name in found:
                raise InputError(f"{file.path}: tensor {name} is there twice; the folder is mixed up")
            if not _MASKS.fullmatch(name):
                found[name] = file
    return found


def _check_tensors(folder: Path, tensors: Mapping[str, TensorFile], shape: Shape) -> None:
    wanted = tensor_sizes(shape)
    missing = [name for name in wanted if name not in tensors]
    if missing:
        lacking = (
            f"tensors {missing[0]} and {len(missing) - 1:,} more are" if missing[1:] else f"tensor {missing[0]} is"
        )
        raise InputError(
            f"{folder}: {lacking} missing; fetch what the download lacks, or the config.json that belongs to it "
            f"(this one says n_layer = {shape.n_layers})"
        )
    for name, file in tensors.items():
        size = wanted.get(EMBEDDING if name == HEAD else name)
        if size is None:
            raise InputError(f"{file.path}: tensor {name} is none of a GPT-2 with n_layer = {shape.n_layers}")
        if file.size(name) != size:
            raise InputError(f"{file.path}: tensor {name} has shape {file.size(name)}, config.json asks for {size}")
        if file.dtype(name) not in DTYPES:
            raise InputError(f"{file.path}: tensor {name} is {file.dtype(name)}; give fp32, bf16 or fp16")


def _check_finite(file: TensorFile, name: str, tensor: torch.Tensor) -> None:
    # One of these makes every logit NaN; no format marks them.
    broken = tensor.numel() - int(tensor.isfinite().sum())
    if broken:
        raise InputError(
            f"{file.path}: tensor {name} holds NaN or infinity ({broken:,} of {tensor.numel():,} numbers); "
            "the file is damaged or its training diverged, fetch another"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(read_given(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read ({error.strerror}); give a Hugging Face model folder") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: not JSON; fetch it again") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a JSON object; fetch it again")
    return document
