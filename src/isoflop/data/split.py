"""Which documents no model trains on: decided by what a document says, so that copies of it never lie on both sides."""

import hashlib

from isoflop.config import DataSource
from isoflop.data.manifest import SplitName

# The plain hash of a text will not do: corpora are themselves sampled and ordered by it. The pocket corpus is, and its
# first 300 documents would all have been held out.
_OWN_HASH = b"isoflop split\0"


def text_digest(text: bytes) -> bytes:
    """32 bytes that the text's UTF-8 alone decides: the first 8 choose its split, the next 8 its copies."""
    return hashlib.sha256(_OWN_HASH + text).digest()


def split_of(digest: bytes, data: DataSource) -> SplitName:
    """The split of the text with that digest; held_out and test hold about their fractions of all different texts."""
    place = _uniform(digest[:8])
    if place < data.held_out_fraction * 2**64:
        return "held_out"
    return "test" if place < (data.held_out_fraction + data.test_fraction) * 2**64 else "train"


def copies_of(digest: bytes, weight: float) -> int:
    """How often a text of a domain with that weight is trained on: `weight` times on average, by its digest."""
    whole = int(weight)
    return whole + (_uniform(digest[8:16]) < (weight - whole) * 2**64)


def is_held_out(text: str, fraction: float) -> bool:
    """Whether this text belongs to the held-out split, which holds about `fraction` of all different texts."""
    return content_hash(text) < fraction * 2**64


def content_hash(text: str) -> int:
    """64 bits of a SHA-256 of the text's UTF-8 bytes: a uniform number that the text alone decides."""
    return _uniform(text_digest(text.encode())[:8])


def _uniform(eight: bytes) -> int:
    return int.from_bytes(eight, "big")
