"""Which documents no model trains on: decided by what a document says, so that copies of it never lie on both sides."""

import hashlib

# The plain hash of a text will not do: corpora are themselves sampled and ordered by it. The pocket corpus is, and its
# first 300 documents would all have been held out.
_OWN_HASH = b"isoflop split\0"


def is_held_out(text: str, fraction: float) -> bool:
    """Whether this text belongs to the held-out split, which holds about `fraction` of all different texts."""
    return content_hash(text) < fraction * 2**64


def content_hash(text: str) -> int:
    """64 bits of a SHA-256 of the text's UTF-8 bytes: a uniform number that the text alone decides."""
    return int.from_bytes(hashlib.sha256(_OWN_HASH + text.encode()).digest()[:8], "big")
