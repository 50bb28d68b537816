"""`isoflop data`: prepare in one call or in parts, and show what a step read."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def with_domains(family_file: Path, tmp_path: Path) -> Path:
    """The family on a corpus of two domains with a broken line, in two files."""
    lines = [
        json.dumps(
            {"text": f"Entry {i}: {i * i} boats in the harbour. " * 5, "meta": {"pile_set_name": f"Set {i % 2}"}}
        )
        for i in range(400)
    ]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text("\n".join(lines[:200]) + "\n")
    (corpus / "b.jsonl").write_text("broken\n" + "\n".join(lines[200:]) + "\n")
    text = (
        family_file.read_text()
        .replace("corpus.txt", "corpus")
        .replace('kind = "bpe", vocab_size = 300', 'kind = "gpt2"')
    )
    family_file.write_text(text.replace("[recipe]", "faults_allowed = 0.01\n\n[recipe]"))
    return family_file


def test_show_names_the_documents_of_a_step(isoflop, with_domains: Path, tmp_path: Path) -> None:
    assert isoflop("plan", str(with_domains)).returncode == 0
    nothing = isoflop("data", "show", str(with_domains), "--step", "1")
    assert nothing.returncode == 2
    assert "holds no data yet; run isoflop data" in nothing.stderr
    prepared = isoflop("data", str(with_domains))
    assert prepared.returncode == 0, prepared.stderr
    assert "faults left out: 1; the first: b.jsonl: line 1: not valid JSON" in prepared.stdout
    shown = isoflop("data", "show", str(with_domains), "--step", "2", "--model", "a", "--json")
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    assert (document["model"], document["step"], document["context_length"]) == ("a", 2, 32)
    assert len({passage["sample"] for passage in document["passages"]}) == document["sequences"]
    for passage in document["passages"]:
        content = (tmp_path / "corpus" / passage["source"]).read_bytes()
        record = json.loads(content[passage["offset"] :].split(b"\n", 1)[0])
        assert record["meta"]["pile_set_name"] == passage["domain"]
    table = isoflop("data", "show", str(with_domains), "--step", "2", "--model", "a").stdout
    assert table.startswith("a, step 2 of ")
    assert "b.jsonl" in table


def test_a_step_or_model_that_does_not_exist_is_refused(isoflop, with_domains: Path) -> None:
    isoflop("plan", str(with_domains))
    isoflop("data", str(with_domains))
    for arguments, says in [
        (("--step", "999999999"), "steps; use 1 to"),
        (("--step", "1", "--model", "z"), "--model z: no such model in family tiny; use one of a, b"),
        (("--step", "0"), "--step"),
    ]:
        done = isoflop("data", "show", str(with_domains), *arguments)
        assert done.returncode == 2
        assert says in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_parts_and_the_whole_are_the_same_data(isoflop, with_domains: Path) -> None:
    for part in ("1/2", "0/2"):
        done = isoflop("data", str(with_domains), "--part", part, "--runs", "parts")
        assert done.returncode == 0, done.stderr
        assert "when all are, run isoflop data without --part" in done.stderr
    whole = isoflop("data", str(with_domains), "--json", "--runs", "whole")
    parts = isoflop("data", "--runs", "parts", "--json", str(with_domains))
    assert json.loads(parts.stdout) == json.loads(whole.stdout)
    for part in ("2/2", "1", "-1/2", "a/b"):
        assert isoflop("data", str(with_domains), "--part", part).returncode == 2


def test_a_changed_byte_is_found_named_and_refused(isoflop, with_domains: Path, tmp_path: Path) -> None:
    isoflop("data", str(with_domains))
    shard = tmp_path / "runs" / "tiny" / "data" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    for command in ("data", "train"):
        done = isoflop(command, str(with_domains))
        assert done.returncode == 1
        assert "train-00000.bin: changed since it was written" in done.stderr.splitlines()[-1]
