"""MANIFEST.json: every setting, version and hash that repeating the run takes, and the hash of every other file."""

import hashlib
import json
import platform
import re
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

from isoflop.data.hashes import Hashes
from isoflop.durable import refuse_broken_seal, sealed, sha256_of_file, to_json
from isoflop.release.card import Card

FORMAT_VERSION = 2
MANIFEST = "MANIFEST.json"
# What the hub, and those who fetch from it, put beside a release.
OF_THE_HUB = (".gitattributes", ".git/", ".cache/")


def manifest(card: Card, folder: Path) -> dict[str, Any]:
    """What MANIFEST.json says of the model of `card` and the files that lie in `folder`, sealed."""
    return sealed(
        {
            **_settings(card),
            "released_with": {"python": platform.python_version(), "code_sha256": code_sha256(), **environment()},
            "files": {
                name: {"bytes": path.stat().st_size, "sha256": sha256_of_file(path)}
                for name, path in files_in(folder).items()
            },
        }
    )


def is_current(card: Card, folder: Path) -> bool:
    """Whether `folder` holds what its manifest lists, by name and hash, and the manifest says what `card` does.

    A large file that was hashed before and not touched since is not read again.
    """
    try:
        found = refuse_broken_seal(json.loads((folder / MANIFEST).read_bytes()))
        settings = json.loads(to_json(_settings(card)))
        if {key: found.get(key) for key in settings} != settings:
            return False
        hashes = Hashes(folder)
        there = {
            name: {"bytes": path.stat().st_size, "sha256": hashes.of(path)} for name, path in files_in(folder).items()
        }
        hashes.keep()
        return bool(there == found["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def files_in(folder: Path) -> dict[str, Path]:
    """Every file below `folder` but the manifest, by its path from there."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    named = {path.relative_to(folder).as_posix(): path for path in found}
    return {name: path for name, path in named.items() if name != MANIFEST and not name.startswith(OF_THE_HUB)}


def code_sha256() -> str:
    """A hash over isoflop's own files, names and bytes: equal hash, equal program, whatever its version says."""
    root = Path(str(files("isoflop")))
    hashed = hashlib.sha256()
    for path in sorted(path for path in root.rglob("*") if path.suffix in (".py", ".c", ".jinja", ".csv")):
        hashed.update(f"{path.relative_to(root).as_posix()} {sha256_of_file(path)}\n".encode())
    return hashed.hexdigest()


def environment() -> dict[str, str]:
    """The versions of isoflop and of all packages that it draws in, as they are installed here."""
    found: dict[str, str] = {}
    wanted = ["isoflop"]
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = package.version
        plain = (one for one in package.requires or () if "extra ==" not in one)
        wanted += [match[0] for one in plain if (match := re.match(r"[A-Za-z0-9._-]+", one))]
    return dict(sorted(found.items()))


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
        "tasks": [asdict(score) for score in card.scores],
        "checkpoints": [asdict(saved) for saved in card.checkpoints],
        "spikes": [asdict(spike) for spike in card.spikes],
        "changes": [asdict(change) for change in card.changes],
        "documents": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in card.documents.items()},
    }
