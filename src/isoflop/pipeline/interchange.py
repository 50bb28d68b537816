"""Models of other people: what a Hugging Face folder holds, and the same model written anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.errors import InputError
from isoflop.published import published_recipes
from isoflop.recipe import Shape


@dataclass(frozen=True)
class ImportedModel:
    """A checked folder. `dtypes` are those of its tensors, `same_shape_as` the published models of the same shape.

    `weights_sha256` is of what was read, `written_weights_sha256` of what was written: another where a type rounds.
    """

    folder: Path
    shape: Shape
    dtypes: tuple[str, ...]
    weights_sha256: str
    same_shape_as: tuple[str, ...]
    written_to: Path | None
    written_dtypes: tuple[str, ...]
    written_weights_sha256: str | None

    def to_json(self) -> dict[str, Any]:
        """What `isoflop import --json` prints."""
        return {
            "folder": str(self.folder),
            **vars(self.shape),
            "params": self.shape.params,
            "params_non_embedding": self.shape.params_non_embedding,
            "dtypes": list(self.dtypes),
            "weights_sha256": self.weights_sha256,
            "same_shape_as": list(self.same_shape_as),
            "written_to": None if self.written_to is None else str(self.written_to),
            "written_dtypes": list(self.written_dtypes),
            "written_weights_sha256": self.written_weights_sha256,
        }


def import_folder(folder: Path, to: Path | None, dtype: str | None) -> ImportedModel:
    """Reads and checks the model at `folder` and, if `to` is given, writes it there with its tokenizer.

    `dtype` is the type to write ("fp32", "bf16", "fp16"); None keeps every tensor's own, bit for bit.

    Raises:
        InputError: the folder holds no model that isoflop computes, `to` exists, or `dtype` is unknown or without use.
        WorkError: it cannot be written.
    """
    from isoflop.model import weights_sha256
    from isoflop.release.exporting import export_model, refuse_taken
    from isoflop.release.importing import DTYPES, import_model

    kinds = {name: kind for kind, name in DTYPES.items()}
    if dtype is not None and (dtype not in kinds or to is None):
        raise InputError(f"--dtype {dtype}: " + ("goes with --to" if dtype in kinds else f"use {', '.join(kinds)}"))
    if to is not None:
        refuse_taken(to)
    model = import_model(folder)
    dtypes = model.dtypes if dtype is None else dict.fromkeys(model.dtypes, kinds[dtype])
    written = None if to is None else export_model(to, model.weights, dtypes, model.token_ids, tokenizer_from=folder)
    return ImportedModel(
        folder=folder,
        shape=model.shape,
        dtypes=tuple(sorted({DTYPES[kind] for kind in model.dtypes.values()})),
        weights_sha256=weights_sha256(model.weights),
        same_shape_as=_same_shape_as(model.shape),
        written_to=to,
        written_dtypes=() if to is None else tuple(sorted({DTYPES[kind] for kind in dtypes.values()})),
        written_weights_sha256=written,
    )


def _same_shape_as(shape: Shape) -> tuple[str, ...]:
    return tuple(
        f"{one.family} {one.model}"
        for one in published_recipes()
        if shape == Shape(one.n_layers, one.d_model, one.n_heads, one.vocab_size, one.context_length)
    )
