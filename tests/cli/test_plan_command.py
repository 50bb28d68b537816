"""`isoflop plan`, and what every command does with input that cannot work."""

import json
import os
from pathlib import Path

import pytest


def test_plan_prints_each_model_and_totals_within_80_columns(isoflop, family_file: Path) -> None:
    done = isoflop("plan", str(family_file))
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert sum(line.startswith("a ") for line in lines) == 5
    assert sum(line.startswith("b*") for line in lines) == 2
    assert any(line.startswith("all ") for line in lines)
    tables = lines[2:]
    assert all(len(line) <= 80 for line in tables)


def test_plan_prints_what_every_model_will_train_with_by_file_or_rule(isoflop, family_file: Path) -> None:
    text = family_file.read_text().replace("[recipe]", "[recipe]\nbase_width = 8\neps = 1e-9\nclip_norm = 0.5")
    family_file.write_text('parametrisation = "mup"\n' + text)
    done = isoflop("plan", str(family_file), "--json")
    a = json.loads(done.stdout)["models"][0]
    # Width 16 at a base of 8, one layer: 0.08 / sqrt(2), and that over sqrt(2).
    assert a["hidden_init_std"] == pytest.approx(0.08 / 2**0.5)
    assert a["residual_init_std"] == pytest.approx(0.04)
    rows = [line.split() for line in isoflop("plan", str(family_file)).stdout.splitlines() if line.startswith("a ")]
    warmup = f"{a['warmup_tokens'] / 1000:.3g}k"
    assert rows[3] == ["a", warmup, "linear", "6.0e-4", "0.9,", "0.95", "1e-9", "0.1", "0.5"]
    assert rows[4] == ["a", "0.08", "0.0566", "0.04", "10", "0.5", "0.125", "3.0e-3"]
    family_file.write_text(text.replace("[recipe]", "[recipe]\ninit_truncation = 2.0\nresidual_init_std = 0.003"))
    rows = [line.split() for line in isoflop("plan", str(family_file)).stdout.splitlines() if line.startswith("a ")]
    assert rows[4][1:6] == ["0.02", "0.02", "0.003", "2", "sd"]


def test_plan_as_json_is_plan_json_and_nothing_else(isoflop, family_file: Path, tmp_path: Path) -> None:
    done = isoflop("plan", str(family_file), "--json")
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "runs" / "tiny" / "plan.json").read_text())
    assert [model["name"] for model in document["models"]] == ["a", "b"]
    contract = {"n_layers", "d_model", "n_heads", "params", "params_non_embedding", "tokens", "batch_sequences"}
    assert all(model.keys() >= contract | {"steps", "peak_lr", "flops"} for model in document["models"])
    # GPT-2's own count: 300 x 16 + 32 x 16 + 12 x 16^2 + 13 x 16 + 2 x 16
    assert document["models"][0]["params"] == 8624


def test_plan_needs_no_prepared_data_and_says_so(isoflop, family_file: Path, tmp_path: Path) -> None:
    done = isoflop("plan", str(family_file), "--runs", "elsewhere")
    assert "data are not prepared" in done.stderr
    assert not (tmp_path / "elsewhere" / "tiny" / "data").exists()


def test_plan_knows_the_epochs_once_data_are_prepared(isoflop, family_file: Path) -> None:
    family_file.write_text(family_file.read_text().replace("tokens_per_parameter = 1.0", "tokens_per_parameter = 9"))
    corpus = family_file.with_name("corpus")
    corpus.mkdir()
    for i in range(200):
        (corpus / f"{i}.txt").write_text(
            f"Document {i} says that {i} times {i} is {i * i}, which is not the point. " * 3
        )
    family_file.write_text(family_file.read_text().replace("corpus.txt", "corpus"))
    assert isoflop("data", str(family_file)).returncode == 0
    done = isoflop("plan", str(family_file))
    assert "epochs" in done.stderr


def test_json_of_data_is_the_manifest(isoflop, family_file: Path, tmp_path: Path) -> None:
    corpus = family_file.with_name("corpus.jsonl")
    corpus.write_text("".join(json.dumps({"text": f"The answer to {i} is {i * i}. " * 20}) + "\n" for i in range(200)))
    family_file.write_text(family_file.read_text().replace("corpus.txt", "corpus.jsonl"))
    done = isoflop("data", str(family_file), "--json")
    assert json.loads(done.stdout) == json.loads((tmp_path / "runs/tiny/data/manifest.json").read_text())
    again = isoflop("data", str(family_file), "--json")
    assert again.stdout == done.stdout


BAD_FAMILIES = {
    "unknown key": ("context_length = 32", "context_lenght = 32", "context_length"),
    "wrong type": ("context_length = 32", 'context_length = "32"', "data.context_length"),
    "heads that do not divide width": ("d_model = 16", "d_model = 17", "n_heads"),
    "tokenizer larger than uint32": ("vocab_size = 300", "vocab_size = 4294967296", "vocab_size"),
    "context longer than the data": ("context_length = 32", "context_length = 65536", "context_length"),
    "no corpus": ("corpus.txt", "nowhere.txt", "nowhere.txt"),
    "unknown format": ("corpus.txt", "tiny.toml", "format"),
    "held-out model unknown": ('precision = "fp32"', 'held_out = "c"', "held_out"),
    "no TOML": ('name = "tiny"', "name = ", "TOML"),
    "absurd recipe": ("tokens_per_parameter = 1.0", "tokens_per_parameter = 1e300", "tokens_per_parameter"),
}


@pytest.mark.parametrize(
    ("command", "case"), [*(("plan", case) for case in BAD_FAMILIES), ("run", "context longer than the data")]
)
def test_bad_families_are_one_line_exit_code_2_and_leave_nothing(
    isoflop, family_file: Path, tmp_path: Path, case: str, command: str
) -> None:
    good, bad, said = BAD_FAMILIES[case]
    family_file.write_text(family_file.read_text().replace(good, bad, 1))
    before = sorted(tmp_path.rglob("*"))
    done = isoflop(command, str(family_file), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("isoflop: ")
    assert said in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no document has any text"), (b"good text \xff\xfe bad text " * 50, "corpus.txt")],
    ids=["empty", "invalid UTF-8"],
)
@pytest.mark.parametrize("command", ["data", "run"])
def test_a_bad_corpus_is_one_line_exit_code_2_and_leaves_nothing(
    isoflop, family_file: Path, tmp_path: Path, command: str, content: bytes, said: str
) -> None:
    family_file.with_name("corpus.txt").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    done = isoflop(command, str(family_file), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "corpus.jsonl",
            b'{"body": "some text"}\n' * 2000,
            "line 1: no field 'text'; set data.text_key to one of: 'body'",
        ),
        ("corpus.jsonl", b'{"text": 7}\n' * 2000, "line 1: field 'text' is a number, not a text"),
        ("corpus.jsonl.zst", b"", "the zstd data stop in the middle, at byte 0"),
        ("corpus.parquet", b"PAR1", "corpus.parquet: cannot be read as parquet"),
        ("corpus.bin", b"\0\1" * 500, "data.tokenizer.kind = 'bpe': the data are tokens already"),
        ("corpus.txt", b"one document", "of 1 documents in"),
    ],
)
def test_a_corpus_whose_beginning_is_bad_is_refused_before_the_plan_is_shown(
    isoflop, family_file: Path, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content * (20 if name == "corpus.txt" else 1))
    family_file.write_text(family_file.read_text().replace("corpus.txt", name))
    done = isoflop("run", str(family_file))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("given", ["fifo", "/dev/zero"])
def test_what_is_no_plain_file_is_refused_at_once(isoflop, family_file: Path, tmp_path: Path, given: str) -> None:
    """A pipe would be waited for, a device read until the memory is full."""
    os.mkfifo(tmp_path / "fifo")
    text = family_file.read_text()
    cases = {"family": None, "points": None, "targets": None, "hardware": None}
    cases["corpus"] = text.replace("corpus.txt", given)
    tokenizer = f'kind = "file", path = "{given}", vocab_size = 300'
    cases["tokenizer"] = text.replace('kind = "bpe", vocab_size = 300', tokenizer)
    cases["tuned"] = f'tuned = "{given}"\n{text}'
    (tmp_path / "points.csv").write_text("params,tokens,loss\n1e6,2e7,4\n2e6,4e7,3.8\n4e6,8e7,3.6\n8e6,16e7,3.4\n")
    commands = {
        "family": ["plan", given],
        "points": ["law", given],
        "targets": ["predict", "points.csv", "--targets", given],
        "hardware": ["plan", "tiny.toml", "--systems", "1,2", "--hardware", "systems.csv"],
    }
    (tmp_path / "systems.csv").symlink_to(given)
    for case, content in cases.items():
        if content is not None:
            family_file.write_text(content)
        done = isoflop(*commands.get(case, ["plan", "tiny.toml"]))
        assert (done.returncode, done.stdout) == (2, ""), case
        last = done.stderr.splitlines()[-1]
        assert "no plain file" in last
        assert ("systems.csv" if case == "hardware" else given) in last
        family_file.write_text(text)


def test_what_only_the_systems_find_wrong_leaves_nothing_either(isoflop, family_file: Path, tmp_path: Path) -> None:
    # The text has too few pairs for the vocabulary, which shows when system 0 has read all of it.
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(200):
        (corpus / f"{number}.txt").write_text("ab" * number)
    family_file.write_text(family_file.read_text().replace("corpus.txt", "corpus"))
    before = sorted(tmp_path.rglob("*"))
    done = isoflop("train", str(family_file), "--systems", "2")
    assert done.returncode == 2
    assert "use vocab_size" in done.stderr.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unknown_model_is_refused_with_the_names_there_are(isoflop, family_file: Path, tmp_path: Path) -> None:
    done = isoflop("train", str(family_file), "--model", "z")
    assert done.returncode == 2
    assert "a, b" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_evaluate_before_training_says_what_to_do(isoflop, family_file: Path) -> None:
    done = isoflop("evaluate", str(family_file))
    assert done.returncode == 2
    assert "isoflop train" in done.stderr


def test_several_systems_are_foretold_within_100_columns_and_one_is_planned_for(isoflop, family_file: Path) -> None:
    done = isoflop("plan", str(family_file), "--systems", "1,2,4,...,1024")
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.index("on N x this machine") :].splitlines()
    assert all(len(line) <= 100 for line in table)
    assert sum(line.split()[1:2] == ["resident"] for line in table) == 22
    document = json.loads(isoflop("plan", str(family_file), "--systems", "1,4", "--json").stdout)
    assert [table["hardware"]["name"] for table in document["scaling"]] == ["this machine", "h100-80gb"]
    assert document["systems"] == 1
    one = json.loads(isoflop("plan", str(family_file), "--systems", "4", "--json").stdout)
    assert "scaling" not in one
    assert one["systems"] == 4


def test_hardware_without_several_systems_is_refused(isoflop, family_file: Path, tmp_path: Path) -> None:
    done = isoflop("plan", str(family_file), "--systems", "4", "--hardware", "a100-80gb")
    assert done.returncode == 2
    assert "--systems 1,2,4" in done.stderr
    assert not (tmp_path / "runs").exists()
