"""The same model on GPUs as others lay it out: data, tensor and pipeline parallelism, and sharded states.

Memory a device, bytes sent, bubbles and step time after Narayanan et al. 2021 (arXiv 2104.04473), Korthikanti et al.
2022 (arXiv 2205.05198) and, for shards, Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from isoflop.recipe.device_time import (
    KEPT,
    OPTIMIZER_BYTES,
    RECOMPUTED,
    activation_bytes,
    head_seconds,
    layers_seconds,
)
from isoflop.recipe.hardware import Hardware, shared
from isoflop.recipe.scaling import Foretold, Work, put_together
from isoflop.recipe.shape import Shape

# Mixed-precision Adam, bytes a parameter: 16-bit weights; fp32 gradients; fp32 weights and two moments (18 in all,
# Korthikanti et al. 2022, figure 1).
WEIGHT_BYTES, GRADIENT_BYTES, STATE_BYTES = 2, 4, 12
MICROBATCHES = (1, 2, 4, 8, 16)
CHUNKS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class Layout:
    """How devices share a model.

    Attributes:
        tensor, pipeline, data: devices that share a layer, stages of layers, replicas.
        microbatch_sequences: what a replica passes through the model at once.
        chunks: runs of layers a stage holds (interleaved schedule, Narayanan et al. 2021, sec. 2.2.2).
        shards: what replicas share among them: nothing, the optimizer's states (ZeRO-1), or all (ZeRO-3, FSDP).
        recompute: whether layers keep only their inputs.
        scores_kept: whether attention writes its scores to memory, as kernels did before they were fused.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    microbatch_sequences: int = 1
    chunks: int = 1
    shards: Literal["none", "optimizer", "all"] = "none"
    recompute: bool = False
    scores_kept: bool = False

    @property
    def devices(self) -> int:
        """Devices in all."""
        return self.tensor * self.pipeline * self.data

    @property
    def passes(self) -> int:
        """Forward passes that a microbatch's computing is worth, a backward pass being two."""
        return RECOMPUTED if self.recompute else KEPT

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def in_layout(work: Work, layout: Layout, hardware: Hardware, way: str) -> Foretold:
    """What a step of `work` comes to; the work's own microbatches do not matter here."""
    microbatches = _microbatches(work, layout)
    stage = _stage_seconds(work.shape, layout, hardware)
    computing, tensor, head = (microbatches * part for part in stage)
    update = hardware.memory_seconds(OPTIMIZER_BYTES * _params(work.shape, layout) / _sharing(layout))
    # Nothing is sent on one device, and it has no bubble: the same work in as many microbatches.
    one = work.batch_sequences / layout.microbatch_sequences * _one_seconds(work.shape, layout, hardware)
    one += hardware.memory_seconds(OPTIMIZER_BYTES * work.shape.params)
    data = _data_seconds(work.shape, layout, hardware, microbatches)
    if layout.shards == "all":
        # The next layer's weights arrive, and the last one's gradients leave, while a layer computes.
        data = max(0.0, data - computing - head) + data / (2 * microbatches * work.shape.n_layers)
    return put_together(
        way,
        work,
        layout.devices,
        hardware,
        one_seconds=one,
        computing_seconds=computing + head + update,
        # (p - 1)/m of the time of the microbatches, divided by the chunks (Narayanan et al. 2021, sec. 2.2).
        bubble_seconds=(layout.pipeline - 1) / layout.chunks * (stage[0] + stage[1]),
        communication_seconds=tensor + microbatches * _pipeline_seconds(work.shape, layout, hardware) + data,
        sent_bytes=_sent_bytes(work.shape, layout, microbatches),
        memory_bytes=memory_bytes(work, layout),
    )


def best_layout(work: Work, devices: int, hardware: Hardware) -> tuple[Layout, Foretold] | None:
    """The fastest layout of data, tensor and pipeline parallelism with ZeRO-1 that fits; None if none does.

    Tensor parallelism stays within a node: beyond it never pays (Narayanan et al. 2021, takeaway 1).
    """
    found = [(layout, in_layout(work, layout, hardware, "3D")) for layout in _candidates(work, devices, hardware)]
    fitting = [one for one in found if one[1].fits]
    return min(fitting, key=lambda one: one[1].step_seconds, default=None)


def sharded_layout(work: Work, devices: int, hardware: Hardware) -> tuple[Layout, Foretold] | None:
    """Data parallelism with all states sharded (ZeRO-3, FSDP): the largest microbatch that fits, recomputing or not."""
    found = [
        (layout, in_layout(work, layout, hardware, "ZeRO-3"))
        for recompute in (False, True)
        for microbatch in MICROBATCHES
        if microbatch * devices <= work.batch_sequences
        for layout in [Layout(1, 1, devices, microbatch, shards="all", recompute=recompute)]
    ]
    fitting = [one for one in found if one[1].fits]
    return min(fitting, key=lambda one: one[1].step_seconds, default=None)


def memory_bytes(work: Work, layout: Layout) -> float:
    """Bytes on the fullest device: weights, gradients and optimizer, then what the first stage keeps of activations."""
    shape, params = work.shape, _params(work.shape, layout)
    shared_by = {"none": 1, "optimizer": layout.data, "all": layout.data}[layout.shards]
    states = params * (WEIGHT_BYTES + GRADIENT_BYTES + STATE_BYTES / shared_by)
    if layout.shards == "all":
        # Two layers are whole at a time: the one that computes and the next.
        states = params * (WEIGHT_BYTES + GRADIENT_BYTES + STATE_BYTES) / layout.data
        states += 2 * WEIGHT_BYTES * shape.params_per_layer / layout.tensor
    return states + kept_bytes(work, layout)


def kept_bytes(work: Work, layout: Layout) -> float:
    """Activations on the first stage: of up to p microbatches at once, so of all layers (Korthikanti, sec. 4.2.3).

    A layer that is computed again keeps its input, 2 d bytes a token, and one layer at a time is whole. A device that
    holds the head as well keeps fp32 logits, 4 V/t a token.
    """
    shape = work.shape
    tokens = layout.microbatch_sequences * shape.context_length
    at_once = min(layout.pipeline, _microbatches(work, layout)) / layout.pipeline
    if layout.chunks > 1:
        at_once *= 1 + (layout.pipeline - 1) / (layout.pipeline * layout.chunks)
    layer = activation_bytes(shape, layout.tensor, layout.scores_kept)
    layers = (
        2 * shape.d_model * shape.n_layers * at_once + layer if layout.recompute else layer * shape.n_layers * at_once
    )
    logits = 4 * shape.vocab_size / layout.tensor if layout.pipeline == 1 else 0
    return tokens * (layers + logits)


def _params(shape: Shape, layout: Layout) -> float:
    return shape.params / (layout.tensor * layout.pipeline)


def _sharing(layout: Layout) -> int:
    return 1 if layout.shards == "none" else layout.data


def _microbatches(work: Work, layout: Layout) -> int:
    """Of the busiest replica."""
    return -(-work.batch_sequences // (layout.data * layout.microbatch_sequences))


def _stage_seconds(shape: Shape, layout: Layout, hardware: Hardware) -> tuple[float, float, float]:
    """One microbatch on one stage: its layers, their tensor-parallel sums, and the stage's part of the head.

    Two all-reduces of an activation forward, two backward, and two more where the forward pass is repeated (Narayanan
    et al. 2021, sec. 2.3).
    """
    tokens = layout.microbatch_sequences * shape.context_length
    layers = layers_seconds(shape, tokens, hardware, layout.passes, layout.tensor, layout.scores_kept)
    reduces = 2 * (layout.passes - 1) * shape.n_layers
    wire = hardware.wire(layout.tensor)
    tensor = reduces * wire.all_reduce_seconds(2 * tokens * shape.d_model, layout.tensor)
    head = head_seconds(shape, tokens, hardware, layout.tensor)
    return layers / layout.pipeline, tensor / layout.pipeline, head / layout.pipeline


def _one_seconds(shape: Shape, layout: Layout, hardware: Hardware) -> float:
    tokens = layout.microbatch_sequences * shape.context_length
    layers = layers_seconds(shape, tokens, hardware, layout.passes, 1, layout.scores_kept)
    return layers + head_seconds(shape, tokens, hardware)


def _pipeline_seconds(shape: Shape, layout: Layout, hardware: Hardware) -> float:
    """Activations to the next stage and gradients back, of one microbatch, a tensor-parallel part each (sec. 4.1)."""
    if layout.pipeline == 1:
        return 0.0
    n_bytes = 2 * layout.microbatch_sequences * shape.context_length * shape.d_model / layout.tensor
    return 2 * layout.chunks * hardware.wire(layout.tensor * layout.pipeline).send_seconds(n_bytes)


def _data_seconds(shape: Shape, layout: Layout, hardware: Hardware, microbatches: int) -> float:
    """16-bit gradients summed over the replicas; sharded states need the weights as well (ZeRO, sec. 7)."""
    wire = hardware.wire(layout.devices)
    n_bytes = 2 * _params(shape, layout)
    if layout.shards == "all":
        return microbatches * 3 * wire.all_gather_seconds(n_bytes, layout.data)
    return wire.all_reduce_seconds(n_bytes, layout.data)


def _sent_bytes(shape: Shape, layout: Layout, microbatches: int) -> float:
    tokens = layout.microbatch_sequences * shape.context_length
    activation = 2 * tokens * shape.d_model
    tensor = 4 * (layout.passes - 1) * shape.n_layers / layout.pipeline * shared(activation, layout.tensor)
    pipeline = 2 * layout.chunks * activation / layout.tensor if layout.pipeline > 1 else 0.0
    rounds = 3 * microbatches if layout.shards == "all" else 2
    return microbatches * (tensor + pipeline) + rounds * shared(2 * _params(shape, layout), layout.data)


def _candidates(work: Work, devices: int, hardware: Hardware) -> Iterator[Layout]:
    shape = work.shape
    for tensor in _divisors(min(devices, hardware.devices_per_node)):
        if devices % tensor or shape.n_heads % tensor:
            continue
        for pipeline in _divisors(devices // tensor):
            data = devices // (tensor * pipeline)
            if shape.n_layers % pipeline or data > work.batch_sequences:
                continue
            for microbatch in MICROBATCHES:
                if microbatch > 1 and microbatch * data > work.batch_sequences:
                    break
                for chunks in CHUNKS if pipeline > 1 else (1,):
                    if shape.n_layers // pipeline % chunks == 0:
                        for recompute in (False, True):
                            yield Layout(tensor, pipeline, data, microbatch, chunks, "optimizer", recompute)


def _divisors(number: int) -> list[int]:
    return [one for one in range(1, number + 1) if number % one == 0]
