"""What data/manifest.json says: where the tokens came from, how they were made, and the hash of every shard."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.config import DataSource
from isoflop.errors import WorkError

FORMAT_VERSION: Literal[2] = 2
TOKENIZER_FILE = "tokenizer.json"
SOURCE_LINK = "source"

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SplitName = Literal["train", "held_out", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "held_out", "test")
DType = Literal["uint16", "uint32"]


class Record(BaseModel):
    """A JSON object of the manifest: frozen, with exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceFile(Record):
    """A file that was read; `file` is its path relative to the corpus, `bytes` its size as it lies there.

    `version` is what a remote store said of it (an ETag or the like); null for a local file.
    """

    file: str
    bytes: Count
    sha256: Sha256
    version: str | None = None


class Counts(Record):
    """Documents, their tokens (an end-of-text token each included) and the UTF-8 bytes of their text."""

    documents: Count
    tokens: Count
    bytes: Count


class Shard(Counts):
    """Whole documents' tokens, one after the other, and the list of these documents.

    Both files lie beside the manifest. `domains` are the names that the list's numbers stand for. A shard of
    Megatron data has its tokens in the corpus itself: `file` is source/ and the name of a file there, `first_byte`
    where in it. There source is a link to the corpus.
    """

    file: str = Field(pattern=r"^((train|held_out|test)-[0-9]{5,}\.bin|source/([^./][^/]*/)*[^./][^/]*\.bin)$")
    sha256: Sha256
    first_byte: Count = 0
    list_file: str = Field(pattern=r"^(train|held_out|test)-[0-9]{5,}\.documents\.npy$")
    list_sha256: Sha256
    domains: tuple[str, ...]

    @property
    def is_in_corpus(self) -> bool:
        """Whether the tokens lie in the corpus, as a part of a larger file."""
        return self.file.startswith(f"{SOURCE_LINK}/")


class Split(Counts):
    """One side of the held-out split: its totals, its shards in order, and the same counts by domain."""

    shards: tuple[Shard, ...]
    domains: dict[str, Counts]


class Splits(Record):
    """What is trained on, what losses are measured on, and what is kept for a last test (often nothing)."""

    train: Split
    held_out: Split
    test: Split


class TokenizerRecord(Record):
    """The tokenizer in tokenizer.json; `sha256` is of that file's bytes."""

    kind: Literal["gpt2", "bpe", "file"]
    vocab_size: int = Field(ge=257, le=2**32)
    end_of_text: Count
    sha256: Sha256


class FaultRecord(Record):
    """A document that could not be read, or a file whose rest could not: where it begins, and why.

    `offset` counts bytes of the (decompressed) file, or rows of a parquet or arrow file.
    """

    file: str
    offset: Count
    reason: str
    rest_of_file: bool


class Overlap(Record):
    """What training text and a downstream task have in common: n-grams of the task, those found, documents removed."""

    ngrams: Count
    found: Count
    documents: Count


class Preparation(Record):
    """The switches of [data] that decide which documents are trained on, and in which order they are packed."""

    text_key: str
    text_suffixes: tuple[str, ...]
    held_out_fraction: float
    test_fraction: float
    faults_allowed: float
    end_of_text: bool
    shuffle_documents: bool
    duplicates: Literal["keep", "exact", "near"]
    similarity: float
    mixture: dict[str, float]
    decontaminate: dict[str, Sha256]
    chunk_bytes: int


class Manifest(Record):
    """Everything about a prepared corpus. Shards are flat little-endian `dtype`; no context length is in them."""

    format_version: Literal[2]
    sources: tuple[SourceFile, ...]
    licence: str
    notice: str | None
    preparation: Preparation
    documents_read: Count
    empty_documents: Count
    duplicates_removed: Count
    faults: tuple[FaultRecord, ...]
    overlaps: dict[str, Overlap]
    tokenizer: TokenizerRecord
    dtype: DType
    splits: Splits

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        splits: dict[SplitName, Split] = {
            "train": self.splits.train,
            "held_out": self.splits.held_out,
            "test": self.splits.test,
        }
        return splits[name]


def manifest_path(folder: Path) -> Path:
    """Where the manifest of the data in `folder` lies."""
    return folder / "manifest.json"


def load_manifest(folder: Path) -> Manifest:
    """The manifest of the data in `folder`.

    Raises:
        WorkError: it is missing, damaged, or of another format version.
    """
    path = manifest_path(folder)
    try:
        content = path.read_bytes()
        version = json.loads(content).get("format_version")
        if version != FORMAT_VERSION:
            raise WorkError(
                f"{path}: format version {version!r}, but this isoflop reads {FORMAT_VERSION}; "
                f"use the isoflop that wrote it, or delete {folder} and prepare the data again"
            )
        return Manifest.model_validate_json(content)
    except FileNotFoundError:
        raise WorkError(f"{path}: missing; run isoflop data") from None
    except OSError as error:
        raise WorkError(f"{path}: cannot read ({error.strerror}); check its permissions and its disk") from None
    except (ValueError, AttributeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not JSON"
        raise WorkError(f"{path}: damaged ({reason}); delete {folder} and prepare the data again") from None


def can_do_without(data: DataSource, folder: Path) -> bool:
    """Whether the corpus is not here and need not be: `folder` has the tokens made of it, which travel without it.

    Raises:
        WorkError: the manifest of `folder` cannot be used.
    """
    if not isinstance(data.source, Path) or data.source.exists() or not manifest_path(folder).exists():
        return False
    return not any(shard.is_in_corpus for shard in load_manifest(folder).splits.train.shards)
