"""What commands print for people: tables with units and aligned numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.table import of, print_table

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.law import Choice, Law, Prediction
    from isoflop.law.design import Purchase
    from isoflop.pipeline.interchange import ImportedModel
    from isoflop.pipeline.law import HeldOut
    from isoflop.pipeline.result import Result
    from isoflop.pipeline.trace import Trace
    from isoflop.pipeline.tune import Tuning
    from isoflop.pipeline.until import Designed, Narrowed
    from isoflop.pipeline.verification import Pushed, Verification
    from isoflop.pipeline.watch import Watched


def print_data(data: "Manifest") -> None:
    """What was made of the corpus."""
    splits = {"training": data.splits.train, "held out": data.splits.held_out}
    print_table(
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
    print_table(
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


def print_tuning(tuning: "Tuning") -> None:
    """The best trials, and how the family file takes what was found."""
    keys = list(tuning.own)
    best = sorted((trial for trial in tuning.trials if trial.loss is not None), key=lambda trial: trial.loss or 0.0)
    first = [trial for trial in tuning.trials if trial.number == 0 and trial not in best[:5]]
    print(f"{of(len(tuning.trials), 'trial')} on {tuning.model}; the best, and the family's own values (trial 0)")
    print_table(
        ["trial", *keys, "nats/token"],
        [
            [str(trial.number), *(f"{trial.values[key]:g}" for key in keys), n.loss(trial.loss)]
            for trial in [*best[:5], *first]
        ],
    )
    diverged = len(tuning.trials) - len(best)
    if diverged:
        print(f"{of(diverged, 'trial')} diverged")
    print(f"figure   {tuning.folder / 'tune.svg'}")
    print(f'values   {tuning.folder / "tuned.toml"}; name it in the family file: tuned = "PATH", seen from that file')
    if tuning.parametrisation == "standard":
        print(
            f'note: found for {tuning.model} alone; with parametrisation = "mup" the values would hold at every width'
        )


def print_imported(model: "ImportedModel") -> None:
    """What a foreign folder holds."""
    shape = model.shape
    print(f"{model.folder}: GPT-2 of {shape.n_layers} layers, width {shape.d_model}, {shape.n_heads} heads")
    print(f"vocabulary {shape.vocab_size:,}, context {shape.context_length:,}, stored as {', '.join(model.dtypes)}")
    print(f"parameters {shape.params:,}, without embeddings {shape.params_non_embedding:,}")
    print(f"SHA-256 of its weights, read as fp32: {model.weights_sha256}")
    for name in model.same_shape_as:
        print(f"has the shape of {name}")
    if model.written_to is not None:
        print(f"written to {model.written_to}, stored as {', '.join(model.written_dtypes)}")
        print(f"SHA-256 of the weights written, read as fp32: {model.written_weights_sha256}")
        if model.written_weights_sha256 != model.weights_sha256:
            print("the two differ: the type written rounds the weights that were read")


def print_verified(verification: "Verification") -> None:
    """What was checked of each release, and what was found."""
    print_table(
        ["folder", "files", "bytes", "weights", ""],
        [
            [
                str(one.folder),
                str(one.files),
                n.size(one.bytes),
                one.weights_sha256[:12],
                "; ".join(one.faults) or "good",
            ]
            for one in verification.folders
        ],
        left=4,
    )
    one = verification.retrained
    if one is not None:
        found = "the same bits" if one.same else f"other bits ({one.retrained_sha256[:12]})"
        print(f"{one.model} trained anew in {n.duration(one.seconds)}: {found}")
        print(f"released: {one.released_with}; here: {one.retrained_with}")


def print_pushed(pushed: "Pushed") -> None:
    """What was sent to the hub, or would be."""
    print_table(
        ["repository", "revision", "files", "bytes", "folder", ""],
        [
            [
                upload.repository,
                upload.revision,
                str(upload.files),
                n.size(upload.bytes),
                str(upload.folder),
                address or "not sent",
            ]
            for upload, address in zip(pushed.uploads, pushed.addresses, strict=True)
        ],
        left=4,
    )
    if pushed.dry_run:
        print(f"nothing was sent to {pushed.endpoint}: without --dry-run it is")


def print_results(results: Sequence["Result"]) -> None:
    """Held-out losses of trained models."""
    print_table(
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
    domains = list(dict.fromkeys(name for result in results for name in result.domains))
    if len(domains) > 1:
        print("\nbits/byte by domain")
        by_domain = [[result.domains.get(name) for result in results] for name in domains]
        print_table(
            ["domain", *(result.name for result in results)],
            [
                [name, *("-" if one is None else n.loss(one.bits_per_byte) for one in row)]
                for name, row in zip(domains, by_domain, strict=True)
            ],
        )


def print_identification(law: "Law") -> None:
    """The first line of a law: whether its parameters mean anything."""
    why = law.unidentified
    if why:
        print(f"Law not identified: {'; '.join(why)}. Quote no parameters; the intervals weigh what is possible.")
    else:
        print("Law identified: the points tell an irreducible loss from none, and size from tokens.")


def print_law(law: "Law") -> None:
    """The forms, what they weigh in a forecast, how size should grow, and what to beware of."""
    print_identification(law)
    sizes = len({point.params for point in law.points})
    counted = law.points[0].convention
    print(
        f"Fitted to {of(len(law.points), 'run')} of {of(sizes, 'size')}; params: {law.points[0].counted_params}, "
        f"FLOPs {_COUNTED.get(counted, counted)}"
    )
    print_table(
        ["form", "weight", "error", "starts", "gradient", "equation"],
        [
            [
                form.name,
                n.percent(form.weight),
                n.percent(form.rolling_error, 2),
                f"{form.starts_at_best}/{form.starts}" if form.starts else n.MISSING,
                n.scientific(form.gradient_norm, 0),
                form.equation or form.note,
            ]
            for form in law.forms
        ],
        left=4,
    )
    print(
        "error: of each rung foretold from those below it; weight: in the forecast; starts that ended at the best fit"
    )
    optima = [optimum for optimum in law.optima() if optimum.params_exponent is not None]
    if optima:
        print_table(
            ["optimum", "N* ~ C^", "D* ~ C^", "tokens/param", "budgets", "note"],
            [
                [
                    optimum.approach,
                    f"{optimum.params_exponent:.3f}",
                    f"{optimum.tokens_exponent:.3f}",
                    n.digits(optimum.tokens_per_parameter or 0.0),
                    str(optimum.budgets or n.MISSING),
                    optimum.note,
                ]
                for optimum in optima
            ],
            left=4,
        )
    print_notes(law.warnings)


_COUNTED = {"given": "as given", "6ND": "by 6ND", "isoflop": "by isoflop"}


def print_predictions(law: "Law", predictions: Sequence["Prediction"]) -> None:
    """Foretold losses with their intervals, and how far beyond the points they lie."""
    print_table(
        ["params", "tokens", "FLOPs", "x largest", "loss", "80 % interval", "95 % interval"],
        [
            [
                n.count(p.params),
                n.count(p.tokens),
                n.scientific(p.flops),
                n.digits(law.beyond(p)),
                n.loss(p.loss),
                _interval(p.low_80, p.high_80),
                _interval(p.low_95, p.high_95),
            ]
            for p in predictions
        ],
    )


def print_choices(law: "Law", choices: Mapping[str, "Choice"]) -> None:
    """The runs that a budget, tokens or a loss call for."""
    for name, choice in choices.items():
        print(f"\n{_ASKED[name]}")
        print_predictions(law, [choice.prediction])
        if choice.low_flops is not None and name == "loss":
            high = n.scientific(choice.high_flops) if choice.high_flops else "beyond reach"
            print(f"training FLOPs that reach it, 80 % interval: {n.scientific(choice.low_flops)} to {high}")
        if choice.inference_tokens:
            served = n.count(choice.inference_tokens)
            print(f"training and serving {served} tokens: {n.scientific(choice.total_flops)} FLOPs")


_ASKED = {
    "budget": "Lowest loss for the budget",
    "tokens": "The size that these tokens are right for",
    "loss": "Least training compute that reaches the loss",
    "loss, served": "Least compute of training and serving that reaches the loss",
}


def print_notes(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"note: {warning}")


def print_test(tests: Sequence["HeldOut"]) -> None:
    """How the law foretells the largest compute from the rest."""
    if not tests:
        print("No test on the largest run: it needs at least 4 runs besides, of 3 sizes")
        return
    print("Test: the largest compute, foretold from the rest")
    print_table(
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


def print_next_runs(runs: Sequence["Purchase"]) -> None:
    """What to train next, in order, and how far each narrows the target's interval."""
    if not runs:
        return
    print("\nNext runs: together they narrow the target's interval most for this budget, as expected")
    print_table(
        ["params", "tokens", "FLOPs", "95 % before", "after"],
        [
            [
                n.count(run.params),
                n.count(run.tokens),
                n.scientific(run.flops),
                f"+-{n.percent(run.half_width_before, 2)}",
                f"+-{n.percent(run.half_width_after, 2)}",
            ]
            for run in runs
        ],
    )


def print_design(designed: Sequence["Designed"]) -> None:
    """Which runs of the ladder to train, in order."""
    if not designed:
        print("\nDesign: no run of the ladder is left that the budget pays for")
        return
    print("\nDesign: train these next; the held-out model's interval before and after each, as expected")
    print_table(
        ["model", "FLOPs", "95 % before", "after"],
        [
            [
                run.model,
                n.scientific(run.flops),
                *(
                    n.MISSING if half is None else f"+-{n.percent(half, 2)}"
                    for half in (run.half_width_before, run.half_width_after)
                ),
            ]
            for run in designed
        ],
    )
    if designed[0].half_width_before is None:
        print("A law begins with four sizes; then plan again")


def print_narrowed(narrowed: "Narrowed") -> None:
    """What training until an interval is narrow came to."""
    why = "as narrow as wanted" if narrowed.reached else "the budget or the ladder is at its end"
    print(f"\n{narrowed.target}: 95 % interval +-{n.percent(narrowed.half_width, 2)}: {why}")
    print(
        f"trained {of(len(narrowed.trained), 'run')}, {n.scientific(narrowed.spent_flops)} FLOPs; not needed: ", end=""
    )
    print(", ".join(narrowed.left) or "none")
    print(
        f"next: isoflop train FAMILY.toml --model {narrowed.target} (its forecast is written), or isoflop run for all"
    )


def print_watched(watched: Sequence["Watched"]) -> None:
    """Where each model stands beside its expected curve, and its alarms."""
    print_table(
        ["model", "step", "loss", "expected", "band", "off by", "held-out loss at the end", "95 % interval", ""],
        [
            [
                one.model,
                f"{one.standing.step:,}/{one.steps:,}",
                n.loss(one.standing.loss),
                n.loss(one.standing.expected),
                _interval(one.standing.low, one.standing.high),
                f"{one.standing.deviation:+.1f} sd",
                n.loss(one.standing.final),
                _interval(one.standing.final_low_95, one.standing.final_high_95),
                "off its track" if one.off_track else "done" if one.finished else "on track",
            ]
            for one in watched
        ],
    )
    for one in watched:
        for alarm in one.alarms:
            print(f"warning: {one.model}: {alarm['message']}")


def place(inside_80: bool, inside_95: bool) -> str:
    """Where a measured loss lies."""
    return "inside 80 %" if inside_80 else "inside 95 %" if inside_95 else "outside"


def _interval(low: float, high: float) -> str:
    return f"{n.loss(low)} to {n.loss(high)}"
