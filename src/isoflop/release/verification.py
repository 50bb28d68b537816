"""Checks a release folder against its own manifest: every file, the weights, and the documents among each other."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.durable import refuse_broken_seal, sha256_of_file
from isoflop.errors import InputError
from isoflop.release.manifest import FORMAT_VERSION, MANIFEST, files_in
from isoflop.release.tensors import WEIGHTS


@dataclass(frozen=True)
class Verified:
    """What was checked of one folder. `faults` are sentences, none where all is as the manifest says."""

    folder: Path
    model: str
    params: int
    files: int
    bytes: int
    weights_sha256: str
    faults: tuple[str, ...]


def read_manifest(folder: Path) -> dict[str, Any]:
    """MANIFEST.json of a release folder.

    Raises:
        InputError: there is none, or it is damaged or of another format.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        version = manifest["format_version"]
        manifest["files"].items(), manifest["plan"]["params"], manifest["weights_sha256"], manifest["model"]
    except OSError as error:
        raise InputError(
            f"{folder / MANIFEST}: cannot read ({error.strerror}); give a folder of isoflop release"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{folder / MANIFEST}: damaged; nothing in this folder can be checked by it") from None
    if version != FORMAT_VERSION:
        raise InputError(f"{folder / MANIFEST}: of format {version}, this version reads {FORMAT_VERSION}; release anew")
    return dict(manifest)


def verify_folder(folder: Path) -> Verified:
    """Reads every byte of the folder once or twice: files by their hashes, tensors by `weights_sha256`.

    Raises:
        InputError: the folder is no release.
    """
    manifest = read_manifest(folder)
    found, faults = files_in(folder), []
    try:
        refuse_broken_seal(manifest)
    except ValueError as error:
        faults.append(f"{MANIFEST}: {error}")
    for name, said in manifest["files"].items():
        if name not in found:
            faults.append(f"{name}: missing")
        elif found[name].is_symlink():
            faults.append(f"{name}: a link, not a file")
        elif found[name].stat().st_size != said["bytes"]:
            faults.append(f"{name}: {found[name].stat().st_size:,} bytes, {said['bytes']:,} in the manifest")
        elif sha256_of_file(found[name]) != said["sha256"]:
            faults.append(f"{name}: its SHA-256 is not that of the manifest")
    faults += [f"{name}: not in the manifest" for name in found if name not in manifest["files"]]
    if not any(fault.startswith(f"{WEIGHTS}:") for fault in faults):
        faults += _of_weights(folder / WEIGHTS, manifest)
    faults += _of_documents(folder, manifest)
    return Verified(
        folder=folder,
        model=manifest["model"],
        params=manifest["plan"]["params"],
        files=len(manifest["files"]),
        bytes=sum(said["bytes"] for said in manifest["files"].values()),
        weights_sha256=manifest["weights_sha256"],
        faults=tuple(faults),
    )


def _of_weights(path: Path, manifest: dict[str, Any]) -> list[str]:
    """The tensors must have the hash that the run gave them, and be as many as the plan says."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from isoflop.model import weights_sha256

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        return [f"{path.name}: not read ({str(error).splitlines()[0][:100]})"]
    params = sum(tensor.numel() for tensor in tensors.values())
    faults = []
    if params != manifest["plan"]["params"]:
        faults.append(f"{path.name}: {params:,} parameters, {manifest['plan']['params']:,} in the manifest")
    if weights_sha256(tensors) != manifest["weights_sha256"]:
        faults.append(f"{path.name}: its tensors have another weights_sha256 than the manifest")
    return faults


def _of_documents(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """What the manifest says of the data must be what its files hold: it may have been changed together with them."""
    wanted = {"data_manifest.json": "manifest_sha256", "tokenizer.json": "tokenizer_sha256"}
    files, data = manifest["files"], manifest.get("data", {})
    return [
        f"{name}: another file than the training's, by `data` in the manifest"
        for name, key in wanted.items()
        if name in files and files[name]["sha256"] != data.get(key)
    ]
