"""A family on several systems: this process starts them; among them one leads and the others follow."""

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from isoflop.config import Family
from isoflop.errors import InputError, Interrupted, LostError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import missing_folders, remove_empty
from isoflop.pipeline.member import finish_member, train_part
from isoflop.pipeline.orders import EndOrder, TrainOrder, read, written
from isoflop.pipeline.plan import make_plan
from isoflop.pipeline.result import Result, read_results

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.model import Lanes
    from isoflop.recipe import ModelPlan, Plan
    from isoflop.systems.distributed import Group

SYSTEMS_A_CORE, SYSTEM_BYTES = 16, 256 * 2**20


def train_on_systems(family: Family, folder: RunFolder, command: Sequence[str]) -> list[Result]:
    """Starts `isoflop COMMAND` on as many systems as the family says, here; the results when they have trained it.

    Raises:
        Interrupted: a signal came; the last finished step is saved.
        InputError: the plan or the data cannot work, or the folder holds results of other settings.
        WorkError: a fault while working; everything done so far is kept.
    """
    plan = make_plan(family, folder)
    from isoflop.systems import available_cores
    from isoflop.systems.device import device_count
    from isoflop.systems.launcher import launch

    devices = device_count()
    if devices is not None and family.systems > devices:
        raise InputError(
            f"systems = {family.systems}: this machine has {devices} GPUs; use at most as many, or start "
            "isoflop worker on more machines"
        )
    cores = available_cores()
    # Systems of a processor that has fewer cores are for trying out: each is a process with PyTorch in it.
    most = min(SYSTEMS_A_CORE * cores, plan.machine.memory_bytes // SYSTEM_BYTES)
    if devices is None and family.systems > max(1, most):
        raise InputError(
            f"systems = {family.systems:,}: this machine has {cores} cores and "
            f"{plan.machine.memory_bytes / 2**30:.0f} GiB, enough for {most:,}; use at most as many, or start isoflop "
            "worker on more machines"
        )
    logs = folder.path / "logs"
    made = missing_folders(logs)
    code, line = launch(command, family.systems, logs)
    if code == 2:
        remove_empty(made)
    if code > 128:
        raise Interrupted(code - 128)
    if code:
        raise (InputError if code == 2 else WorkError)(line)
    return read_results(folder, plan)


class Leader:
    """System 0 of a group: does the family's work, and has the others with it for the training of every model.

    It keeps to its `share` of the cores while all train, and has them all for what only one can do.
    """

    def __init__(self, group: "Group", lanes: "Lanes", share: set[int]) -> None:
        self._group, self._lanes, self._share = group, lanes, share

    @property
    def systems_here(self) -> int:
        """How many of the group's systems share this machine."""
        return self._group.local_size

    def train(
        self,
        family: Family,
        plan: "Plan",
        model: "ModelPlan",
        data: "Manifest",
        folder: RunFolder,
        listener: Listener,
    ) -> Result:
        """As `train_member`, on all systems."""
        from isoflop.model import Lanes

        listener.starts(model)
        self._group.tell(written(TrainOrder("train", plan, model.name)))
        share, machines = _share(self._group, self._lanes, plan), _machines(self._group, plan)
        with kept_to(self._share):
            trained, origin = train_part(
                family,
                plan,
                model,
                folder,
                listener,
                self._lanes,
                share,
                self._group,
                self._group.local_rank,
                self._group.local_size,
                machines,
            )
        self._group.doing("held-out loss")
        with Lanes(len(os.sched_getaffinity(0))) as lanes:
            return finish_member(family, plan, model, data, folder, listener, lanes, trained, origin)


@contextmanager
def kept_to(cores: set[int]) -> Iterator[None]:
    """Inside the block this thread, and threads and processes that it starts, run on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def work(family: Family, folder: RunFolder, listener: Listener, only: str | None) -> None:
    """One system's life, as `isoflop worker`: joins the others, then leads them or follows, to the end of the family.

    Raises:
        As `train_on_systems`; and LostError: another system is gone.
    """
    # PyTorch would tell pages of what we tell in a line.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from isoflop.model import Lanes, load_kernels
    from isoflop.systems.arithmetic import arithmetic_of, torch_version
    from isoflop.systems.distributed import CLOSING_AFTER_FAULT_SECONDS, Group
    from isoflop.systems.processes import share_of_cores

    group = Group()
    family = family.model_copy(update={"systems": group.size})
    about = {
        "isoflop": version("isoflop"),
        "torch": torch_version(),
        "the family file": hashlib.sha256(family.model_dump_json().encode()).hexdigest()[:12],
        "a C compiler": "there" if load_kernels() else "not there",
    }
    arithmetic = arithmetic_of(load_kernels())
    try:
        notes = group.agree(about, arithmetic, family.reproducible, folder.path)
        cores = share_of_cores(group.local_rank, group.local_size)
        with Lanes(len(cores)) as lanes:
            if group.rank:
                with kept_to(cores):
                    _follow(family, folder, group, lanes)
            else:
                _lead(family, folder, group, Leader(group, lanes, cores), notes, listener, only)
    except LostError:
        raise
    except BaseException:
        group.close(CLOSING_AFTER_FAULT_SECONDS)
        raise
    group.close()


def _lead(
    family: Family,
    folder: RunFolder,
    group: "Group",
    leader: Leader,
    notes: Sequence[str],
    listener: Listener,
    only: str | None,
) -> None:
    """System 0's life; the others hear how it ends."""
    from isoflop.pipeline.train import train_family

    if group.attempt:
        fault = group.fault_before() or "all systems ended without a word"
        listener.note(f"{fault}; all {group.size} started again from the last checkpoint ({group.attempt})")
    for note in notes:
        listener.note(note)
    cores = len(os.sched_getaffinity(0))
    if group.local_size > cores:
        listener.note(f"{group.local_size} systems take turns on {cores} cores")
    try:
        train_family(family, folder, listener, only, leader)
    except LostError:
        raise
    except BaseException as error:
        with contextlib.suppress(LostError):
            group.tell(written(EndOrder.of(error)))
        raise
    group.tell(written(EndOrder("end")))


def _follow(family: Family, folder: RunFolder, group: "Group", lanes: "Lanes") -> None:
    while isinstance(order := read(group.hear()), TrainOrder):
        plan, model = order.plan, order.model_plan
        share, machines = _share(group, lanes, plan), _machines(group, plan)
        train_part(
            family, plan, model, folder, _Silent(), lanes, share, group, group.local_rank, group.local_size, machines
        )
    order.obey()


def _share(group: "Group", lanes: "Lanes", plan: "Plan") -> float:
    """The share of a machine that the systems on it are."""
    return min(1.0, lanes.count * group.local_size / plan.machine.lanes)


def _machines(group: "Group", plan: "Plan") -> float:
    """How many of what was measured all systems are: processors with all their cores, or GPUs."""
    return group.size if plan.machine.device == "cuda" else group.size / group.local_size


class _Silent:
    """A follower's listener: the leader speaks for all."""

    def note(self, line: str) -> None:
        print(line, flush=True)

    def starts(self, model: "ModelPlan") -> None:
        pass

    def step(self, model: "ModelPlan", step: object) -> None:
        pass

    def done(self, result: Result, fresh: bool) -> None:
        pass
