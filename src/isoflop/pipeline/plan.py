"""The plan of a family on this machine, and how it lies in the run directory."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.durable import refuse_broken_seal, sealed, to_json, write_text
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.data import check_corpus
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.needs import unmet_needs
from isoflop.pipeline.published import compare
from isoflop.pipeline.result import refuse_changes
from isoflop.recipe import Machine, Plan, check_against_data, plan_family

if TYPE_CHECKING:
    from isoflop.data import Manifest


def show_plan(family: Family, folder: RunFolder, listener: Listener) -> Plan:
    """The plan on this machine, written to plan.json where no results of other settings stand against it.

    Raises:
        InputError: the corpus is not there, or prepared data show that the plan cannot work.
        WorkError: the folder cannot be written.
    """
    known_tokens = family.data.tokens
    if known_tokens is None or isinstance(family.data.source, str) or family.data.source.exists():
        check_corpus(family.data, folder, to_train=False)
    plan = plan_family(family, _measured())
    data = prepared(folder)
    if data is not None:
        tell_epochs(plan, data, listener)
    elif known_tokens is not None:
        listener.note(
            f"the data are not prepared yet: planned by the {known_tokens:,} tokens that the family file states"
        )
        for note in check_against_data(plan, known_tokens, known_tokens):
            listener.note(note)
    else:
        listener.note(
            "the data are not prepared yet: whether a model reads them more than once is known after isoflop data"
        )
    missing = [model for model in plan.models if not folder.result(model.name).exists()]
    train_tokens = known_tokens if data is None else data.splits.train.tokens
    for lack in unmet_needs(family, plan, missing, folder, train_tokens=train_tokens):
        listener.note(f"isoflop train will refuse: {lack}")
    try:
        with locked(folder):
            refuse_changes(folder, plan, data)
            store_plan(family, plan, folder)
    except (InputError, WorkError) as reason:
        if not folder.plan.exists():
            raise
        listener.note(f"{folder.plan} is left as it is: {reason}")
    return plan


def make_plan(family: Family, folder: RunFolder) -> Plan:
    """The plan to work by. Only what is still to be trained needs this machine measured.

    Raises:
        InputError: the corpus is not there, or the family cannot be planned.
    """
    check_corpus(family.data, folder, to_train=False)
    machine = _stored_machine(folder)
    if machine is not None:
        plan = plan_family(family, machine)
        if all(folder.result(model.name).exists() for model in plan.models):
            return plan
    return plan_family(family, _measured())


def store_plan(family: Family, plan: Plan, folder: RunFolder) -> None:
    """Writes plan.json and family.json where they say something else."""
    # What the file left out stays out: a model's own recipe is only what its table says.
    _write_if_other(folder.family, to_json(sealed(family.model_dump(mode="json", exclude_unset=True))) + "\n")
    _write_if_other(folder.plan, to_json(plan_document(family, plan)) + "\n")


def plan_document(family: Family, plan: Plan) -> dict[str, Any]:
    """plan.json, the document of `isoflop plan --json`."""
    comparison = compare(family, plan)
    return sealed({**plan.to_json(), "published": None if comparison is None else comparison.to_json()})


def stored_plan(folder: RunFolder) -> tuple[Family, Plan]:
    """The family and the plan that the run directory was made by.

    Raises:
        WorkError: its files are missing or damaged.
    """
    try:
        document = refuse_broken_seal(json.loads(folder.family.read_bytes()))
        family = Family.model_validate_json(json.dumps(document))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "damaged"
        raise WorkError(f"{folder.family}: {reason}; run isoflop plan with the family file again") from None
    machine = _stored_machine(folder)
    if machine is None:
        raise WorkError(f"{folder.plan}: missing or damaged; run isoflop plan with the family file again")
    return family, plan_family(family, machine)


def prepared(folder: RunFolder) -> "Manifest | None":
    """The manifest of the data, None while they are not prepared.

    Raises:
        WorkError: it is damaged.
    """
    if not (folder.data / "manifest.json").exists():
        return None
    from isoflop.data import load_manifest

    return load_manifest(folder.data)


def tell_epochs(plan: Plan, data: "Manifest", listener: Listener) -> None:
    """Notes what the plan asks of the data.

    Raises:
        InputError: it cannot work with them.
    """
    for note in check_against_data(plan, data.splits.train.tokens, data.splits.held_out.tokens):
        listener.note(note)


def _measured() -> Machine:
    from isoflop.systems import measure_machine

    return measure_machine()


def _stored_machine(folder: RunFolder) -> Machine | None:
    try:
        document: Any = refuse_broken_seal(json.loads(folder.plan.read_bytes()))
        return Machine.from_json(document["machine"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _write_if_other(path: Path, text: str) -> None:
    # The report and the releases are drawn again when a file they show is newer: an unchanged one must not be.
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_text(path, text)
