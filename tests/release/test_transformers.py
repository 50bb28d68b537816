"""A released folder in transformers: the same logits, the same tokens."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from isoflop.data import END_OF_TEXT, load_tokenizer
from isoflop.recipe import Shape
from isoflop.release import Card, release_model

TOKENS = [5, 0, 299, 17, 17, 42, 250, 3, 128, 64, 1, 2, 77, 9, 111, 200]
TOLERANCE = 1e-4
both_tokenizers = pytest.mark.parametrize("kind", ["bpe", "gpt2"])


@pytest.fixture
def folder(tmp_path: Path, weights: dict[str, Tensor], tokenizer_json: Path, card: Card) -> Path:
    release_model(tmp_path / "tiny-a", weights, tokenizer_json, card)
    return tmp_path / "tiny-a"


@both_tokenizers
def test_transformers_computes_our_logits(folder: Path, weights: dict[str, Tensor], card: Card) -> None:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    model, report = loaded

    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert model.num_parameters() == card.plan.shape.params
    assert model.lm_head.weight is model.transformer.wte.weight
    assert farthest(model, weights, card.plan.shape) < TOLERANCE


def test_the_comparison_sees_every_tensor(folder: Path, weights: dict[str, Tensor], card: Card) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)

    for name, tensor in weights.items():
        assert farthest(model, {**weights, name: tensor.flip(-1)}, card.plan.shape) > 10 * TOLERANCE, name


def test_the_comparison_sees_a_transposed_matrix_and_swapped_queries_and_keys(
    folder: Path, weights: dict[str, Tensor], card: Card
) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    name, square = "transformer.h.0.attn.c_attn.weight", "transformer.h.1.attn.c_proj.weight"
    q, k, v = weights[name].chunk(3, dim=1)

    assert farthest(model, {**weights, name: torch.cat([k, q, v], dim=1)}, card.plan.shape) > 10 * TOLERANCE
    assert farthest(model, {**weights, square: weights[square].T}, card.plan.shape) > 10 * TOLERANCE


def test_the_comparison_sees_the_approximate_gelu(folder: Path, weights: dict[str, Tensor], card: Card) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "activation_function": "gelu_new"}))

    model = AutoModelForCausalLM.from_pretrained(folder)

    assert farthest(model, weights, card.plan.shape) > 2 * TOLERANCE


@both_tokenizers
def test_the_tokenizer_gives_our_tokens_and_the_text_back(
    folder: Path, tokenizer_json: Path, texts: list[str], card: Card
) -> None:
    ours, theirs = load_tokenizer(tokenizer_json), AutoTokenizer.from_pretrained(folder)
    family = "naïve café \U0001f468\u200d\U0001f469\u200d\U0001f467 日本"
    hostile = [" a . b ,c  d\t\r\n", "", family, "\x00\u200b\uffff", "don't I'm we'll"]

    for text in [*texts, *hostile]:
        tokens = theirs(text)["input_ids"]
        assert tokens == ours.encode(text).ids
        assert theirs.decode(tokens) == text
    assert theirs(f"a{END_OF_TEXT}b")["input_ids"] == ours.encode(f"a{END_OF_TEXT}b").ids
    assert len(theirs) == card.plan.shape.vocab_size


@both_tokenizers
def test_the_tokenizer_knows_end_of_text_and_context(folder: Path, card: Card) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)

    assert (tokenizer.eos_token, tokenizer.bos_token) == (END_OF_TEXT, END_OF_TEXT)
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == card.data.tokenizer.end_of_text
    assert tokenizer.model_max_length == card.plan.shape.context_length


def test_the_code_on_the_card_runs(folder: Path, card: Card, capsys: pytest.CaptureFixture[str]) -> None:
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    context_length = card.plan.shape.context_length  # so short a context ends before the twenty tokens of the card
    code = code.replace("path/to/this/folder", str(folder)).replace("max_new_tokens=20", f"max_length={context_length}")

    exec(code, {})

    assert capsys.readouterr().out.startswith("The")


def farthest(model: Any, weights: dict[str, Tensor], shape: Shape) -> float:
    """The largest difference between the logits of `model` and those of `weights` by the reference below."""
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENS])).logits[0]
    return float((logits - reference_logits(weights, shape)).abs().max())


def reference_logits(weights: dict[str, Tensor], shape: Shape) -> Tensor:
    """Logits (time, vocabulary) of TOKENS, by definition: pre-LayerNorm, exact GELU, matrices (in, out), tied head."""
    w = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    d, d_head = shape.d_model, shape.d_head

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred * centred).mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = torch.stack([w["wte.weight"][token] + w["wpe.weight"][place] for place, token in enumerate(TOKENS)])
    for i in range(shape.n_layers):
        qkv = norm(x, f"h.{i}.ln_1") @ w[f"h.{i}.attn.c_attn.weight"] + w[f"h.{i}.attn.c_attn.bias"]
        mixed = torch.zeros_like(x)  # (time, d_model)
        for head in range(shape.n_heads):
            at = head * d_head
            q, k, v = (qkv[:, part * d + at : part * d + at + d_head] for part in range(3))
            for t in range(len(TOKENS)):
                share = torch.softmax(k[: t + 1] @ q[t] / math.sqrt(d_head), dim=0)
                mixed[t, at : at + d_head] = share @ v[: t + 1]
        x = x + mixed @ w[f"h.{i}.attn.c_proj.weight"] + w[f"h.{i}.attn.c_proj.bias"]
        wide = norm(x, f"h.{i}.ln_2") @ w[f"h.{i}.mlp.c_fc.weight"] + w[f"h.{i}.mlp.c_fc.bias"]
        wide = wide * 0.5 * (1 + torch.erf(wide / math.sqrt(2)))
        x = x + wide @ w[f"h.{i}.mlp.c_proj.weight"] + w[f"h.{i}.mlp.c_proj.bias"]
    return norm(x, "ln_f") @ w["wte.weight"].T
