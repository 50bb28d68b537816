"""Which run next? Farseer's 404 runs bought one by one for the seven held out, at 1, 5 and 10 % of all their FLOPs.

    uv run python benchmarks/law_design.py

Writes benchmarks/results/law_design.json. R^2 is over the seven held-out losses, as in active-sl (arXiv 2604.22753,
table 2): 0.60, 0.88 and 0.93 for its own choice, 0.67, 0.87 and 0.92 for V-optimal, 0.91 with all runs.
"""

import json
from pathlib import Path

import numpy as np

from isoflop.law import Law, Point, fit_law
from isoflop.law.design import begin, buy
from isoflop.published import published_set

RESULTS = Path(__file__).parent / "results" / "law_design.json"
SHARES = (0.01, 0.05, 0.10)
# Of what may be spent, for the runs with which any law must begin: cheap, and spread over sizes and tokens.
FIRST = 0.25
# Runs that a plan may hold, and how many of them are bought before the law is fitted anew and the rest planned again.
PLANNED, AT_ONCE = 40, 6


def main() -> None:
    table = published_set("farseer")
    columns = zip(*(table.numbers(name) for name in ("params", "tokens", "loss", "held_out")), strict=True)
    rows = list(columns)
    pool = [Point(n, d, x, 6 * n * d, f"run {i}") for i, (n, d, x, out) in enumerate(rows) if not out]
    held = [Point(n, d, x, 6 * n * d, "held out") for n, d, x, out in rows if out]
    everything = sum(point.flops for point in pool)
    found = []
    for share in SHARES:
        places = [(point.params, point.tokens) for point in pool]
        bought = [pool[i] for i in begin(places, [point.flops for point in pool], FIRST * share * everything)]
        left = share * everything - sum(point.flops for point in bought)
        while True:
            law = fit_law(bought)
            rest = [point for point in pool if point not in bought and point.flops <= left]
            if not rest:
                break
            targets = [(point.params, point.tokens) for point in held]
            open_ = [(point.params, point.tokens) for point in rest]
            costs = [point.flops for point in rest]
            chosen = buy(law, targets, open_, left, PLANNED, costs, [1] * len(rest))
            wanted = {(one.params, one.tokens) for one in chosen[:AT_ONCE]}
            new = [point for point in rest if (point.params, point.tokens) in wanted]
            if not new:
                break
            bought += new
            left -= sum(point.flops for point in new)
        found.append(judge(law, held) | {"share": share, "runs": len(bought)})
        print(found[-1])
    found.append(judge(fit_law(pool), held) | {"share": 1.0, "runs": len(pool)})
    print(found[-1])
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def judge(law: Law, held: list[Point]) -> dict[str, float]:
    loss = np.array([point.loss for point in held])
    said = [law.predict(point.params, point.tokens, point.flops) for point in held]
    off = np.array([one.loss for one in said]) - loss
    inside = [one.low_95 <= x <= one.high_95 for one, x in zip(said, loss, strict=True)]
    half = np.median([np.log(one.high_95 / one.low_95) / 2 for one in said])
    r2 = 1 - np.sum(off**2) / np.sum((loss - loss.mean()) ** 2)
    return {"r2": round(float(r2), 3), "inside_95": float(np.mean(inside)), "half_width_95": round(float(half), 4)}


if __name__ == "__main__":
    main()
