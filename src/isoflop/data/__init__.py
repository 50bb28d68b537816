"""From text to tokens: readers, tokenizers, shards with checksums, and the order in which training reads them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoflop.data.documents import Document, read_documents
    from isoflop.data.frequencies import frequency_loss
    from isoflop.data.manifest import Counts, Manifest, Shard, Split, SplitName, load_manifest
    from isoflop.data.order import sample_ids
    from isoflop.data.prepare import prepare, prepare_part
    from isoflop.data.read_ahead import ReadAhead
    from isoflop.data.shards import TokenStream, verify
    from isoflop.data.tokenizer import END_OF_TEXT, end_of_text, load_tokenizer, make_tokenizer, tokenizer_sha256
    from isoflop.data.trace import DocumentIndex, Passage

__all__ = [
    "END_OF_TEXT",
    "Counts",
    "Document",
    "DocumentIndex",
    "Manifest",
    "Passage",
    "ReadAhead",
    "Shard",
    "Split",
    "SplitName",
    "TokenStream",
    "end_of_text",
    "frequency_loss",
    "load_manifest",
    "load_tokenizer",
    "make_tokenizer",
    "prepare",
    "prepare_part",
    "read_documents",
    "sample_ids",
    "tokenizer_sha256",
    "verify",
]

# Each name is imported when it is asked for: a plan reads a manifest, and need not wait for NumPy and Arrow.
_MODULES = {
    "Document": "documents",
    "read_documents": "documents",
    "frequency_loss": "frequencies",
    "Counts": "manifest",
    "Manifest": "manifest",
    "Shard": "manifest",
    "Split": "manifest",
    "SplitName": "manifest",
    "load_manifest": "manifest",
    "sample_ids": "order",
    "prepare": "prepare",
    "prepare_part": "prepare",
    "ReadAhead": "read_ahead",
    "TokenStream": "shards",
    "verify": "shards",
    "END_OF_TEXT": "tokenizer",
    "end_of_text": "tokenizer",
    "load_tokenizer": "tokenizer",
    "make_tokenizer": "tokenizer",
    "tokenizer_sha256": "tokenizer",
    "DocumentIndex": "trace",
    "Passage": "trace",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found
