"""One training step of isoflop, resident and streamed, and of what offloads optimizer state to host memory elsewhere.

A runner is made in a process of its own: `step(samples)` with int64 (sequences, T + 1) trains on them once and returns
the mean loss where it is known. All have the same model, precision, optimizer, exact clipping and microbatches of one
sequence.
"""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peers import CLIP, RATE, _gpt2
from torch import Tensor, nn

from isoflop.model import Lanes, load_kernels
from isoflop.recipe import STANDARD, Shape
from isoflop.recipe.streaming import Cut
from isoflop.systems.group import ALONE
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.journal import Journal
from isoflop.train.learner import Learner
from isoflop.train.optimizer import AdamW
from isoflop.train.streamed import StreamedLearner

Step = Callable[[Tensor], float | None]


def resident(shape: Shape, cut: Cut, cores: int, folder: Path) -> Step:
    """Ours, everything in memory."""
    keep_freed_memory()
    learner = Learner(shape, seed=0, precision="bf16", lanes=Lanes(cores), kernels=load_kernels())
    count = 0

    def step(samples: Tensor) -> float:
        nonlocal count
        count += 1
        loss = learner.gradients(_readers(samples, cut), samples[:, 1:].numel())
        learner.update(learner.norm(), RATE, count)
        return loss

    return step


def streamed(shape: Shape, cut: Cut, cores: int, folder: Path) -> Step:
    """Ours, weights and optimizer state on disk, with a journal: every step survives a crash.

    An update goes on beside the next step's forward pass, so a turn begins with the update of the step before and ends
    where its own would begin: the work of one step, in the order of a long run, and nothing left for others' turns.
    """
    keep_freed_memory()
    learner = StreamedLearner(
        shape,
        precision="bf16",
        lanes=Lanes(cores),
        kernels=load_kernels(),
        optimizer=AdamW(),
        parametrisation=STANDARD,
        systems=ALONE,
        reproducible=True,
        cut=cut,
        folder=folder,
        journal=Journal(folder / "journal.json", {}),
    )
    learner.create(0)
    count = 0

    def step(samples: Tensor) -> float:
        nonlocal count
        if count:
            learner.commit({"step": count})
        count += 1
        loss = learner.gradients(_readers(samples, cut), samples[:, 1:].numel())
        learner.update(learner.norm(), RATE, count)
        step.link_bytes = learner.link_bytes  # type: ignore[attr-defined]
        return loss

    return step


def fully_shard(shape: Shape, cut: Cut, cores: int, folder: Path) -> Step:
    """PyTorch's FSDP2 with CPUOffloadPolicy over transformers' GPT-2, layers compiled, bf16 products, fused AdamW."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy
    from torch.distributed.fsdp import fully_shard as shard

    keep_freed_memory()
    torch.set_num_threads(cores)
    _alone_in_a_group()
    model: Any = _gpt2(shape)
    mesh = init_device_mesh("cpu", (1,))
    options = {
        "mesh": mesh,
        "mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
        "offload_policy": CPUOffloadPolicy(pin_memory=False),
    }
    for block in model.transformer.h:
        block.compile()
        shard(block, **options)
    shard(model, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(samples: Tensor) -> float:
        total = 0.0
        for ids, targets in _microbatches(samples):
            loss = F.cross_entropy(model(ids, use_cache=False).logits.float().flatten(0, 1), targets.flatten())
            (loss / len(samples)).backward()
            total += float(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return total / len(samples)

    return step


def deepspeed(shape: Shape, cut: Cut, cores: int, folder: Path) -> Step:
    """DeepSpeed's ZeRO-Offload over transformers' GPT-2: bf16 weights, gradients and AdamW in host memory.

    Its settings are those of its documentation for offloading the optimizer of one device.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed as ds  # type: ignore[import-not-found]

    keep_freed_memory()
    torch.set_num_threads(cores)
    os.environ |= {"LOCAL_RANK": "0", "OMP_NUM_THREADS": str(cores)}
    _alone_in_a_group()
    sequences = cut.microbatches
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": sequences,
        "gradient_clipping": CLIP,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},
        "optimizer": {"type": "AdamW", "params": {"lr": RATE, "betas": [0.9, 0.95], "weight_decay": 0.1}},
    }
    model = _gpt2(shape)
    engine, *_ = ds.initialize(model=model, model_parameters=model.parameters(), config=settings)

    def step(samples: Tensor) -> float:
        engine.set_train_batch_size(len(samples))
        total = 0.0
        for ids, targets in _microbatches(samples):
            loss = F.cross_entropy(engine(ids, use_cache=False).logits.float().flatten(0, 1), targets.flatten())
            engine.backward(loss)
            engine.step()
            total += float(loss.detach())
        return total / len(samples)

    return step


RUNNERS = {"resident": resident, "streamed": streamed, "fully_shard": fully_shard, "deepspeed": deepspeed}


def _readers(samples: Tensor, cut: Cut) -> list[Callable[[], Tensor]]:
    parts = torch.split(samples, cut.sequences)  # type: ignore[no-untyped-call]
    return [lambda part=part: part for part in parts]


def _microbatches(samples: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(one[None, :-1].contiguous(), one[None, 1:].contiguous()) for one in samples]


def _alone_in_a_group() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    torch.distributed.init_process_group("gloo", rank=0, world_size=1)
