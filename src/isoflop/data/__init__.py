"""From text to tokens: readers, tokenizers, shards with checksums, and the order in which training reads them."""

from isoflop.data.manifest import Counts, Manifest, Shard, Split, SplitName, load_manifest
from isoflop.data.order import sample_ids
from isoflop.data.prepare import prepare
from isoflop.data.documents import Document, read_documents
from isoflop.data.shards import TokenStream, verify
from isoflop.data.tokenizer import END_OF_TEXT, end_of_text, load_tokenizer, make_tokenizer, tokenizer_sha256

__all__ = [
    "END_OF_TEXT",
    "Counts",
    "Document",
    "Manifest",
    "Shard",
    "Split",
    "SplitName",
    "TokenStream",
    "end_of_text",
    "load_manifest",
    "load_tokenizer",
    "make_tokenizer",
    "prepare",
    "read_documents",
    "sample_ids",
    "tokenizer_sha256",
    "verify",
]
