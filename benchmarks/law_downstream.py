"""Accuracy on tasks foretold from smaller runs: OLMo 2 7B and 13B from their ladder, Cerebras-GPT 13B from six below.

    uv run python benchmarks/law_downstream.py

Writes benchmarks/results/law_downstream.json and prints the table of docs/laws.md: the way that weighs most, what was
foretold with its 95 % interval, what came, and what the ladder's authors foretold (Bhagia et al. 2024; from smoothed
logs, for the 13B).
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import numpy as np

from isoflop.law.downstream import Accuracy, TaskPoint, fit_downstream
from isoflop.published import published_models, published_set

RESULTS = Path(__file__).parent / "results" / "law_downstream.json"
OLMO = {"hellaswag": 0.25, "arc_easy": 0.25, "arc_challenge": 0.25, "csqa": 0.2, "openbookqa": 0.25, "piqa": 0.5}
OLMO |= {"socialiqa": 1 / 3, "mmlu_stem": 0.25, "mmlu_humanities": 0.25, "mmlu_social_sciences": 0.25}
OLMO |= {"mmlu_other": 0.25}
CEREBRAS = {"hellaswag": 0.25, "piqa": 0.5, "winogrande": 0.5, "lambada": 0.0, "arc_easy": 0.25, "arc_challenge": 0.25}
CEREBRAS |= {"openbookqa": 0.25}


def olmo(task: str) -> list[TaskPoint]:
    table = published_set("olmo_ladder")
    names = ("params", "tokens", "flops_per_token", f"{task}_bits_per_byte", f"{task}_accuracy")
    rows = zip(*(table.numbers(name) for name in names), table.texts("run"), strict=True)
    return [TaskPoint(n, d, d * per_token, x, a, run) for n, d, per_token, x, a, run in rows]


def cerebras(task: str) -> list[TaskPoint]:
    """The loss on the Pile stands in for that on the right answers, which was not published."""
    table = published_set("zero_shot")
    sizes = {model.model: model for model in published_models("Cerebras-GPT")}
    return [
        TaskPoint(sizes[m].params, sizes[m].tokens, float(c), float(x), float(a), m)
        for family, m, c, x, a in zip(
            *(table.texts(k) for k in ("family", "model", "flops", "nats_per_token", task)), strict=True
        )
        if family == "Cerebras"
    ]


def foretold() -> Iterator[tuple[str, str, TaskPoint, str, Accuracy]]:
    for name, tasks, points_of, seen in (("OLMo 2", OLMO, olmo, 16), ("Cerebras-GPT", CEREBRAS, cerebras, 6)):
        for task, chance in tasks.items():
            points = points_of(task)
            law = fit_downstream(points[:seen], chance)
            for point in points[seen:]:
                yield name, task, point, law.kind, law.predict(point.params, point.tokens, point.flops)


def main() -> None:
    theirs = {row["task"].rsplit("_", 1)[0]: row for row in published_set("olmo_ladder_published").rows}
    rows = []
    print("| models | task | run | way | foretold | 95 % interval | came | published |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, task, point, kind, said in foretold():
        published = None
        if "13B-5T" in point.run and task in theirs:
            published = round(float(theirs[task]["chained_predicted"]), 3)
        cells = f"{said.accuracy:.3f} | {said.low_95:.3f} to {said.high_95:.3f} | {point.accuracy:.3f}"
        print(
            f"| {name} | {task} | {point.run} | {kind} | {cells} | {'-' if published is None else f'{published:.3f}'} |"
        )
        rows.append(
            {"models": name, "task": task, "run": point.run, "kind": kind, "came": point.accuracy}
            | vars(said)
            | {"published": published}
        )
    inside = {
        level: float(np.mean([row[f"low_{level}"] <= row["came"] <= row[f"high_{level}"] for row in rows]))
        for level in (80, 95)
    }
    off = float(np.mean([abs(row["accuracy"] - row["came"]) for row in rows]))
    summary = {"inside_80": inside[80], "inside_95": inside[95], "mean_absolute_error": off, "date": f"{date.today()}"}
    print(json.dumps(summary))
    RESULTS.write_text(json.dumps({**summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
