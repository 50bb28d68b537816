"""bpe.c against the libraries that it stands in for: the same numbers for any text there is."""

import json
import os
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.config import BpeTokenizer, Gpt2Tokenizer
from isoflop.data import make_tokenizer
from isoflop.data.bpe import BytePairs, load_bpe
from isoflop.data.encoding import Encoder
from isoflop.data.tokenizer import _from_merges, tokenizer_json

GPT2 = tokenizer_json(make_tokenizer(Gpt2Tokenizer(kind="gpt2"), []))
TIKTOKEN = Encoder("gpt2", GPT2)._tiktoken
compiled = load_bpe()
pytestmark = pytest.mark.skipif(compiled is None, reason="no C compiler here: there is nothing to compare")


def byte_pairs(tokenizer: str = GPT2) -> BytePairs:
    assert compiled is not None
    return BytePairs(compiled, tokenizer)


OURS = byte_pairs() if compiled else None


def same(text: str) -> None:
    assert OURS is not None
    assert TIKTOKEN is not None
    assert OURS.encode(text).tolist() == TIKTOKEN.encode_ordinary(text)


# What the pattern looks at: apostrophes and what may follow them, spaces of all kinds, letters and numbers in and
# outside ASCII, marks (which are neither), and what only looks like a space.
ODD = (
    "'''sStTmMdDrRvVeElL \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\u180e\0\x7f"
    ".,_-aZé9²½٣一ß\u0301😀\U0001d7d9"
)
PIECES = [" ", "\n", "  ", " the", "'s", "don't", " 1234567"]
mixes = st.lists(st.one_of(st.text(ODD, max_size=12), st.text(max_size=8), st.sampled_from(PIECES)))


@given(mixes)
@settings(max_examples=1000)
def test_any_mix_gives_the_numbers_of_tiktoken(parts: list[str]) -> None:
    same("".join(parts))


@given(st.text(st.characters(max_codepoint=127), max_size=300))
@settings(max_examples=500)
def test_ascii_gives_the_numbers_of_tiktoken(text: str) -> None:
    same(text)


def test_characters_from_all_over_unicode_give_the_numbers_of_tiktoken() -> None:
    characters = [chr(number) for number in range(0, 0x110000, 7) if not 0xD800 <= number < 0xE000]
    for first in range(0, len(characters), 2**16):
        same("".join(f"a{c}1  {c}" for c in characters[first : first + 2**16]))


def test_every_character_has_the_class_that_pythons_unicode_knows() -> None:
    """An independent table: of rare characters no merge tells the class by the tokens."""
    ours = byte_pairs()
    for number in range(0, 0x110000, 2**12):
        ours._learn_class(number)
    for number in range(0x110000):
        category = unicodedata.category(chr(number))
        if category not in ("Cn", "Cs"):  # what a newer Unicode has assigned, and what no text has
            is_space = chr(number).isspace() and number not in range(0x1C, 0x20)  # Python's own addition
            expected = 3 if is_space else {"L": 1, "N": 2}.get(category[0], 4)
            assert ours._classes[number] == expected, hex(number)


def test_all_pairs_of_bytes_of_ascii_after_a_space_and_before_one() -> None:
    ascii_ = [chr(number) for number in range(128)]
    for one in ascii_:
        same("".join(f" {one}{other} x{other}{one}" for other in ascii_))
        for other in ascii_:
            same(one + other)


def test_real_text_gives_the_numbers_of_tiktoken(pocket_lines: list[str]) -> None:
    for line in pocket_lines:
        same(json.loads(line)["text"])
        same(line)


def test_this_interpreters_sources_give_the_numbers_of_tiktoken() -> None:
    """Code: indentation, identifiers, numbers, tests full of foreign letters."""
    for path in sorted(Path(json.__file__).parents[1].glob("*.py"))[:60]:
        same(path.read_text(encoding="utf-8", errors="replace"))


@pytest.mark.parametrize("vocab_size", [257, 300, 2000])
def test_trained_tokens_are_those_of_the_merges(pocket_lines: list[str], vocab_size: int) -> None:
    texts = [json.loads(line)["text"] for line in pocket_lines]
    trained = tokenizer_json(make_tokenizer(BpeTokenizer(kind="bpe", vocab_size=vocab_size), texts))
    ours, merges = byte_pairs(trained), Encoder("file", trained)
    for text in texts:
        assert np.array_equal(ours.encode(text), merges.encode(text))


def long_words() -> list[str]:
    """Words of one class that no space cuts: one letter, two in turn, random ones, long tokens, lines of dashes."""
    chance = random.Random(1)
    return [
        "a" * 10_000,
        "ab" * 5_000,
        "".join(chance.choices("ACGT", k=20_000)),
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=20_000)),
        "".join(chance.choices("ÃÂ", k=10_000)) + "ÃÂ" * 3_000,
        "-" * 9_999 + "=" * 9_999 + "".join(chance.choices("-=*_", k=5_000)),
        " " * 20_000 + "x",
        "\n" * 9_999 + " \t" * 5_000,
        "".join(chance.choices("0123456789", k=20_000)),
        "一二三" * 5_000,
    ]


@pytest.mark.parametrize("window", [2, 3, 16, 200, 2048])
def test_long_words_in_windows_give_the_tokens_of_the_whole(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr("isoflop.data.bpe._WINDOW_BYTES", window)
    for text in long_words():
        same(text[: 50 * window + 500])


@given(st.data())
@settings(max_examples=300)
def test_windows_are_exact_for_any_merges(data: st.DataObject) -> None:
    """Also where the end of a word decides about its beginning, which real vocabularies hardly have."""
    tokens, merges = list("abc"), []
    for _ in range(data.draw(st.integers(0, 14))):
        pair = (data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens)))
        if "".join(pair) not in tokens:
            merges.append(pair)
            tokens.append("".join(pair))
    tokenizer = tokenizer_json(_from_merges(merges))
    text = data.draw(st.text("abc", min_size=16, max_size=120))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.data.bpe._WINDOW_BYTES", data.draw(st.integers(2, 20)))
        ours = byte_pairs(tokenizer).encode(text)
    assert ours.tolist() == Encoder("file", tokenizer).encode(text).tolist()


def test_a_word_whose_end_decides_about_its_beginning_takes_a_larger_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each merge of neighbours comes before that to its left, so the last letter decides which pairs there are."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    tokenizer = tokenizer_json(_from_merges(list(zip(letters[-2::-1], letters[:0:-1], strict=True))))
    merges = Encoder("file", tokenizer)
    monkeypatch.setattr("isoflop.data.bpe._WINDOW_BYTES", 16)
    for text in (letters, letters[:-1], letters * 3, letters[:-1] * 3):
        assert byte_pairs(tokenizer).encode(text).tolist() == merges.encode(text).tolist()
    assert merges.encode(letters)[0] != merges.encode(letters[:-1])[0]


def test_without_a_compiler_tiktoken_gives_the_same_tokens(tmp_path: Path) -> None:
    text = "It isn't  so, naïve 1²\n"
    program = (
        "from isoflop.config import Gpt2Tokenizer; from isoflop.data import make_tokenizer\n"
        "from isoflop.data.encoding import Encoder; from isoflop.data.tokenizer import tokenizer_json\n"
        "encoder = Encoder('gpt2', tokenizer_json(make_tokenizer(Gpt2Tokenizer(kind='gpt2'), [])))\n"
        f"print(encoder._byte_pairs is None, encoder.encode({text!r}).tolist())"
    )
    environment = {**os.environ, "PATH": str(tmp_path), "CC": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert TIKTOKEN is not None
    assert done.stdout == f"True {TIKTOKEN.encode_ordinary(text)}\n"
