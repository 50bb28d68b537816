"""Jobs of runs that a cluster trains: asked about every few seconds, told to end, and missed where they are gone."""

import time

from isoflop.config import load_family
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.cluster import cancel_job, job_of, job_script
from isoflop.studio.catalogue import Catalogue, Listed
from isoflop.studio.places import Places
from isoflop.studio.process import leave_word

ASK_SECONDS = 5.0


class Jobs:
    """What Slurm said last of each run's job."""

    def __init__(self, places: Places, catalogue: Catalogue) -> None:
        self._places, self._catalogue = places, catalogue
        self._said: dict[str, str] = {}
        self._asked = -ASK_SECONDS

    def look(self) -> None:
        """Asks Slurm, unless it was asked just now. A run whose job is gone with models untrained has failed."""
        if time.monotonic() - self._asked < ASK_SECONDS:
            return
        self._asked = time.monotonic()
        clustered = [name for name, order in self._catalogue.orders().items() if order and order.cluster]
        self._said = {name: self._ask(name) for name in clustered}

    def said(self, name: str) -> str:
        """In words; empty where the run has no job."""
        return self._said.get(name, "")

    def cancel(self, run: Listed) -> None:
        """Tells the run's job to save and end.

        Raises:
            InputError: there is no Slurm here.
            WorkError: Slurm does not answer: the job goes on.
        """
        if run.order and run.order.cluster:
            cancel_job(self._places.run(run.name))
            self._asked = -ASK_SECONDS

    def check(self, run: Listed, systems: int) -> None:
        """Whether the run's job could have so many systems.

        Raises:
            InputError: they fill no whole number of the cluster's nodes.
        """
        if run.order and run.order.cluster:
            path = self._places.ordered(run.name).family_file
            family = load_family(path).model_copy(update={"systems": systems})
            job_script(family, path, self._places.run(run.name))

    def _ask(self, name: str) -> str:
        try:
            found = job_of(self._places.run(name))
        except (InputError, WorkError) as error:
            return str(error)
        if found is None:
            return ""
        job, state = found
        if state is not None:
            return f"job {job} is {state.lower()}"
        now = self._catalogue.run(name)  # what was trained before the job ended
        if now is not None and now.state == "at the cluster":
            log = self._places.run(name).logs / f"job-{job}.txt"
            told = f"job {job} has ended before all was trained; {log} has its last words, Resume goes on"
            leave_word(self._places.ordered(name), 1, told)
        return ""
