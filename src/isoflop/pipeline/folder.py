"""The run directory RUNS/<family>/: where each file of the contract lies."""

from dataclasses import dataclass
from pathlib import Path

from isoflop.errors import InputError


@dataclass(frozen=True)
class RunFolder:
    """Paths below a run directory; nothing is read or made."""

    path: Path

    @property
    def family(self) -> Path:
        """The family as it was read: with it, a run directory can be reported and released without the family file."""
        return self.path / "family.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def law(self) -> Path:
        return self.path / "law.json"

    @property
    def forecast(self) -> Path:
        return self.path / "forecast.json"

    @property
    def comparison(self) -> Path:
        """The family beside published ones."""
        return self.path / "compare.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """What a cluster's jobs print, their script and number."""
        return self.path / "logs"

    @property
    def tune(self) -> Path:
        return self.path / "tune"

    @property
    def suite(self) -> Path:
        """The tasks made of the held-out documents."""
        return self.path / "tasks"

    def model(self, name: str) -> Path:
        return self.path / "models" / name

    def result(self, name: str) -> Path:
        return self.model(name) / "result.json"

    def task_scores(self, name: str) -> Path:
        return self.model(name) / "tasks.json"

    def release(self, name: str) -> Path:
        return self.path / "release" / name


def find_run(path: Path) -> RunFolder:
    """The run directory at `path`, or the only one in it.

    Raises:
        InputError: there is none, or there are several.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such run directory; give the folder RUNS/FAMILY that isoflop run wrote")
    if (path / "plan.json").is_file():
        return RunFolder(path)
    inside = sorted(folder for folder in path.iterdir() if (folder / "plan.json").is_file())
    if len(inside) > 1:
        raise InputError(f"{path}: holds several families; give one of {', '.join(map(str, inside[:10]))}")
    if not inside:
        raise InputError(f"{path}: holds no plan.json; give the folder RUNS/FAMILY that isoflop run wrote")
    return RunFolder(inside[0])
