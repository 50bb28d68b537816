"""muP in the model and the optimizer is what its table says, no more."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.config.family import Recipe
from isoflop.model import GPT, Lanes, Weights, as_standard, initialise, load_kernels, make_model
from isoflop.recipe import Parametrisation, Shape
from isoflop.recipe.parametrisation import parametrisation_of
from isoflop.train.learner import Learner

SHAPE = Shape(n_layers=2, d_model=48, n_heads=3, vocab_size=300, context_length=32)
MUP = parametrisation_of("mup", Recipe(base_width=16, output_multiplier=0.7), SHAPE)


def random_weights(parametrisation: Parametrisation) -> Weights:
    weights = initialise(SHAPE, 1, parametrisation)
    weights.flat.add_(torch.randn(SHAPE.params, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    return weights


def some_samples() -> Tensor:
    return torch.randint(0, 300, (3, 33), generator=torch.Generator().manual_seed(2))


def slow_logits(w: Mapping[str, Tensor], ids: Tensor) -> Tensor:
    """muP as the table writes it: embeddings times 10, scores over d_head, logits times alpha over m."""
    d, heads, d_head, m = 48, 3, 16, 3.0
    x = 10 * (w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]])
    for i in range(SHAPE.n_layers):
        layer = {
            name: w[f"transformer.h.{i}.{name}"] for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias")
        }
        attn, mlp = f"transformer.h.{i}.attn.", f"transformer.h.{i}.mlp."
        h = F.layer_norm(x, (d,), layer["ln_1.weight"], layer["ln_1.bias"])
        qkv = (h @ w[attn + "c_attn.weight"] + w[attn + "c_attn.bias"]).unflatten(-1, (3, heads, d_head))
        q, k, v = (qkv[..., one, :, :].transpose(1, 2) for one in range(3))
        scores = q @ k.transpose(-1, -2) / d_head
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -math.inf)
        h = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        x = x + h @ w[attn + "c_proj.weight"] + w[attn + "c_proj.bias"]
        h = F.layer_norm(x, (d,), layer["ln_2.weight"], layer["ln_2.bias"])
        h = F.gelu(h @ w[mlp + "c_fc.weight"] + w[mlp + "c_fc.bias"])
        x = x + h @ w[mlp + "c_proj.weight"] + w[mlp + "c_proj.bias"]
    x = F.layer_norm(x, (d,), w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
    return x @ w["transformer.wte.weight"].t() * 0.7 / m


class Kept:
    """Gradients as plain sums."""

    def __init__(self) -> None:
        self.sum = Weights(SHAPE, torch.zeros(SHAPE.params))

    def add(self, name: str, gradient: Tensor, start: int = 0) -> None:
        start += self.sum.offsets[name]
        self.sum.flat[start : start + gradient.numel()] += gradient.reshape(-1)

    def add_rows(self, name: str, ids: Tensor, gradient: Tensor) -> None:
        self.sum[name].index_add_(0, ids, gradient)


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])
def test_logits_losses_and_gradients_equal_the_slow_model(fused: bool) -> None:
    samples, weights = some_samples(), random_weights(MUP)
    kernels = load_kernels() if fused else None
    assert fused == (kernels is not None), "the tests need a C compiler"
    model, kept = make_model(SHAPE, "fp32", kernels, MUP), Kept()
    nats = model.gradients(weights, weights, samples, kept)

    flat = weights.flat.clone().requires_grad_()
    logits = slow_logits(Weights(SHAPE, flat), samples[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten(), reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]
    assert nats == pytest.approx(float(loss.detach()), rel=1e-5)
    assert float(model.nats(weights, weights, samples).sum()) == pytest.approx(float(loss.detach()), rel=1e-5)
    assert flat.grad is not None
    for name, wanted in Weights(SHAPE, flat.grad).items():
        scale = float(wanted.abs().max())
        torch.testing.assert_close(kept.sum[name], wanted, rtol=1e-3, atol=3e-5 * scale)
    ours = GPT(SHAPE, "fp32", MUP).logits(weights, samples[:, :-1])
    torch.testing.assert_close(ours, logits.detach(), rtol=1e-4, atol=1e-4)


def test_folded_into_a_standard_gpt2_it_computes_the_same() -> None:
    weights, ids = random_weights(MUP), some_samples()[:, :-1]
    expected = GPT(SHAPE, "fp32", MUP).logits(weights, ids)
    folded = as_standard(weights, MUP)
    torch.testing.assert_close(GPT(SHAPE, "fp32").logits(folded, ids), expected, rtol=1e-5, atol=1e-5)
    assert folded is weights  # there may be no memory for two
    plain = Parametrisation()
    assert as_standard(weights, plain) is weights


def test_deviations_and_truncation_are_those_of_the_parametrisation() -> None:
    shape = Shape(n_layers=8, d_model=128, n_heads=2, vocab_size=1000, context_length=256)
    mup = parametrisation_of("mup", Recipe(base_width=32), shape)
    weights, cut = initialise(shape, 5, mup), initialise(shape, 5, replace(mup, init_truncation=2.0))
    for name, tensor in weights.items():
        if tensor.ndim == 1:
            continue
        hidden = name.startswith("transformer.h.")
        wanted = 0.08 * (0.5 if hidden else 1) / (4 if name.endswith("c_proj.weight") else 1)
        assert float(tensor.std()) == pytest.approx(wanted, rel=0.03), name
        assert float(cut[name].abs().max()) <= 2 * wanted
        # Cutting a normal at two deviations leaves 0.8796 of its own; what lay inside stays as it was drawn.
        assert float(cut[name].std()) == pytest.approx(0.8796 * wanted, rel=0.03), name
        inside = tensor.abs() <= 2 * wanted * (1 - 1e-6)
        assert torch.equal(cut[name][inside], tensor[inside])


@pytest.mark.parametrize("fused", [True, False], ids=["kernels", "plain"])
def test_steps_equal_the_slow_model_under_torch_adamw_with_a_rate_for_each_kind_of_tensor(fused: bool) -> None:
    kernels = load_kernels() if fused else None
    learner = Learner(SHAPE, seed=0, precision="fp32", lanes=Lanes(1), kernels=kernels, parametrisation=MUP)
    theirs = {name: view.clone().requires_grad_() for name, view in learner.weights.items()}

    def of(ndim: int, hidden: bool | None) -> list[Tensor]:
        return [t for n, t in theirs.items() if t.ndim == ndim and hidden in (None, n.startswith("transformer.h."))]

    reference = torch.optim.AdamW(
        [
            {"params": of(2, hidden=False), "lr": 1e-2, "weight_decay": 0.1},
            {"params": of(2, hidden=True), "lr": 1e-2 / 3, "weight_decay": 0.1},
            {"params": of(1, hidden=None), "lr": 1e-2, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for step in (1, 2, 3):
        samples = torch.randint(0, 300, (3, 33), generator=torch.Generator().manual_seed(step))
        logits = slow_logits(theirs, samples[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten())
        reference.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        reference.step()

        nats = learner.gradients([lambda samples=samples: samples], samples[:, 1:].numel())  # type: ignore[misc]
        assert nats == pytest.approx(float(loss.detach()), rel=1e-4)
        assert learner.norm() == pytest.approx(float(norm), rel=1e-3)
        learner.update(learner.norm(), 1e-2, step)
    for name, tensor in theirs.items():
        ours, d = learner.weights[name], SHAPE.d_model
        if name.endswith(
            "c_attn.bias"
        ):  # that of the keys has no gradient but rounding, of which Adam makes full steps
            ours, tensor = (torch.cat([one[:d], one[2 * d :]]) for one in (ours, tensor))
        torch.testing.assert_close(ours, tensor.detach(), rtol=0, atol=3e-5, msg=name)
