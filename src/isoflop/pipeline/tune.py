"""Tunes peak rate, initialisation and embedding multiplier on the smallest model; muP carries them to the others."""

import math
import os
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.config import Family
from isoflop.config.tuned import TUNED_KEYS
from isoflop.durable import write_json, write_text
from isoflop.errors import DivergenceError, FamilyError, InputError, WorkError
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import make_plan, tell_epochs
from isoflop.pipeline.result import fingerprint_of
from isoflop.recipe import Machine, ModelPlan, plan_family

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

# How far from the family's own value the search goes, either way.
SPREAD = {"peak_lr": 8.0, "init_std": 4.0, "embedding_multiplier": 8.0}
# How near to the end of that range, as a share of the way from its middle, a value lies at its edge.
EDGE = 0.9
# Trials drawn at random before the sampler follows what it has seen.
STARTUP_TRIALS = 8
STUDY, TUNED, FIGURE = "study.journal", "tuned.toml", "tune.svg"


@dataclass(frozen=True)
class Trial:
    """One training at some values; `loss` is the held-out nats per token, None where training diverged."""

    number: int
    values: dict[str, float]
    loss: float | None


@dataclass(frozen=True)
class Tuning:
    """The trials so far; `own` are the values that the family had without tuning, which trial 0 tries."""

    family: str
    model: str
    parametrisation: str
    base_width: int
    own: dict[str, float]
    trials: tuple[Trial, ...]
    folder: Path

    @property
    def best(self) -> Trial:
        """The trial of the lowest loss."""
        return min(self.trials, key=lambda trial: math.inf if trial.loss is None else trial.loss)

    @property
    def at_edge(self) -> dict[str, str]:
        """The best values that lie at an end of what was searched, "lowest" or "highest": beyond may be better."""
        ways = {key: math.log(value / self.own[key]) / math.log(SPREAD[key]) for key, value in self.best.values.items()}
        return {key: "highest" if way > 0 else "lowest" for key, way in ways.items() if abs(way) >= EDGE}

    def to_json(self) -> dict[str, Any]:
        """tune.json, the document of `isoflop tune --json`."""
        document = {**asdict(self), "folder": str(self.folder)}
        return {**document, "best": asdict(self.best), "at_edge": self.at_edge}


def tune_family(family: Family, folder: RunFolder, listener: Listener, trials: int) -> Tuning:
    """Goes on with the study in RUNS/<family>/tune/ until it has `trials` trials, and writes what it found there.

    A trial trains the smallest model whole, with the seed and data of the family. Trials are chosen by Optuna's TPE
    (Bergstra et al. 2011) with a seed of the trial's own, so a study that was interrupted makes the trials it would
    have made. An interrupted trial goes on from its checkpoint.

    Raises:
        InputError: Optuna is not installed, the family cannot be planned, or the study is of other settings.
        WorkError: a fault while working, or every trial diverged; what is done is kept.
    """
    _need_optuna()
    plan = make_plan(family, folder)
    model = plan.models[0]
    _refuse_own_values(family, model)
    own = {
        "peak_lr": model.peak_lr,
        "init_std": model.parametrisation.embedding_init_std,
        "embedding_multiplier": model.parametrisation.embedding_multiplier,
    }
    with locked(folder):
        data = prepare_data(family, folder, listener)
        tell_epochs(plan, data, listener)
        study = _study(folder.tune / STUDY, fingerprint_of(model, data), own)
        while (trial := _next_trial(study, own, family.seed, trials)) is not None:
            values = _values(trial)
            listener.note(f"trial {trial.number}: " + ", ".join(f"{key} {value:g}" for key, value in values.items()))
            loss = _loss(family, plan.machine, values, folder.tune / "trials" / f"{trial.number:04d}", folder, listener)
            _tell(study, trial.number, loss)
            listener.note(f"trial {trial.number}: " + ("diverged" if loss is None else f"{loss:.4f} nats/token"))
        return _written(family, model, own, study, folder)


def _need_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise InputError("isoflop tune needs Optuna, which is not installed: pip install 'isoflop[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _refuse_own_values(family: Family, model: ModelPlan) -> None:
    for size in family.models or []:
        fixed = sorted(size.recipe.model_fields_set.intersection(TUNED_KEYS))
        if size.name == model.size and fixed:
            raise FamilyError(
                f"models: {size.name} has its own recipe.{fixed[0]}, which tuning could not move; remove it"
            )


def _study(path: Path, settings: dict[str, Any], own: dict[str, float]) -> "Study":
    """The study at `path`, begun with the family's own values if it is new."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_unfinished_line(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path)))
        study = optuna.create_study(storage=storage, study_name="tune", direction="minimize", load_if_exists=True)
        before = study.user_attrs.get("settings")
    except (ValueError, KeyError) as error:
        raise WorkError(f"{path}: damaged ({type(error).__name__}); delete {path.parent} and tune again") from None
    if before is None:
        study.set_user_attr("settings", settings)
        study.enqueue_trial(own)
    elif before != settings:
        key = next(key for key in {**before, **settings} if before.get(key) != settings.get(key))
        raise InputError(
            f"{path}: made with {key} = {before.get(key)!r}, the family now says {settings.get(key)!r}; "
            f"delete {path.parent} to tune anew, or use another --runs folder"
        )
    return study


def _cut_unfinished_line(path: Path) -> None:
    """A crash of the machine may leave half a line; Optuna would write the next one behind it and read neither."""
    if path.exists() and not (written := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, written.rfind(b"\n") + 1)


def _next_trial(study: "Study", own: dict[str, float], seed: int, trials: int) -> "FrozenTrial | None":
    """The trial that was interrupted, else a new one; None when there are enough."""
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import TrialState

    space: dict[str, BaseDistribution] = {
        key: FloatDistribution(own[key] / SPREAD[key], own[key] * SPREAD[key], log=True) for key in TUNED_KEYS
    }
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.params.keys() == space.keys():
            return trial
        study.tell(trial.number, state=TrialState.FAIL)  # killed while its values were drawn
    finished = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
    if len(finished) >= trials:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # A seed for each trial: what was drawn before an interruption does not matter after it.
        study.sampler = optuna.samplers.TPESampler(
            seed=seed + len(finished), multivariate=True, n_startup_trials=STARTUP_TRIALS
        )
    number = study.ask(space).number
    return study.get_trials(deepcopy=False)[number]


def _tell(study: "Study", number: int, loss: float | None) -> None:
    from optuna.trial import TrialState

    if loss is None:
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, loss)


def _loss(
    family: Family,
    machine: Machine,
    values: dict[str, float],
    trial_folder: Path,
    folder: RunFolder,
    listener: Listener,
) -> float | None:
    """Held-out nats per token of the smallest model trained with `values`; None where it diverged."""
    from isoflop.evaluate import held_out_loss
    from isoflop.model import Lanes
    from isoflop.systems.device import training_device
    from isoflop.train import train

    tried = family.model_copy(update={"recipe": family.recipe.model_copy(update=values)})
    model = plan_family(tried, machine).models[0]
    listener.starts(model)
    try:
        with Lanes(machine.lanes) as lanes:
            trained = train(
                model,
                folder.data,
                trial_folder,
                lanes=lanes,
                whole_systems=1.0,
                peak_flops_per_second=machine.matrix_flops_per_second(model.precision),
                checkpoint_seconds=family.checkpoint_seconds,
                read_joules=lambda: None,
                on_step=lambda step: listener.step(model, step),
                on_event=listener.note,
                device=training_device(),
            )
            loss = held_out_loss(trained.weights, folder.data, model.precision, lanes, training_device()).nats_per_token
    except DivergenceError:
        loss = math.nan
    shutil.rmtree(trial_folder / "checkpoints", ignore_errors=True)
    return loss if math.isfinite(loss) else None


def _values(trial: "FrozenTrial") -> dict[str, float]:
    """What a trial trains with: three digits, so that the file says exactly what was tried."""
    return {key: float(f"{trial.params[key]:.3g}") for key in TUNED_KEYS}


def _written(family: Family, model: ModelPlan, own: dict[str, float], study: "Study", folder: RunFolder) -> Tuning:
    """The finished trials; tuned.toml, tune.json and the figure are written."""
    from optuna.trial import TrialState

    from isoflop.report.tuning import draw_tuning

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    tuning = Tuning(
        family=family.name,
        model=model.name,
        parametrisation=family.parametrisation,
        base_width=family.recipe.base_width,
        own=own,
        trials=tuple(Trial(trial.number, _values(trial), trial.value) for trial in finished),
        folder=folder.tune,
    )
    best = tuning.best
    if best.loss is None:
        raise WorkError(f"{folder.tune}: every trial diverged; lower recipe.peak_lr and tune in another --runs folder")
    lines = [
        f"# isoflop tune: trial {best.number}, the best of {len(finished)} on {model.name}, {best.loss:.4f} nats/token",
        f'parametrisation = "{family.parametrisation}"',
        f"base_width = {family.recipe.base_width}",
        *(f"# {key} lies at the {end} end of the search: beyond may be better" for key, end in tuning.at_edge.items()),
        *(f"{key} = {value!r}" for key, value in best.values.items()),
    ]
    write_text(folder.tune / TUNED, "\n".join(lines) + "\n")
    write_json(folder.tune / "tune.json", tuning.to_json())
    points = [(trial.values, trial.loss) for trial in tuning.trials if trial.loss is not None]
    write_text(folder.tune / FIGURE, draw_tuning(points, best.values))
    return tuning
