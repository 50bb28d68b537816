"""The report of a run directory, drawn again only when something it shows has changed."""

from pathlib import Path

from isoflop.pipeline.folder import RunFolder, find_run


def report_run(path: Path) -> Path:
    """The path of the report of the run directory at `path`, drawn if it is missing or older than what it shows.

    Raises:
        InputError: there is no such directory.
        WorkError: the page cannot be written.
    """
    folder = find_run(path)
    if not _is_current(folder):
        from isoflop.report.page import write_report

        write_report(folder.path)
    return folder.report


def _is_current(folder: RunFolder) -> bool:
    shown = [folder.plan, folder.law, folder.forecast, folder.data / "manifest.json"]
    shown += folder.path.glob("models/*/result.json")
    shown += folder.path.glob("models/*/metrics.jsonl")
    times = [path.stat().st_mtime_ns for path in shown if path.exists()]
    if not folder.report.exists() or folder.report.stat().st_mtime_ns < max(times, default=0):
        return False
    return folder.report.read_bytes().rstrip().endswith(b"</html>")
