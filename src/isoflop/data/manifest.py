"""What data/manifest.json says: where the tokens came from, how they were made, and the hash of every shard."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.errors import WorkError

FORMAT_VERSION: Literal[1] = 1
TOKENIZER_FILE = "tokenizer.json"

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SplitName = Literal["train", "held_out"]
DType = Literal["uint16", "uint32"]


class Record(BaseModel):
    """A JSON object of the manifest: frozen, with exactly these fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceFile(Record):
    """A file that was read; `file` is its path relative to the corpus, `bytes` its size as it lies there."""

    file: str
    bytes: Count
    sha256: Sha256


class Counts(Record):
    """Documents, their tokens (an end-of-text token each included) and the UTF-8 bytes of their text."""

    documents: Count
    tokens: Count
    bytes: Count


class Shard(Counts):
    """A file of whole documents' tokens, one after the other; `file` lies beside the manifest."""

    file: str = Field(pattern=r"^(train|held_out)-[0-9]{5,}\.bin$")
    sha256: Sha256


class Split(Counts):
    """One side of the held-out split: its totals, its shards in order, and the same counts by domain."""

    shards: tuple[Shard, ...]
    domains: dict[str, Counts]


class Splits(Record):
    """The two sides."""

    train: Split
    held_out: Split


class TokenizerRecord(Record):
    """The tokenizer in tokenizer.json; `sha256` is of that file's bytes."""

    kind: Literal["gpt2", "bpe"]
    vocab_size: int = Field(ge=257, le=2**32)
    end_of_text: Count
    sha256: Sha256


class Manifest(Record):
    """Everything about a prepared corpus. Shards are flat little-endian `dtype`; no context length is in them."""

    format_version: Literal[1]
    sources: tuple[SourceFile, ...]
    licence: str
    notice: str | None
    text_key: str
    held_out_fraction: float
    empty_documents: Count
    tokenizer: TokenizerRecord
    dtype: DType
    splits: Splits

    def split(self, name: SplitName) -> Split:
        """The split of that name."""
        return self.splits.train if name == "train" else self.splits.held_out


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
