"""What commands print for people: tables with units and aligned numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from isoflop.cli import numbers as n
from isoflop.cli.law_tables import interval
from isoflop.cli.table import of, print_table

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.law.watch import Standing
    from isoflop.pipeline.interchange import ImportedModel
    from isoflop.pipeline.result import Result
    from isoflop.pipeline.trace import Trace
    from isoflop.pipeline.tune import Tuning
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
    for key, end in tuning.at_edge.items():
        print(
            f"warning: the best {key}, {tuning.best.values[key]:g}, lies at the {end} end of the search; the true best "
            f"may lie beyond: set recipe.{key} to it and tune in another --runs folder"
        )
    print(f"figure   {tuning.folder / 'tune.svg'}")
    print(f'values   {tuning.folder / "tuned.toml"}; name it in the family file: tuned = "PATH", seen from that file')
    if tuning.parametrisation == "standard":
        print(
            f'note: found for {tuning.model} alone; with parametrisation = "mup" the values would hold at every width'
        )


def print_imported(model: "ImportedModel") -> None:
    """What a foreign folder holds."""
    shape = model.shape
    print(f"{model.folder}: GPT-2 of {of(shape.n_layers, 'layer')}, width {shape.d_model}, {of(shape.n_heads, 'head')}")
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


def print_watched(watched: Sequence["Watched"]) -> None:
    """Where each model stands beside its expected curve, and its alarms."""
    print_table(
        ["model", "step", "loss", "expected", "band", "off by", "held-out loss at the end", "95 % interval", ""],
        [
            [
                one.model,
                f"{one.step:,}/{one.steps:,}",
                n.loss(one.loss),
                *_standing_cells(one.standing),
                "off its track" if one.off_track else "done" if one.finished else "on track" if one.standing else "",
            ]
            for one in watched
        ],
    )
    for why in dict.fromkeys(one.untracked for one in watched if one.untracked):
        print(f"note: {why}: without them rates and layers are watched, the loss is not")
    for one in watched:
        for alarm in one.alarms:
            print(f"warning: {one.model}: {alarm['message']}")


def _standing_cells(standing: "Standing | None") -> list[str]:
    if standing is None:
        return [n.MISSING] * 5
    return [
        n.loss(standing.expected),
        interval(standing.low, standing.high),
        f"{standing.deviation:+.1f} sd",
        n.loss(standing.final),
        interval(standing.final_low_95, standing.final_high_95),
    ]
