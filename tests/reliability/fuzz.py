"""Coverage-guided fuzzing of what reads files, with atheris: the reader takes the bytes, or says in one line why not.

`uv run --with atheris python -m tests.reliability.fuzz READER FOLDER -max_total_time=60` goes on from the inputs in
FOLDER, keeps there what reaches further, and writes what breaks it as FOLDER/crash-...; memory ends at 2 GB.
Further options are libFuzzer's. What it finds becomes an example in tests/reliability/test_fuzz.py.
"""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["isoflop"]):
    from isoflop.cli import app  # noqa: F401 (what commands read their words by)
    from isoflop.cli.main import _run, _told
    from isoflop.config import BpeTokenizer, DataSource, FileTokenizer, load_family
    from isoflop.data import load_manifest, read_documents
    from isoflop.data.corpus import corpus_files
    from isoflop.data.megatron import read_indices
    from isoflop.data.tokenizer import make_tokenizer
    from isoflop.errors import InputError, WorkError
    from isoflop.law import read_points
    from isoflop.pipeline.predict import read_targets
    from isoflop.pipeline.scaling import foretell_scaling  # noqa: F401 (reads numbers of systems)
    from isoflop.release.importing import import_model

SEEDS = {
    "family": b'name = "t"\n[data]\nsource = "."\ncontext_length = 64\ntokenizer = { kind = "bpe", vocab_size = 512 }\n'
    b'[recipe]\npeak_lr = 1e-3\n[[models]]\nname = "a"\nn_layers = 1\nd_model = 32\nn_heads = 2\n',
    "points": b"params,tokens,loss,run\n1e6,2e7,4.1,a\n2e6,4e7,3.9,b\n4e6,8e7,3.7,c\n",
    "targets": b"params,tokens\n1e6,2e7\n",
    "jsonl": b'{"text": "one", "meta": {"pile_set_name": "a"}}\n\xef\xbb\xbf{"text": "\\ud800"}\r\n',
    "jsonl.zst": bytes.fromhex("28b52ffd200e7100007b2274657874223a202261227d0a"),
    "jsonl.gz": bytes.fromhex("1f8b08000000000002ffab562a49ad2851b252504a54aae50200bdd22a200e000000"),
    "txt": b"one\ntwo\n",
    "tokenizer": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}',
    "config": b'{"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 11, "n_positions": 8}',
    "safetensors": b'\x40\0\0\0\0\0\0\0{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}          ' + bytes(8),
    "index": b"MMIDIDX\0\0" + bytes([1, 0, 0, 0, 0, 0, 0, 0, 8, 1]) + bytes([0] * 7 + [1] + [0] * 7 + [1] + [0] * 7),
    "manifest": b'{"format_version": 2, "splits": {"train": {"shards": [{"file": "../x"}]}}}',
    "command": b"\0t.toml\n--systems\n1,2,...,8\n--json",
}
# What answers and ends; the first byte of an input says which.
COMMANDS = ("plan", "law", "predict", "compare", "report", "release", "verify", "import", "data", "train", "evaluate")


def readers(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """Each reader of bytes, through a file in `folder`."""
    scratch = {name: folder / name for name in SEEDS}
    for place in scratch.values():
        place.mkdir()

    def through(kind: str, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        path = scratch[kind] / name

        def reader(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        return reader

    def documents(path: Path) -> object:
        tokenizer = BpeTokenizer(kind="bpe", vocab_size=300)
        data = DataSource(source=path, tokenizer=tokenizer, context_length=32, faults_allowed=1.0)
        return sum(1 for _ in read_documents(data))

    def index(path: Path) -> object:
        path.with_suffix(".bin").write_bytes(bytes(64))
        tokenizer = FileTokenizer(kind="file", path=path, vocab_size=300)
        data = DataSource(source=path.parent, tokenizer=tokenizer, context_length=32)
        return read_indices(data, corpus_files(data))

    def tokenizer(path: Path) -> object:
        return make_tokenizer(FileTokenizer(kind="file", path=path, vocab_size=300), [])

    def command(content: bytes) -> None:
        name = COMMANDS[content[0] % len(COMMANDS)] if content else "--version"
        words = content[1:].decode(errors="replace").split("\n")
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                code, line = _run([name, *words]), ""
            except (Exception, SystemExit) as error:
                code, line = _told(error)
        assert code in (0, 1, 2), code
        assert "fault of isoflop" not in line, line

    (scratch["command"] / "t.toml").write_bytes(SEEDS["family"])
    (scratch["safetensors"] / "config.json").write_bytes(SEEDS["config"])
    return {
        "family": through("family", "t.toml", load_family),
        "points": through("points", "p.csv", read_points),
        "targets": through("targets", "t.csv", read_targets),
        **{kind: through(kind, f"a.{kind}", documents) for kind in ("jsonl", "jsonl.zst", "jsonl.gz", "txt")},
        "tokenizer": through("tokenizer", "tokenizer.json", tokenizer),
        "config": through("config", "config.json", lambda path: import_model(path.parent)),
        "safetensors": through("safetensors", "model.safetensors", lambda path: import_model(path.parent)),
        "index": through("index", "a_text_document.idx", index),
        "manifest": through("manifest", "manifest.json", lambda path: load_manifest(path.parent)),
        "command": command,
    }


def main(name: str, inputs: Path, options: list[str]) -> None:
    """As the module says."""
    inputs.mkdir(parents=True, exist_ok=True)
    (inputs / "seed").write_bytes(SEEDS[name])
    inputs, folder = inputs.absolute(), Path(tempfile.mkdtemp())
    read = readers(folder)[name]
    os.chdir(folder / name)

    def one(content: bytes) -> None:
        try:
            read(content)
        except (InputError, WorkError) as error:
            line = str(error)
            if "\n" in line or len(line) > 2000:
                raise AssertionError(f"not one line: {line!r}") from error

    atheris.Setup([sys.argv[0], str(inputs), f"-artifact_prefix={inputs}/", "-rss_limit_mb=2048", *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
