"""docs/mup.md shows the measured runs, and they say what the page claims."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "mup.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def losses() -> dict[tuple[str, int], dict[float, float]]:
    """Loss by rate, for each parametrisation and width."""
    found: dict[tuple[str, int], dict[float, float]] = {}
    for run in json.loads((RESULTS / "mup_transfer.json").read_text())["runs"]:
        found.setdefault((run["parametrisation"], run["width"]), {})[run["rate"]] = run["loss"]
    return found


def test_the_best_rate_moves_by_at_most_a_factor_of_two_under_mup_and_by_more_without() -> None:
    moved = {}
    for kind in ("standard", "mup"):
        best = [min(rates, key=lambda rate: rates[rate]) for (one, _), rates in losses().items() if one == kind]
        assert len(best) >= 4
        moved[kind] = max(best) / min(best)
    assert moved["mup"] <= 2 < moved["standard"]


def test_the_page_shows_every_run() -> None:
    for (kind, width), rates in losses().items():
        shown = [f"{rates[rate]:.3f}" for rate in sorted(rates)]
        row = next(
            line for line in PAGE.splitlines() if line.startswith(f"| {'muP' if kind == 'mup' else kind} | {width} |")
        )
        assert row.replace("*", "").removesuffix(" |").split(" | ")[2:] == shown


def test_the_page_shows_the_tuning_and_the_family_has_its_values() -> None:
    tuning = json.loads((RESULTS / "pocket_tune.json").read_text())
    best = tuning["best"]
    assert best["loss"] == min(trial["loss"] for trial in tuning["trials"])
    row = " | ".join([str(best["number"]), *(f"{value:g}" for value in best["values"].values()), f"{best['loss']:.3f}"])
    assert f"| {row} |" in PAGE
    family = (ROOT / "families" / "pocket-mup.toml").read_text(encoding="utf-8")
    assert all(f"{key} = {value:g}" in family for key, value in best["values"].items())


def test_mup_costs_at_most_two_per_cent_and_the_page_says_what() -> None:
    for row in json.loads((RESULTS / "mup_speed.json").read_text())["rows"]:
        assert row["ratio"] >= 0.98
        shown = (f"{row['width']}", f"{row['standard']:,.0f}", f"{row['mup']:,.0f}", f"{row['ratio']:.3f}")
        assert f"| {' | '.join(shown)} |" in PAGE
