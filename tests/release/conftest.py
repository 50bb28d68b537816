"""A small model to release: random weights, but a real plan, a real tokenizer and really prepared data."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isoflop.config import Family
from isoflop.data import prepare
from isoflop.data.manifest import TOKENIZER_FILE
from isoflop.model import weights_sha256
from isoflop.recipe import Machine, Shape, plan_family
from isoflop.release import Card, Foretold, Measured

Release = tuple[dict[str, Tensor], Path, Card]

MACHINE = Machine("a processor", 2, 2, 2**34, "2.15.0", "cpu", 8e11, 2e11, "2026-11-24T09:00:00+00:00")
MEASURED = Measured(4.25, 1.75, 12.5, 375.0, "estimated from watts_per_system", 2, "a processor", "2.15.0")
FORETOLD = Foretold(4.2, 4.1, 4.3, 4.05, 4.35, "2026-11-24T09:12:03+00:00")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Forty texts of the same words in different orders."""
    sentence = "the loss of a model falls with its size and with the text it reads , café naïve . \U0001f600"
    words = [*sentence.split(), "\n\n"]
    return [" ".join(words[(i * j + j) % len(words)] for j in range(120)) for i in range(40)]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Callable[[str], Release]:
    """What a release is made of, by kind of tokenizer: weights, tokenizer.json and card."""

    @cache
    def make(kind: str) -> Release:
        folder = tmp_path_factory.mktemp(kind)
        source = folder / "corpus"
        source.mkdir()
        for number, text in enumerate(texts):
            (source / f"{number}.txt").write_text(text, encoding="utf-8")
        tokenizer = {"kind": "bpe", "vocab_size": 300} if kind == "bpe" else {"kind": "gpt2"}
        data = {
            "source": source,
            "licence": "CC0",
            "tokenizer": tokenizer,
            "context_length": 16,
            "held_out_fraction": 0.2,
        }
        model = {"name": "tiny-a", "n_layers": 2, "d_model": 16, "n_heads": 2}
        recipe = {"tokens_per_parameter": 1.0}
        family = Family.model_validate({"name": "tiny", "data": data, "models": [model], "recipe": recipe})
        manifest = prepare(family.data, folder / "data", lambda line: None)
        plan = plan_family(family, MACHINE).models[0]
        weights = random_weights(plan.shape)
        card = Card("tiny", "A family for tests.", plan, manifest, MEASURED, FORETOLD, weights_sha256(weights))
        return weights, folder / "data" / TOKENIZER_FILE, card

    return make


@pytest.fixture
def kind() -> str:
    """The kind of tokenizer; a test that needs both is parametrised with them."""
    return "bpe"


@pytest.fixture
def weights(made: Callable[[str], Release], kind: str) -> dict[str, Tensor]:
    return dict(made(kind)[0])


@pytest.fixture
def tokenizer_json(made: Callable[[str], Release], kind: str) -> Path:
    return made(kind)[1]


@pytest.fixture
def card(made: Callable[[str], Release], kind: str) -> Card:
    return made(kind)[2]


def random_weights(shape: Shape) -> dict[str, Tensor]:
    """Every tensor far from what an initialisation gives, biases and norms too, so that none can be left out unseen."""
    d, generator = shape.d_model, torch.Generator().manual_seed(3)
    layer: dict[str, tuple[int, ...]] = {"ln_1.weight": (d,), "ln_1.bias": (d,), "ln_2.weight": (d,), "ln_2.bias": (d,)}
    layer |= {"attn.c_attn.weight": (d, 3 * d), "attn.c_attn.bias": (3 * d,)}
    layer |= {"attn.c_proj.weight": (d, d), "attn.c_proj.bias": (d,)}
    layer |= {"mlp.c_fc.weight": (d, 4 * d), "mlp.c_fc.bias": (4 * d,)}
    layer |= {"mlp.c_proj.weight": (4 * d, d), "mlp.c_proj.bias": (d,)}
    sizes: dict[str, tuple[int, ...]] = {"wte.weight": (shape.vocab_size, d), "wpe.weight": (shape.context_length, d)}
    sizes |= {f"h.{i}.{name}": size for i in range(shape.n_layers) for name, size in layer.items()}
    sizes |= {"ln_f.weight": (d,), "ln_f.bias": (d,)}
    return {f"transformer.{name}": 0.5 * torch.randn(size, generator=generator) for name, size in sizes.items()}
