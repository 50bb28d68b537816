"""Accepts settings that were changed while models of a family train."""

from isoflop.config import Family
from isoflop.durable import sha256_of_file
from isoflop.errors import InputError
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.result import refuse_changes


def accept_family_changes(family: Family, folder: RunFolder, listener: Listener, only: str | None = None) -> None:
    """Makes the checkpoints of models in training (or of the one named `only`) go on by what the family file says now.

    Finished models keep the settings they were trained with.

    Raises:
        InputError: a finished model would be another, or a setting has changed that no run can go on by.
        WorkError: the folder cannot be written.
    """
    from isoflop.train.changes import accept_changes

    plan = make_plan(family, folder)
    with locked(folder):
        refuse_changes(folder, plan, prepare_data(family, folder, listener))
        data_sha256 = sha256_of_file(folder.data / "manifest.json")
        for model in plan.models:
            if only not in (None, model.name) or folder.result(model.name).exists():
                continue
            store = folder.model(model.name) / "store"
            if store.exists():
                raise InputError(
                    f"{store}: a streamed run was killed here; start it with the settings it had and stop it "
                    "(Ctrl-C), which makes a checkpoint of it, before they change"
                )
            for change in accept_changes(folder.model(model.name) / "checkpoints", model, data_sha256):
                listener.note(
                    f"{model.name}: {change['setting']} was {change['was']!r} and is {change['is']!r} from step "
                    f"{change['step']:,} on: its result and card will tell"
                )
