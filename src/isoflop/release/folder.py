"""Writes a release folder, whole or not at all. PyTorch loads only when there is something to write."""

import shutil
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.data.manifest import TOKENIZER_FILE
from isoflop.durable import sha256_of_file, to_json, write_folder
from isoflop.errors import WorkError
from isoflop.recipe.shape import Shape
from isoflop.release.card import Card, SavedStep, render
from isoflop.release.hugging_face import config, end_of_text_ids, generation_config, tokenizer_config
from isoflop.release.manifest import MANIFEST, data_manifest, is_current, manifest
from isoflop.release.tensors import WEIGHTS, save_tensors

CHECKPOINTS = "checkpoints"

if TYPE_CHECKING:
    from torch import Tensor


def release_model(
    folder: Path,
    weights: Mapping[str, "Tensor"],
    tokenizer_json: Path,
    card: Card,
    saved: Callable[[SavedStep], Mapping[str, "Tensor"]] | None = None,
) -> None:
    """Puts the model in place at `folder` for `transformers`; a release that was there is replaced.

    `weights` are fp32 under Hugging Face's GPT-2 names without the tied head; `tokenizer_json` is data/tokenizer.json.
    `saved` gives those of each of the card's checkpoints: a folder each in `checkpoints`, which loads with `subfolder`.
    The tensors are read back from the disk and hashed before the folder takes its place.

    Raises:
        WorkError: weights or tokenizer are not those that `card` speaks of, or the folder cannot be written.
            What was at `folder` is untouched.
    """
    from safetensors.torch import load_file

    from isoflop.model import weights_sha256

    shape, end_of_text = card.plan.shape, card.data.tokenizer.end_of_text
    _refuse_other_tensors(folder, weights, shape)
    _refuse_other_tokenizer(tokenizer_json, card, shape)
    documents = {
        "config.json": config(shape, end_of_text_ids(end_of_text)),
        "generation_config.json": generation_config(end_of_text),
        "tokenizer_config.json": tokenizer_config(shape),
    }

    def fill(part: Path) -> None:
        for name, document in documents.items():
            (part / name).write_text(to_json(document) + "\n", encoding="utf-8")
        (part / "data_manifest.json").write_text(data_manifest(card), encoding="utf-8")
        for name, text in card.documents.items():
            (part / name).write_text(text, encoding="utf-8")
        shutil.copyfile(tokenizer_json, part / TOKENIZER_FILE)
        (part / "README.md").write_text(render(card), encoding="utf-8")
        (part / "LICENSE").write_bytes((files("isoflop.release") / "LICENSE").read_bytes())
        save_tensors(part / WEIGHTS, {name: tensor.float() for name, tensor in weights.items()})
        if weights_sha256(load_file(part / WEIGHTS)) != card.weights_sha256:
            raise WorkError(
                f"{folder}: the weights written are not those of the result (weights_sha256 differs); "
                f"train {card.plan.name} again"
            )
        for step in card.checkpoints:
            inner = part / CHECKPOINTS / f"step-{step.step}"
            inner.mkdir(parents=True)
            for name in ("config.json", "generation_config.json"):
                (inner / name).write_text(to_json(documents[name]) + "\n", encoding="utf-8")
            assert saved is not None
            tensors = saved(step)
            _refuse_other_tensors(folder, tensors, shape)
            save_tensors(inner / WEIGHTS, {name: tensor.float() for name, tensor in tensors.items()})
        (part / MANIFEST).write_text(to_json(manifest(card, part)) + "\n", encoding="utf-8")

    write_folder(folder, fill)


def released(folder: Path, card: Card) -> bool:
    """Whether `folder` already holds the release of `card`, unchanged; files not touched since are not read again."""
    return is_current(card, folder)


def _refuse_other_tensors(folder: Path, weights: Mapping[str, "Tensor"], shape: Shape) -> None:
    from isoflop.model import tensor_sizes

    # transformers fills a tensor that is missing with random numbers and only warns.
    wanted, given = tensor_sizes(shape), {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise WorkError(
                f"{folder}: the weights do not fit the plan at {name} "
                f"(planned {wanted.get(name, 'none')}, given {given.get(name, 'none')}); train the model again"
            )


def _refuse_other_tokenizer(tokenizer_json: Path, card: Card, shape: Shape) -> None:
    try:
        unchanged = sha256_of_file(tokenizer_json) == card.data.tokenizer.sha256
    except OSError as error:
        raise WorkError(f"{tokenizer_json}: cannot read it ({error.strerror}); prepare the data again") from None
    if not unchanged or card.data.tokenizer.vocab_size != shape.vocab_size:
        raise WorkError(
            f"{tokenizer_json}: not the tokenizer that the model was trained with; "
            f"delete {tokenizer_json.parent} and prepare the data again"
        )
