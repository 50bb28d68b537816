"""A bit that flips in memory is found before anything is made of it: system, step and place are told."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from isoflop.errors import ChangedError
from isoflop.interrupts import Pending
from isoflop.model import Lanes, Shard, weights_sha256
from isoflop.recipe import ModelPlan
from isoflop.streaming.disk import DiskStore
from isoflop.streaming.host import HostStore
from isoflop.streaming.store import windows_of
from isoflop.systems.group import Systems
from isoflop.train import Step
from isoflop.train.intact import Intact, added_up
from isoflop.train.learner import Learner
from isoflop.train.loop import make_learner
from isoflop.train.streamed import StreamedLearner
from tests.streaming.runs import DISK, HOST, RESIDENT, STAYS, prepare_data, run
from tests.systems.test_group import on_threads

LAYER, EMBEDDINGS = "layer-1.0", "embedding.0"
NEVER = 1e9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_data(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def wanted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return weights_sha256(run(data, tmp_path_factory.mktemp("whole"), RESIDENT).weights)


@pytest.fixture
def flips(monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """By rank, where a bit flips in a system's memory as it begins the sixth step; once."""
    where: dict[int, str] = {}

    def making(*given: Any, systems: Systems, **named: Any) -> Any:
        learner = make_learner(*given, systems=systems, **named)
        gradients = learner.gradients

        def flipped(*samples: Any) -> float:
            if systems.place == "a step 6" and systems.rank in where:
                flip(held(learner, where.pop(systems.rank)))
            return float(gradients(*samples))

        learner.gradients = flipped
        return learner

    monkeypatch.setattr("isoflop.train.loop.make_learner", making)
    return where


def held(learner: Any, what: str) -> Tensor:
    """What a learner keeps of one layer, or of the embeddings that stay, from one step to the next."""
    if isinstance(learner, Learner):
        (shard,) = [one for one in learner._shards if one.name == LAYER]
        if what == "image":
            return learner._image.flat[shard.start : shard.stop]
        return learner.shard(shard)[what]
    assert isinstance(learner, StreamedLearner)
    learner._settle()
    store = learner._store
    name = EMBEDDINGS if any(store.at_hand(one) for one in learner._own) and isinstance(store, DiskStore) else LAYER
    (shard,) = [one for one in learner._own if one.name == name]
    if what == "vector":
        return store.vectors.shard(shard)
    if isinstance(store, DiskStore):
        store = store._memory
    assert isinstance(store, HostStore)
    names = ["weights", "first_moment", "second_moment", "image"]
    return [*store.state(shard), store._images[shard.index]][names.index(what)]


def flip(tensor: Tensor) -> None:
    """One bit of the first element's exponent: what the embeddings' head reads, and any piece's product."""
    tensor.view(torch.uint8)[tensor.itemsize - 1] ^= 8


FLOAT = replace(RESIDENT, precision="fp32")
CASES = [
    *((RESIDENT, what) for what in ("weights", "first_moment", "second_moment", "image")),
    (FLOAT, "weights"),
    *((HOST, what) for what in ("weights", "first_moment", "second_moment", "image", "vector")),
    (DISK, "vector"),
    *((STAYS, what) for what in ("weights", "image")),
]


@pytest.mark.parametrize(
    ("plan", "what"), CASES, ids=[f"{p.execution} {p.store} {p.embeddings_stay} {what}" for p, what in CASES]
)
def test_a_flipped_bit_stops_the_run_and_the_next_start_goes_on(
    data: Path, tmp_path: Path, flips: dict[int, str], wanted: str, plan: ModelPlan, what: str
) -> None:
    flips[0] = what
    with pytest.raises(ChangedError) as caught:
        run(data, tmp_path, plan, checkpoint_seconds=NEVER)
    # A store's update goes on beside the next step.
    step = 7 if plan.execution == "streamed" and what != "vector" and not plan.embeddings_stay else 6
    place = "a vector" if what == "vector" else f"the {what}"
    whose = EMBEDDINGS if plan.embeddings_stay else LAYER
    assert str(caught.value).startswith(f"a step {step}: system 0: bits of {place} of {whose} changed in memory")
    again = weights_sha256(run(data, tmp_path, plan).weights)
    assert again == (wanted if plan.precision == "bf16" else weights_sha256(run(data, tmp_path / "f", plan).weights))


@pytest.mark.parametrize("what", ["gradient", "state"])
def test_embeddings_that_stay_in_memory_come_to_the_disk_as_they_were_updated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, what: str
) -> None:
    """A bit flips between the gradient's last sum and its update, or between that and the file that survives."""
    update, commit = StreamedLearner.update, DiskStore.commit

    def updating(learner: StreamedLearner, norm: float, lr: float, step: int) -> None:
        update(learner, norm, lr, step)
        (shard,) = [one for one in learner._own if one.name == EMBEDDINGS]
        if step == 6 and what == "gradient":
            assert isinstance(learner._store, DiskStore)
            flip(learner._store._memory.gradient(shard, windows_of(shard)[0]))

    def committing(store: DiskStore, shard: Shard, step: int) -> None:
        if step == 6 and what == "state" and shard.name == EMBEDDINGS:
            flip(store._memory.state(shard)[1])
        commit(store, shard, step)

    with monkeypatch.context() as once:
        once.setattr(StreamedLearner, "update", updating)
        once.setattr(DiskStore, "commit", committing)
        with pytest.raises(ChangedError, match=rf"the {what} of {EMBEDDINGS} changed in memory"):
            run(data, tmp_path, STAYS, checkpoint_seconds=NEVER)
    assert weights_sha256(run(data, tmp_path, STAYS).weights) == wanted


@pytest.mark.parametrize("plan", [RESIDENT, HOST], ids=["resident", "host"])
@pytest.mark.parametrize("meanwhile", [False, True], ids=["before it", "while it is written"])
def test_no_checkpoint_is_made_of_a_flipped_bit(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, plan: ModelPlan, meanwhile: bool
) -> None:
    """Every step is saved; the bit flips between an update and its checkpoint, or as its first file is written."""
    learners: list[Any] = []

    def making(*given: Any, **named: Any) -> Any:
        learner = make_learner(*given, **named)
        write = learner.write

        def writing(shard: Shard, path: Path) -> bytes:
            if meanwhile and shard.index == 0 and "gen-00000005" in str(path):
                flip(held(learner, "weights"))
            return bytes(write(shard, path))

        learner.write = writing
        learners.append(learner)
        return learner

    def on_step(step: Step) -> None:
        if step.step == 5 and not meanwhile:
            flip(held(learners[0], "weights"))

    with monkeypatch.context() as once:
        once.setattr("isoflop.train.loop.make_learner", making)
        with pytest.raises(ChangedError, match=r"a step [56]: system 0: "):
            run(data, tmp_path, plan, on_step, checkpoint_seconds=0.0)
    assert (tmp_path / "checkpoints" / "LATEST").read_text() == "gen-00000004\n"
    assert weights_sha256(run(data, tmp_path, plan).weights) == wanted


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads hear no signals."""
    monkeypatch.setattr("isoflop.train.loop.deferred", lambda: nullcontext(Pending()))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("what", ["weights", "image"])
def test_a_bit_in_one_systems_copy_is_found_by_all_and_the_system_named(
    data: Path, tmp_path: Path, flips: dict[int, str], what: str
) -> None:
    flips[1] = what

    def part(systems: Systems) -> str:
        try:
            run(data, tmp_path, RESIDENT, systems=systems, checkpoint_seconds=NEVER)
        except ChangedError as error:
            return str(error)
        return "nothing told"

    one, other = on_threads(2, part)
    assert one == other
    assert one.startswith(f"a step 6: system 1: bits of the {what} of {LAYER} changed in memory")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpus_sum_sees_every_single_bit(dtype: torch.dtype) -> None:
    weights = torch.randn(1001, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = int(added_up([weights])[0]) & 0xFFFFFFFF
    for bit in range(8 * weights.itemsize):
        other = weights.clone()
        other[500:501].view(torch.uint8)[bit // 8] ^= 1 << bit % 8
        assert int(added_up([other])[0]) & 0xFFFFFFFF != before


def test_a_copy_that_arrives_as_another_is_found() -> None:
    learner = Learner(RESIDENT.shape, seed=1, precision="fp32", lanes=Lanes(1), kernels=None)

    def part(systems: Systems) -> str:
        flats = {"weights": learner.weights.flat.clone()}
        if systems.rank == 1:
            flip(flats["weights"][:100])
        intact = Intact(learner._shards, [], Lanes(1), systems)
        intact.take(flats)
        try:
            intact.check(flats)
        except ChangedError as error:
            return str(error)
        return "nothing told"

    one, other = on_threads(2, part)
    assert one == other
    assert one.startswith("system 1: bits of the weights of embedding.0 changed")
