"""Preparation: the same bytes however often it runs, every token accounted for, nothing lost on the way."""

import hashlib
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pytest

from isoflop.config import BpeTokenizer, DataSource, Gpt2Tokenizer
from isoflop.data import TokenStream, chunks, load_tokenizer, prepare, prepare_part, tokenizer_sha256, verify
from isoflop.data.manifest import Split
from isoflop.data.split import is_held_out
from isoflop.durable import sha256_of_file
from isoflop.errors import InputError, WorkError


def quiet(line: str) -> None:
    pass


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def texts_of(folder: Path, split: Split) -> list[str]:
    """The documents of a split, back from its shards."""
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    end = tokenizer.token_to_id("<|endoftext|>")
    tokens = np.concatenate([np.fromfile(folder / shard.file, dtype="<u2") for shard in split.shards])
    assert tokens[-1] == end
    return [tokenizer.decode(part.tolist()) for part in np.split(tokens, np.flatnonzero(tokens == end))[:-1]]


def test_every_document_comes_back_on_its_side(tmp_path: Path, corpus: DataSource, pocket_lines: list[str]) -> None:
    manifest = prepare(corpus, tmp_path / "data", quiet)
    texts = [json.loads(line)["text"] for line in pocket_lines]
    held_out = [text for text in texts if is_held_out(text, 0.1)]
    train = [text for text in texts if not is_held_out(text, 0.1)]
    assert 5 < len(held_out) < 35
    assert texts_of(tmp_path / "data", manifest.splits.train) == train
    assert texts_of(tmp_path / "data", manifest.splits.held_out) == held_out


def test_the_manifest_tells_where_all_came_from(tmp_path: Path, corpus: DataSource, pocket_lines: list[str]) -> None:
    folder = tmp_path / "data"
    manifest = prepare(corpus, folder, quiet, chunk_bytes=40_000)
    records = [json.loads(line) for line in pocket_lines]
    [source] = manifest.sources
    assert (source.file, source.bytes) == ("slice.jsonl", corpus.source.stat().st_size)
    assert source.sha256 == sha256_of_file(corpus.source)
    assert (manifest.licence, manifest.notice) == ("public domain", "Public domain, all of it.\n")
    assert (manifest.tokenizer.kind, manifest.tokenizer.vocab_size, manifest.tokenizer.end_of_text) == ("bpe", 384, 383)
    assert manifest.tokenizer.sha256 == sha256_of_file(folder / "tokenizer.json")
    assert manifest.tokenizer.sha256 == tokenizer_sha256(load_tokenizer(folder / "tokenizer.json"))
    for name, split in {"train": manifest.splits.train, "held_out": manifest.splits.held_out}.items():
        mine = [r for r in records if is_held_out(r["text"], 0.1) == (name == "held_out")]
        sizes: Counter[str] = Counter()
        for record in mine:
            sizes[record["meta"]["pile_set_name"]] += len(record["text"].encode())
        assert split.documents == len(mine)
        assert split.bytes == sum(sizes.values())
        assert {domain: counts.bytes for domain, counts in split.domains.items()} == sizes
        for parts in (split.shards, split.domains.values()):
            assert sum(part.documents for part in parts) == split.documents
            assert sum(part.tokens for part in parts) == split.tokens
            assert sum(part.bytes for part in parts) == split.bytes
        for shard in split.shards:
            assert shard.sha256 == sha256_of_file(folder / shard.file)
            assert shard.list_sha256 == sha256_of_file(folder / shard.list_file)
            assert (folder / shard.file).stat().st_size == 2 * shard.tokens
    shards = manifest.splits.train.shards + manifest.splits.held_out.shards
    on_disk = {"manifest.json", "tokenizer.json", "croissant.json"}
    assert set(bytes_in(folder)) == on_disk | {name for s in shards for name in (s.file, s.list_file)}


def test_two_preparations_are_byte_identical(tmp_path: Path, corpus: DataSource) -> None:
    prepare(corpus, tmp_path / "one", quiet, chunk_bytes=40_000)
    prepare(corpus, tmp_path / "other", quiet, chunk_bytes=40_000)
    assert bytes_in(tmp_path / "one") == bytes_in(tmp_path / "other")


def test_a_second_call_does_nothing_and_is_quick(tmp_path: Path, corpus: DataSource) -> None:
    first = prepare(corpus, tmp_path / "data", quiet)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}
    begin = time.process_time()
    assert prepare(corpus, tmp_path / "data", quiet) == first
    assert time.process_time() - begin < 0.5
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").iterdir()}


def test_the_split_and_the_tokenizer_do_not_depend_on_how_documents_lie_in_files(
    tmp_path: Path, corpus: DataSource, pocket_lines: list[str]
) -> None:
    folder = tmp_path / "several"
    folder.mkdir()
    for number in range(3):
        (folder / f"{9 - number}.jsonl").write_text("".join(pocket_lines[number::3]), encoding="utf-8")
    one = prepare(corpus, tmp_path / "one", quiet)
    other = prepare(corpus.model_copy(update={"source": folder}), tmp_path / "other", quiet)
    assert other.tokenizer == one.tokenizer
    for name in ("train", "held_out"):
        mine, theirs = one.split(name), other.split(name)
        assert (mine.documents, mine.tokens, mine.bytes, mine.domains) == (
            theirs.documents, theirs.tokens, theirs.bytes, theirs.domains,
        )  # fmt: skip


def test_copies_of_a_document_lie_on_one_side(tmp_path: Path, corpus: DataSource, pocket_lines: list[str]) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(pocket_lines), encoding="utf-8")
    (folder / "b.jsonl").write_text("".join(reversed(pocket_lines)), encoding="utf-8")
    data = corpus.model_copy(update={"source": folder})
    manifest = prepare(data, tmp_path / "data", quiet)
    train = set(texts_of(tmp_path / "data", manifest.splits.train))
    held_out = set(texts_of(tmp_path / "data", manifest.splits.held_out))
    assert train
    assert held_out
    assert not train & held_out


def test_the_trained_tokenizer_has_seen_nothing_held_out(tmp_path: Path, corpus: DataSource) -> None:
    secret = next(f"{'zyxwvq' * 500} {n}" for n in range(1000) if is_held_out(f"{'zyxwvq' * 500} {n}", 0.1))
    prepare(corpus, tmp_path / "without", quiet)
    with open(corpus.source, "a", encoding="utf-8") as file:
        file.write(json.dumps({"text": secret}) + "\n")
    prepare(corpus, tmp_path / "with", quiet)
    assert (tmp_path / "with/tokenizer.json").read_bytes() == (tmp_path / "without/tokenizer.json").read_bytes()


def test_gpt2_tokens_fit_two_bytes_and_larger_vocabularies_take_four(tmp_path: Path, corpus: DataSource) -> None:
    data = corpus.model_copy(update={"tokenizer": Gpt2Tokenizer(kind="gpt2")})
    manifest = prepare(data, tmp_path / "data", quiet)
    assert (manifest.dtype, manifest.tokenizer.end_of_text) == ("uint16", 50_256)
    text = texts_of(tmp_path / "data", manifest.splits.train)[0]
    assert text == next(t for t in _texts(corpus) if not is_held_out(t, 0.1))
    # Words of random letters hold pairs enough for more than 65,536 tokens.
    rng = np.random.default_rng(0)
    words = ["".join(chr(0x4E00 + c) for c in rng.integers(0, 20_000, 6)) for _ in range(16_000)]
    wide = tmp_path / "wide.jsonl"
    lines = [json.dumps({"text": " ".join(words[n : n + 400] * 2)}) for n in range(0, len(words), 400)]
    wide.write_text("\n".join(lines))
    data = corpus.model_copy(update={"source": wide, "tokenizer": BpeTokenizer(kind="bpe", vocab_size=66_000)})
    manifest = prepare(data, tmp_path / "wide", quiet)
    assert manifest.dtype == "uint32"
    stream = TokenStream(tmp_path / "wide", "train")
    row = stream.sample(0, stream.n_tokens - 1)
    assert row.max() > 65_535
    [first, *_] = [text for text in _texts(data) if not is_held_out(text, 0.1)]
    decoded = load_tokenizer(tmp_path / "wide" / "tokenizer.json").decode(row[:2000].tolist())
    assert decoded.startswith(first[:1000])


def _texts(data: DataSource) -> list[str]:
    return [json.loads(line)["text"] for line in data.source.read_text(encoding="utf-8").splitlines()]


def test_the_held_out_share_of_a_corpus_ordered_by_its_own_hash_is_the_share_asked_for(pocket_lines: list[str]) -> None:
    """The pocket corpus is ordered by SHA-256: a split by the same hash would hold out its whole beginning."""
    texts = [json.loads(line)["text"] for line in pocket_lines]
    plain = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    assert max(plain) < "20"
    assert 5 < sum(is_held_out(text, 0.1) for text in texts) < 35


def test_empty_documents_are_counted_not_tokenised(tmp_path: Path, corpus: DataSource) -> None:
    before = prepare(corpus, tmp_path / "before", quiet)
    with open(corpus.source, "a") as file:
        file.write('{"text": ""}\n' * 3)
    after = prepare(corpus, tmp_path / "after", quiet)
    assert (before.empty_documents, after.empty_documents) == (0, 3)
    assert after.splits == before.splits


KILLED = """
import os, signal
from pathlib import Path
from isoflop.config import DataSource
from isoflop.data import chunks, prepare
if __name__ == "__main__":
    data = DataSource.model_validate_json({data!r})
    wanted = {wanted}
    add = chunks.Journal.add
    def add_and_die(journal, chunk):
        add(journal, chunk)
        if len(journal.chunks) == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
    chunks.Journal.add = add_and_die
    def kill_at_the_end(line):
        if "tokenised" in line:
            os.kill(os.getpid(), signal.SIGKILL)
    prepare(data, Path({folder!r}), kill_at_the_end, chunk_bytes=20_000, workers={workers})
"""


@pytest.mark.parametrize(("wanted", "workers"), [(1, 0), (3, 2), (10**6, 0)])
def test_killed_and_run_again_gives_the_same_bytes_and_repeats_no_finished_chunk(
    tmp_path: Path, corpus: DataSource, wanted: int, workers: int
) -> None:
    """After the first chunk, after the third with worker processes, and when all is done but the manifest."""
    prepare(corpus, tmp_path / "clean", quiet, chunk_bytes=20_000)
    folder = tmp_path / "killed"
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(data=corpus.model_dump_json(), wanted=wanted, folder=str(folder), workers=workers))
    assert subprocess.run([sys.executable, str(script)]).returncode == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    at_work = folder / "parts" / "00000" / "journal.jsonl"
    made = min(wanted, len(at_work.read_text().splitlines()) - 1)
    with open(at_work, "a") as file:
        file.write('{"next": [0, 7')  # a torn line
    (folder / "parts" / "00000" / "train-00100.bin.part").write_bytes(b"half a shard")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.bin")}
    heard: list[str] = []
    prepare(corpus, folder, heard.append, chunk_bytes=20_000)
    assert bytes_in(folder) == bytes_in(tmp_path / "clean")
    moved = [path.stat().st_mtime_ns for path in folder.glob("*.bin")]
    assert set(before.values()) <= set(moved)
    if wanted < 10**6:
        assert any(line.startswith(f"data: going on after {made} finished chunks") for line in heard)


def test_unfinished_work_of_other_settings_is_not_gone_on_with(
    tmp_path: Path, corpus: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(journal: chunks.Journal, chunk: chunks.ChunkRecord) -> None:
        add(journal, chunk)
        raise KeyboardInterrupt

    other = corpus.model_copy(update={"tokenizer": BpeTokenizer(kind="bpe", vocab_size=300)})
    prepare(other, tmp_path / "clean", quiet, chunk_bytes=20_000)
    add = chunks.Journal.add
    monkeypatch.setattr(chunks.Journal, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus, tmp_path / "data", quiet, chunk_bytes=20_000)
    monkeypatch.undo()
    assert list((tmp_path / "data").rglob("*.bin"))
    prepare(other, tmp_path / "data", quiet, chunk_bytes=20_000)
    assert bytes_in(tmp_path / "data") == bytes_in(tmp_path / "clean")


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, corpus: DataSource) -> None:
    data = corpus.model_copy(update={"tokenizer": Gpt2Tokenizer(kind="gpt2"), "shuffle_documents": True})
    with open(corpus.source, "a") as file:
        file.write("broken\n")
    data = data.model_copy(update={"faults_allowed": 0.01})
    prepare(data, tmp_path / "alone", quiet, chunk_bytes=50_000, workers=0)
    folders = []
    for workers in (1, 3):
        prepare(data, tmp_path / f"{workers}", quiet, chunk_bytes=50_000, workers=workers)
        folders.append(tmp_path / f"{workers}")
    for folder in folders:
        assert bytes_in(folder) == bytes_in(tmp_path / "alone")


def test_parts_done_apart_and_put_together_are_the_whole(
    tmp_path: Path, corpus: DataSource, pocket_lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an array of jobs on several machines does it, here one after the other, the last part first."""
    monkeypatch.setattr("isoflop.data.chunks.PORTION_BYTES", 50_000)
    folder = tmp_path / "several"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jsonl").write_text("".join(pocket_lines[number * 30 : number * 30 + 30]))
    data = corpus.model_copy(update={"source": folder})
    prepare(data, tmp_path / "whole", quiet)
    for part in (1, 0):
        prepare_part(data, tmp_path / "parts", quiet, part, 2)
    assert not (tmp_path / "parts" / "manifest.json").exists()
    heard: list[str] = []
    prepare(data, tmp_path / "parts", heard.append)
    assert len(heard) == 1  # nothing was left to tokenise
    assert bytes_in(tmp_path / "parts") == bytes_in(tmp_path / "whole")


def test_interrupted_before_the_first_chunk_leaves_nothing_and_touches_nothing_foreign(
    tmp_path: Path, corpus: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("isoflop.data.chunks.ChunkWriter.add", interrupt)
    data = corpus.model_copy(update={"tokenizer": Gpt2Tokenizer(kind="gpt2")})
    for folder, foreign in [(tmp_path / "new", []), (tmp_path / "old", ["notes.md"])]:
        for name in foreign:
            folder.mkdir()
            (folder / name).write_text("mine")
        with pytest.raises(KeyboardInterrupt):
            prepare(data, folder, quiet)
        assert ([path.name for path in folder.iterdir()] if folder.exists() else []) == foreign


def test_a_worker_that_is_killed_is_told_in_one_line_and_work_goes_on_later(tmp_path: Path, corpus: DataSource) -> None:

    def kill_one() -> None:
        while not active_children():
            time.sleep(0.01)
        active_children()[0].kill()

    data = corpus.model_copy(update={"tokenizer": Gpt2Tokenizer(kind="gpt2")})
    threading.Thread(target=kill_one, daemon=True).start()
    with pytest.raises(WorkError, match=r"one of 2 worker processes was killed, most likely for want of memory"):
        prepare(data, tmp_path / "data", quiet, workers=2)
    prepare(data, tmp_path / "data", quiet)
    verify(tmp_path / "data")


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\nfrom isoflop.data.workers import in_order\n"
        "def pid(shared, item):\n    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        "    got = in_order(pid, None, iter(range(10**9)), 2)\n"
        "    print(*{next(got)[1] for _ in range(200)}, flush=True)\n    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 200
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"held_out_fraction": 0.2}, "data.held_out_fraction was 0.1 and is 0.2"),
        ({"text_key": "body"}, "data.text_key was 'text' and is 'body'"),
        ({"licence": "MIT"}, "data.licence was 'public domain' and is 'MIT'"),
        ({"tokenizer": BpeTokenizer(kind="bpe", vocab_size=400)}, "data.tokenizer.vocab_size was 384 and is 400"),
        (
            {"tokenizer": Gpt2Tokenizer(kind="gpt2")},
            "data.tokenizer.kind was 'bpe' and is 'gpt2'; data.tokenizer.vocab_size",
        ),
    ],
)
def test_other_settings_never_overwrite(
    tmp_path: Path, corpus: DataSource, change: dict[str, object], says: str
) -> None:
    folder = tmp_path / "data"
    prepare(corpus, folder, quiet)
    before = bytes_in(folder)
    with pytest.raises(InputError) as caught:
        prepare(corpus.model_copy(update=change), folder, quiet)
    assert says in str(caught.value)
    assert f"Use another --runs folder, or delete {folder}" in str(caught.value)
    assert bytes_in(folder) == before


def test_a_changed_source_never_overwrites(tmp_path: Path, corpus: DataSource) -> None:
    folder, source = tmp_path / "data", corpus.source.parent
    data = corpus.model_copy(update={"source": source})
    prepare(data, folder, quiet)
    before = bytes_in(folder)
    content = corpus.source.read_bytes()
    corpus.source.write_bytes(content.replace(b"the", b"The", 1))
    (source / "more.txt").write_text("more")
    (source / "NOTICE").unlink()
    with pytest.raises(InputError) as caught:
        prepare(data, folder, quiet)
    for says in ("slice.jsonl has changed (was", "source file more.txt is new", "NOTICE has changed"):
        assert says in str(caught.value)
    corpus.source.rename(source / "moved.jsonl")
    with pytest.raises(
        InputError, match=r"more.txt is new; source file moved.jsonl is new; source file slice.jsonl is gone"
    ):
        prepare(data, folder, quiet)
    assert bytes_in(folder) == before


def test_tokens_travel_without_their_corpus(tmp_path: Path, corpus: DataSource) -> None:
    folder, said = tmp_path / "data", []
    before = prepare(corpus, folder, quiet)
    corpus.source.rename(tmp_path / "elsewhere.jsonl")
    assert prepare(corpus, folder, said.append) == before
    assert said[0] == f"data: {corpus.source} is not here; the tokens made of it are used"
    with pytest.raises(InputError, match=r"data\.shuffle_documents was False and is True"):
        prepare(corpus.model_copy(update={"shuffle_documents": True}), folder, quiet)
    with pytest.raises(InputError, match="no such file or folder"):
        prepare(corpus, tmp_path / "other", quiet)
    shard = folder / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-2])
    with pytest.raises(WorkError, match=r"train-00000\.bin: has"):
        prepare(corpus, folder, quiet)


def test_damage_to_what_is_there_is_named(tmp_path: Path, corpus: DataSource) -> None:
    folder = tmp_path / "data"
    prepare(corpus, folder, quiet)
    tokenizer = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(tokenizer.replace(b"Q", b"q", 1))
    with pytest.raises(WorkError, match=r"tokenizer\.json: missing or changed"):
        prepare(corpus, folder, quiet)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "train-00000.bin").unlink()
    with pytest.raises(WorkError, match=r"train-00000\.bin: missing"):
        prepare(corpus, folder, quiet)


def test_a_full_disk_stops_with_a_clear_message_and_leaves_no_half(tmp_path: Path, corpus: DataSource) -> None:
    folder = tmp_path / "data"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        with pytest.raises(WorkError, match=r"00000/train-00000\.bin: cannot write \(File too large\)"):
            prepare(corpus, folder, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(folder.rglob("*.bin*"))
    verify_after = prepare(corpus, folder, quiet)
    assert verify(folder) == verify_after


@pytest.mark.parametrize(
    ("documents", "change", "says"),
    [
        (1, {}, "data.held_out_fraction = 0.1: of 1 documents"),
        (150, {"held_out_fraction": 1e-9}, "none falls on the held-out side; raise it"),
        (150, {"held_out_fraction": 1 - 1e-9}, "none falls on the training side; lower it"),
        (150, {"context_length": 2**20}, "data.context_length = 1048576: longer than the training data"),
        (150, {"context_length": 2**17}, "data.context_length = 131072: longer than the held-out data"),
    ],
)
def test_too_little_text_is_refused_and_nothing_is_written(
    tmp_path: Path, corpus: DataSource, pocket_lines: list[str], documents: int, change: dict[str, object], says: str
) -> None:
    corpus.source.write_text("".join(pocket_lines[:documents]), encoding="utf-8")
    data = corpus.model_copy(update={"tokenizer": BpeTokenizer(kind="bpe", vocab_size=257), **change})
    with pytest.raises(InputError) as caught:
        prepare(data, tmp_path / "data", quiet)
    assert says in str(caught.value)
    assert not (tmp_path / "data").exists()


def test_a_longer_context_than_the_prepared_data_is_refused_too(tmp_path: Path, corpus: DataSource) -> None:
    prepare(corpus, tmp_path / "data", quiet)
    with pytest.raises(InputError, match=r"data\.context_length = 1048576: longer than the training data"):
        prepare(corpus.model_copy(update={"context_length": 2**20}), tmp_path / "data", quiet)


def test_a_bad_line_late_in_the_corpus_leaves_nothing_behind(tmp_path: Path, corpus: DataSource) -> None:
    data = corpus.model_copy(update={"tokenizer": Gpt2Tokenizer(kind="gpt2")})
    with open(corpus.source, "a") as file:
        file.write('{"text": "cut\n')
    with pytest.raises(InputError, match=r"slice\.jsonl: line 151: not valid JSON"):
        prepare(data, tmp_path / "data", quiet, chunk_bytes=5000)
    assert not (tmp_path / "data").exists()


def test_a_notice_that_is_not_utf8_is_named(tmp_path: Path, corpus: DataSource) -> None:
    (corpus.source.parent / "NOTICE").write_bytes(b"\xa9 1996")
    with pytest.raises(InputError, match="NOTICE: not UTF-8 at byte 1"):
        prepare(corpus, tmp_path / "data", quiet)
