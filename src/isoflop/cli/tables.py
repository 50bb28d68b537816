"""What commands print for people: tables with units and aligned numbers."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.law import Law, Prediction
    from isoflop.pipeline.law import HeldOut
    from isoflop.pipeline.result import Result
    from isoflop.pipeline.trace import Trace
    from isoflop.recipe import ModelPlan, Plan


def print_plan(plan: "Plan") -> None:
    """What will be trained, and what it will cost on this machine."""
    machine, models = plan.machine, plan.models
    rate = machine.matrix_flops_per_second(plan.precision)
    print(
        f"Family {plan.family}: {_of(len(models), 'model')}, {plan.precision}, {_of(plan.systems, 'system')} "
        f"({machine.processor}, {_of(machine.cores, 'core')}, {n.digits(rate / 1e9)} GFLOP/s in matrix products)"
    )
    print()
    _print_table(
        ["model", "layers", "width", "heads", "params", "non-emb.", "tokens", "batch", "steps", "peak lr"],
        [
            [
                _marked(model),
                str(model.shape.n_layers),
                str(model.shape.d_model),
                str(model.shape.n_heads),
                n.count(model.shape.params),
                n.count(model.shape.params_non_embedding),
                n.count(model.tokens),
                _batch(model),
                f"{model.steps:,}",
                n.scientific(model.peak_lr, 1),
            ]
            for model in models
        ],
    )
    print()
    memory = [(model.weights_bytes, model.optimizer_bytes, model.activation_bytes) for model in models]
    rows = [
        [
            _marked(model),
            n.scientific(model.flops),
            *map(n.size, parts),
            *_costs(model.seconds, model.joules, model.price),
        ]
        for model, parts in zip(models, memory, strict=True)
    ]
    sums = plan.totals()
    total = ["all", n.scientific(sums["flops"]), "", "", "", *_costs(sums["seconds"], sums["joules"], sums["price"])]
    header = ["model", "FLOPs", "weights", "optimizer", "activat.", "time", "energy", plan.currency]
    _print_table(*_without_empty(header, [*rows, total]))
    print()
    if plan.held_out:
        print("* held out: its loss is foretold from the others before it starts")
    print("batch: sequences a step x tokens of each; time: expected on this machine")


def print_data(data: "Manifest") -> None:
    """What was made of the corpus."""
    splits = {"training": data.splits.train, "held out": data.splits.held_out}
    _print_table(
        ["split", "documents", "tokens", "text", "bytes/token"],
        [
            [
                name,
                f"{split.documents:,}",
                n.count(split.tokens),
                n.size(split.bytes),
                n.digits(split.bytes / max(1, split.tokens)),
            ]
            for name, split in splits.items()
        ],
    )
    tokenizer = data.tokenizer
    print(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} tokens, SHA-256 {tokenizer.sha256[:12]}")
    if data.empty_documents:
        print(f"empty documents left out: {data.empty_documents:,}")
    if data.duplicates_removed:
        print(f"duplicates left out: {data.duplicates_removed:,}")
    for task, overlap in data.overlaps.items():
        found = f"{overlap.found:,} of {overlap.ngrams:,} n-grams found"
        print(f"text of task {task}: {found}, {overlap.documents:,} documents left out")
    if data.faults:
        first = data.faults[0]
        print(f"faults left out: {len(data.faults):,}; the first: {first.file}: {first.reason} (all in manifest.json)")


def print_trace(traced: "Trace") -> None:
    """The documents of a step's batch, sample by sample."""
    print(
        f"{traced.model}, step {traced.step} of {traced.steps}: {traced.sequences} sequences of "
        f"{traced.context_length} tokens, {len(traced.passages)} passages"
    )
    _print_table(
        ["sample", "from", "tokens", "of", "domain", "source", "offset"],
        [
            [
                f"{passage.sample}",
                f"{passage.document_token:,}",
                f"{passage.tokens:,}",
                f"{passage.document_tokens:,}",
                passage.domain or "-",
                passage.source,
                f"{passage.offset}",
            ]
            for passage in traced.passages
        ],
    )


def print_results(results: Sequence["Result"]) -> None:
    """Held-out losses of trained models."""
    _print_table(
        ["model", "params", "tokens", "FLOPs", "nats/token", "bits/byte", "time"],
        [
            [
                result.name,
                n.count(result.params),
                n.count(result.tokens),
                n.scientific(result.flops),
                n.loss(result.nats_per_token),
                n.loss(result.bits_per_byte),
                n.duration(result.seconds),
            ]
            for result in results
        ],
    )


def print_law(law: "Law") -> None:
    """The forms, what they weigh in a forecast, and what to beware of."""
    sizes = len({point.params for point in law.points})
    print(f"Law fitted to {_of(len(law.points), 'run')} of {_of(sizes, 'size')}")
    _print_table(
        ["form", "weight", "error", "equation"],
        [
            [form.name, n.percent(form.weight), n.percent(form.rolling_error, 2), form.equation or form.note]
            for form in law.forms
        ],
        left=2,
    )
    print("error: of each rung foretold from those below it; weight: in the forecast")
    for warning in law.warnings:
        print(f"note: {warning}")


def print_predictions(predictions: Sequence["Prediction"], warnings: Sequence[str]) -> None:
    """Foretold losses with their intervals."""
    _print_table(
        ["params", "tokens", "FLOPs", "loss", "80 % interval", "95 % interval"],
        [
            [
                n.count(p.params),
                n.count(p.tokens),
                n.scientific(p.flops),
                n.loss(p.loss),
                _interval(p.low_80, p.high_80),
                _interval(p.low_95, p.high_95),
            ]
            for p in predictions
        ],
    )
    for warning in warnings:
        print(f"note: {warning}")


def print_test(tests: Sequence["HeldOut"]) -> None:
    """How the law foretells the largest compute from the rest."""
    if not tests:
        print("No test on the largest run: it needs at least 4 runs besides, of 3 sizes")
        return
    print("Test: the largest compute, foretold from the rest")
    _print_table(
        ["run", "params", "measured", "foretold", "off by", "80 % interval", "95 % interval", ""],
        [
            [
                test.run,
                n.count(test.predicted.params),
                n.loss(test.measured),
                n.loss(test.predicted.loss),
                f"{100 * test.error:+.2f} %",
                _interval(test.predicted.low_80, test.predicted.high_80),
                _interval(test.predicted.low_95, test.predicted.high_95),
                place(test.inside_80, test.inside_95),
            ]
            for test in tests
        ],
    )


def place(inside_80: bool, inside_95: bool) -> str:
    """Where a measured loss lies."""
    return "inside 80 %" if inside_80 else "inside 95 %" if inside_95 else "outside"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> None:
    """Columns two spaces apart: the first and column `left` to the left, numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for i, name in enumerate(header):
        last_text = left and i > left
        table.add_column(Text(name), justify="left" if i == 0 or last_text else "right", no_wrap=not last_text)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # A pipe has no width: nothing is cut there.
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 200).print(table)


def _without_empty(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without the columns of which nothing is known."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("", n.MISSING) for row in rows)]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _marked(model: "ModelPlan") -> str:
    return model.name + "*" * model.held_out


def _batch(model: "ModelPlan") -> str:
    stages = [stage.sequences for stage in model.batch_schedule]
    return f"{'/'.join(map(str, stages[:3]))} x {model.shape.context_length}"


def _costs(seconds: float | None, joules: float | None, price: float | None) -> list[str]:
    return [n.duration(seconds), n.energy(joules), n.price(price)]


def _interval(low: float, high: float) -> str:
    return f"{n.loss(low)} to {n.loss(high)}"


def _of(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
