"""Checkpoints as generations: a new folder each, committed by a rename, with the hash of every byte."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from isoflop.durable import write_folder, write_text
from isoflop.errors import InputError
from isoflop.recipe import ModelPlan

FORMAT = 3
KEEP = 2
STATE, MANIFEST, LATEST = "state.safetensors", "manifest.json", "LATEST"


@dataclass(frozen=True)
class Position:
    """How far a run has come, and what must stay as it is for its bits to stay as they are."""

    steps: int
    tokens: int
    seconds: float
    system_seconds: float
    joules: float | None
    threads: int
    fused: bool


@dataclass(frozen=True)
class State:
    """Position and tensors (flat fp32: weights and both moments)."""

    position: Position
    tensors: dict[str, torch.Tensor]


def save_generation(folder: Path, plan: ModelPlan, data_sha256: str, state: State) -> None:
    """Commits a generation and prunes all but the newest two.

    Raises:
        WorkError: it cannot be written; the former generations are untouched.
    """
    content = save(state.tensors)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "position": asdict(state.position),
        "fingerprint": {**plan.fingerprint(), "data": data_sha256},
        "torch": torch.__version__,
        "files": {STATE: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
    }

    manifest["sha256"] = _hash_of(manifest)

    def fill(part: Path) -> None:
        (part / STATE).write_bytes(content)
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")

    name = f"gen-{state.position.steps:08d}"
    write_folder(folder / name, fill)
    write_text(folder / LATEST, name + "\n")
    for old in _generations(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def load_newest(folder: Path, plan: ModelPlan, data_sha256: str, on_event: Callable[[str], None]) -> State | None:
    """The newest generation whose hashes hold; damaged ones are set aside as `gen-N.damaged` and said so.

    Raises:
        InputError: the checkpoint belongs to other settings or other data; names what differs.
    """
    for left in folder.glob("gen-*.part"):
        shutil.rmtree(left, ignore_errors=True)
    for generation in _generations(folder):
        try:
            manifest = json.loads((generation / MANIFEST).read_bytes())
            said = manifest.pop("sha256")
            if manifest["format"] != FORMAT:
                raise ValueError(f"its format is {manifest['format']}, this version writes {FORMAT}")
            if said != _hash_of(manifest):
                raise ValueError("its manifest has changed")
            content = (generation / STATE).read_bytes()
            if hashlib.sha256(content).hexdigest() != manifest["files"][STATE]["sha256"]:
                raise ValueError("its SHA-256 does not match the manifest")
            position = Position(**manifest["position"])
            found = manifest["fingerprint"]
            tensors = load(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            aside = generation.with_name(generation.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            generation.rename(aside)
            on_event(f"checkpoint {generation} is damaged ({error}); set aside, going back to the one before")
            continue
        _check_same(found, {**plan.fingerprint(), "data": data_sha256}, generation)
        return State(position, tensors)
    return None


def _hash_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _generations(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("gen-*") if re.fullmatch(r"gen-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[4:]), reverse=True)


def _check_same(found: Any, wanted: dict[str, Any], generation: Path) -> None:
    wanted = json.loads(json.dumps(wanted))
    differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    if differing:
        key = differing[0]
        more = f" (also {', '.join(differing[1:])})" if differing[1:] else ""
        raise InputError(
            f"{generation}: trained with {key} = {found.get(key)!r}, the plan now says {wanted.get(key)!r}{more}; "
            "put it back, or use another --runs folder"
        )
