"""The page is drawn again when something it shows is newer, or when it is not whole."""

import pytest

from isoflop.pipeline import RunFolder, report_run


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
