"""One training step of isoflop and of what a user would pick instead, each as its users run it at its best.

A runner is made in a process of its own: `step(samples)` with int64 (sequences, T + 1) trains on them once.
"""

import itertools
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isoflop.model import Lanes, load_kernels
from isoflop.recipe import Shape
from isoflop.train.allocator import keep_freed_memory
from isoflop.train.learner import Learner
from isoflop.train.on_device import DeviceLearner

Step = Callable[[Tensor], None]
RATE, CLIP = 3e-4, 1.0


@dataclass(frozen=True)
class Work:
    """A model and how to train it: sequences of a microbatch and of a step, on `cores` or on a GPU."""

    shape: Shape
    microbatch: int
    sequences: int
    cores: int
    device: torch.device
    checkout: Path | None


def samples_of(shape: Shape, sequences: int, number: int) -> Tensor:
    """The random tokens of a step, int64 (sequences, T + 1)."""
    size = (sequences, shape.context_length + 1)
    return torch.randint(0, shape.vocab_size, size, generator=torch.Generator().manual_seed(number))


def isoflop(work: Work) -> Step:
    """Ours: kernels, one lane a core, fixed-point sums, exact clipping."""
    keep_freed_memory()
    on_cpu = work.device.type == "cpu"
    learner = (Learner if on_cpu else DeviceLearner)(
        work.shape,
        seed=0,
        precision="bf16",
        lanes=Lanes(work.cores if on_cpu else 1),
        kernels=load_kernels() if on_cpu else None,
        device=work.device,
    )
    count = 0

    def step(samples: Tensor) -> None:
        nonlocal count
        count += 1
        parts = torch.split(samples, work.microbatch)  # type: ignore[no-untyped-call]
        learner.gradients([lambda part=part: part for part in parts], samples[:, 1:].numel())
        learner.update(learner.norm(), RATE, count)

    return step


def nanogpt(work: Work) -> Step:
    """nanoGPT's model, compiled whole."""
    assert work.checkout is not None
    shape = work.shape
    sys.path.insert(0, str(work.checkout))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    config = GPTConfig(
        block_size=shape.context_length,
        vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
        dropout=0.0,
        bias=True,
    )
    model = torch.compile(GPT(config).to(work.device))

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = model(ids, targets)[1]
        return found

    return _compiled(model, loss, work)


def litgpt(work: Work) -> Step:
    """litgpt's model with GPT-2's LayerNorm and MLP; its positions are rotary and its head is not tied."""
    assert work.checkout is not None
    shape = work.shape
    package = types.ModuleType("litgpt")  # its own __init__ imports more than its model
    package.__path__ = [str(work.checkout / "litgpt")]
    sys.modules["litgpt"] = package
    from litgpt.config import Config  # type: ignore[import-not-found]
    from litgpt.model import GPT  # type: ignore[import-not-found]

    config = Config(
        block_size=shape.context_length,
        padded_vocab_size=shape.vocab_size,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        n_embd=shape.d_model,
        norm_class_name="LayerNorm",
        mlp_class_name="GptNeoxMLP",
        parallel_residual=False,
        bias=True,
        lm_head_bias=False,
        rotary_percentage=1.0,
    )
    model = torch.compile(GPT(config).to(work.device))

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())

    return _compiled(model, loss, work)


def hugging_face(work: Work) -> Step:
    """transformers' GPT2LMHeadModel, compiled whole, in the loop that its Trainer runs."""
    model = torch.compile(_gpt2(work.shape).to(work.device))

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(model(ids, use_cache=False).logits.flatten(0, 1), targets.flatten())

    return _compiled(model, loss, work)


def hugging_face_trainer(work: Work) -> Step:
    """transformers' GPT2LMHeadModel under its own Trainer, which takes a step whenever one is asked for."""
    import queue
    import tempfile
    import threading

    from transformers import Trainer, TrainerCallback, TrainingArguments

    torch.set_num_threads(work.cores)
    wanted: queue.Queue[None] = queue.Queue()
    done: queue.Queue[None] = queue.Queue()

    class Given(torch.utils.data.IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            # Its loader reads ahead: it finds itself what `step` will be given.
            for number in itertools.count():
                for sample in samples_of(work.shape, work.sequences, number):
                    yield {"input_ids": sample[:-1], "labels": sample[:-1]}

    class Told(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            wanted.get()

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            done.put(None)

    arguments = TrainingArguments(
        tempfile.mkdtemp(),
        per_device_train_batch_size=work.microbatch,
        gradient_accumulation_steps=work.sequences // work.microbatch,
        max_steps=10**9,
        learning_rate=RATE,
        max_grad_norm=CLIP,
        bf16=True,
        use_cpu=work.device.type == "cpu",
        torch_compile=True,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = Trainer(_gpt2(work.shape), arguments, train_dataset=Given(), callbacks=[Told()])
    threading.Thread(target=trainer.train, daemon=True).start()

    def step(samples: Tensor) -> None:
        wanted.put(None)
        done.get()

    return step


def torchtitan(work: Work) -> Step:
    """torchtitan's Llama 3 (0.3.0) of the same width, depth and number of parameters, each block compiled, as it does.

    Its feed-forward is gated: of 8 d / 3 inner features it has as many weights as GPT's of 4 d. Its head is tied here.
    """
    from torchtitan.models import llama3  # type: ignore[import-not-found]
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention

    shape, d = work.shape, work.shape.d_model
    ones, normal = {"weight": nn.init.ones_}, {"weight": lambda weight: nn.init.normal_(weight, std=0.02)}
    rotary = ComplexRoPE.Config(dim=shape.d_head, max_seq_len=shape.context_length, theta=10_000, scaling="none")
    layers = llama3._build_llama3_layers(
        n_layers=shape.n_layers,
        dim=d,
        n_heads=shape.n_heads,
        hidden_dim=-(-8 * d // 3 // 64) * 64,
        rope=rotary,
        attn_backend="flex",
    )
    for layer in layers:  # samples hold one document here: PyTorch's causal attention does, and is faster than a mask
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    model = llama3.Llama3Model.Config(
        dim=d,
        vocab_size=shape.vocab_size,
        enable_weight_tying=True,
        tok_embeddings=Embedding.Config(num_embeddings=shape.vocab_size, embedding_dim=d, param_init=normal),
        norm=RMSNorm.Config(normalized_shape=d, param_init=ones),
        lm_head=Linear.Config(in_features=d, out_features=shape.vocab_size, param_init=normal),
        layers=layers,
    ).build()
    model.to(work.device)
    with torch.no_grad():
        model.init_states(buffer_device=work.device)
    for block in model.layers.values():
        block.compile(fullgraph=True)
    cross_entropy = torch.compile(F.cross_entropy)

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        found: Tensor = cross_entropy(model(ids).flatten(0, 1).float(), targets.flatten())
        return found

    return _compiled(model, loss, work)


def _gpt2(shape: Shape) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=shape.vocab_size,
        n_positions=shape.context_length,
        n_embd=shape.d_model,
        n_layer=shape.n_layers,
        n_head=shape.n_heads,
        activation_function="gelu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        attn_implementation="sdpa",
    )
    model: nn.Module = GPT2LMHeadModel(config)
    return model


def _compiled(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], work: Work) -> Step:
    """bf16 autocast, accumulated gradients, clipping, fused AdamW; freed memory is kept, as ours is."""
    keep_freed_memory()
    torch.set_num_threads(work.cores)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), fused=True)

    def step(samples: Tensor) -> None:
        parts = torch.split(samples.to(work.device), work.microbatch)  # type: ignore[no-untyped-call]
        for part in parts:
            with torch.autocast(work.device.type, torch.bfloat16):
                one = loss(part[:, :-1].contiguous(), part[:, 1:].contiguous())
            (one / len(parts)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


RUNNERS = {
    "isoflop": isoflop,
    "nanoGPT": nanogpt,
    "litgpt": litgpt,
    "transformers": hugging_face,
    "transformers Trainer": hugging_face_trainer,
    "torchtitan": torchtitan,
}
