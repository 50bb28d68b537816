"""The rules that fill in what a family file leaves out. Each says where it comes from and how far it was checked.

Where Cerebras-GPT has published a value the rules give that value: between its seven sizes they interpolate, below 111M
they lead to what small models were measured to want, above 13B they go on with a published slope.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Literal

# Peak rate by parameters and tokens a step by tokens of the run (Dey et al. 2023, table 1; 13B as it ended, at 1,080
# sequences). Each begins where the rule for small models hands over.
PEAK_LRS = (
    (10_000_000, 1.61e-3),
    (111_050_496, 6e-4),
    (255_977_024, 6e-4),
    (590_310_912, 2e-4),
    (1_315_723_264, 2e-4),
    (2_651_553_280, 2e-4),
    (6_658_404_352, 1.2e-4),
    (12_853_386_240, 1.2e-4),
)
BATCH_TOKENS = (
    (20_000_000, 8_560),
    (20 * 111_050_496, 120 * 2048),
    (20 * 255_977_024, 264 * 2048),
    (20 * 590_310_912, 264 * 2048),
    (20 * 1_315_723_264, 528 * 2048),
    (20 * 2_651_553_280, 528 * 2048),
    (20 * 6_658_404_352, 1040 * 2048),
    (20 * 12_853_386_240, 1080 * 2048),
)
WARMUP_TOKENS = 375_000_000
MOST_WARMUP = 0.2


def batch_tokens(tokens: int) -> float:
    """Tokens a step for a run of `tokens` tokens.

    Up to 20 M tokens 0.58 D^0.571 (Li et al. 2025, "Predictable Scale", eq. 1): 2.0 k at D = 1.6 M, 5.5 k at D = 9 M,
    where the pocket family trained well with 4 k. From 2.2 billion on Cerebras-GPT's own batches (Dey et al. 2023,
    table 1), 1.2 to 2.7 times what that formula gives, with straight lines in log-log between them; beyond 13B their
    last with the formula's slope.
    """
    if tokens <= BATCH_TOKENS[0][0]:
        return float(0.58 * tokens**0.571)
    return _interpolated(tokens, BATCH_TOKENS, slope_beyond=0.571)


def batch_sequences(tokens: int, context_length: int) -> int:
    """`batch_tokens` as whole sequences: 1 to 8, 10, 12, 14, 16, 20 … 56, then multiples of eight.

    Fine enough that the batch grows smoothly along a ladder (one batch for all gave the smallest pocket models too few
    steps, and forecasts 2 % too low); even enough that microbatches divide it. All of Cerebras-GPT's are such numbers.
    """
    sequences = max(1.0, batch_tokens(tokens) / context_length)
    unit = min(8, 2 ** max(0, math.floor(math.log2(sequences)) - 2))
    return int(unit * round(sequences / unit))


def peak_lr(params: int, parametrisation: Literal["standard", "mup"]) -> float:
    """Peak learning rate for AdamW; under muP the base rate, 6e-3 at any size (Dey et al. 2023, table on muP).

    Standard: up to 10M parameters 6.6e-4 (N / 111.05 M)^-0.37, at most 8e-3, the best of 2e-3 to 1.6e-2 at 66 k and
    182 k parameters on the pocket corpus. The power law was drawn through the rates of Cerebras-GPT, which fall in
    steps; from 111M on those rates themselves (Dey et al. 2023, table 1), with straight lines in log-log between them,
    and that slope beyond 13B.
    """
    if parametrisation == "mup":
        return 6e-3
    if params <= PEAK_LRS[0][0]:
        return min(8e-3, float(6.6e-4 * (params / 111_050_496) ** -0.37))
    return _interpolated(params, PEAK_LRS, slope_beyond=-0.37)


def warmup_tokens(tokens: int, first_batch_tokens: int) -> int:
    """Tokens over which the rate rises: 375 million in whole steps, but at most a fifth of the run.

    375 million at every size is Cerebras-GPT's (its configurations; 17 % of the run at 111M, 0.1 % at 13B). Small runs
    need a share of their tokens instead (Porian et al. 2024, sec. 3): with a tenth, one pocket run in twenty learned to
    attend late and ended 5 % higher; with a fifth none did.
    """
    if MOST_WARMUP * tokens < WARMUP_TOKENS:
        return round(MOST_WARMUP * tokens)
    return whole_steps(WARMUP_TOKENS, first_batch_tokens)


def whole_steps(tokens: int, step_tokens: int) -> int:
    """Tokens of the steps that fit into `tokens`, at least one: of 375 million, 1,525 steps at Cerebras-GPT 111M."""
    return max(1, tokens // step_tokens) * step_tokens


def _interpolated(x: float, points: Sequence[tuple[int, float]], slope_beyond: float) -> float:
    """A straight line in log-log between the points around `x`, exact at each; beyond the last a power law from it."""
    i = bisect.bisect_left(points, x, key=lambda point: point[0])
    if i == len(points):
        last_x, last_y = points[-1]
        return float(last_y * (x / last_x) ** slope_beyond)
    if points[i][0] == x:
        return float(points[i][1])
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    share = math.log(x / x0) / math.log(x1 / x0)
    return float(y0 * (y1 / y0) ** share)
