"""Batch and learning rate over a run. Tokens are the clock: a change of batch does not move the rate's curve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BatchStage:
    """From `from_tokens` on, a step reads `sequences` sequences."""

    from_tokens: int
    sequences: int


@dataclass(frozen=True)
class BatchRun:
    """Steps in a row with one batch: `steps` steps of `sequences` sequences, the first at step `first_step`."""

    first_step: int
    first_sequence: int
    steps: int
    sequences: int


@dataclass(frozen=True)
class StepPlan:
    """What step `step` (from 0) reads: `sequences` sequences from `first_sequence` on."""

    step: int
    first_sequence: int
    sequences: int


def steps_of(schedule: Sequence[BatchStage], tokens: int, context_length: int) -> list[BatchRun]:
    """The whole steps that fit into `tokens` tokens, at least one, as one run of equal steps a stage.

    A step belongs to the stage in which it begins. Whole steps within 20 tokens a parameter are what Cerebras-GPT
    trained: 9,037 steps at 111M (Dey et al. 2023, table 1; its configurations); 13B is 57,000 steps of 720 sequences,
    then steps of 1,080.
    """
    runs: list[BatchRun] = []
    step = sequence = 0
    for i, stage in enumerate(schedule):
        step_tokens = stage.sequences * context_length
        fitting = max((tokens - sequence * context_length) // step_tokens, int(not runs))
        begun = fitting
        if i + 1 < len(schedule):
            begun = math.ceil((schedule[i + 1].from_tokens - sequence * context_length) / step_tokens)
        if begun > 0:
            steps = min(fitting, begun)
            runs.append(BatchRun(step, sequence, steps, stage.sequences))
            step += steps
            sequence += steps * stage.sequences
        if fitting < begun:
            break
    return [run for run in runs if run.steps]


def step_at(runs: Sequence[BatchRun], step: int) -> StepPlan:
    """What step `step` reads.

    Raises:
        IndexError: the run ends before.
    """
    for run in runs:
        if run.first_step <= step < run.first_step + run.steps:
            done = step - run.first_step
            return StepPlan(step, run.first_sequence + done * run.sequences, run.sequences)
    raise IndexError(step)


def tokens_until(runs: Sequence[BatchRun], steps: int, context_length: int) -> int:
    """Tokens that the first `steps` steps read."""
    taken = ((max(0, min(run.steps, steps - run.first_step)), run.sequences) for run in runs)
    return sum(n * sequences for n, sequences in taken) * context_length


def kept_steps(steps: int, count: int) -> tuple[int, ...]:
    """After which steps of a run its checkpoint stays: `count` of them, evenly over the run, before its last step."""
    marks = (round(steps * k / (count + 1)) for k in range(1, count + 1))
    return tuple(sorted({step for step in marks if 0 < step < steps}))


def learning_rate(
    tokens_after: int,
    *,
    tokens: int,
    warmup_tokens: int,
    peak_lr: float,
    final_lr_fraction: float,
    decay: Literal["linear", "cosine"],
) -> float:
    """The rate of the update made after `tokens_after` of `tokens` tokens have been read.

    Rises in proportion to the tokens over the first `warmup_tokens`, then falls linearly or along half a cosine to
    `final_lr_fraction` of the peak (Dey et al. 2023, sec. 2.2).
    """
    if tokens_after < warmup_tokens:
        return peak_lr * tokens_after / warmup_tokens
    progress = min(1.0, (tokens_after - warmup_tokens) / max(1, tokens - warmup_tokens))
    left = 1 - progress if decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return peak_lr * (final_lr_fraction + (1 - final_lr_fraction) * left)
