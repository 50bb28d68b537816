"""One self-contained HTML page about a family: what was foretold, what was measured, and what it cost."""

from isoflop.report.page import write_report

__all__ = ["write_report"]
