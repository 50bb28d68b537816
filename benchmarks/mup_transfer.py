"""Where does the best learning rate lie as the width grows? Real training on the pocket corpus, standard and muP.

    uv run isoflop data families/pocket.toml
    uv run python benchmarks/mup_transfer.py            # about six minutes on two cores; stop it any time, it goes on
    uv run python benchmarks/mup_transfer.py --draw     # the figure again, from the results

Every model has two layers, four heads and reads the same tokens; only width, rate and parametrisation differ. Writes
benchmarks/results/mup_transfer.json and docs/figures/mup_transfer.svg.
"""

import argparse
import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean

from isoflop.config import Family, load_family
from isoflop.durable import write_json
from isoflop.errors import DivergenceError, Interrupted
from isoflop.model import Lanes
from isoflop.recipe import ModelPlan, plan_family
from isoflop.systems import measure_machine
from isoflop.train import train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "mup_transfer.json"
FIGURE = ROOT / "docs" / "figures" / "mup_transfer.svg"
WIDTHS = (32, 64, 128, 256)
RATES = tuple(2.0**-k for k in range(11, 3, -1))
TOKENS = 200_000
CONTEXT, SEQUENCES = 64, 16
LAST_STEPS = 20
# The published base values (initialisation 0.08, embeddings times 10), but at the smallest width.
MUP = {"base_width": 32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT / "runs" / "pocket" / "data", help="prepared pocket data")
    parser.add_argument("--draw", action="store_true", help="only draw the figure")
    arguments = parser.parse_args()
    if not arguments.draw:
        try:
            measure(arguments.data)
        except Interrupted:
            sys.exit("interrupted; the same command goes on")
    draw(json.loads(RESULTS.read_text()))


def measure(data: Path) -> None:
    machine = measure_machine()
    lanes = Lanes(machine.cores)
    family = load_family(ROOT / "families" / "pocket.toml")
    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"runs": []}
    document |= {"processor": machine.processor, "cores": machine.cores, "torch": machine.torch, "tokens": TOKENS}
    document["date"] = datetime.now(UTC).date().isoformat()
    done = {(run["parametrisation"], run["width"], run["rate"]) for run in document["runs"]}
    for width in WIDTHS:
        for kind in ("standard", "mup"):
            for rate in RATES:
                if (kind, width, rate) in done:
                    continue
                model = plan_family(_family(family, kind, width, rate), machine).models[0]
                loss, seconds = _loss(model, data, lanes)
                document["runs"].append(
                    {"parametrisation": kind, "width": width, "rate": rate, "loss": loss, "seconds": seconds}
                )
                write_json(RESULTS, document)
                shown = "diverged" if loss is None else f"{loss:.3f} nats/token"
                print(f"{kind:8} width {width:4} rate {rate:.5f}: {shown}, {seconds:.0f} s", flush=True)


def _family(family: Family, kind: str, width: int, rate: float) -> Family:
    recipe = {
        "tokens": TOKENS,
        "peak_lr": rate,
        "warmup_fraction": 0.2,
        "batch_schedule": [{"from_tokens": 0, "sequences": SEQUENCES}],
        **(MUP if kind == "mup" else {}),
    }
    data = family.data.model_copy(update={"context_length": CONTEXT})
    model = {"name": f"w{width}", "n_layers": 2, "d_model": width, "n_heads": 4}
    return Family.model_validate(
        {"name": "transfer", "parametrisation": kind, "data": data, "models": [model], "recipe": recipe}
    )


def _loss(model: ModelPlan, data: Path, lanes: Lanes) -> tuple[float | None, float]:
    """Nats per token over the last LAST_STEPS steps, None where training diverged; and the seconds of training.

    No token is read twice and all runs read the same ones in the same order, so these losses compare as held-out ones.
    """
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            trained = train(
                model,
                data,
                Path(folder),
                lanes=lanes,
                whole_systems=1.0,
                peak_flops_per_second=1e12,
                checkpoint_seconds=1e9,
                read_joules=lambda: None,
                on_step=lambda step: losses.append(step.loss),
                on_event=print,
            )
        except DivergenceError:
            return None, 0.0
    return fmean(losses[-LAST_STEPS:]), trained.seconds


def draw(document: dict) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "isoflop", "svg.fonttype": "none", "font.size": 10})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, layout="constrained")
    shades = pyplot.get_cmap("viridis_r")
    for axis, kind, title in zip(axes, ("standard", "mup"), ("standard", "muP"), strict=True):
        for i, width in enumerate(WIDTHS):
            runs = [run for run in document["runs"] if (run["parametrisation"], run["width"]) == (kind, width)]
            points = sorted((run["rate"], run["loss"]) for run in runs if run["loss"] is not None)
            if not points:
                continue
            rates, losses = zip(*points, strict=True)
            colour = shades(0.15 + 0.85 * i / (len(WIDTHS) - 1))
            axis.plot(rates, losses, "-", color=colour, marker=".", label=f"width {width}")
            best = min(points, key=lambda point: point[1])
            axis.plot(*best, "o", color=colour, markersize=9, markerfacecolor="none")
        axis.set_xscale("log", base=2)
        axis.set_title(f"{title}: circles mark each width's best")
        axis.set_xlabel("base learning rate")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("loss of the last 20 steps, nats per token")
    axes[1].legend(frameon=False)
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    print(FIGURE.relative_to(Path.cwd()) if FIGURE.is_relative_to(os.getcwd()) else FIGURE)


if __name__ == "__main__":
    main()
