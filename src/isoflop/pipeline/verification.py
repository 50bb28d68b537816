"""`isoflop verify`: every checksum of released folders again, and the smallest model trained anew to the same bits."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from isoflop.config import Family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener

if TYPE_CHECKING:
    from isoflop.release.publishing import Upload
    from isoflop.release.verification import Verified

FAMILY = "family.json"


@dataclass(frozen=True)
class Retrained:
    """The model trained anew: whether its weights have the bits of the released ones."""

    model: str
    released_sha256: str
    retrained_sha256: str
    released_with: str
    retrained_with: str
    seconds: float

    @property
    def same(self) -> bool:
        return self.released_sha256 == self.retrained_sha256


@dataclass(frozen=True)
class Verification:
    """What was checked, and the model that was trained anew, if one was."""

    folders: "tuple[Verified, ...]"
    retrained: Retrained | None

    def to_json(self) -> dict[str, Any]:
        """What `isoflop verify --json` prints."""
        return {
            "folders": [{**vars(one), "folder": str(one.folder), "faults": list(one.faults)} for one in self.folders],
            "retrained": None if self.retrained is None else {**vars(self.retrained), "same": self.retrained.same},
        }

    def raise_for_faults(self) -> None:
        """Ends the command with a fault where something is not as it was released.

        Raises:
            WorkError: names the first of them.
        """
        faults = [f"{one.folder}: {fault}" for one in self.folders for fault in one.faults]
        if faults:
            more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
            raise WorkError(f"{faults[0]}{more}; fetch the release again")
        if self.retrained is not None and not self.retrained.same:
            one = self.retrained
            raise WorkError(
                f"{one.model}: trained anew it has other bits ({one.retrained_sha256[:12]}, released "
                f"{one.released_sha256[:12]}); it was trained with {one.released_with}, here with {one.retrained_with}"
            )


@dataclass(frozen=True)
class Pushed:
    """What was sent, each with the address of its commit; None for all of them if nothing was (`dry_run`)."""

    uploads: "tuple[Upload, ...]"
    addresses: tuple[str | None, ...]
    endpoint: str
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """What `isoflop release --push --json` prints beside the folders."""
        return {
            "endpoint": self.endpoint,
            "dry_run": self.dry_run,
            "uploads": [
                {**vars(upload), "folder": str(upload.folder), "address": address}
                for upload, address in zip(self.uploads, self.addresses, strict=True)
            ],
        }


def push_releases(owner: str, folders: Sequence[Path], listener: Listener, private: bool, dry_run: bool) -> Pushed:
    """Sends releases to the hub once every checksum of all of them has been found good: all are checked before any is
    sent, and a dry run ends there.

    Raises:
        InputError: huggingface_hub is not installed, the hub takes no such name, or no such token.
        WorkError: a folder is damaged, or the hub cannot be reached.
    """
    from isoflop.release.verification import verify_folder

    try:
        version("huggingface-hub")
    except PackageNotFoundError:
        raise InputError("--push needs huggingface_hub: pip install 'isoflop[hub]'") from None
    from huggingface_hub import constants

    from isoflop.release.publishing import planned_uploads, push

    uploads = planned_uploads(owner, folders)
    Verification(tuple(verify_folder(folder) for folder in folders), None).raise_for_faults()
    addresses: Sequence[str | None] = [None] * len(uploads)
    if not dry_run:
        addresses = push(
            uploads, private, lambda one: listener.note(f"{one.repository}, {one.revision}: sending {one.folder}")
        )
    return Pushed(tuple(uploads), tuple(addresses), constants.ENDPOINT, dry_run)


def verify_release(path: Path, listener: Listener, retrain: bool = False, data: Path | None = None) -> Verification:
    """Checks the release folder at `path`, or all in it; with `retrain` the smallest is trained again, in a new folder.

    `data` is the corpus to train on; without it, that of the run directory which the releases lie in, or a file of the
    released name.

    Raises:
        InputError: there is no release, or the corpus to train on is not there or another.
    """
    from isoflop.release.verification import verify_folder

    folders = _folders(path)
    verified = []
    for folder in folders:
        listener.note(f"{folder}: checking")
        verified.append(verify_folder(folder))
    if not retrain or any(one.faults for one in verified):
        return Verification(tuple(verified), None)
    smallest = min(verified, key=lambda one: one.params)
    return Verification(tuple(verified), _retrain(smallest, listener, data))


def _folders(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give one that isoflop release wrote, or a folder of them")
    for place in (path, path / "release"):
        inside = sorted(folder.parent for folder in place.glob("*/MANIFEST.json"))
        found = [path] if (path / "MANIFEST.json").is_file() else inside
        if found:
            return found
    raise InputError(f"{path}: holds no release (no MANIFEST.json); give a folder that isoflop release wrote")


def _retrain(released: "Verified", listener: Listener, data: Path | None) -> Retrained:
    from isoflop.pipeline.data import prepare_data
    from isoflop.pipeline.train import train_family
    from isoflop.release.verification import read_manifest

    manifest = read_manifest(released.folder)
    if manifest.get("changes"):
        raise InputError(
            f"{released.folder}: its settings were changed while it trained, so training again by its last ones does "
            "not give its weights; without --retrain its files are checked"
        )
    family = _family(released, data)
    with tempfile.TemporaryDirectory(prefix="isoflop-verify-") as place:
        folder = RunFolder(Path(place) / family.name)
        made = prepare_data(family, folder, listener)
        if (made.tokenizer.sha256, [shard.sha256 for shard in made.splits.train.shards]) != (
            manifest["data"]["tokenizer_sha256"],
            _train_hashes(released.folder),
        ):
            raise InputError(
                f"{family.data.source}: another corpus than the model was trained on (its tokens differ); "
                "give the released one with --data"
            )
        (result,) = train_family(family, folder, listener, released.model)
    measured = manifest["measured"]
    return Retrained(
        model=released.model,
        released_sha256=released.weights_sha256,
        retrained_sha256=result.weights_sha256,
        released_with=f"PyTorch {measured['torch']} on {measured['processor']}",
        retrained_with=f"PyTorch {result.torch} on {result.processor}",
        seconds=result.seconds,
    )


def _train_hashes(folder: Path) -> list[str]:
    from isoflop.data import Manifest

    found = Manifest.model_validate_json((folder / "data_manifest.json").read_bytes())
    return [shard.sha256 for shard in found.splits.train.shards]


def _family(released: "Verified", data: Path | None) -> Family:
    """The family as it was trained, on the corpus as it lies here."""
    try:
        family = Family.model_validate_json((released.folder / FAMILY).read_bytes())
    except (OSError, ValidationError):
        raise InputError(f"{released.folder / FAMILY}: missing or damaged; there is nothing to train by") from None
    run = RunFolder(released.folder.resolve().parent.parent)
    changes: dict[str, Any] = {"systems": 1, "cluster": None, "tuned": None}
    if data is None and run.family.is_file():
        return Family.model_validate_json(run.family.read_bytes()).model_copy(update=changes)
    source = data if data is not None else family.data.source
    if isinstance(source, Path) and not source.exists():
        raise InputError(f"{source}: the corpus is not here; give it with --data PATH")
    corpus: dict[str, Any] = {"source": source}
    if family.data.tokenizer.kind == "file":
        corpus["tokenizer"] = family.data.tokenizer.model_copy(update={"path": released.folder / "tokenizer.json"})
    return family.model_copy(update={**changes, "data": family.data.model_copy(update=corpus)})
