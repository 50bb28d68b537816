"""What a killed streamed run leaves in its store becomes a checkpoint, from which either execution goes on."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from isoflop.errors import WorkError
from isoflop.model import Lanes, load_kernels
from isoflop.recipe import ModelPlan
from isoflop.streaming.pages import DamagedError
from isoflop.systems.group import Systems
from isoflop.train.checkpoint import Position, check_same, generations_in, save_generation, updates_in
from isoflop.train.journal import Entry, Journal
from isoflop.train.learners import JOURNAL, discard_store, fingerprint_of, open_store
from isoflop.train.spikes import rewind_base


def recover(
    store: Path,
    checkpoints: Path,
    plan: ModelPlan,
    data_sha256: str,
    lanes: Lanes,
    systems: Systems,
    on_event: Callable[[str], None],
) -> None:
    """Brings all shards in `store` to the step that counts and commits them as a generation; the store is gone then.

    All systems call this alike.

    Raises:
        InputError: the store belongs to other settings or other data; names what differs.
        WorkError: the store is damaged, and there is no checkpoint to go back to; or a file is where it belongs.
    """
    systems.doing("looking at the store")
    entry = _entry(store, checkpoints, plan, data_sha256, on_event) if systems.rank == 0 else None
    there = systems.gather(np.array([float(entry is not None)]))[0, 0]
    if not there:
        return
    entry = entry or Journal.read(store / JOURNAL)
    assert entry is not None
    position = Position.from_json(entry.position)
    on_disk = replace(plan, execution="streamed", store="disk", embeddings_stay=False)
    kernels = load_kernels() if position.fused else None
    learner = open_store(on_disk, data_sha256, store, lanes=lanes, kernels=kernels, systems=systems)
    fault: DamagedError | None = None
    try:
        learner.recover(entry.norm, entry.lr, entry.step)
    except DamagedError as error:
        fault = error
    if systems.gather(np.array([float(fault is not None)])).any():
        learner.close()
        if systems.rank == 0:
            set_aside(store, checkpoints, fault, on_event)
        systems.gather(np.zeros(0))
        return
    kept_steps = rewind_base(plan, position.steps)
    save_generation(checkpoints, plan, data_sha256, position, learner, systems, kept_steps)
    learner.close()
    if systems.rank == 0:
        discard_store(store)
        on_event(f"{store}: a streamed run ended here without a word after step {position.steps}; nothing is lost")
    systems.gather(np.zeros(0))


def _entry(
    store: Path, checkpoints: Path, plan: ModelPlan, data_sha256: str, on_event: Callable[[str], None]
) -> Entry | None:
    """What the journal says, if it knows more than the checkpoints; else there is no store any more."""
    if not store.exists():
        discard_store(store)  # what a kill left of one
        return None
    if not store.is_dir():
        raise WorkError(f"{store}: a file, where the store of a streamed run belongs; move it away and run again")
    newest = next(iter(generations_in(checkpoints)), None)
    try:
        entry = Journal.read(store / JOURNAL)
        if entry is None:
            _refuse_steps_without_journal(store, 0 if newest is None else updates_in(newest))
    except DamagedError as error:
        set_aside(store, checkpoints, error, on_event)
        return None
    if entry is not None:
        check_same(entry.fingerprint, fingerprint_of(plan, data_sha256), store)
        if newest is None or int(newest.name[4:]) < entry.position["steps"]:
            for left in store.glob("*.part"):
                left.unlink()
            return entry
    discard_store(store)
    return None


def _refuse_steps_without_journal(store: Path, updates: int) -> None:
    """Before its first journal a store holds the weights that it began with, after so many `updates` or none.

    Raises:
        DamagedError: later ones are there, which only a journal makes: it has gone.
    """
    found = (re.fullmatch(r".*\.step-(\d{8,})\.safetensors", path.name) for path in store.iterdir())
    last = max((int(match[1]) for match in found if match), default=0)
    if last > updates:
        raise DamagedError(store / JOURNAL, f"gone, while weights after {last} updates are there")


def remove_store(store: Path, systems: Systems) -> None:
    """All that was in the store is in a checkpoint."""
    systems.gather(np.zeros(0))
    if systems.rank == 0:
        discard_store(store)


def set_aside(store: Path, checkpoints: Path, fault: DamagedError | None, on_event: Callable[[str], None]) -> None:
    """A damaged store steps aside for the newest checkpoint.

    Raises:
        WorkError: there is none.
    """
    what = f"{store}: damaged" if fault is None else f"{fault.path}: damaged ({fault.why})"
    if not generations_in(checkpoints):
        raise WorkError(f"{what}, and there is no checkpoint to go back to; remove {store} to begin anew")
    aside = store.with_name(store.name + ".damaged")
    shutil.rmtree(aside, ignore_errors=True)
    store.rename(aside)
    on_event(f"{what}; the store is set aside as {aside.name}, going back to the last checkpoint")
