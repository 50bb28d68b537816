"""A domain of the mixture that the corpus does not have is told."""

import json
from pathlib import Path

from isoflop.config import BpeTokenizer, DataSource
from isoflop.data import prepare


def test_a_misspelt_domain_is_told_and_a_known_one_is_not(tmp_path: Path) -> None:
    records = [{"text": f"Entry {i} of the log. " * 20, "meta": {"pile_set_name": f"set {i % 2}"}} for i in range(40)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = DataSource(
        source=tmp_path / "t.jsonl",
        tokenizer=BpeTokenizer(kind="bpe", vocab_size=280),
        context_length=16,
        held_out_fraction=0.3,
        mixture={"set 0": 2.0, "sett 1": 2.0},
    )
    said: list[str] = []
    prepare(source, tmp_path / "data", said.append)
    told = [line for line in said if "mixture" in line]
    assert told == ["data: data.mixture names 'sett 1', which no document kept has; there are set 0, set 1"]
