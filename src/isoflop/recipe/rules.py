"""The rules that fill in what a family file leaves out. Each says where it comes from and how far it was checked."""

import math


def batch_tokens(tokens: int) -> float:
    """Tokens a step for a run of `tokens` tokens: 0.58 D^0.571 (Li et al. 2025, "Predictable Scale", eq. 1).

    Fitted there for 2 to 100 billion tokens. It gives 2.0 k at D = 1.6 M and 5.5 k at D = 9 M, where the pocket family
    trained well with 4 k, and 122 k at Cerebras-GPT 111M's 2.2 B tokens, where 246 k were used.
    """
    return float(0.58 * tokens**0.571)


def batch_sequences(tokens: int, context_length: int) -> int:
    """`batch_tokens` as whole sequences, to three significant bits: 1 to 8, 10, 12, 14, 16, 20, 24 …

    Fine enough that the batch grows smoothly along a ladder (one batch for all gave the smallest pocket models too few
    steps, and forecasts 2 % too low); even enough that microbatches divide it.
    """
    sequences = max(1.0, batch_tokens(tokens) / context_length)
    unit = 2 ** max(0, math.floor(math.log2(sequences)) - 2)
    return int(unit * round(sequences / unit))


def peak_lr(params: int) -> float:
    """Peak learning rate for AdamW: 6.6e-4 (N / 111.05 M)^-0.37, at most 8e-3.

    A power law through the rates of Cerebras-GPT (Dey et al. 2023, table 1): +10 % at 111M, -19 % at 256M, +78 % at
    590M (whose own rate lies off its neighbours'), +32, +2, +21 and -5 % from 1.3B to 13B. The bound is the best of
    2e-3 to 1.6e-2 at 66 k and 182 k parameters on the pocket corpus.
    """
    return min(8e-3, float(6.6e-4 * (params / 111_050_496) ** -0.37))
