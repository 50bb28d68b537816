"""How a model's width enters its initialisation, forward pass and learning rates: the standard way, or muP's."""

import math
from dataclasses import dataclass
from typing import Literal

from isoflop.config.family import Recipe
from isoflop.errors import FamilyError
from isoflop.recipe.shape import Shape


@dataclass(frozen=True)
class Parametrisation:
    """The numbers that a parametrisation sets for one model; the defaults are GPT-2's (Radford et al. 2019, sec. 2.3).

    The sum of both embeddings is multiplied by `embedding_multiplier`, the logits by `output_multiplier`, attention's
    q k^T by d_head^-`attention_exponent`. Embeddings are drawn with deviation `embedding_init_std`, the matrices of the
    layers with `hidden_init_std`, those that write to the residual stream with `residual_init_std` (None: by
    `residual_std`'s rule); `init_truncation` is in deviations, None for none. The learning rate of all
    matrices of the layers is multiplied by `hidden_lr_multiplier`, and with it their decay a step.
    """

    parametrisation: Literal["standard", "mup"] = "standard"
    embedding_multiplier: float = 1.0
    output_multiplier: float = 1.0
    attention_exponent: float = 0.5
    embedding_init_std: float = 0.02
    hidden_init_std: float = 0.02
    residual_init_std: float | None = None
    init_truncation: float | None = None
    hidden_lr_multiplier: float = 1.0

    def attention_scale(self, shape: Shape) -> float:
        """What queries times keys are multiplied by."""
        return float(shape.d_head**-self.attention_exponent)

    def residual_std(self, n_layers: int) -> float:
        """Deviation of the matrices that write to the residual stream."""
        return self.residual_init_std or self.hidden_init_std / math.sqrt(2 * n_layers)


STANDARD = Parametrisation()
MUP_INIT_STD, MUP_EMBEDDING_MULTIPLIER = 0.08, 10.0


def parametrisation_of(kind: Literal["standard", "mup"], recipe: Recipe, shape: Shape) -> Parametrisation:
    """The numbers for a model of `shape` under `recipe`.

    muP is the table of Cerebras-GPT (Dey et al. 2023, appendix on muP; modelzoo 1.9.1, gpt3/README.md), after Yang et
    al. 2022, table 8, with m = d_model / base_width: logits / m, attention 1 / d_head, embeddings drawn at one
    deviation for all widths, matrices of the layers at 1 / sqrt(m) of it, their learning rate / m, embeddings, norms
    and biases at the base rate. Base values unless the recipe says otherwise: base_width 256, init_std 0.08,
    embedding_multiplier 10 (and peak_lr 6e-3, see `isoflop.recipe.rules`).

    Raises:
        FamilyError: the recipe sets what muP derives.
    """
    if kind == "standard":
        std = recipe.init_std or STANDARD.hidden_init_std
        return Parametrisation(
            embedding_multiplier=recipe.embedding_multiplier or STANDARD.embedding_multiplier,
            output_multiplier=recipe.output_multiplier,
            embedding_init_std=std,
            hidden_init_std=std,
            residual_init_std=recipe.residual_init_std,
            init_truncation=recipe.init_truncation,
        )
    if recipe.residual_init_std is not None:
        raise FamilyError(
            f"recipe.residual_init_std = {recipe.residual_init_std:g}: under muP it follows from init_std; remove it"
        )
    m = shape.d_model / recipe.base_width
    std = recipe.init_std or MUP_INIT_STD
    return Parametrisation(
        parametrisation="mup",
        embedding_multiplier=recipe.embedding_multiplier or MUP_EMBEDDING_MULTIPLIER,
        output_multiplier=recipe.output_multiplier / m,
        attention_exponent=1.0,
        embedding_init_std=std,
        hidden_init_std=std * m**-0.5,
        init_truncation=recipe.init_truncation,
        hidden_lr_multiplier=1 / m,
    )
