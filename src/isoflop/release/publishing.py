"""Releases on the Hugging Face hub, through huggingface_hub. Needs the extra `hub`."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils._validators import validate_repo_id

from isoflop.errors import InputError, WorkError
from isoflop.release.manifest import MANIFEST, files_in
from isoflop.release.verification import read_manifest

MAIN = "main"


@dataclass(frozen=True)
class Upload:
    """A folder and the revision of a repository that it becomes."""

    repository: str
    revision: str
    folder: Path
    files: int
    bytes: int


def planned_uploads(owner: str, folders: Sequence[Path]) -> list[Upload]:
    """What would be sent: each release as a repository, and each of its checkpoints as a revision beside.

    Raises:
        InputError: a folder is no release, or the hub takes no such name.
    """
    uploads = []
    for folder in folders:
        manifest = read_manifest(folder)
        repository = f"{owner}/{manifest['family']}-{manifest['model']}"
        try:
            validate_repo_id(repository)
        except HFValidationError as error:
            raise InputError(f"--push {owner}: {' '.join(str(error).split())}") from None
        uploads.append(_upload(repository, MAIN, folder))
        for saved in manifest["checkpoints"]:
            name = f"step-{saved['step']}"
            uploads.append(_upload(repository, name, folder / "checkpoints" / name))
    return uploads


def push(uploads: Iterable[Upload], private: bool, on_upload: Callable[[Upload], None]) -> list[str]:
    """Sends them and returns each one's commit address; repositories are made where they are not there.

    Run again it sends what is missing: files that are there already, by their hash, are not sent twice. The token is
    the hub's own: HF_TOKEN, or what `hf auth login` keeps; HF_ENDPOINT names another hub.

    Raises:
        InputError: there is no token, or the hub does not take it.
        WorkError: the hub cannot be reached or refuses.
    """
    api, addresses = HfApi(), []
    for upload in uploads:
        on_upload(upload)
        try:
            if upload.revision == MAIN:
                api.create_repo(upload.repository, private=private, exist_ok=True)
            else:
                api.create_branch(upload.repository, branch=upload.revision, exist_ok=True)
            commit = api.upload_folder(
                repo_id=upload.repository,
                folder_path=upload.folder,
                revision=upload.revision,
                commit_message=f"Release by isoflop: {upload.repository} at {upload.revision}",
            )
        except (LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
            raise InputError(f"--push: {_line(error)}; set HF_TOKEN, and HF_HUB_OFFLINE to nothing") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise InputError(
                    f"{upload.repository}: the hub at {constants.ENDPOINT} does not take the token ({status}); "
                    "set HF_TOKEN to one that may write there"
                ) from None
            raise WorkError(f"{upload.repository}: the hub at {constants.ENDPOINT} says {_line(error)}") from None
        except Exception as error:
            # The library's transport, httpx or what came after it, is not the same in all of its versions.
            if not (isinstance(error, OSError) or type(error).__module__.startswith("httpx")):
                raise
            raise WorkError(
                f"{upload.repository}: the hub at {constants.ENDPOINT} is not reached ({_line(error)}); run again"
            ) from None
        addresses.append(str(commit.commit_url))
    return addresses


def _upload(repository: str, revision: str, folder: Path) -> Upload:
    paths = list(files_in(folder).values())
    if (folder / MANIFEST).is_file():
        paths.append(folder / MANIFEST)
    return Upload(repository, revision, folder, len(paths), sum(path.stat().st_size for path in paths))


def _line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
