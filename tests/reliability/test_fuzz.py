"""Whatever bytes stand in a file that a user names, the reader takes them or says in one line what is wrong."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.config import BpeTokenizer, DataSource, FileTokenizer, load_family
from isoflop.data import load_manifest, read_documents
from isoflop.errors import InputError, WorkError
from isoflop.law import read_points
from isoflop.release.importing import import_model

FUZZED = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", ".", "../x", "/dev/zero", "1e400", "\0", "\ud800"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def refused_in_a_line(read: Callable[[], Any]) -> None:
    """`read` gives something, or one line."""
    line = ""
    try:
        read()
    except (InputError, WorkError) as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 2000


def changed(content: bytes, places: list[tuple[float, int]]) -> bytes:
    """The content with other bytes at some places."""
    fuzzed = bytearray(content)
    for place, byte in places:
        fuzzed[int(place * len(fuzzed))] = byte
    return bytes(fuzzed)


PLACES = st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=8)
FAMILY = b"""name = "t"
seed = 3
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
KEYS = ["name", "seed", "precision", "systems", "data", "models", "sizes", "recipe", "cost", "cluster", "evaluation"]


@FUZZED
@given(PLACES)
def test_a_family_file_with_other_bytes(tmp_path: Path, places: list[tuple[float, int]]) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(changed(FAMILY, places))
    refused_in_a_line(lambda: load_family(path))


def toml(value: Any) -> str:
    """As TOML writes it, or nearly so."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf").replace("null", '"null"')


@FUZZED
@given(st.sampled_from(KEYS), VALUES)
def test_a_family_file_with_other_values(tmp_path: Path, key: str, value: Any) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(f"{key} = {toml(value)}\n".encode(errors="surrogatepass") + FAMILY)
    refused_in_a_line(lambda: load_family(path))
    path.write_bytes(FAMILY + f"[models.recipe]\n{key} = {toml(value)}\n".encode(errors="surrogatepass"))
    refused_in_a_line(lambda: load_family(path))


@FUZZED
@given(PLACES, st.text(string.digits + ',.eE+-naif\n\r" \0', max_size=40))
def test_a_points_file(tmp_path: Path, places: list[tuple[float, int]], tail: str) -> None:
    path = tmp_path / "points.csv"
    good = b"params,tokens,loss,run\n1e6,2e7,4.1,a\n2e6,4e7,3.9,b\n4e6,8e7,3.7,c\n8e6,1.6e8,3.5,d\n"
    path.write_bytes(changed(good + tail.encode(), places))
    refused_in_a_line(lambda: read_points(path))


def source(path: Path) -> DataSource:
    return DataSource(
        source=path, tokenizer=BpeTokenizer(kind="bpe", vocab_size=300), context_length=32, faults_allowed=1.0
    )


@FUZZED
@given(
    st.sampled_from([".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".arrow", ".txt"]), PLACES, st.binary(max_size=40)
)
def test_a_corpus_file(tmp_path: Path, suffix: str, places: list[tuple[float, int]], tail: bytes) -> None:
    lines = b'{"text": "one", "meta": {"pile_set_name": "a"}}\n' * 20
    packed = {".jsonl.zst": zstandard.ZstdCompressor().compress(lines)}.get(suffix, lines)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(changed(packed + tail, places))
    refused_in_a_line(lambda: list(read_documents(source(path))))


@FUZZED
@given(VALUES, PLACES)
def test_a_tokenizer_file(tmp_path: Path, value: Any, places: list[tuple[float, int]]) -> None:
    from isoflop.data.tokenizer import make_tokenizer

    path = tmp_path / "tokenizer.json"
    given_file = FileTokenizer(kind="file", path=path, vocab_size=300)
    for content in (json.dumps(value), json.dumps({"model": value, "version": "1.0"})):
        path.write_bytes(changed(content.encode(), places))
        refused_in_a_line(lambda: make_tokenizer(given_file, []))


@FUZZED
@given(VALUES, st.sampled_from(["config.json", "model.safetensors.index.json", "model.safetensors"]))
def test_a_hugging_face_folder(tmp_path: Path, value: Any, name: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 8}
    (folder / "config.json").write_text(json.dumps(config))
    for key in ("n_layer", "n_embd", "weight_map", "activation_function"):
        (folder / name).write_text(json.dumps({**config, key: value}))
        refused_in_a_line(lambda: import_model(folder))
    (folder / name).write_text(json.dumps(value))
    refused_in_a_line(lambda: import_model(folder))
    (folder / name).unlink()


@FUZZED
@given(VALUES)
def test_a_manifest(tmp_path: Path, value: Any) -> None:
    for document in (value, {"format_version": 2, "splits": value}, {"format_version": value}):
        (tmp_path / "manifest.json").write_text(json.dumps(document))
        with pytest.raises(WorkError):
            load_manifest(tmp_path)


@settings(FUZZED, max_examples=20)
@given(
    st.sampled_from(["plan", "data", "train", "law", "predict", "evaluate", "compare", "report", "release", "import"]),
    st.lists(
        st.sampled_from(["--json", "--target", "--systems", "--model", "--runs", "--help"]) | st.text(max_size=8),
        max_size=4,
    ),
)
def test_a_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, words: list[str]
) -> None:
    from isoflop.cli.main import _run, _told

    monkeypatch.chdir(tmp_path)
    line = ""
    try:
        code = _run([name, *words])
    except (Exception, SystemExit) as error:
        code, line = _told(error)
    assert code in (0, 1, 2)
    assert "fault of isoflop" not in line
    capsys.readouterr()
