"""Every held-out token is foretold once, from what its window shows."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from isoflop.config import BpeTokenizer, DataSource, Gpt2Tokenizer
from isoflop.data import DocumentIndex, TokenStream, prepare
from isoflop.data.tokenizer import load_tokenizer, make_tokenizer
from isoflop.evaluate import held_out_loss
from isoflop.evaluate.held_out_texts import read_texts
from isoflop.evaluate.tokens import tokens_per_gpt2_token
from isoflop.model import GPT, FusedGPT, Lanes, Weights, initialise, mapped
from isoflop.recipe import Shape
from tests.streaming.runs import prepare_data


@pytest.mark.parametrize("context_length", [16, 37])
def test_the_mean_equals_a_loop_over_tokens(tmp_path: Path, context_length: int) -> None:
    texts = [f"Entry {i}: the harbour at {i * 7 % 24} o'clock, wind from the west, {i} boats." for i in range(50)]
    records = [{"text": text, "meta": {"pile_set_name": f"set {i % 3}"}} for i, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tokenizer = BpeTokenizer(kind="bpe", vocab_size=280)
    source = DataSource(
        source=tmp_path / "t.jsonl", tokenizer=tokenizer, context_length=context_length, held_out_fraction=0.2
    )
    manifest = prepare(source, tmp_path / "data", lambda *_: None)
    shape = Shape(1, 16, 2, 280, context_length)
    weights = initialise(shape, 0)
    weights.flat.add_(torch.randn(shape.params, generator=torch.Generator().manual_seed(0)), alpha=0.3)

    stream = TokenStream(tmp_path / "data", "held_out")
    pairs = stream.batch(range(stream.n_tokens - 1), 1)
    tokens = [int(pairs[0, 0]), *map(int, pairs[:, 1])]
    model = GPT(shape, "fp32")
    nats = 0.0
    by_domain = dict.fromkeys(("set 0", "set 1", "set 2"), 0.0)
    passages = DocumentIndex(tmp_path / "data", "held_out").passages([0], len(tokens) - 1)
    domain_of = [passage.domain for passage in passages for _ in range(passage.tokens)]
    with torch.no_grad():
        for i, token in enumerate(tokens):
            # Target i >= 1 lies in window (i - 1) // T and sees that window's tokens before it.
            start = (i - 1) // context_length * context_length
            seen = tokens[start:i] if i else [manifest.tokenizer.end_of_text]
            its = -float(model.logits(weights, torch.tensor([seen]))[0, -1].log_softmax(-1)[token])
            nats += its
            by_domain[domain_of[i]] += its

    counts = manifest.split("held_out")
    loss = held_out_loss(weights, tmp_path / "data", "fp32", Lanes(2))
    assert loss.tokens == counts.tokens == len(tokens)
    assert loss.nats_per_token == pytest.approx(nats / len(tokens), rel=1e-5)
    assert loss.bits_per_byte == pytest.approx(nats / math.log(2) / counts.bytes, rel=1e-5)
    assert counts.bytes > 0
    assert set(loss.domains) == set(by_domain)
    for name, its in by_domain.items():
        said, held = loss.domains[name], counts.domains[name]
        assert (said.tokens, said.bytes) == (held.tokens, held.bytes)
        assert said.nats_per_token == pytest.approx(its / held.tokens, rel=1e-5)
        assert said.bits_per_byte == pytest.approx(its / math.log(2) / held.bytes, rel=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_with_scratch_no_memory_holds_the_whole_model_and_no_bit_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "scratch").mkdir()
    data, context_length = prepare_data(tmp_path / "corpus"), 32
    shape = Shape(8, 512, 8, 400, context_length)
    weights = initialise(shape, 0)
    resident = held_out_loss(weights, data, "bf16", Lanes(2))
    on_disk = Weights(shape, mapped(tmp_path / "scratch", shape.params).copy_(weights.flat))
    taken, at_once = list[int](), list[int]()
    for kind in (GPT, FusedGPT):
        nats = kind.nats

        def seen(model: GPT, weights: Weights, image: Weights, samples: Tensor, nats=nats) -> Tensor:  # type: ignore[no-untyped-def]
            taken.append(_anonymous_bytes())
            at_once.append(samples.numel() - len(samples))
            return nats(model, weights, image, samples)  # type: ignore[no-any-return]

        monkeypatch.setattr(kind, "nats", seen)
    before = _anonymous_bytes()
    assert (
        held_out_loss(on_disk, data, "bf16", Lanes(2), scratch=tmp_path / "scratch", microbatch=4 * context_length)
        == resident
    )
    assert taken[0] - before < shape.params  # of 2 bytes each
    assert max(at_once) == 4 * context_length
    assert not list((tmp_path / "scratch").iterdir())


def _anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_the_correction_for_tokenizers_counts_the_same_text_with_both(data: Path) -> None:
    held_out = [text.text for text in read_texts(data)]
    tokenizers = load_tokenizer(data / "tokenizer.json"), make_tokenizer(Gpt2Tokenizer(kind="gpt2"), [])
    counts = [sum(len(tokenizer.encode(text).ids) + 1 for text in held_out) for tokenizer in tokenizers]

    assert tokens_per_gpt2_token(data) == pytest.approx(counts[0] / counts[1], rel=1e-9)
    assert tokens_per_gpt2_token(data) > 1.3  # 400 tokens against 50,257
