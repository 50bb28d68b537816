"""Writes a bare Hugging Face folder: configuration and tensors, in any of the types that models are published in."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from isoflop.durable import part_of, to_json, write_folder
from isoflop.errors import InputError
from isoflop.model import Weights, weights_sha256
from isoflop.release.hugging_face import config
from isoflop.release.tensors import WEIGHTS, save_tensors

# What a tokenizer may consist of; copied along with a model that brings one.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


def refuse_taken(folder: Path) -> None:
    """Whatever lies beside a folder `write_folder` takes for its own, left by a process that was killed. Outside of a
    run it may be anybody's.

    Raises:
        InputError: something is at `folder`, or beside it where it is written or steps aside.
    """
    for one in (folder, part_of(folder), folder.with_name(folder.name + ".old")):
        if os.path.lexists(one):
            raise InputError(f"{one}: already there; remove it, or give a folder of another name")


def export_model(
    folder: Path,
    weights: Weights,
    dtypes: Mapping[str, torch.dtype],
    token_ids: Mapping[str, Any],
    tokenizer_from: Path | None = None,
) -> str:
    """Puts a folder in place that `transformers` loads as GPT2LMHeadModel, whole or not at all.

    Returns the SHA-256 of the weights in it (`weights_sha256`): another than that of `weights` where a type rounds.

    `token_ids` are config.json's `bos_token_id` and the like, as it shall have them. `dtypes` gives each tensor's type:
    those of an imported model give its tensors back bit for bit. `tokenizer_from` is a folder whose tokenizer and
    generation_config.json go along.

    Raises:
        InputError: as `refuse_taken`, or a weight is not finite or too large for its type; names the tensor.
        WorkError: the disk is full or cannot be written.
    """
    refuse_taken(folder)
    tensors = {name: tensor.to(dtypes[name]) for name, tensor in weights.items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            if not weights[name].isfinite().all():
                raise InputError(f"{name}: holds NaN or infinity; such weights are not written")
            raise InputError(f"{name}: holds numbers too large for {tensor.dtype}; use bf16 or fp32")
    kinds = {str(dtype).removeprefix("torch.") for dtype in dtypes.values()}
    document = config(weights.shape, token_ids, kinds.pop() if len(kinds) == 1 else "float32")

    def fill(part: Path) -> None:
        (part / "config.json").write_text(to_json(document) + "\n", encoding="utf-8")
        for name in TOKENIZER_FILES:
            if tokenizer_from is not None and (tokenizer_from / name).is_file():
                shutil.copyfile(tokenizer_from / name, part / name)
        save_tensors(part / WEIGHTS, tensors)

    write_folder(folder, fill)
    return weights_sha256(tensors)
