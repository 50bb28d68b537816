"""What N systems make of one model: step time and efficiency of pure data parallelism, resident and streamed."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from isoflop.recipe.device_time import KEPT, OPTIMIZER_BYTES, RECOMPUTED, head_seconds, layers_seconds
from isoflop.recipe.flops import training_flops
from isoflop.recipe.hardware import Hardware, shared
from isoflop.recipe.memory import training_memory
from isoflop.recipe.shape import Shape

GROUP_TOKENS = 65_536
MASTER_BYTES = 4
# A sum that does not depend on its order is a 64-bit integer; a plain one is fp32.
REPRODUCIBLE_SUM_BYTES, PLAIN_SUM_BYTES = 8, 4
# Master weights and two moments, and the sums of gradients until their norm is known.
STORE_BYTES = 16
# Layers on the device at once: one computes, one arrives, one leaves.
SLOTS = 3


@dataclass(frozen=True)
class Work:
    """A training step of one model, cut into microbatches that do not depend on the number of systems."""

    shape: Shape
    batch_sequences: int
    microbatch_sequences: int
    precision: str = "bf16"
    reproducible: bool = True
    microbatches_at_once: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch_sequences * self.shape.context_length

    @property
    def sum_bytes(self) -> int:
        """Bytes that a parameter's gradient travels as."""
        return REPRODUCIBLE_SUM_BYTES if self.reproducible else PLAIN_SUM_BYTES

    @property
    def image_bytes(self) -> int:
        """Bytes of a weight that matrix products read."""
        return 2 if self.precision == "bf16" else 4

    def busiest_tokens(self, systems: int) -> int:
        """Tokens of the system with the most microbatches: the others wait for it."""
        microbatches = self.batch_sequences // self.microbatch_sequences
        return -(-microbatches // systems) * self.microbatch_sequences * self.shape.context_length


@dataclass(frozen=True)
class Foretold:
    """One way to train a model on N systems, and what it comes to.

    Attributes:
        way: "resident", "streamed", or what `isoflop.recipe.layouts` says.
        computing_seconds: of the busiest device, the layers' second forward pass included.
        bubble_seconds: a pipeline's devices wait for its other stages.
        communication_seconds: what of it no computing hides.
        sent_bytes: by each device in a step.
        memory_bytes: on each device.
        store_bytes: of each system's part of the store of a streamed run, in host memory or on disk.
        of_linear: its tokens a second over N times those of one system that goes the same way and has the memory.
        of_peak: model FLOPs, each counted once, over the devices' peak (Chowdhery et al. 2022, appendix B).
    """

    way: str
    systems: int
    step_seconds: float
    computing_seconds: float
    bubble_seconds: float
    communication_seconds: float
    sent_bytes: float
    memory_bytes: float
    store_bytes: float
    fits: bool
    tokens_per_second: float
    of_linear: float
    of_peak: float

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def put_together(
    way: str,
    work: Work,
    systems: int,
    hardware: Hardware,
    *,
    one_seconds: float,
    computing_seconds: float,
    bubble_seconds: float = 0.0,
    communication_seconds: float,
    sent_bytes: float,
    memory_bytes: float,
    store_bytes: float = 0.0,
) -> Foretold:
    """The parts of a step put together; `one_seconds` is the step of one system that goes the same way."""
    seconds = computing_seconds + bubble_seconds + communication_seconds
    model_flops = training_flops(work.shape, work.tokens).model
    return Foretold(
        way=way,
        systems=systems,
        step_seconds=seconds,
        computing_seconds=computing_seconds,
        bubble_seconds=bubble_seconds,
        communication_seconds=communication_seconds,
        sent_bytes=sent_bytes,
        memory_bytes=memory_bytes,
        store_bytes=store_bytes,
        fits=memory_bytes <= hardware.memory_bytes,
        tokens_per_second=work.tokens / seconds,
        of_linear=one_seconds / (systems * seconds),
        of_peak=model_flops / (seconds * systems * hardware.peak_flops_per_second),
    )


def resident(work: Work, systems: int, hardware: Hardware) -> Foretold:
    """Every system holds all weights; gradients are added and the new weights handed round after the backward pass.

    Each system updates its share of the parameters: gradients travel once to the owner of their chunk and fp32 weights
    back from it, (N - 1)/N of P x (sum + 4) bytes. None of it is hidden: the sums are whole with the last microbatch.
    """
    params, wire = work.shape.params, hardware.wire(systems)
    exchange = wire.all_gather_seconds(work.sum_bytes * params, systems)
    exchange += wire.all_gather_seconds(MASTER_BYTES * params, systems)
    memory = training_memory(work.shape, work.microbatch_sequences, work.microbatches_at_once, work.precision)
    return put_together(
        "resident",
        work,
        systems,
        hardware,
        one_seconds=_computing_seconds(work, 1, hardware),
        computing_seconds=_computing_seconds(work, systems, hardware),
        communication_seconds=exchange,
        sent_bytes=shared((work.sum_bytes + MASTER_BYTES) * params, systems),
        memory_bytes=memory.weights_bytes + memory.optimizer_bytes + memory.activation_bytes,
    )


def streamed(work: Work, systems: int, hardware: Hardware) -> Foretold:
    """Weights visit the device layer by layer, once forward and once backward for each group of microbatches.

    Each system sends its chunks of a layer from its part of the store over its own link, an all-gather completes the
    layer, and gradients go back to their owners (DESIGN.md, weight streaming). Link, network and device work at the
    same time, so a pass takes as long as the slowest of them; only the first layer's arrival and the last one's leaving
    are waited for. The optimizer hides under the next step's first forward pass in the same way. A group is some 64k
    tokens, or as many less as the device's memory asks for.
    """
    microbatch_tokens = work.microbatch_sequences * work.shape.context_length
    group_tokens = max(GROUP_TOKENS, microbatch_tokens)
    found = _streamed(work, systems, hardware, group_tokens)
    while not found.fits and group_tokens // 2 >= microbatch_tokens:
        group_tokens //= 2
        found = _streamed(work, systems, hardware, group_tokens)
    return found


def _streamed(work: Work, systems: int, hardware: Hardware, group_tokens: int) -> Foretold:
    seconds, computing = _streamed_seconds(work, systems, hardware, group_tokens)
    shape, groups = work.shape, _groups(work, systems, group_tokens)
    # A layer's image and fp32 gradient in each slot; the inputs of every layer for a group; what one layer keeps for
    # the microbatches at work.
    slots = SLOTS * (work.image_bytes + MASTER_BYTES) * shape.params / shape.n_layers
    inputs = work.image_bytes * shape.d_model * shape.n_layers * min(group_tokens, work.busiest_tokens(systems))
    one = replace(shape, n_layers=1)
    a_layer = training_memory(one, work.microbatch_sequences, work.microbatches_at_once, work.precision)
    return put_together(
        "streamed",
        work,
        systems,
        hardware,
        one_seconds=_streamed_seconds(work, 1, hardware, group_tokens)[0],
        computing_seconds=computing,
        communication_seconds=seconds - computing,
        sent_bytes=groups * shared((2 * work.image_bytes + work.sum_bytes) * shape.params, systems),
        memory_bytes=slots + inputs + a_layer.activation_bytes,
        store_bytes=(STORE_BYTES + work.image_bytes) * shape.params / systems,
    )


def _computing_seconds(work: Work, systems: int, hardware: Hardware) -> float:
    tokens = work.busiest_tokens(systems)
    update = hardware.memory_seconds(OPTIMIZER_BYTES * work.shape.params / systems)
    return layers_seconds(work.shape, tokens, hardware, KEPT) + head_seconds(work.shape, tokens, hardware) + update


def _groups(work: Work, systems: int, group_tokens: int) -> int:
    return -(-work.busiest_tokens(systems) // group_tokens)


def _streamed_seconds(work: Work, systems: int, hardware: Hardware, group_tokens: int) -> tuple[float, float]:
    """Seconds of a step, and of the computing in it."""
    shape, tokens = work.shape, work.busiest_tokens(systems)
    params, n_layers = shape.params, shape.n_layers
    groups, wire = _groups(work, systems, group_tokens), hardware.wire(systems)
    forward = layers_seconds(shape, tokens, hardware, 1) / groups
    backward = (RECOMPUTED - 1) * forward + head_seconds(shape, tokens, hardware) / groups
    link_in = hardware.link_seconds(work.image_bytes * params / systems)
    link_out = hardware.link_seconds(work.sum_bytes * params / systems)
    gather = n_layers * wire.all_gather_seconds(work.image_bytes * params / n_layers, systems)
    give = n_layers * wire.all_gather_seconds(work.sum_bytes * params / n_layers, systems)
    update = hardware.store_seconds(OPTIMIZER_BYTES * params / systems)
    forward_pass = max(forward, link_in, gather)
    backward_pass = max(backward, link_in, link_out, gather + give)
    ends = (link_in + link_out + gather + give) / n_layers
    seconds = max(forward_pass, update) + (groups - 1) * forward_pass + groups * backward_pass + ends
    return seconds, groups * (forward + backward)
