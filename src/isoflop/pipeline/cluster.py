"""`isoflop train` on the login node of a cluster: writes the job, submits it once, and says where its logs are."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.config import Family
from isoflop.durable import write_json, write_text
from isoflop.errors import FamilyError, InputError
from isoflop.pipeline.folder import RunFolder
from isoflop.recipe.sizes import family_sizes
from isoflop.systems import slurm


@dataclass(frozen=True)
class Submission:
    """A job that waits or runs, `fresh` unless it was submitted before; no job where everything is trained."""

    job: str | None
    state: str
    script: Path
    logs: Path
    fresh: bool

    def __str__(self) -> str:
        if self.job is None:
            return "everything is trained: nothing to submit"
        submitted = "submitted" if self.fresh else "was submitted before"
        return f"job {self.job} {submitted} and is {self.state.lower()}; what it prints lies in {self.logs}"

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return {**vars(self), "script": str(self.script), "logs": str(self.logs)}


def goes_to_a_cluster(family: Family) -> bool:
    """Whether to submit: the family has a cluster, and this is not one of its jobs already."""
    return family.cluster is not None and not slurm.within_a_job()


def job_script(family: Family, family_file: Path, folder: RunFolder, only: str | None = None) -> str:
    """The script that `submit_family` submits.

    Raises:
        FamilyError: the systems do not fill the nodes.
        InputError: there is no model of that name.
    """
    _check_name(family, only)
    return slurm.script(_job(family, family_file, folder, only))


def submit_family(family: Family, family_file: Path, folder: RunFolder, only: str | None = None) -> Submission:
    """Submits the job that trains the family, or its model named `only`, unless one waits or runs or all is trained.

    The script is kept beside the logs, with the job's number.

    Raises:
        InputError: the family or the cluster cannot take it.
        WorkError: Slurm does not answer, or the logs' folder cannot be written.
    """
    path, kept = folder.logs / "job.sh", folder.logs / "job.json"
    _check_name(family, only)
    if all(folder.result(name).exists() for name in _names(family) if only in (None, name)):
        return Submission(None, "trained", path, folder.logs, fresh=False)
    before = _kept_job(kept)
    state = slurm.state_of(before) if before is not None else None
    if before is not None and state is not None:
        return Submission(before, state, path, folder.logs, fresh=False)
    text = job_script(family, family_file, folder, only)
    missing = [one for one in (folder.logs, *folder.logs.parents) if not one.exists()]
    # Slurm makes no folder, and a job may start at once.
    folder.logs.mkdir(parents=True, exist_ok=True)
    try:
        job = slurm.submit(text)
    except InputError:
        for one in missing:
            one.rmdir()
        raise
    write_text(path, text)
    write_json(kept, {"job": job})
    return Submission(job, slurm.state_of(job) or "PENDING", path, folder.logs, fresh=True)


def job_of(folder: RunFolder) -> tuple[str, str | None] | None:
    """The job submitted last and what Slurm says of it: None once it has ended. None where none was submitted.

    Raises:
        InputError: there is no Slurm here.
        WorkError: Slurm does not answer.
    """
    job = _kept_job(folder.logs / "job.json")
    return None if job is None else (job, slurm.state_of(job))


def refuse_changes_of_a_job(family: Family, folder: RunFolder) -> None:
    """Settings do not change under a job that trains by them; one that waits reads them when it starts.

    Raises:
        InputError: the job submitted last is at work, or there is no Slurm here.
        WorkError: Slurm does not answer.
    """
    job, state = (goes_to_a_cluster(family) and job_of(folder)) or (None, None)
    if state not in (None, "PENDING"):
        raise InputError(
            f"--accept-changes: job {job} is {state.lower()} and trains by the settings before; scancel {job}, which "
            "saves, and change them once it has ended"
        )


def cancel_job(folder: RunFolder) -> None:
    """Tells the job submitted last, if there is one, to save and end for good.

    Raises:
        InputError: there is no Slurm here.
        WorkError: Slurm does not answer, or does not let this user.
    """
    job = _kept_job(folder.logs / "job.json")
    if job is not None:
        slurm.cancel(job)


def _job(family: Family, family_file: Path, folder: RunFolder, only: str | None) -> slurm.Job:
    cluster = family.cluster
    if cluster is None:
        raise FamilyError("cluster: missing, so there is no job to show; add [cluster] with kind = 'slurm'")
    if family.systems % cluster.systems_per_node:
        raise FamilyError(
            f"systems = {family.systems} fills no whole number of nodes with cluster.systems_per_node = "
            f"{cluster.systems_per_node}; use a multiple of it"
        )
    worker = ["-m", "isoflop", "worker", str(family_file.absolute()), "--execution", family.execution]
    worker += ["--runs", str(folder.path.absolute().parent)]
    return slurm.Job(
        name=f"isoflop-{family.name}",
        nodes=family.systems // cluster.systems_per_node,
        systems_per_node=cluster.systems_per_node,
        worker=tuple(worker if only is None else [*worker, "--model", only]),
        python=sys.executable,
        logs=folder.logs.absolute(),
        partition=cluster.partition,
        account=cluster.account,
        time_limit=cluster.time_limit,
        save_seconds=cluster.save_seconds,
        options=tuple(cluster.sbatch),
    )


def _check_name(family: Family, only: str | None) -> None:
    names = _names(family)
    if only is not None and only not in names:
        raise InputError(f"--model {only}: no such model in family {family.name}; use one of {', '.join(names)}")


def refuse_untrained(family: Family, family_file: Path, folder: RunFolder) -> None:
    """A family with a cluster trains in its jobs, never on a login node; what comes after training may run there.

    Raises:
        InputError: something is still to be trained, and this is none of the cluster's jobs.
    """
    if goes_to_a_cluster(family) and not all(folder.result(name).exists() for name in _names(family)):
        raise InputError(
            f"{family_file}: [cluster] trains in jobs, and isoflop run would train on this machine; isoflop train "
            "submits, and run does the rest once the job has ended"
        )


def _names(family: Family) -> list[str]:
    """Of all runs, as `plan_family` calls them; a plan would want this machine measured."""
    return [
        size.name if number == 0 else f"{size.name}-s{number}"
        for size in family_sizes(family)
        for number in range(size.seeds)
    ]


def _kept_job(path: Path) -> str | None:
    try:
        document: Any = json.loads(path.read_bytes())
        return str(document["job"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
