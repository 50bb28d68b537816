"""Where the studio's files lie: a folder of its own beside the run directories, and one in each that it launched."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder

# As `config.family.Name`: a name that makes a path leads nowhere else.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Ordered:
    """What the studio keeps in a run directory that it launched."""

    path: Path

    @property
    def order(self) -> Path:
        """What is to become of the run; it is the truth, the database only remembers it."""
        return self.path / "order.json"

    @property
    def family_file(self) -> Path:
        """The family file that it trains by."""
        return self.path / "family.toml"

    @property
    def process(self) -> Path:
        """The process at work: it holds a lock on this file as long as it lives, and leaves its exit code there."""
        return self.path / "process"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def events(self) -> Path:
        """A line for each time that the studio started it or told it something."""
        return self.path / "events.jsonl"


@dataclass(frozen=True)
class Places:
    """The folder of run directories, and those of the family files that are offered to begin with."""

    runs: Path
    families: tuple[Path, ...]

    @property
    def home(self) -> Path:
        return self.runs / ".studio"

    def make_home(self) -> None:
        """The studio's own folder, closed to others of this machine: it holds accounts, quotes and corpora.

        Raises:
            OSError: it cannot be made.
        """
        self.runs.mkdir(parents=True, exist_ok=True)
        self.home.mkdir(mode=0o700, exist_ok=True)

    @property
    def database(self) -> Path:
        """May be deleted: it is made again from the run directories."""
        return self.home / "studio.sqlite"

    @property
    def lock(self) -> Path:
        return self.home / "lock"

    @property
    def quotes(self) -> Path:
        return self.home / "quotes"

    @property
    def accounts(self) -> Path:
        return self.home / "accounts.json"

    @property
    def audit(self) -> Path:
        return self.home / "audit.jsonl"

    def corpora(self, owner: str) -> Path:
        """What an account has brought."""
        return self.home / "corpora" / checked_name(owner)

    def run(self, name: str) -> RunFolder:
        """
        Raises:
            InputError: no run directory has such a name.
        """
        return RunFolder(self.runs / checked_name(name))

    def ordered(self, name: str) -> Ordered:
        return Ordered(self.run(name).path / "studio")

    def names(self) -> list[str]:
        """Of all run directories: those with a plan, and those that were ordered and have none yet."""
        there = os.path.isfile
        try:
            with os.scandir(self.runs) as entries:
                found = [(entry.name, entry.path) for entry in entries if NAME.fullmatch(entry.name)]
        except OSError:
            return []
        return sorted(name for name, path in found if there(f"{path}/plan.json") or there(f"{path}/studio/order.json"))

    def family_files(self) -> dict[str, Path]:
        """Family files to begin with, by the name of the file; pocket first."""
        found = {path.stem: path for folder in reversed(self.families) for path in sorted(folder.glob("*.toml"))}
        return {name: found[name] for name in sorted(found, key=lambda name: (name != "pocket", name))}


def checked_name(name: str) -> str:
    """
    Raises:
        InputError: it is not one that a family may have.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"name {name[:80]!r}: use letters, digits, '.', '_' and '-', at most 64, a letter first")
    return name
