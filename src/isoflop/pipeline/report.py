"""The report of a run directory, drawn again only when something it shows has changed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.errors import WorkError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.recipe import Plan

if TYPE_CHECKING:
    from isoflop.report.run import Foretold

# Below this size any device holds a model whole: a published one shows what memory and layouts come to.
LARGE_PARAMS = 1_000_000_000
LARGE_FAMILY, LARGE_MODEL = "Cerebras-GPT", "13B"
SYSTEMS = tuple(2**k for k in range(11))


def report_run(path: Path) -> Path:
    """The path of the report of the run directory at `path`, drawn if it is missing or older than what it shows.

    Raises:
        InputError: there is no such directory.
        WorkError: the page cannot be written.
    """
    folder = find_run(path)
    if not _is_current(folder):
        from isoflop.report.page import write_report

        write_report(folder.path, foretold(folder))
    return folder.report


def save_figures(path: Path, to: Path) -> list[Path]:
    """The paths of the report's figures, written into the folder `to` as SVG, PNG and CSV.

    Raises:
        InputError: there is no such run directory.
        WorkError: a file cannot be written.
    """
    from isoflop.report.files import write_figures

    folder = find_run(path)
    return write_figures(folder.path, to, foretold(folder))


def foretold(folder: RunFolder) -> "Foretold":
    """What more systems would bring the family's largest model and a large one, and how open the family is. Nothing
    where the run directory does not hold its plan."""
    from isoflop.pipeline.own_models import own_openness
    from isoflop.pipeline.plan import stored_plan
    from isoflop.report.run import Foretold

    try:
        _, plan = stored_plan(folder)
        openness = {**own_openness(folder).model_dump(), "ours": True}
    except WorkError:
        return Foretold()
    return Foretold(tuple(_systems(plan)), openness)


def _systems(plan: Plan) -> list[dict[str, Any]]:
    from isoflop.pipeline.scaling import SHOWN_GPU, foretell_published, foretell_scaling
    from isoflop.published import published_recipes

    largest = max(plan.models, key=lambda model: model.shape.params)
    microbatches = largest.batch_sequences // largest.microbatch_sequences
    numbers = [number for number in SYSTEMS if number <= microbatches]
    tables = [(True, table) for table in foretell_scaling(plan, numbers, largest.name)]
    if largest.shape.params < LARGE_PARAMS:
        recipe = next(one for one in published_recipes(LARGE_FAMILY) if one.model == LARGE_MODEL)
        tables[1:] = [(False, foretell_published(recipe, SHOWN_GPU, SYSTEMS))]
    return [{**table.to_json(), "ours": ours} for ours, table in tables]


def shown_files(folder: RunFolder) -> list[Path]:
    """The files that the report shows; they need not be there."""
    shown = [folder.plan, folder.law, folder.forecast, folder.comparison, folder.data / "manifest.json"]
    for name in ("result.json", "metrics.jsonl", "tasks.json"):
        shown += sorted(folder.path.glob(f"models/*/{name}"))
    return shown


def _is_current(folder: RunFolder) -> bool:
    times = [path.stat().st_mtime_ns for path in shown_files(folder) if path.exists()]
    if not folder.report.exists() or folder.report.stat().st_mtime_ns < max(times, default=0):
        return False
    return folder.report.read_bytes().rstrip().endswith(b"</html>")
