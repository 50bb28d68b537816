"""The fast model equals the slow, obvious one."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from isoflop.model import GPT, Weights, initialise, pieces_of, weights_sha256
from isoflop.recipe import Shape

SHAPE = Shape(n_layers=2, d_model=32, n_heads=4, vocab_size=300, context_length=100)


def slow_logits(w: Weights, ids: Tensor) -> Tensor:
    """GPT as the papers write it, in fp32 and one head at a time."""
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: ids.shape[1]]
    d_head = SHAPE.d_head
    for i in range(SHAPE.n_layers):
        p = f"transformer.h.{i}."
        h = F.layer_norm(x, (32,), w[p + "ln_1.weight"], w[p + "ln_1.bias"])
        qkv = h @ w[p + "attn.c_attn.weight"] + w[p + "attn.c_attn.bias"]
        q, k, v = qkv.split(32, dim=-1)
        heads = []
        for n in range(SHAPE.n_heads):
            part = slice(n * d_head, (n + 1) * d_head)
            scores = q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(d_head)
            hidden = torch.ones_like(scores).triu(1).bool()
            heads.append(scores.masked_fill(hidden, -math.inf).softmax(-1) @ v[..., part])
        x = x + torch.cat(heads, -1) @ w[p + "attn.c_proj.weight"] + w[p + "attn.c_proj.bias"]
        h = F.layer_norm(x, (32,), w[p + "ln_2.weight"], w[p + "ln_2.bias"])
        h = h @ w[p + "mlp.c_fc.weight"] + w[p + "mlp.c_fc.bias"]
        h = h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        x = x + h @ w[p + "mlp.c_proj.weight"] + w[p + "mlp.c_proj.bias"]
    x = F.layer_norm(x, (32,), w["transformer.ln_f.weight"], w["transformer.ln_f.bias"])
    return x @ w["transformer.wte.weight"].t()


def random_weights() -> Weights:
    """Weights away from their initial values, so that every bias and gain matters."""
    weights = initialise(SHAPE, 1)
    weights.flat.add_(torch.randn(SHAPE.params, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    return weights


def some_samples() -> Tensor:
    return torch.randint(0, 300, (3, 101), generator=torch.Generator().manual_seed(2))


def test_logits_equal_the_slow_model() -> None:
    weights, samples = random_weights(), some_samples()
    ours = GPT(SHAPE, "fp32").logits(weights, samples[:, :-1])
    torch.testing.assert_close(ours, slow_logits(weights, samples[:, :-1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_elements", [300, 3000, 2**20])
def test_the_fused_loss_and_its_gradients_equal_cross_entropy_of_full_logits(
    chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoflop.model.head.CHUNK_ELEMENTS", chunk_elements)
    monkeypatch.setattr("isoflop.model.head.FEWEST_ROWS", 1)
    samples = some_samples()
    gradients = []
    losses = []
    for fused in (True, False):
        weights = random_weights()
        flat = weights.flat.requires_grad_()
        weights = Weights(SHAPE, flat)
        if fused:
            loss = GPT(SHAPE, "fp32").summed_loss(weights, samples)
        else:
            logits = slow_logits(weights, samples[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), samples[:, 1:].flatten(), reduction="sum")
        (loss * 0.01).backward()
        assert flat.grad is not None
        gradients.append(flat.grad)
        losses.append(loss.detach())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-4)


def test_losses_by_token_add_up_to_the_summed_loss() -> None:
    weights, samples = random_weights(), some_samples()
    model = GPT(SHAPE, "fp32")
    each = model.nats(weights, model.image(weights), samples)
    assert each.shape == (3, 100)
    torch.testing.assert_close(each.sum(), model.summed_loss(weights, samples), rtol=1e-5, atol=0)


def test_bf16_stays_near_fp32() -> None:
    weights, samples = initialise(SHAPE, 3), some_samples()
    exact = GPT(SHAPE, "fp32").summed_loss(weights, samples) / 300
    near = GPT(SHAPE, "bf16").summed_loss(weights, samples) / 300
    assert float(near) == pytest.approx(float(exact), rel=2e-3)
    assert float(near) != float(exact)


def test_initialisation_is_a_function_of_seed_with_residual_projections_scaled() -> None:
    shape = Shape(n_layers=8, d_model=64, n_heads=2, vocab_size=1000, context_length=64)
    weights = initialise(shape, 5)
    assert weights_sha256(weights) == weights_sha256(initialise(shape, 5))
    assert weights_sha256(weights) != weights_sha256(initialise(shape, 6))
    for name, tensor in weights.items():
        if tensor.ndim == 2:
            wanted = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert float(tensor.std()) == pytest.approx(wanted, rel=0.06), name
        else:
            assert torch.equal(tensor, torch.full_like(tensor, 1.0 if name.endswith("weight") else 0.0))


def test_every_parameter_lies_in_the_buffer_once() -> None:
    weights = Weights(SHAPE, torch.arange(SHAPE.params, dtype=torch.float32))
    assert sorted(torch.cat([view.flatten() for view in weights.values()]).tolist()) == list(range(SHAPE.params))
    vectors = sum(piece.stop - piece.vectors for piece in pieces_of(weights.shape))
    assert sum(view.numel() for view in weights.values() if view.ndim == 1) == vectors
