"""A model under any parametrisation as the standard GPT-2 that computes the same: what evaluation and release see."""

import torch

from isoflop.model.weights import Weights
from isoflop.recipe import STANDARD, Parametrisation


@torch.no_grad()
def as_standard(weights: Weights, parametrisation: Parametrisation) -> Weights:
    """Makes `weights` such that the standard forward pass gives the logits that they give under `parametrisation`.

    The embedding multiplier goes into both embeddings. The tied head then is too large by it, which the last LayerNorm
    takes back together with the output multiplier; queries take the difference of the attention scales. Equal but for
    rounding in fp32. They are changed where they are, as there may be no room for them twice, and come back.
    """
    if (
        parametrisation.embedding_multiplier == STANDARD.embedding_multiplier
        and parametrisation.output_multiplier == STANDARD.output_multiplier
        and parametrisation.attention_exponent == STANDARD.attention_exponent
    ):
        return weights
    shape = weights.shape
    for name in ("transformer.wte.weight", "transformer.wpe.weight"):
        weights[name].mul_(parametrisation.embedding_multiplier)
    for name in ("transformer.ln_f.weight", "transformer.ln_f.bias"):
        weights[name].mul_(parametrisation.output_multiplier / parametrisation.embedding_multiplier)
    queries = slice(shape.d_model)
    for i in range(shape.n_layers):
        for name in (f"transformer.h.{i}.attn.c_attn.weight", f"transformer.h.{i}.attn.c_attn.bias"):
            weights[name][..., queries].mul_(
                shape.d_head ** (STANDARD.attention_exponent - parametrisation.attention_exponent)
            )
    return weights
