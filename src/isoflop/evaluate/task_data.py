"""Where the data sets of downstream tasks lie on this machine, or how to fetch them."""

import os
from dataclasses import dataclass
from pathlib import Path

from isoflop.errors import InputError

# Formats that `datasets` reads from files which a task's YAML names itself.
_FORMATS = {"json", "csv", "parquet", "arrow", "text", "webdataset"}


@dataclass(frozen=True)
class At:
    """What `datasets.load_dataset` is given: a path (or a name on the hub) and a configuration."""

    path: str
    name: str | None


@dataclass(frozen=True)
class TaskData:
    """Looks in `folder`, then in the hub's cache; with `download` on the hub itself.

    A data set of the name OWNER/SET may lie in `folder` as OWNER/SET, SET or under the task's name: a copy of its
    repository, files of rows named by split (validation.jsonl), or what `datasets` saved.
    """

    folder: Path | None = None
    download: bool = False

    def find(self, task: str, data_set: str | None, configuration: str | None) -> At | None:
        """Where a task's data set lies; None: where the task itself says.

        Raises:
            InputError: it is not at hand, which the message says how to change, or cannot be read.
        """
        if data_set is None:
            return None
        place = self.place(task, data_set)
        return None if place is None else At(str(place), _configuration(place, configuration))

    def place(self, task: str, data_set: str) -> Path | None:
        """The folder of the data set; None: it needs none.

        Raises:
            InputError: it is not at hand.
        """
        if data_set in _FORMATS or Path(data_set).exists():
            return None
        if self.folder is not None:
            for place in (self.folder / data_set, self.folder / data_set.split("/")[-1], self.folder / task):
                if place.is_dir():
                    return place
        if self.download:
            return None
        snapshot = _in_hub_cache(data_set)
        if snapshot is None and not _in_datasets_cache(data_set):
            raise InputError(
                f"{task}: its data set {data_set} is not on this machine; with network add --download; without, run "
                f"{fetch_command(data_set)} elsewhere, bring DATA here and add --data-dir DATA"
            )
        return snapshot


def fetch_command(data_set: str) -> str:
    """What brings a data set of the hub into a folder DATA."""
    return f"hf download {data_set} --repo-type dataset --local-dir DATA/{data_set.split('/')[-1]}"


def _configuration(folder: Path, name: str | None) -> str | None:
    """`name` if the folder knows it: files by split have no configurations."""
    import datasets

    try:
        known = datasets.get_dataset_config_names(str(folder))
    except Exception as error:  # datasets raises whatever the files make it raise
        line = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: not a data set that can be read ({line}); fetch it again") from None
    return name if name in known else None


def _in_hub_cache(data_set: str) -> Path | None:
    """The snapshot of the repository's main branch in the hub's cache."""
    repository = _cache("HF_HUB_CACHE", "hub") / f"datasets--{data_set.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text().strip()
    except OSError:
        return None
    return snapshot if snapshot.is_dir() else None


def _in_datasets_cache(data_set: str) -> bool:
    """Whether `datasets` has prepared it before; it then needs the hub no more."""
    folder = _cache("HF_DATASETS_CACHE", "datasets")
    wanted = data_set.replace("/", "___")
    # It writes a capital letter as an underscore and a small one.
    return folder.is_dir() and any(_plain(path.name) == _plain(wanted) for path in folder.iterdir())


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _cache(variable: str, folder: str) -> Path:
    """As huggingface_hub and datasets find them, without loading either."""
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache")), "huggingface"
    )
    return Path(os.path.expanduser(os.environ.get(variable) or os.path.join(home, folder)))
