"""MANIFEST.json: every setting, version and hash that repeating the run takes, and the hash of every other file."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isoflop.data.hashes import Hashes
from isoflop.durable import sha256_of_file, to_json
from isoflop.release.card import Card

FORMAT_VERSION = 1
MANIFEST = "MANIFEST.json"


def manifest(card: Card, folder: Path) -> dict[str, Any]:
    """What MANIFEST.json says of the model of `card` and the files that lie in `folder`."""
    packages = {name: version(name) for name in ("isoflop", "tokenizers", "safetensors", "numpy")}
    return {
        **_settings(card),
        "released_with": {"python": platform.python_version(), "torch": version("torch"), **packages},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
            for path in sorted(folder.iterdir())
            if path.name != MANIFEST
        },
    }


def is_current(card: Card, folder: Path) -> bool:
    """Whether `folder` holds what its manifest lists, by name and hash, and the manifest says what `card` does.

    A large file that was hashed before and not touched since is not read again.
    """
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        settings = json.loads(to_json(_settings(card)))
        if {key: found.get(key) for key in settings} != settings:
            return False
        hashes = Hashes(folder)
        there = {path.name: hashes.of(path) for path in folder.iterdir() if path.name != MANIFEST}
        hashes.keep()
        return there == {name: file["sha256"] for name, file in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def data_manifest(card: Card) -> str:
    """data_manifest.json, which is the run's data/manifest.json to the byte."""
    return to_json(card.data.model_dump(mode="json")) + "\n"


def _settings(card: Card) -> dict[str, Any]:
    plan = card.plan
    return {
        "format_version": FORMAT_VERSION,
        "family": card.family,
        "description": card.description,
        "model": plan.name,
        "size": plan.size,
        "weights_sha256": card.weights_sha256,
        "plan": {
            **plan.fingerprint(),
            "params": plan.shape.params,
            "params_non_embedding": plan.shape.params_non_embedding,
            "flops": plan.flops,
        },
        "data": {
            "licence": card.data.licence,
            "manifest_sha256": hashlib.sha256(data_manifest(card).encode()).hexdigest(),
            "tokenizer_sha256": card.data.tokenizer.sha256,
        },
        "measured": asdict(card.measured),
        "foretold": None if card.foretold is None else asdict(card.foretold),
    }
