"""How long one device computes, before anything is sent: matrix products at their rate, the rest at the memory's."""

from isoflop.recipe.flops import head_flops, layer_flops
from isoflop.recipe.hardware import Hardware
from isoflop.recipe.shape import Shape

# Forward, and backward at twice its cost; the layers' forward once more where their activations were not kept.
KEPT, RECOMPUTED = 3, 4
# What AdamW moves: gradient and weight image, master weight and two moments read and written (NUMBERS: about 30).
OPTIMIZER_BYTES = 30


def layers_seconds(
    shape: Shape, tokens: float, hardware: Hardware, passes: int, tensor: int = 1, scores_kept: bool = False
) -> float:
    """All layers for so many tokens on a device that holds 1/tensor of each.

    A pass is `layer_flops` a token, and writes and reads what the layer keeps for its backward pass once
    (`activation_bytes`): with the second term, one rate of matrix products that was fitted to a layer 768 wide a device
    holds at 3,200 (docs/systems.md).
    """
    products = layer_flops(shape) / tensor
    moved = 2 * activation_bytes(shape, tensor, scores_kept)
    a_layer = products / hardware.flops_per_second + hardware.memory_seconds(moved)
    return passes * tokens * shape.n_layers * a_layer


def head_seconds(shape: Shape, tokens: float, hardware: Hardware, tensor: int = 1) -> float:
    """Logits forward and backward, three times `head_flops` a token; never computed twice."""
    return KEPT * head_flops(shape) * tokens / (tensor * hardware.flops_per_second)


def activation_bytes(shape: Shape, tensor: int = 1, scores_kept: bool = False) -> float:
    """What a layer keeps a token for its backward pass, in bytes: d (10 + 24/t), and 5 h S/t with attention's scores.

    Korthikanti et al. 2022, eq. 2, of a layer in 16 bits with dropout whose inputs and norms each of t devices holds
    whole. Fused attention kernels keep no scores.
    """
    kept = shape.d_model * (10 + 24 / tensor)
    return kept + 5 * shape.n_heads * shape.context_length / tensor if scores_kept else kept
