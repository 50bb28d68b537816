"""Bytes that a run holds at its fullest on device, host and disk, and what a streamed step moves between them.

The buffers are counted as the code takes them, and tests hold both equal. Beside them a process has what importing
PyTorch takes, and each lane what matrix products and the allocator hold on to: both as measured.

Letters: V tokens of vocabulary, T of context, d width, n tokens of a microbatch.
"""

from dataclasses import dataclass
from typing import Literal

from isoflop.recipe.memory import training_memory
from isoflop.recipe.shape import Shape
from isoflop.recipe.streaming import Cut

# A process that has imported PyTorch 2.15 with its CUDA libraries; half as much without them.
PROGRAM_BYTES = 320_000_000
# A GPU's context, and the workspace of its matrix products.
CONTEXT_BYTES = 700_000_000
# State passes through memory in windows of this many elements, in the hands of so many threads.
WINDOW, CLERKS, CARRIERS = 2**19, 3, 4
# Rows of the head whose logits exist at once, and of the vocabulary whose gradient does.
HEAD_TOKENS, HEAD_ROWS = 512, 4096
QUERIES = 128


@dataclass(frozen=True)
class Footprint:
    """Of one system, in bytes. On a processor, device and host are parts of one memory.

    Attributes:
        device_bytes: what computing holds; on a processor, the process's anonymous memory without the store.
        host_bytes: a store in host memory.
        disk_bytes: a store on disk and what layers keep there; checkpoints of a resident run.
        link_bytes: moved between device and store in the largest step.
    """

    device_bytes: int
    host_bytes: int
    disk_bytes: int
    link_bytes: int


NOTHING = Footprint(0, 0, 0, 0)


@dataclass(frozen=True)
class Sizes:
    """How many bytes the numbers of a run are: those that products read, and sums of gradients."""

    image: int
    sums: int


def sizes_of(precision: str, reproducible: bool) -> Sizes:
    """Of a run in "bf16" or "fp32", whose gradients add up in fixed point or not."""
    return Sizes(image=2 if precision == "bf16" else 4, sums=8 if reproducible else 4)


def resident_footprint(
    shape: Shape, precision: str, microbatch_sequences: int, lanes: int, device: Literal["cpu", "cuda"]
) -> Footprint:
    """A resident run's; `lanes` microbatches compute side by side."""
    memory = training_memory(shape, microbatch_sequences, lanes, precision)
    item = sizes_of(precision, True).image
    working = lanes * lane_bytes(shape, item, microbatch_sequences, device)
    held = memory.weights_bytes + memory.optimizer_bytes + memory.activation_bytes + working
    program = PROGRAM_BYTES if device == "cpu" else CONTEXT_BYTES
    # Two generations of checkpoints, and a third while it is written.
    return Footprint(program + held, 0, 3 * 12 * shape.params, 0)


def streamed_footprint(
    shape: Shape,
    precision: str,
    reproducible: bool,
    cut: Cut,
    store: Literal["disk", "host"],
    lanes: int,
    systems: int,
    device: Literal["cpu", "cuda"],
) -> Footprint:
    """A streamed run's, of one of `systems`."""
    sizes, d = sizes_of(precision, reproducible), shape.d_model
    wide, _ = _pieces(shape)
    tokens = cut.sequences * shape.context_length
    buffers = image_elements(shape) * sizes.image + sums_elements(shape) * sizes.sums
    vectors = 4 * (13 * d * shape.n_layers + 2 * d)
    stream = 4 * d * (cut.most * tokens + shape.context_length)
    # `update` has weights, moments, gradient, image and sums of a window; `look_up` its weights.
    windows = WINDOW * (CLERKS * (16 + sizes.image + 2 * sizes.sums) + CARRIERS * 4)
    kept = kept_bytes(shape, precision, cut, device)
    working = lanes * lane_bytes(shape, sizes.image, cut.sequences, device)
    if cut.recompute or device == "cuda":
        one = Shape(1, d, shape.n_heads, shape.vocab_size, shape.context_length)
        working += training_memory(one, cut.sequences, lanes, precision).activation_bytes
    held = buffers + vectors + stream + working
    several = cut.groups > 1
    store_bytes = (12 + 4 + sizes.image) * shape.params + (sizes.sums * shape.params if several else 0)
    if device == "cuda":
        in_host = store_bytes // systems if store == "host" else PROGRAM_BYTES + windows
        kept_all = kept * shape.n_layers * cut.most
        return Footprint(
            CONTEXT_BYTES + held + kept_all,
            in_host + stream,
            (store_bytes + sizes.sums * wide) // systems if store == "disk" else 3 * 12 * shape.params // systems,
            link_bytes(shape, sizes, cut, 0) // systems,
        )
    if store == "host":
        kept_all = kept * shape.n_layers * cut.most
        return Footprint(
            PROGRAM_BYTES + held + kept_all,
            store_bytes // systems,
            3 * 12 * shape.params // systems,
            link_bytes(shape, sizes, cut, 0) // systems,
        )
    waiting = 0 if several else sizes.sums * wide
    on_disk = store_bytes // systems + waiting // systems + kept * shape.n_layers * cut.most
    held += windows + kept * (lanes + 1)
    return Footprint(PROGRAM_BYTES + held, 0, on_disk, link_bytes(shape, sizes, cut, kept) // systems)


def image_elements(shape: Shape) -> int:
    """Of the buffer of images: layers alternate between two slots, of which one is the embeddings' as well."""
    wide, layer = _pieces(shape)
    return max(wide, layer) + layer


def sums_elements(shape: Shape) -> int:
    """Of the buffer of sums: the embeddings' are in both slots of layers."""
    wide, layer = _pieces(shape)
    return max(wide, 2 * layer) + 2 * shape.d_model


def kept_bytes(shape: Shape, precision: str, cut: Cut, device: Literal["cpu", "cuda"] = "cpu") -> int:
    """What a layer keeps of a microbatch for its backward pass.

    The fp32 stream twice, q, k, v, the attention's output, the feed-forward's inside before GELU, and the softmax in
    blocks of `QUERIES` queries up to their diagonal; or its fp32 input alone.
    """
    item, T = sizes_of(precision, True).image, shape.context_length
    tokens = cut.sequences * T
    if cut.recompute or device == "cuda":
        return 4 * tokens * shape.d_model
    shares = sum((min(T, first + QUERIES) - first) * min(T, first + QUERIES) for first in range(0, T, QUERIES))
    return tokens * shape.d_model * (2 * 4 + 8 * item) + cut.sequences * shape.n_heads * shares * item


def lane_bytes(shape: Shape, item: int, sequences: int, device: Literal["cpu", "cuda"]) -> int:
    """What a lane has in its hands at once within a layer or the head, whichever is more.

    A layer's backward pass: two norms (2 d), GELU's output (4 d), its gradient (4 d) and the output's (d), and the
    gradient of the widest matrix (4 d^2) with what matrix products lay out anew. The head: logits of a chunk, and the
    last norm, its gradient and that of the stream.
    """
    tokens, d = sequences * shape.context_length, shape.d_model
    layer = 11 * item * tokens * d + 2 * 4 * d * d * item
    rows = min(tokens, max(HEAD_TOKENS, 2**20 // shape.vocab_size))
    head = rows * shape.vocab_size * item + HEAD_ROWS * d * item + tokens * d * (2 * item + 4)
    if device == "cuda":  # autograd's head has fp32 logits, their gradient, and the embeddings' gradient twice
        head = rows * shape.vocab_size * (8 + item) + 2 * 4 * shape.vocab_size * d + tokens * d * (2 * item + 4)
    return max(layer, head)


def link_bytes(shape: Shape, sizes: Sizes, cut: Cut, kept: int) -> int:
    """What the largest step moves: each group fetches images for both passes, and leaves sums.

    The last layer's image is still there when the backward pass begins. Embeddings come a second time, in fp32, for
    the rows that are looked up; their sums leave twice, after the head and when the rows' gradients are known. What a
    layer keeps is written and read, `kept` bytes of each microbatch.
    """
    wide, layer = _pieces(shape)
    groups = cut.groups
    matrices = layer - 13 * shape.d_model
    images = sizes.image * (wide + (2 * shape.n_layers - 1) * matrices) + 4 * wide
    others = shape.n_layers * layer + 2 * shape.d_model
    sums = 2 * (groups - 1) * sizes.sums * others + 4 * others  # put and taken up again; at last the gradient
    rows = sizes.sums * wide * (4 * groups - 2) + 4 * wide
    return groups * images + sums + rows + 2 * kept * shape.n_layers * cut.microbatches


def _pieces(shape: Shape) -> tuple[int, int]:
    """Elements of the embeddings, and of a layer."""
    d = shape.d_model
    return (shape.vocab_size + shape.context_length) * d, 12 * d * d + 13 * d
