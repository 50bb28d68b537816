"""From text to tokens: readers, tokenizers, shards with checksums, and the order in which training reads them."""

from isoflop.data.documents import Document, read_documents
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
