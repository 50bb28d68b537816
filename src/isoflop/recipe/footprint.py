"""Bytes that a run holds at its fullest on device, host and disk, and what a streamed step moves between them.

Buffers are counted as the code takes them, and tests hold both equal. What importing PyTorch takes, and what the
allocator holds on to between the buffers of lanes, are as measured (docs/streaming.md).

Letters: V tokens of vocabulary, T of context, d width, n tokens of a microbatch.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.recipe.memory import training_memory
from isoflop.recipe.shape import Shape
from isoflop.recipe.streaming import WIDE, Cut

# A process that has imported PyTorch 2.15 with its CUDA libraries, and its threads; less without those libraries.
PROGRAM_BYTES = 345_000_000
# A GPU's context and the workspace of its matrix products.
CONTEXT_BYTES = 700_000_000
# Where freed buffers are kept, holes between them are so many times what lanes use at once; in narrow streamed models,
# which give their logits back, fewer.
HOLES, STREAMED_HOLES = 2.5, 1.5
# State passes through memory in windows of this many elements, in the hands of so many threads.
WINDOW, CLERKS, CARRIERS = 2**19, 3, 4
# Beside a GPU; and how many pieces' images and sums of gradients it holds, and inputs of layers where others are away.
DEVICE_CLERKS, IMAGES, SUMS, INPUT_SLOTS = 12, 3, 2, 2
# Rows of the head whose logits exist at once, and of the vocabulary whose gradient does.
HEAD_TOKENS, HEAD_TOKENS_ON_GPU, HEAD_ROWS = 512, 4096, 4096
QUERIES = 128
# A checkpoint is written shard by shard, each of at most so many elements, while the next step computes.
SHARD, STATE_BYTES = 2**24, 12


@dataclass(frozen=True)
class Footprint:
    """Of one system, in bytes. On a processor, device and host are parts of one memory.

    Attributes:
        device_bytes: what computing holds; on a processor, the process's anonymous memory without the store.
        host_bytes: a store in host memory; on a GPU's machine also what is on its way.
        disk_bytes: a store on disk and what layers keep there; checkpoints of weights that live in memory.
        link_bytes: moved between device and store in the largest step.
    """

    device_bytes: int
    host_bytes: int
    disk_bytes: int
    link_bytes: int


NOTHING = Footprint(0, 0, 0, 0)


def resident_footprint(shape: Shape, precision: str, microbatch_sequences: int, lanes: int, device: str) -> Footprint:
    """A resident run's; `lanes` microbatches compute side by side."""
    memory = training_memory(shape, microbatch_sequences, lanes, precision)
    working = lanes * lane_bytes(shape, precision, microbatch_sequences, device)
    held = memory.weights_bytes + memory.optimizer_bytes + memory.activation_bytes + working
    program = CONTEXT_BYTES if device == "cuda" else PROGRAM_BYTES + round(HOLES * working)
    if device == "cpu":
        held += STATE_BYTES * min(SHARD, widest(shape))
    return Footprint(program + held, 0, _checkpoint_bytes(shape), 0)


def streamed_footprint(
    shape: Shape,
    precision: str,
    reproducible: bool,
    cut: Cut,
    store: Literal["disk", "host"],
    lanes: int,
    systems: int,
    device: str,
) -> Footprint:
    """A streamed run's, of one of `systems`."""
    image, sums, d = _image_bytes(precision), _sums_bytes(reproducible), shape.d_model
    # The residual stream and the positions that it begins with.
    stream = 4 * d * (cut.most * cut.sequences * shape.context_length + shape.context_length)
    # No more lanes are at work than a group has microbatches.
    busy = min(lanes, cut.most)
    working = busy * lane_bytes(shape, precision, cut.sequences, device)
    # Weights and moments, their gradient, the image, and sums where they wait for those of the next group.
    parameter = 12 + 4 + image + (sums if cut.groups > 1 else 0)
    store_bytes = parameter * shape.params // systems
    on_disk = store_bytes + (0 if cut.groups > 1 else sums * _wide(shape) // systems)
    checkpoints = _checkpoint_bytes(shape) // systems
    if device == "cuda":
        # What a layer would have kept is made again, of one microbatch.
        again = kept_bytes(shape, precision, Cut(cut.sequences, 1, 1))
        held = CONTEXT_BYTES + device_buffers_bytes(shape, precision, reproducible, cut) + working + again
        in_host = PROGRAM_BYTES + stream + _window_bytes(DEVICE_CLERKS, image, sums)
        in_host += _inputs_bytes(shape, precision, cut)[1]
        link = device_link_bytes(shape, precision, reproducible, cut)
        if store == "host":
            return Footprint(held, in_host + store_bytes, checkpoints, link)
        return Footprint(held, in_host + widest(shape) * image, on_disk, link)
    buffers = image_elements(shape) * image + sums_elements(shape) * sums
    vectors = 4 * (13 * d * shape.n_layers + 2 * d)
    kept, all_kept = kept_bytes(shape, precision, cut), shape.n_layers * cut.most
    held = PROGRAM_BYTES + buffers + vectors + stream + working + round(_holes(d) * working)
    if cut.recompute:
        held += busy * kept_bytes(shape, precision, Cut(cut.sequences, 1, 1))
    link = link_bytes(shape, precision, reproducible, cut, kept if store == "disk" else 0)
    if store == "host":
        return Footprint(held + kept * all_kept, store_bytes, checkpoints, link // systems)
    held += _window_bytes(CLERKS, image, sums) + kept * (busy + 1)
    return Footprint(held, 0, on_disk + kept * all_kept, link // systems)


def device_buffers_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut) -> int:
    """What a GPU holds from step to step: pieces in their slots, the residual stream, and inputs of layers."""
    image, sums, d = _image_bytes(precision), _sums_bytes(reproducible), shape.d_model
    tokens = cut.most * cut.sequences * shape.context_length
    slots = IMAGES * (widest(shape) * image + 13 * d * 4) + (SUMS * widest(shape) + 2 * d) * sums
    return slots + 4 * d * (tokens + shape.context_length) + _inputs_bytes(shape, precision, cut)[0]


def _inputs_bytes(shape: Shape, precision: str, cut: Cut) -> tuple[int, int]:
    """Of every layer's input for the tokens of a group: on a GPU, and away from it in host memory."""
    away = max(0, shape.n_layers - INPUT_SLOTS) if cut.offload else 0
    one = cut.most * cut.sequences * shape.context_length * shape.d_model * _image_bytes(precision)
    return (shape.n_layers - away) * one, away * one


def device_link_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut) -> int:
    """What the largest step of a system moves between host and GPU, in both directions.

    Each group: images for both passes (the last layer's is still there) with their vectors, the positions, and all sums
    once. Each token: the stream at the bottom, the gradient by it, and inputs of layers that leave and come back.
    """
    image, sums, d = _image_bytes(precision), _sums_bytes(reproducible), shape.d_model
    passes = 2 * shape.n_layers - 1
    come = image * (_wide(shape) + passes * 12 * d**2) + 4 * (13 * d * passes + 2 * d) + 4 * shape.context_length * d
    tokens = cut.microbatches * cut.sequences * shape.context_length
    away = max(0, shape.n_layers - INPUT_SLOTS) if cut.offload else 0
    return cut.groups * (come + sums * shape.params) + 2 * tokens * d * (4 + image * away)


def widest(shape: Shape) -> int:
    """Elements of the largest piece."""
    return max(_wide(shape), _layer(shape))


def _window_bytes(clerks: int, image: int, sums: int) -> int:
    """`update` has weights, moments, gradient, image and sums of a window in its hands, `look_up` its weights."""
    return WINDOW * (clerks * (16 + image + 2 * sums) + CARRIERS * 4)


def _holes(width: int) -> float:
    """Of a streamed model: holes between the buffers of lanes, in parts of what they use at once."""
    return 0.0 if width >= WIDE else STREAMED_HOLES


def image_elements(shape: Shape) -> int:
    """Of the buffer of images: layers alternate between two slots, of which one is the embeddings' as well.

    A single layer needs its own alone.
    """
    return max(_wide(shape), _layer(shape) if shape.n_layers > 1 else 0) + _layer(shape)


def sums_elements(shape: Shape) -> int:
    """Of the buffer of sums: the embeddings' are in both slots of layers."""
    return max(_wide(shape), min(2, shape.n_layers) * _layer(shape)) + 2 * shape.d_model


def kept_bytes(shape: Shape, precision: str, cut: Cut) -> int:
    """What a layer keeps of a microbatch for its backward pass, on a CPU.

    The fp32 stream twice, q, k, v, the attention's output, the feed-forward's inside before GELU, and the softmax in
    blocks of `QUERIES` queries up to their diagonal; or its fp32 input alone.
    """
    item, T = _image_bytes(precision), shape.context_length
    tokens = cut.sequences * T
    if cut.recompute:
        return 4 * tokens * shape.d_model
    shares = sum((min(T, first + QUERIES) - first) * min(T, first + QUERIES) for first in range(0, T, QUERIES))
    return tokens * shape.d_model * (2 * 4 + 8 * item) + cut.sequences * shape.n_heads * shares * item


def lane_bytes(shape: Shape, precision: str, sequences: int, device: str) -> int:
    """What a lane has in its hands at once within a layer or the head, whichever is more.

    A layer's backward pass: two norms (2 d), GELU's output (4 d), its gradient (4 d) and the output's (d), and the
    gradient of the widest matrix (4 d^2) with what matrix products lay out anew. The head: logits of a chunk, the last
    norm, its gradient and that of the stream; a GPU's has
    logits, their gradient, and the embeddings' of a chunk, in that precision and in fp32, and of all chunks.
    """
    item, tokens, d = _image_bytes(precision), sequences * shape.context_length, shape.d_model
    layer = 11 * item * tokens * d + 2 * 4 * d * d * item
    fewest = HEAD_TOKENS_ON_GPU if device == "cuda" else HEAD_TOKENS
    rows = min(tokens, max(fewest, 2**20 // shape.vocab_size))
    if device == "cuda":
        head = rows * shape.vocab_size * 2 * item + (8 + item) * shape.vocab_size * d
    else:
        head = rows * shape.vocab_size * item + HEAD_ROWS * d * item
    return max(layer, head + tokens * d * (2 * item + 4))


def link_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut, kept: int) -> int:
    """What the largest step moves: each group fetches images for both passes, and leaves sums.

    The last layer's image is still there when the backward pass begins. Embeddings come a second time, in fp32, for
    the rows that are looked up; their sums leave twice, after the head and when the rows' gradients are known. What a
    layer keeps is written and read, `kept` bytes of each microbatch.
    """
    image, sums, wide = _image_bytes(precision), _sums_bytes(reproducible), _wide(shape)
    matrices = 12 * shape.d_model**2
    fetched = image * (wide + (2 * shape.n_layers - 1) * matrices) + 4 * wide
    others = shape.n_layers * _layer(shape) + 2 * shape.d_model
    # Sums are put and taken up again by every group but the last, which leaves the fp32 gradient.
    left = 2 * (cut.groups - 1) * sums * others + 4 * others
    rows = sums * wide * (4 * cut.groups - 2) + 4 * wide
    return cut.groups * fetched + left + rows + 2 * kept * shape.n_layers * cut.microbatches


def _image_bytes(precision: str) -> int:
    """Of a weight that products read."""
    return 2 if precision == "bf16" else 4


def _sums_bytes(reproducible: bool) -> int:
    """Of a sum of gradients: in fixed point, or fp32."""
    return 8 if reproducible else 4


def _checkpoint_bytes(shape: Shape) -> int:
    """Two generations of weights and moments, and a third while it is written."""
    return 3 * 12 * shape.params


def _wide(shape: Shape) -> int:
    """Elements of the embeddings."""
    return (shape.vocab_size + shape.context_length) * shape.d_model


def _layer(shape: Shape) -> int:
    """Elements of a layer."""
    return 12 * shape.d_model**2 + 13 * shape.d_model
