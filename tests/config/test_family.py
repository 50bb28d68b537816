"""Every mistake in a family file is one line that names the file, the key and what would do."""

import re
from pathlib import Path

import pytest

from isoflop.config import load_family
from isoflop.errors import InputError

GOOD = """
name = "t"
[data]
source = "."
tokenizer = { kind = "bpe", vocab_size = 512 }
context_length = 64
[recipe]
peak_lr = 1e-3
[[models]]
name = "a"
n_layers = 1
d_model = 32
n_heads = 2
"""


def test_a_good_file_loads_and_cannot_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(GOOD)
    family = load_family(path)
    assert family.data.source == tmp_path.resolve()
    assert family.recipe.tokens_per_parameter == 20
    with pytest.raises(ValueError, match="frozen"):
        family.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("peak_lr", "peek_lr", "recipe.peek_lr: unknown key; did you mean 'peak_lr'"),
        ('name = "t"', 'name = "t"\nxyzzy = 1', "xyzzy: unknown key"),
        ("n_layers = 1", 'n_layers = "one"', r"models\[1\].n_layers = 'one'"),
        ("n_layers = 1", "n_layers = 1.5", r"models\[1\].n_layers"),
        ("n_layers = 1", "n_layers = -1", r"models\[1\].n_layers = -1"),
        ("n_layers = 1", "n_layers = true", r"models\[1\].n_layers = true"),
        ("n_heads = 2", "n_heads = 3", "n_heads = 3 does not divide d_model = 32; use 2 or 4"),
        ("d_model = 32", "d_model = 99999999999999999999999999", r"models\[1\].d_model"),
        ("vocab_size = 512", "vocab_size = 4294967296", "vocab_size = 4294967296"),
        ("vocab_size = 512", "vocab_size = 100", "vocab_size = 100"),
        ('kind = "bpe"', 'kind = "word"', "kind"),
        ("context_length = 64", "context_length = 0", "data.context_length = 0"),
        ("context_length = 64\n", "", "data.context_length: missing"),
        ("1e-3", "nan", "recipe.peak_lr = nan"),
        ("1e-3", "inf", "recipe.peak_lr = inf"),
        ("1e-3", "1e400", "recipe.peak_lr = inf"),
        ("1e-3", "-1e-3", "recipe.peak_lr"),
        ("1e-3", "0", "recipe.peak_lr"),
        ('name = "t"', 'name = "../t"', "name = '../t'"),
        ('name = "t"', 'name = ""', "name = ''"),
        ('name = "a"', 'name = "a.part"', "'a.part' is what a folder is called while it is replaced; rename it"),
        ('name = "t"', f'name = "t"\n{"a." * 90}b = 1', "a: unknown key"),
        ('name = "t"', f'name = "t"\n{"a." * 50_000}b = 1', "nested too deeply"),
        ('name = "t"', "name = 't'\n" + """"a b" . 'c' . """ * 50_000 + "d = 1", "nested too deeply"),
        ("peak_lr = 1e-3", f"batch_schedule = [{'{ from_tokens = 0, sequences = 1 }, ' * 1001}]", "at most 1000 items"),
        ('name = "t"', 'name = "t"\nheld_out = "zz"', "held_out = 'zz' is none of the models"),
        ('name = "t"', 'name = "t"\nsystems = 0', "systems = 0"),
        ('name = "t"', 'name = "t"\nprecision = "fp8"', "precision = 'fp8'"),
        ("[recipe]", "[sizes]\ntarget_params = [100000]\n[recipe]", "either as"),
        ("peak_lr = 1e-3", "batch_schedule = [{ from_tokens = 5, sequences = 1 }]", "from_tokens must start at 0"),
        ("[recipe]", "[recipe", "not valid TOML"),
        ('name = "t"', 'name = "t"\nheld_out = true', "held_out = true: give the name of a model, or false"),
        ('name = "t"', 'name = "t"\nseed = ' + "1" * 5000, "a number in it has thousands of digits"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = tmp_path / "t.toml"
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=named) as caught:
        load_family(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (
            '{ kind = "gpt2", vocab_size = 512 }',
            "vocab_size: not with kind = 'gpt2'; remove it (known keys here: kind)",
        ),
        ('{ kind = "gpt2", path = "t.json" }', "path: not with kind = 'gpt2'; remove it (known keys here: kind)"),
        (
            '{ kind = "bpe", vocab_size = 512, path = "t.json" }',
            "path: not with kind = 'bpe'; remove it (known keys here: kind, vocab_size)",
        ),
        ('{ kind = "bpe", vocab_sice = 512 }', "vocab_sice: unknown key; did you mean 'vocab_size'?"),
        ('{ kind = "gpt2", vocab_sice = 512 }', "vocab_sice: unknown key; known keys here: kind"),
        ('{ kind = "file", vocab_size = 512, pth = "t.json" }', "pth: unknown key; did you mean 'path'?"),
    ],
)
def test_a_key_that_only_another_kind_of_tokenizer_has_is_told_apart(tmp_path: Path, table: str, said: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(re.sub(r"tokenizer = .*", f"tokenizer = {table}", GOOD))
    with pytest.raises(InputError) as caught:
        load_family(path)
    assert str(caught.value) == f"{path}: data.tokenizer.{said}"


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(GOOD + GOOD[GOOD.index("[[models]]") :])
    with pytest.raises(InputError, match="'a' is given twice"):
        load_family(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a = " + b"[" * 5000, None, "folder"])
def test_what_is_no_family_file_is_refused(tmp_path: Path, content: bytes | str | None) -> None:
    path = tmp_path / "t.toml"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    with pytest.raises(InputError) as caught:
        load_family(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_source_that_leads_to_itself_is_no_fault_of_the_reader(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = tmp_path / "t.toml"
    path.write_text(re.sub(r'source = "[^"]*"', 'source = "loop"', GOOD))
    assert load_family(path).data.source == tmp_path / "loop"


def test_a_tokenizer_by_name_alone_is_told_as_the_table_it_must_be(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text(re.sub(r"tokenizer = \{[^}]*\}", 'tokenizer = "gpt2"', GOOD))
    with pytest.raises(InputError, match=r"data\.tokenizer = 'gpt2': give a table, as in \{ kind = 'gpt2' \}"):
        load_family(path)


@pytest.mark.parametrize(
    "address",
    [
        "s3://AKIA:canary@bucket/pile",
        "https://host/pile.jsonl?X-Amz-Signature=canary",
        "https://host/pile.jsonl?download=1&access_token=canary",
        "az://box/pile?sig=canary",
    ],
)
def test_an_address_with_a_secret_is_refused_and_the_secret_not_repeated(tmp_path: Path, address: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(GOOD.replace('source = "."', f'source = "{address}"'))
    with pytest.raises(InputError, match=r"data.source: the address holds a password or token") as caught:
        load_family(path)
    assert "canary" not in str(caught.value)
