"""What `isoflop plan` prints for people."""

import textwrap
from typing import TYPE_CHECKING, Any

from isoflop.cli import numbers as n
from isoflop.cli.table import of, print_table, without_empty

if TYPE_CHECKING:
    from isoflop.pipeline.published import Comparison
    from isoflop.recipe import ModelPlan, Plan


def print_plan(plan: "Plan") -> None:
    """What will be trained, and what it will cost on this machine."""
    machine, models = plan.machine, plan.models
    rate = machine.matrix_flops_per_second(plan.precision)
    print(
        f"Family {plan.family}: {of(len(models), 'model')}, {plan.precision}, {of(plan.systems, 'system')} "
        f"({machine.processor}, {of(machine.cores, 'core')}, {n.digits(rate / 1e9)} GFLOP/s in matrix products)"
    )
    print()
    print_table(
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
    print_table(*without_empty(header, [*rows, total]))
    print()
    if plan.held_out:
        print("* held out: its loss is foretold from the others before it starts")
    print("batch: sequences a step x tokens of each; time: expected on this machine")


def print_memory(plan: "Plan") -> None:
    """What each size holds at its fullest in either execution, on each system; which of them the plan is made for."""
    sizes = [model for model in plan.models if model.name == model.size]
    print()
    print_table(
        ["model", "resident", "streamed", "in host", "on disk", "link a step", "planned"],
        [
            [
                model.size,
                n.size(model.resident.device_bytes),
                n.size(model.streamed.device_bytes),
                n.size(model.streamed.host_bytes) if model.streamed.host_bytes else n.MISSING,
                n.size(model.streamed.disk_bytes),
                n.size(model.streamed.link_bytes),
                model.execution,
            ]
            for model in sizes
        ],
    )
    print("memory of a system at its fullest, resident and streamed; then where streamed")
    print("weights live, and what a step moves between there and the device")


def print_settings(plan: "Plan") -> None:
    """What each size trains with, whether the family file or a rule says so: schedule, optimizer, initialisation."""
    sizes = [model for model in plan.models if model.name == model.size]  # further seeds have the same
    print()
    print_table(
        ["model", "warm-up", "decay", "to", "Adam betas", "eps", "w. decay", "clip"],
        [
            [
                model.size,
                n.count(model.warmup_tokens),
                model.decay,
                n.scientific(model.peak_lr * model.final_lr_fraction, 1),
                f"{model.beta1:g}, {model.beta2:g}",
                n.scientific(model.eps, 0),
                f"{model.weight_decay:g}",
                f"{model.clip_norm:g}",
            ]
            for model in sizes
        ],
    )
    print()
    header = ["model", "init: emb.", "layers", "residual", "cut at", "emb. x", "logits x", "q.k x", "layer lr"]
    print_table(*without_empty(header, [_initialisation(model) for model in sizes]))
    print("init: deviation of embeddings, of layers' matrices, of those that write to the")
    print("residual stream, before any cut; x: multiplied by; layer lr: of the matrices")


def _initialisation(model: "ModelPlan") -> list[str]:
    how = model.parametrisation
    return [
        model.size,
        f"{how.embedding_init_std:.3g}",
        f"{how.hidden_init_std:.3g}",
        f"{how.residual_std(model.shape.n_layers):.3g}",
        n.MISSING if how.init_truncation is None else f"{how.init_truncation:g} sd",
        f"{how.embedding_multiplier:.3g}",
        f"{how.output_multiplier:.3g}",
        f"{how.attention_scale(model.shape):.3g}",
        n.scientific(model.peak_lr * how.hidden_lr_multiplier, 1),
    ]


def print_published(comparison: "Comparison") -> None:
    """Ours beside the published: parameters and tokens exactly, FLOPs three ways, and every deviation."""
    print(f"\nBeside {comparison.family} as published")
    print_table(
        ["model", "parameters", "published", "tokens", "published"],
        [
            [
                one.plan.name,
                *(f"{count:,}" for count in (one.plan.shape.params, one.recipe.params)),
                *(f"{count:,}" for count in (one.plan.tokens, one.recipe.tokens)),
            ]
            for one in comparison.models
        ],
    )
    print()
    print_table(
        ["model", "FLOPs", "6ND", "paper's way", "published", "off by"],
        [
            [
                one.plan.name,
                n.scientific(one.plan.flops),
                n.scientific(one.plan.flops_6nd),
                n.scientific(one.plan.flops_paper),
                n.scientific(one.recipe.flops, 1),
                f"{100 * (one.plan.flops_paper / one.recipe.flops - 1):+.1f} %",
            ]
            for one in comparison.models
        ],
    )
    if comparison.missing:
        print(f"published, but not in this family: {', '.join(comparison.missing)}")
    print("\nDeviations (all other published settings are the same)" if comparison.differences else "\nNo deviations")
    for difference in comparison.differences:
        print(textwrap.fill(f"- {difference.what}: {difference.reason}", 80, subsequent_indent="  "))
        for name, (ours, published) in difference.models.items():
            print(f"    {name}: {_setting(ours)}, published {_setting(published)}")


def _marked(model: "ModelPlan") -> str:
    return model.name + "*" * model.held_out


def _batch(model: "ModelPlan") -> str:
    stages = [stage.sequences for stage in model.batch_schedule]
    return f"{'/'.join(map(str, stages[:3]))} x {model.shape.context_length}"


def _setting(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _costs(seconds: float | None, joules: float | None, price: float | None) -> list[str]:
    return [n.duration(seconds), n.energy(joules), n.price(price)]
