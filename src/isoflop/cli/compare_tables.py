"""What `isoflop compare` prints: losses, tasks and openness beside published models, and what a loss costs each."""

from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.table import print_table
from isoflop.published import published_law, published_tasks

if TYPE_CHECKING:
    from isoflop.pipeline.comparison import Compared, Comparison


def print_comparison(comparison: "Comparison", shots: int) -> None:
    """Losses, tasks, compute for a loss, openness; where each row is from stands in the JSON document."""
    law = published_law()
    print(f"Loss: nats per token of GPT-2's; law: what {law.name}'s needs for the same loss ({law.source})")
    print_table(
        ["family", "model", "params", "tokens", "FLOPs", "loss", "bits/byte", "law's FLOPs", "x law", "text"],
        [
            [
                _name(model),
                model.model,
                n.count(model.params),
                n.count(model.tokens),
                n.scientific(model.flops),
                n.loss(model.nats_per_gpt2_token),
                n.loss(model.bits_per_byte),
                n.scientific(model.law_flops),
                n.MISSING if model.times_law is None else n.digits(model.times_law),
                model.text or n.MISSING,
            ]
            for model in comparison.models
        ],
        left=9,
    )
    _print_tasks(comparison, shots)
    _print_needed(comparison)
    _print_openness(comparison)
    for note in comparison.notes:
        print(f"note: {note}")
    print("sources of every row: --json, or compare.json in the run directory")


def _print_tasks(comparison: "Comparison", shots: int) -> None:
    tasks = published_tasks()
    models = [model for model in comparison.models if shots in model.scores]
    if not models:
        print(f"\nNo scores with {shots} examples")
        return
    print(f"\nTasks, {shots} examples before each question: accuracy in per cent")
    print_table(
        ["family", "model", "FLOPs", *(task.published_as for task in tasks), "average"],
        [
            [
                _name(model),
                model.model,
                n.scientific(model.flops),
                *(_percent(model.scores[shots].get(task.task)) for task in tasks),
                _percent(model.averages[shots]),
            ]
            for model in models
        ]
        + [["guessing", "", "", *(_percent(task.chance) for task in tasks), ""]],
    )


def _print_needed(comparison: "Comparison") -> None:
    print(f"\nTraining FLOPs for a loss of {comparison.loss:.3f} on {comparison.text}, by each family's own law")
    print_table(
        ["family", "models", "FLOPs", "80 % interval", "x least", "x its largest"],
        [
            [
                one.family,
                str(one.models),
                n.scientific(one.flops),
                n.MISSING if one.flops is None else f"{n.scientific(one.low_80)} to {n.scientific(one.high_80)}",
                n.MISSING if one.times_least is None else n.digits(one.times_least),
                n.MISSING if one.times_largest is None else n.digits(one.times_largest),
            ]
            for one in comparison.needed
        ],
    )
    for one in comparison.needed:
        if one.why_not:
            print(f"note: {one.family}: {one.why_not}")


def _print_openness(comparison: "Comparison") -> None:
    print("\nOpenness")
    print_table(
        ["family", "data", "code", "weights", "recipe", "tokens/param", "compute-optimal", "licence"],
        [
            [
                f"{row['family']} (ours)" if row.get("ours") else row["family"],
                *(row[part] for part in ("data", "code", "weights", "recipe")),
                _range(row["tokens_per_parameter_low"], row["tokens_per_parameter_high"]),
                row["compute_optimal"],
                row["licence"],
            ]
            for row in comparison.openness
        ],
        left=6,
    )


def _name(model: "Compared") -> str:
    return f"{model.family} (ours)" if model.ours else model.family


def _percent(share: float | None) -> str:
    return n.MISSING if share is None else f"{100 * share:.1f}"


def _range(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return n.MISSING
    return n.digits(low) if high < 1.01 * low else f"{n.digits(low)} to {n.digits(high)}"
