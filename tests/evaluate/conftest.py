"""A part of the pocket corpus as tokens, with enough held-out text for a suite."""

import itertools
import json
from pathlib import Path

import pytest
import zstandard

from isoflop.config import DataSource
from isoflop.data import prepare

CORPUS = Path(__file__).parents[2] / "corpora" / "pocket.jsonl.zst"
CONTEXT = 256


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `data` of a run: every twelfth document of the corpus, half of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    with zstandard.open(CORPUS, "rt", encoding="utf-8") as lines, open(folder / "some.jsonl", "w") as some:
        some.writelines(itertools.islice(lines, 0, None, 12))
    source = DataSource.model_validate(
        {
            "source": folder / "some.jsonl",
            "tokenizer": {"kind": "bpe", "vocab_size": 400},
            "context_length": CONTEXT,
            "held_out_fraction": 0.5,
        }
    )
    prepare(source, folder / "data", lambda line: None)
    return folder / "data"


@pytest.fixture(scope="session")
def texts(data: Path) -> list[str]:
    """The corpus's documents."""
    return [json.loads(line)["text"] for line in (data.parent / "some.jsonl").read_text().splitlines()]
