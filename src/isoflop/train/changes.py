"""Settings that are changed while a model trains: accepted only when asked for, where a run can go on by them.

Every change is part of the checkpoints from then on, and comes with them into the result and the model card.
"""

from pathlib import Path
from typing import Any

from isoflop.durable import write_text
from isoflop.errors import InputError
from isoflop.recipe import ModelPlan
from isoflop.train.checkpoint import (
    CHANGEABLE,
    DAMAGE,
    MANIFEST,
    Position,
    differences,
    generations_in,
    whole_manifest,
    with_hash,
)


def accept_changes(checkpoints: Path, plan: ModelPlan, data_sha256: str) -> list[dict[str, Any]]:
    """Makes the checkpoints in a folder go on by `plan`; what its newest one records of that: {"step", "setting",
    "was", "is"}, from which step on (the last done before) which setting is another.

    Damaged generations are left to whoever goes on from them.

    Raises:
        InputError: a setting has changed that no run can go on by; no checkpoint is changed then.
    """
    wanted = {**plan.fingerprint(), "data": data_sha256}
    accepted: list[tuple[Path, str, list[dict[str, Any]]]] = []
    for generation in generations_in(checkpoints):
        try:
            manifest = whole_manifest(generation)
            position = Position.from_json(manifest["position"])
            differing = differences(manifest["fingerprint"], wanted)
        except DAMAGE:
            continue
        if not differing:
            continue
        fixed = [f"{key} was {was!r} and is {now!r}" for key, was, now in differing if key not in CHANGEABLE]
        if fixed:
            raise InputError(f"{generation}: no run can go on by another {'; '.join(fixed)}; use another --runs folder")
        if position.steps > plan.steps or position.tokens != plan.tokens_until(position.steps):
            raise InputError(
                f"{generation}: its {position.steps:,} steps read {position.tokens:,} tokens, which is no beginning of "
                f"the plan's {plan.steps:,} steps; let the tokens and the batch schedule begin as they did"
            )
        changes = [{"step": position.steps, "setting": key, "was": was, "is": now} for key, was, now in differing]
        manifest["position"]["changes"] = [*position.changes, *changes]
        manifest["fingerprint"] = wanted
        accepted.append((generation, with_hash(manifest), changes))
    # The newest last: until then it is refused as before.
    for generation, text, _ in reversed(accepted):
        write_text(generation / MANIFEST, text)
    return accepted[0][2] if accepted else []
