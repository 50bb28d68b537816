"""The page is drawn again when something it shows is newer, or when it is not whole."""

from pathlib import Path

import pytest

from isoflop.pipeline import RunFolder, report_run
from isoflop.pipeline.report import save_figures


@pytest.mark.usefixtures("train_ladder")
def test_a_page_that_was_cut_is_drawn_again_and_a_whole_one_is_not(folder: RunFolder) -> None:
    whole = report_run(folder.path).read_bytes()
    before = folder.report.stat().st_mtime_ns
    report_run(folder.path)
    assert folder.report.stat().st_mtime_ns == before
    folder.report.write_bytes(whole[:1000])
    again = report_run(folder.path).read_bytes()
    # It names the second of its drawing.
    assert len(again) == len(whole)
    assert again.endswith(b"</html>")


@pytest.mark.usefixtures("train_ladder")
def test_a_real_run_fills_the_sections_and_its_figures_are_saved(folder: RunFolder, tmp_path: Path) -> None:
    page = report_run(folder.path).read_text(encoding="utf-8")
    for name in ("published", "compute", "memory", "time"):
        assert f'data-name="{name}"' in page
    assert "<small>this family</small>" in page
    assert "systems = 1,024" not in page
    assert "<code>systems = 1024</code>" in page
    saved = save_figures(folder.path, tmp_path / "figures")
    assert {path.name for path in saved} >= {"openness.csv", "compute.svg", "compute.png", "compute.csv", "memory.svg"}
    assert all(path.stat().st_size > 0 for path in saved)
