"""Tokenizers: GPT-2's to the number, trained ones to the byte, and text that always comes back."""

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from isoflop.config import BpeTokenizer, Gpt2Tokenizer
from isoflop.data import END_OF_TEXT, end_of_text, load_tokenizer, make_tokenizer, tokenizer_sha256
from isoflop.data.encoding import Encoder
from isoflop.data.tokenizer import _from_merges, tokenizer_json
from isoflop.errors import InputError, WorkError

GPT2 = make_tokenizer(Gpt2Tokenizer(kind="gpt2"), [])
FAST = Encoder("gpt2", tokenizer_json(GPT2))
SLOW = Encoder("file", tokenizer_json(GPT2))  # of which nothing is assumed


def texts_of(lines: list[str]) -> list[str]:
    return [json.loads(line)["text"] for line in lines]


def encode(tokenizer: Tokenizer, *texts: str) -> list[list[int]]:
    """As preparation does it, whichever library it takes; the end-of-text token last."""
    encoder = FAST if tokenizer is GPT2 else Encoder("bpe", tokenizer_json(tokenizer))
    return [[*encoder.encode(text).tolist(), encoder.end_of_text] for text in texts]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Hello world", [15496, 995]),
        ("!", [0]),
        ("\n", [198]),
        ("\n\n", [628]),
        (" ", [220]),
        ("The quick brown fox jumps over the lazy dog.", [464, 2068, 7586, 21831, 18045, 625, 262, 16931, 3290, 13]),
        ("I've been here's", [40, 1053, 587, 994, 338]),
        ("This is some text", [1212, 318, 617, 2420]),
    ],
)
def test_gpt2_gives_the_known_numbers(text: str, numbers: list[int]) -> None:
    assert GPT2.encode(text).ids == numbers


def test_gpt2_has_its_50257_tokens_with_end_of_text_last() -> None:
    assert GPT2.get_vocab_size() == 50_257
    assert GPT2.token_to_id(END_OF_TEXT) == end_of_text(GPT2) == 50_256
    assert sorted(GPT2.get_vocab().values()) == list(range(50_257))
    # The first merge is "Ġ t"; the bytes' symbols start at "!" and the space is the 33rd of those after U+0100.
    assert [GPT2.id_to_token(number) for number in (0, 93, 94, 188, 220, 256, 50_255)] == [
        "!", "~", "¡", "Ā", "Ġ", "Ġt", "Ġgazed",
    ]  # fmt: skip


def test_a_trained_tokenizer_follows_the_same_numbering(pocket_lines: list[str]) -> None:
    tokenizer = make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=384), texts_of(pocket_lines))
    assert tokenizer.get_vocab_size() == 384
    assert tokenizer.token_to_id(END_OF_TEXT) == end_of_text(tokenizer) == 383
    assert [tokenizer.id_to_token(number) for number in range(256)] == [GPT2.id_to_token(n) for n in range(256)]


def test_training_is_the_same_in_whatever_order_the_texts_come(pocket_lines: list[str]) -> None:
    texts = texts_of(pocket_lines)
    shuffled = random.Random(1).sample(texts, len(texts))
    config = BpeTokenizer(kind="bpe", vocab_size=512)
    one, other = make_tokenizer(config, texts), make_tokenizer(config, shuffled)
    assert tokenizer_json(one) == tokenizer_json(other)
    assert tokenizer_sha256(one) == tokenizer_sha256(other)


def test_training_reads_a_bounded_sample_that_the_order_does_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.data.tokenizer._SAMPLE_BYTES", 20_000)
    texts = [f"text number {number} speaks of {'word' * (number % 50)}" for number in range(2000)]
    config = BpeTokenizer(kind="bpe", vocab_size=300)
    one = make_tokenizer(config, texts)
    assert tokenizer_json(one) == tokenizer_json(make_tokenizer(config, reversed(texts)))
    assert tokenizer_json(one) != tokenizer_json(make_tokenizer(config, texts[:1000]))


def test_a_vocabulary_without_merges_is_bytes_and_end_of_text() -> None:
    tokenizer = make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=257), ["some text"])
    assert encode(tokenizer, "é!") == [[127, 102, 0, 256]]


@pytest.mark.parametrize("vocab_size", [400, 2**32 - 1])
def test_too_large_a_vocabulary_for_the_corpus_is_refused_with_the_size_that_fits(vocab_size: int) -> None:
    with pytest.raises(
        InputError, match=rf"data\.tokenizer\.vocab_size = {vocab_size}: .* use vocab_size = 261 or less"
    ):
        make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=vocab_size), ["hello hello"])


def test_real_text_comes_back_from_its_tokens(pocket_lines: list[str]) -> None:
    texts = texts_of(pocket_lines)
    trained = make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=512), texts)
    for tokenizer in (GPT2, trained):
        for text, tokens in zip(texts, encode(tokenizer, *texts), strict=True):
            assert tokens[-1] == end_of_text(tokenizer)
            assert tokenizer.decode(tokens[:-1]) == text


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=200))
@settings(max_examples=100)
def test_any_text_comes_back(text: str) -> None:
    assert GPT2.decode(encode(GPT2, text)[0][:-1]) == text


@given(st.text(alphabet="aé。 \n\t\r\x1c\u3000\u00a0'.1", max_size=400))
@settings(max_examples=200)
def test_long_documents_in_pieces_give_the_tokens_of_the_whole(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.data.encoding._PIECE_CHARACTERS", 5)
        pieces = encode(GPT2, text)
    assert pieces == [[*GPT2.encode(text).ids, 50_256]]


@given(st.text(max_size=300))
@settings(max_examples=200)
def test_the_fast_gpt2_gives_the_numbers_of_the_merges(text: str) -> None:
    assert FAST.encode(text).tolist() == SLOW.encode(text).tolist()


@pytest.mark.parametrize("vocab_size", [257, 300, 1024, 4096])
def test_trained_tokens_are_those_of_their_library(pocket_lines: list[str], vocab_size: int) -> None:
    trained = tokenizer_json(make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=vocab_size), texts_of(pocket_lines)))
    fast, slow = Encoder("bpe", trained), Encoder("file", trained)
    assert fast._tiktoken is not None  # what encodes where there is no compiler
    assert slow._tiktoken is slow._byte_pairs is None
    for text in texts_of(pocket_lines):
        assert np.array_equal(fast.encode(text), slow.encode(text))


def test_the_fast_gpt2_gives_the_numbers_of_the_merges_on_the_pocket_corpus(pocket_lines: list[str]) -> None:
    for text in texts_of(pocket_lines):
        assert np.array_equal(FAST.encode(text), SLOW.encode(text))


def test_merges_that_tiktoken_would_read_otherwise_are_left_to_tokenizers() -> None:
    """ "abc" has one merge, of "a" and "bc", but "ab" comes first: its own bytes never become it."""
    merges = [("a", "b"), ("b", "c"), ("a", "bc")]
    encoder = Encoder("bpe", tokenizer_json(_from_merges(merges)))
    assert encoder._tiktoken is None
    assert encoder.encode("abc").tolist() == [256, GPT2.token_to_id("c")]
    twice = Encoder("bpe", tokenizer_json(_from_merges([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])))
    assert twice._tiktoken is None


def test_a_text_that_spells_the_end_of_text_does_not_end() -> None:
    [tokens] = encode(GPT2, f"one {END_OF_TEXT} two")
    assert tokens.count(50_256) == 1
    assert GPT2.decode(tokens, skip_special_tokens=False) == f"one {END_OF_TEXT} two{END_OF_TEXT}"


def test_a_word_of_a_million_letters_is_no_trap() -> None:
    begin = time.process_time()
    [tokens] = encode(GPT2, "ab" * 500_000)
    assert GPT2.decode(tokens[:-1]) == "ab" * 500_000
    assert time.process_time() - begin < 10


def test_transformers_loads_what_is_saved(tmp_path: Path, pocket_lines: list[str]) -> None:
    tokenizer = make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=384), texts_of(pocket_lines))
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer_json(tokenizer), encoding="utf-8")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(path), eos_token=END_OF_TEXT)
    text = "It is a truth universally acknowledged.\n\n  Naïve, 12,345?"
    assert theirs(text)["input_ids"] == load_tokenizer(path).encode(text).ids == tokenizer.encode(text).ids
    assert theirs.decode(theirs(text)["input_ids"]) == text
    assert theirs.eos_token_id == end_of_text(tokenizer)
    assert tokenizer_sha256(load_tokenizer(path)) == tokenizer_sha256(tokenizer)


def test_a_damaged_tokenizer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for content in (None, b"", b"{}", b"\xff"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(WorkError, match=r"tokenizer\.json: cannot load"):
            load_tokenizer(path)
