"""What the plan foretells of a streamed run is what it takes: buffers, and bytes over the link."""

import json
import mmap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isoflop.model import Lanes, load_kernels, make_model, pieces_of, shards_of
from isoflop.recipe import STANDARD, Shape
from isoflop.recipe.footprint import (
    MAPPED,
    image_elements,
    kept_bytes,
    layer_images,
    layer_sums,
    mapped_from,
    streamed_footprint,
    sums_elements,
)
from isoflop.recipe.streaming import Cut
from isoflop.streaming import exchange, executor, host, kept, pages
from isoflop.streaming.disk import DiskStore
from isoflop.streaming.executor import slots_of
from isoflop.streaming.store import WINDOW, Counter
from isoflop.systems.group import ALONE
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner
from tests.streaming.runs import DISK, HOST, SHAPE, STAYS, run

GPT_13B = Shape(40, 5120, 40, 50257, 2048)
needs_kernels = pytest.mark.skipif(load_kernels() is None, reason="without kernels layers keep their inputs alone")


@needs_kernels
@pytest.mark.parametrize(
    "plan",
    [
        DISK,
        HOST,
        STAYS,
        replace(DISK, group_tokens=10_000),
        replace(DISK, recompute=True),
        replace(DISK, precision="fp32"),
    ],
    ids=["disk", "host", "embeddings stay", "one group", "recompute", "fp32"],
)
def test_bytes_over_the_link_are_those_that_the_plan_says(data: Path, tmp_path: Path, plan: object) -> None:
    assert isinstance(plan, type(DISK))
    run(data, tmp_path, plan)
    foretold = streamed_footprint(SHAPE, plan.precision, True, plan.cut(1), plan.store, 2, 1, "cpu")
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["link_bytes"] == foretold.link_bytes


@needs_kernels
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "shape", [SHAPE, Shape(3, 768, 12, 50257, 2048), Shape(2, 512, 4, 300, 200), Shape(1, 512, 4, 300, 200)]
)
def test_buffers_have_the_foretold_size(shape: Shape, recompute: bool) -> None:
    for stays in (False, True):
        slots = slots_of(pieces_of(shape), stays)
        # A slot begins at a block's beginning.
        assert slots.image_elements == pytest.approx(image_elements(shape), abs=3 * 2048)
        assert slots.sums_elements == pytest.approx(sums_elements(shape, stays), abs=5 * 2048)
    model = make_model(shape, "bf16", load_kernels(), recompute=recompute)
    foretold = kept_bytes(shape, "bf16", Cut(2, 4, 2, recompute))
    assert model.kept_bytes(2, shape.context_length) == pytest.approx(foretold, rel=1e-3)


def test_twice_the_depth_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def counted(n_bytes: int, device: torch.device | None = None) -> Tensor:
        taken.append(n_bytes)
        return pages.pages(n_bytes, device)

    for module in (exchange, kept):
        monkeypatch.setattr(module, "pages", counted)
    held = []
    for n_layers in (8, 16):
        taken.clear()
        train_once(Shape(n_layers, 64, 2, 300, 64), tmp_path / str(n_layers))
        held.append(sum(taken))
    assert held[0] > 0
    assert held[1] == held[0]
    wide = [
        streamed_footprint(Shape(n, 2048, 16, 50257, 2048), "bf16", True, Cut(1, 8, 8), "disk", 2, 1, "cpu")
        for n in (24, 48)
    ]
    assert wide[1].device_bytes < 1.01 * wide[0].device_bytes
    on_gpu = [
        streamed_footprint(Shape(n, 2048, 16, 50257, 2048), "bf16", True, Cut(4, 8, 8), "host", 1, 1, "cuda")
        for n in (24, 48)
    ]
    inputs = [2 * 2048 * n * 8 * 4 * 2048 for n in (24, 48)]
    assert on_gpu[1].device_bytes - inputs[1] < 1.01 * (on_gpu[0].device_bytes - inputs[0])


@pytest.mark.parametrize("n_systems", [1, 2])
def test_embeddings_that_stay_take_the_foretold_memory_and_less_of_the_disk(
    n_systems: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoflop.model.weights.SHARD", 2**18)
    monkeypatch.setattr("isoflop.recipe.footprint.SHARD", 2**18)
    shape, taken = Shape(2, 64, 2, 20_000, 64), [0]

    def counted(n_bytes: int, device: torch.device | None = None) -> Tensor:
        taken[0] += n_bytes
        return pages.pages(n_bytes, device)

    monkeypatch.setattr(host, "pages", counted)
    pieces = pieces_of(shape)
    own = [shard for shard in shards_of(shape) if shard.index % n_systems == 0]
    disk = {}
    for stays in (False, True):
        folder = tmp_path / str(stays)
        DiskStore(folder, pieces, own, torch.bfloat16, torch.int64, Counter(), False, None, stays)
        disk[stays] = sum(path.stat().st_size for path in folder.iterdir())
    wide = sum(shard.stop - shard.start for shard in own if shard.piece == pieces[0])
    assert disk[False] - disk[True] == pytest.approx(10 * wide, rel=0.01)
    with_them, without = (
        streamed_footprint(shape, "bf16", True, Cut(2, 2, 2, embeddings_stay=stays), "disk", 2, n_systems, "cpu")
        for stays in (True, False)
    )
    # Of several systems the last shard, which is not whole, is the last one's.
    assert taken[0] <= with_them.host_bytes <= (1 if n_systems == 1 else 1.05) * taken[0]
    assert without.host_bytes == 0
    # The disk is told as if systems had equal shares.
    assert without.disk_bytes - with_them.disk_bytes == pytest.approx(10 * 20_064 * 64 / n_systems, rel=0.01)


def test_what_the_head_alone_needs_is_given_back_while_layers_are_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back: list[int] = []

    def counted(memory: Tensor) -> None:
        back.append(memory.numel() * memory.itemsize)
        pages.give_back(memory)

    for module in (executor, kept):
        monkeypatch.setattr(module, "give_back", counted)
    shape = Shape(2, 64, 2, 20_000, 64)
    train_once(shape, tmp_path)
    image, sums = 2 * (image_elements(shape) - layer_images(shape)), 8 * (sums_elements(shape) - layer_sums(shape))
    memories = min(3 * kept_bytes(shape, "bf16", Cut(2, 2, 2)), 2 * (image + sums))
    # Of sums, windows that no layer reaches into; slots begin at a block's beginning.
    assert image + memories + sums - 8 * WINDOW <= sum(back) <= 1.01 * (image + memories + sums)
    assert sums > 2 * 8 * WINDOW


def test_logits_go_back_to_the_system_whatever_their_size_but_small_ones() -> None:
    """Of 32,000 words they take a little less than what is mapped in any case, and left holes of their own size."""
    sizes = {50_257: MAPPED, 32_000: 512 * 32_000 * 2, 17_000: 512 * 17_000 * 2, 4096: MAPPED}
    for vocab_size, wanted in sizes.items():
        assert mapped_from(Shape(2, 64, 2, vocab_size, 1024), "bf16", 1) == wanted


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system takes no memory back")
def test_memory_that_is_given_back_is_not_held() -> None:
    memory = pages.pages(2**26).fill_(1)
    before = _anonymous_bytes()
    pages.give_back(memory[5:])
    assert before - _anonymous_bytes() > 2**25
    assert memory[:5].sum() == 5
    assert not memory[mmap.PAGESIZE :].any()


def _anonymous_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def train_once(shape: Shape, folder: Path) -> None:
    samples = torch.randint(0, shape.vocab_size, (2, shape.context_length + 1))
    readers: list[Callable[[], Tensor]] = [lambda: samples] * 2
    with Lanes(2) as lanes:
        learner = StreamedLearner(
            shape,
            precision="bf16",
            lanes=lanes,
            kernels=load_kernels(),
            optimizer=AdamW(),
            parametrisation=STANDARD,
            systems=ALONE,
            reproducible=True,
            cut=Cut(2, 2, 2),
            folder=folder,
            journal=None,
        )
        learner.create(0)
        learner.gradients(readers, 4 * shape.context_length)
        learner.update(learner.norm(), 1e-3, 1)
        learner.commit({})
        learner.close()


def test_13b_fits_a_gpu_machine_with_its_store_on_disk() -> None:
    """128 GiB of host memory hold neither its 206 GB of state nor need to; an 80 GB device holds groups of 32k."""
    foretold = streamed_footprint(GPT_13B, "bf16", True, Cut(4, 8, 4), "disk", 1, 1, "cuda")
    assert foretold.device_bytes < 80e9
    assert foretold.host_bytes < 128 * 2**30
    assert foretold.disk_bytes > 12 * GPT_13B.params
    in_host = streamed_footprint(GPT_13B, "bf16", True, Cut(4, 8, 4), "host", 1, 1, "cuda")
    assert in_host.host_bytes > 128 * 2**30
