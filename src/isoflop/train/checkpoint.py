"""Checkpoints as generations: a new folder each, committed by a rename, with the hash of every byte."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load

from isoflop.durable import part_of, sha256_of_file, write_folder, write_text
from isoflop.errors import InputError, WorkError
from isoflop.model import Shard, shards_of
from isoflop.recipe import ModelPlan
from isoflop.systems.group import Systems, owner
from isoflop.train.learner import Learns

FORMAT = 4
MANIFEST, LATEST = "manifest.json", "LATEST"
# Settings of what steps to come do, by which a run can go on as others, if that is asked for (isoflop.train.changes).
# The rest decide what the weights are, or what the steps so far have read.
CHANGEABLE = {
    *("peak_lr", "warmup_tokens", "decay", "final_lr_fraction", "beta1", "beta2", "eps", "weight_decay", "clip_norm"),
    *("on_spike", "precision", "tokens", "steps", "batch_schedule", "microbatch_sequences", "data"),
}
# Settings that a message names at most.
MOST_SHOWN = 5
# What a file that is not as it was written gives.
DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


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
    device: str
    # Steps without an update; spikes answered; loss and gradient norm of the last healthy steps (isoflop.train.spikes).
    skipped: int = 0
    spikes: int = 0
    recent: tuple[tuple[float, float], ...] = ()
    # Settings that were changed on the way, as `isoflop.train.changes` records them.
    changes: tuple[dict[str, Any], ...] = ()

    @property
    def updates(self) -> int:
        """Updates that the weights have had."""
        return self.steps - self.skipped

    @staticmethod
    def from_json(document: dict[str, Any]) -> "Position":
        """What `asdict` made of it, after JSON.

        Raises:
            TypeError, ValueError: something else was given.
        """
        recent = tuple((float(loss), float(norm)) for loss, norm in document.get("recent", ()))
        changes = tuple(dict(change) for change in document.get("changes", ()))
        return Position(**{**document, "recent": recent, "changes": changes})


@dataclass(frozen=True)
class Generation:
    """A checkpoint on disk whose hashes held when it was opened."""

    folder: Path
    position: Position

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.position.steps

    @property
    def updates(self) -> int:
        """Updates that its weights have had."""
        return self.position.updates

    def read(self, shard: Shard) -> dict[str, torch.Tensor]:
        """The state of a shard: flat fp32, by the names in `learner.STATE`."""
        return load(self.path(shard).read_bytes())

    def path(self, shard: Shard) -> Path:
        """The file that holds it."""
        return self.folder / _file_of(shard)


def save_generation(
    folder: Path,
    plan: ModelPlan,
    data_sha256: str,
    position: Position,
    learner: Learns,
    systems: Systems,
    kept_steps: int | None = None,
) -> None:
    """Commits a generation, of which every system writes the shards it owns, and prunes the oldest.

    Those of `kept_steps` and of the plan's own kept steps stay.

    The files are the same for any number of systems.

    Raises:
        WorkError: it cannot be written, or bits of what was written have changed by themselves (`ChangedError`); the
            former generations are untouched.
    """
    systems.doing("checkpoint")
    name = f"gen-{position.steps:08d}"
    shards = shards_of(plan.shape)

    def hashes_of(part: Path) -> list[str]:
        own = np.zeros((len(shards), 32))
        for shard in shards:
            if owner(shard.index, systems) == systems.rank:
                own[shard.index] = np.frombuffer(learner.write(shard, part / _file_of(shard)), np.uint8)
        learner.check()  # what was written is what the last update left, also where it changed meanwhile
        together = systems.gather(own.reshape(-1)).sum(axis=0).reshape(own.shape)
        return [bytes(row.astype(np.uint8)).hex() for row in together]

    def fill(part: Path) -> None:
        systems.gather(np.zeros(0))  # the folder is there
        files = {_file_of(shard): {"sha256": one} for shard, one in zip(shards, hashes_of(part), strict=True)}
        manifest: dict[str, Any] = {
            "format": FORMAT,
            "position": asdict(position),
            "fingerprint": {**plan.fingerprint(), "data": data_sha256},
            "torch": torch.__version__,
            "files": files,
        }
        (part / MANIFEST).write_text(with_hash(manifest))

    if systems.rank == 0:
        write_folder(folder / name, fill)
        write_text(folder / LATEST, name + "\n")
        kept = {f"gen-{step:08d}" for step in (*plan.kept_steps, kept_steps) if step is not None}
        for old in generations_in(folder)[learner.generations :]:
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)
    else:
        systems.gather(np.zeros(0))
        hashes_of(part_of(folder / name))
    systems.gather(np.zeros(0))  # it is committed


def load_newest(folder: Path, plan: ModelPlan, data_sha256: str, on_event: Callable[[str], None]) -> Generation | None:
    """The newest generation whose hashes hold; damaged ones are set aside as `gen-N.damaged` and said so.

    Raises:
        InputError: the checkpoint belongs to other settings or other data, or is of another version's format; names
            what differs.
    """
    for left in folder.glob("gen-*.part"):
        shutil.rmtree(left, ignore_errors=True)
    for generation in generations_in(folder):
        try:
            return _opened(generation, plan, data_sha256)
        except DAMAGE as error:
            aside = generation.with_name(generation.name + ".damaged")
            shutil.rmtree(aside, ignore_errors=True)
            generation.rename(aside)
            on_event(f"checkpoint {generation} is damaged ({error}); set aside, going back to the one before")
    return None


def _opened(folder: Path, plan: ModelPlan, data_sha256: str) -> Generation:
    """The generation in `folder`, every byte of it hashed.

    Raises:
        InputError: as `load_newest`.
        One of DAMAGE: it is not what was written.
    """
    manifest = whole_manifest(folder)
    generation = Generation(folder, Position.from_json(manifest["position"]))
    check_same(manifest["fingerprint"], {**plan.fingerprint(), "data": data_sha256}, folder)
    return generation


def whole_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a generation whose every byte is as it was written.

    Raises:
        InputError: it is of another version's format.
        One of DAMAGE: it is not what was written.
    """
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    said = manifest.pop("sha256")
    if said != _hash_of(manifest):
        raise ValueError("its manifest has changed")
    written = manifest["format"]
    if written != FORMAT:
        raise InputError(
            f"{folder}: a checkpoint of format {written}, this version reads {FORMAT}; go on with the version that "
            "wrote it, or use another --runs folder"
        )
    for name, file in manifest["files"].items():
        if sha256_of_file(folder / name) != file["sha256"]:
            raise ValueError(f"the SHA-256 of {name} does not match the manifest")
    return manifest


def with_hash(manifest: dict[str, Any]) -> str:
    """The text of a manifest that was read or made, with its own hash."""
    return json.dumps({**manifest, "sha256": _hash_of(manifest)}, indent=2) + "\n"


def load_at(folder: Path, steps: int, plan: ModelPlan, data_sha256: str, systems: Systems) -> Generation:
    """The generation of that step, for all systems.

    Raises:
        WorkError: it is gone or damaged.
    """
    path = folder / f"gen-{steps:08d}"
    if systems.rank == 0:
        try:
            _opened(path, plan, data_sha256)
        except DAMAGE as error:
            raise WorkError(
                f"{path}: the checkpoint that on_spike = 'rewind' goes back to is damaged ({error}); "
                "train in another --runs folder"
            ) from None
    systems.gather(np.zeros(0))
    return Generation(path, Position.from_json(json.loads((path / MANIFEST).read_bytes())["position"]))


def load_together(
    folder: Path, plan: ModelPlan, data_sha256: str, on_event: Callable[[str], None], systems: Systems
) -> Generation | None:
    """`load_newest` for all systems: the leader looks and checks, the others open what it found."""
    systems.doing("reading the checkpoint")
    found = load_newest(folder, plan, data_sha256, on_event) if systems.rank == 0 else None
    steps = int(systems.gather(np.array([-1.0 if found is None else found.position.steps]))[0, 0])
    if systems.rank == 0 or steps < 0:
        return found
    path = folder / f"gen-{steps:08d}"
    return Generation(path, Position.from_json(json.loads((path / MANIFEST).read_bytes())["position"]))


def _file_of(shard: Shard) -> str:
    return f"{shard.name}.safetensors"


def _hash_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def generations_in(folder: Path) -> list[Path]:
    """The folders of all generations, newest first."""
    found = [path for path in folder.glob("gen-*") if re.fullmatch(r"gen-\d{8,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[4:]), reverse=True)


def updates_in(generation: Path) -> int:
    """Updates that the weights of a generation have had, as its manifest says; 0 where that cannot be read."""
    try:
        return Position.from_json(json.loads((generation / MANIFEST).read_bytes())["position"]).updates
    except DAMAGE:
        return 0


def check_same(found: Any, wanted: dict[str, Any], generation: Path) -> None:
    """Refuses to go on from what was made by other settings.

    Raises:
        InputError: they differ; names how.
    """
    found_differences = differences(found, wanted)
    differing = [f"{key} was {was!r} and is {now!r}" for key, was, now in found_differences]
    if differing:
        more = f" and {len(differing) - MOST_SHOWN} more" if len(differing) > MOST_SHOWN else ""
        accept = ""
        if all(key in CHANGEABLE for key, _, _ in found_differences):
            accept = ", or go on by the new ones with isoflop train --accept-changes, which result and card will tell"
        raise InputError(
            f"{generation}: trained with other settings: {'; '.join(differing[:MOST_SHOWN])}{more}; put them back, or "
            f"use another --runs folder{accept}"
        )


def differences(found: Any, wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, was, is) of all settings that are not alike, by name."""
    wanted = json.loads(json.dumps(wanted))
    keys = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    return [(key, found.get(key), wanted.get(key)) for key in keys]
