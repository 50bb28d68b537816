"""Bytes that a run holds at its fullest on device, host and disk, and what a streamed step moves between them.

Buffers are counted as the code takes them, and tests hold both equal. What importing PyTorch takes, and what the
allocator holds on to between the buffers of lanes, are as measured (docs/streaming.md).

Letters: V tokens of vocabulary, T of context, d width, n tokens of a microbatch.
"""

from dataclasses import dataclass, replace
from typing import Literal

from isoflop.recipe.memory import training_memory
from isoflop.recipe.shape import Shape
from isoflop.recipe.streaming import Cut

# A process that has imported PyTorch 2.15 with its CUDA libraries, and its threads; less without those libraries.
PROGRAM_BYTES = 345_000_000
# A GPU's context and the workspace of its matrix products.
CONTEXT_BYTES = 700_000_000
# Where freed buffers are kept, holes between them are so many times what lanes use at once. Streamed models give back
# what takes `MAPPED` bytes and more, or as much as logits (`isoflop.train.allocator`): a lane was seen to leave from no
# hole of that size (a quiet machine) to three (a busy one); a quarter of the most is foretold.
HOLES, MAPPED = 2.5, 2**25
# State passes through memory in windows of this many elements, in the hands of so many threads: clerks finish gradients
# and update weights, carriers bring weights and activations and take them away, and hardly compute.
WINDOW, CLERKS, CARRIERS = 2**19, 3, 4
# Beside a GPU, whose processor has nothing else to do.
DEVICE_CLERKS = 12
# A GPU holds so many pieces' images at once (one at work, two that arrive), of which so many are still there when the
# backward pass comes to them; sums of gradients of so many (one at work, one that leaves); and, where inputs of layers
# wait in host memory, those of so many.
IMAGES, KEPT_IMAGES, SUMS, INPUT_SLOTS = 3, 2, 2, 2
# Of a memory, what may be filled up by choice (a GPU's by images that stay, the host's by a store): what is foretold is
# right within a tenth.
ROOM = 0.9
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
        host_bytes: a store in host memory, or what stays there of one on disk; on a GPU's machine also what is on its
            way.
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
    staying = 0
    if cut.embeddings_stay:  # all that an update needs, and the image, of whole shards; sums are the executor's
        shards = -(-_wide(shape) // SHARD)
        staying = (16 + image) * min(_wide(shape), -(-shards // systems) * SHARD)
        on_disk -= (image + sums) * _wide(shape) // systems
    on_disk += STATE_BYTES * min(SHARD, widest(shape))  # of one shard the next state, before the last one goes
    checkpoints = _checkpoint_bytes(shape) // systems
    if device == "cuda":
        # What a layer would have kept is made again, of one microbatch.
        again = kept_bytes(shape, precision, Cut(cut.sequences, 1, 1))
        held = CONTEXT_BYTES + device_buffers_bytes(shape, precision, reproducible, cut) + working + again
        in_host = PROGRAM_BYTES + stream + _window_bytes(shape, DEVICE_CLERKS, image, sums)
        in_host += _inputs_bytes(shape, precision, cut)[1]
        link = sum(device_link_bytes(shape, precision, reproducible, cut))
        if store == "host":
            return Footprint(held, in_host + store_bytes, checkpoints, link)
        return Footprint(held, in_host + widest(shape) * image, on_disk, link)
    vectors = 4 * (13 * d * shape.n_layers + 2 * d)
    kept, all_kept = kept_bytes(shape, precision, cut), shape.n_layers * cut.most
    at_layers = busy * _layer_work(shape, precision, cut.sequences)
    at_head = busy * _head_work(shape, precision, cut.sequences, device)
    holes = min(round(HOLES * at_layers), busy * 3 * MAPPED // 4)
    if cut.recompute:
        at_layers += busy * kept_bytes(shape, precision, Cut(cut.sequences, 1, 1))
    images, all_images = layer_images(shape) * image, image_elements(shape) * image
    gradients, all_gradients = layer_sums(shape) * sums, sums_elements(shape, cut.embeddings_stay) * sums
    if cut.embeddings_stay:
        gradients = all_gradients
    if store == "disk":
        # On their way to and from it: while the head is at work nothing is, and it has of that memory what it needs.
        at_layers += kept * (busy + 1)
        at_head += max(0, kept * (busy + 1) - (all_images - images) - (all_gradients - gradients))
    most = max(
        all_images + gradients + at_layers, all_images + all_gradients + at_head, images + all_gradients + at_layers
    )
    held = PROGRAM_BYTES + vectors + stream + most + holes
    link = link_bytes(shape, precision, reproducible, cut, kept if store == "disk" else 0)
    if store == "host":
        return Footprint(held + kept * all_kept, store_bytes, checkpoints, link // systems)
    held += _window_bytes(shape, CLERKS, image, sums)
    return Footprint(held, staying, on_disk + kept * all_kept, link // systems)


def fitted_cut(shape: Shape, precision: str, reproducible: bool, cut: Cut, memory_bytes: int) -> Cut:
    """The cut as a GPU of so much memory has room for.

    A byte of its memory saves twice the groups of a step in bytes over the link if it is of inputs of layers, one byte
    less if it is of images that stay (they come once a step, not twice a group), one less than the groups if it is of
    sums of gradients: so inputs are on the device if all of them fit, and images fill up what is left. The last two
    layers' images are still there for the backward pass in any case.
    """

    def needs(cut: Cut) -> int:
        return streamed_footprint(shape, precision, reproducible, cut, "host", 1, 1, "cuda").device_bytes

    room = round(ROOM * memory_bytes)
    if needs(cut) > room:
        cut = replace(cut, offload=True)
    staying = max(0, room - needs(cut)) // _place_bytes(_layer(shape), shape, _image_bytes(precision))
    return replace(cut, staying=min(staying, max(0, shape.n_layers - KEPT_IMAGES)))


def device_buffers_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut) -> int:
    """What a GPU holds from step to step: pieces in their places, the residual stream, and inputs of layers."""
    image, sums, d = _image_bytes(precision), _sums_bytes(reproducible), shape.d_model
    tokens = cut.most * cut.sequences * shape.context_length
    places = IMAGES * _place_bytes(widest(shape), shape, image) + cut.staying * _place_bytes(
        _layer(shape), shape, image
    )
    held = places + (SUMS * widest(shape) + 2 * d) * sums
    return held + 4 * d * (tokens + shape.context_length) + _inputs_bytes(shape, precision, cut)[0]


def _place_bytes(elements: int, shape: Shape, image: int) -> int:
    """Of a place on a GPU for a piece: its image, and vectors in fp32."""
    return elements * image + 13 * shape.d_model * 4


def _inputs_bytes(shape: Shape, precision: str, cut: Cut) -> tuple[int, int]:
    """Of every layer's input for the tokens of a group: on a GPU, and away from it in host memory."""
    away = max(0, shape.n_layers - INPUT_SLOTS) if cut.offload else 0
    one = cut.most * cut.sequences * shape.context_length * shape.d_model * _image_bytes(precision)
    return (shape.n_layers - away) * one, away * one


def device_link_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut) -> tuple[int, int]:
    """What the largest step of a system moves from host to GPU, and back.

    Each group: images for both passes (the last layers' are still there) with their vectors, the positions, and all
    sums once; images that stay come once a step. Each token: the stream at the bottom, the gradient by it, and inputs
    of layers that leave and come back.
    """
    image, sums, d = _image_bytes(precision), _sums_bytes(reproducible), shape.d_model
    coming = shape.n_layers - cut.staying
    visits = cut.groups * (2 * coming - min(KEPT_IMAGES, coming)) + cut.staying
    layers = visits * (image * 12 * d**2 + 4 * 13 * d)
    others = image * _wide(shape) + 4 * 2 * d + 4 * shape.context_length * d
    tokens = cut.microbatches * cut.sequences * shape.context_length
    away = max(0, shape.n_layers - INPUT_SLOTS) if cut.offload else 0
    inputs = tokens * d * (4 + image * away)
    return layers + cut.groups * others + inputs, cut.groups * sums * shape.params + inputs


def widest(shape: Shape) -> int:
    """Elements of the largest piece."""
    return max(_wide(shape), _layer(shape))


def _window_bytes(shape: Shape, clerks: int, image: int, sums: int) -> int:
    """`update` has weights, moments, gradient, image and sums of a window in its hands, `look_up` its weights."""
    return min(WINDOW, widest(shape)) * (clerks * (16 + image + 2 * sums) + CARRIERS * 4)


def image_elements(shape: Shape) -> int:
    """Of the buffer of images: layers alternate between two slots, of which one is the embeddings' as well.

    A single layer needs its own alone.
    """
    return max(_wide(shape) + _layer(shape), layer_images(shape))


def layer_images(shape: Shape) -> int:
    """What layers use of that buffer."""
    return min(2, shape.n_layers) * _layer(shape)


def sums_elements(shape: Shape, embeddings_stay: bool = False) -> int:
    """Of the buffer of sums: the embeddings' are in both slots of layers, or beside them if they stay there."""
    if embeddings_stay:
        return _wide(shape) + layer_sums(shape)
    return max(_wide(shape) + 2 * shape.d_model, layer_sums(shape))


def layer_sums(shape: Shape) -> int:
    """What layers and the last norm use of that buffer."""
    return min(2, shape.n_layers) * _layer(shape) + 2 * shape.d_model


def kept_bytes(shape: Shape, precision: str, cut: Cut) -> int:
    """What a layer keeps of a microbatch for its backward pass, on a CPU.

    The fp32 stream twice, q, k, v, the attention's output, the feed-forward's inside before GELU, and the softmax in
    blocks of `QUERIES` queries up to their diagonal, padded to whole vectors of 16; or its fp32 input alone.
    """
    item, T = _image_bytes(precision), shape.context_length
    tokens = cut.sequences * T
    if cut.recompute:
        return 4 * tokens * shape.d_model
    keys = -(-T // 16) * 16
    shares = sum((min(keys, i + QUERIES) - i) * min(keys, i + QUERIES) for i in range(0, keys, QUERIES))
    return tokens * shape.d_model * (2 * 4 + 8 * item) + cut.sequences * shape.n_heads * shares * item


def lane_bytes(shape: Shape, precision: str, sequences: int, device: str) -> int:
    """What a lane has in its hands at once within a layer or the head, whichever is more."""
    return max(_layer_work(shape, precision, sequences), _head_work(shape, precision, sequences, device))


def _layer_work(shape: Shape, precision: str, sequences: int) -> int:
    """A layer's backward pass: two norms (2 d), GELU's output (4 d), its gradient (4 d) and the output's (d), and the
    gradient of the widest matrix (4 d^2) with what matrix products lay out anew.
    """
    item, d = _image_bytes(precision), shape.d_model
    return 11 * item * sequences * shape.context_length * d + 2 * 4 * d * d * item


def _head_work(shape: Shape, precision: str, sequences: int, device: str) -> int:
    """Logits of a chunk, the last norm, its gradient and that of the stream; on a GPU logits, their gradient, and the
    embeddings' of a chunk, in that precision and in fp32, and of all chunks.
    """
    item, tokens, d = _image_bytes(precision), sequences * shape.context_length, shape.d_model
    fewest = HEAD_TOKENS_ON_GPU if device == "cuda" else HEAD_TOKENS
    logits, others = _logits(shape, tokens, fewest) * item, tokens * d * (2 * item + 4)
    if device == "cuda":
        return others + 2 * logits + (8 + item) * shape.vocab_size * d
    return others + logits + HEAD_ROWS * d * item


def _logits(shape: Shape, tokens: int, fewest: int) -> int:
    return min(tokens, max(fewest, 2**20 // shape.vocab_size)) * shape.vocab_size


def mapped_from(shape: Shape, precision: str, sequences: int) -> int:
    """Bytes of the smallest buffer that a streamed model gives back when it is freed: logits, if they are large."""
    logits = _logits(shape, sequences * shape.context_length, HEAD_TOKENS) * _image_bytes(precision)
    return logits if MAPPED // 2 <= logits < MAPPED else MAPPED


def link_bytes(shape: Shape, precision: str, reproducible: bool, cut: Cut, kept: int) -> int:
    """What the largest step moves: each group fetches images for both passes, and leaves sums.

    The last layer's image is still there when the backward pass begins. Embeddings come a second time, in fp32, for
    the rows that are looked up; their sums leave twice, after the head and when the rows' gradients are known, or, if
    the embeddings stay, not before they are the gradient. What a layer keeps is written and read, `kept` bytes of each
    microbatch.
    """
    image, sums, wide = _image_bytes(precision), _sums_bytes(reproducible), _wide(shape)
    matrices = 12 * shape.d_model**2
    fetched = image * (wide + (2 * shape.n_layers - 1) * matrices) + 4 * wide
    others = shape.n_layers * _layer(shape) + 2 * shape.d_model
    # Sums are put and taken up again by every group but the last, which leaves the fp32 gradient.
    left = 2 * (cut.groups - 1) * sums * others + 4 * others
    rows = 4 * wide + (0 if cut.embeddings_stay else sums * wide * (4 * cut.groups - 2))
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
