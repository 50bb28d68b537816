"""The held-out losses of a family's trained models."""

from isoflop.config import Family
from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.plan import make_plan, prepared
from isoflop.pipeline.result import Result, read_results, refuse_changes


def evaluate_family(family: Family, folder: RunFolder, listener: Listener) -> list[Result]:
    """The results of the models that are trained; the listener hears of the others.

    Raises:
        InputError: none is trained, or they were trained with other settings.
        WorkError: a result is damaged.
    """
    plan = make_plan(family, folder)
    refuse_changes(folder, plan, prepared(folder))
    results = read_results(folder, plan)
    if not results:
        raise InputError(f"{folder.path}: no model is trained yet; run isoflop train with the family file")
    done = {result.name for result in results}
    waiting = [model.name for model in plan.models if model.name not in done]
    if waiting:
        listener.note(f"not trained yet: {', '.join(waiting)}")
    return results
