"""Foreign text made harmless: in Markdown nothing but itself, in YAML the same value again."""

import json
import math
from collections.abc import Mapping
from typing import Any

# With letters, digits and the space these mean nothing to Markdown, HTML, LaTeX or templates inside a line.
_PLAIN = frozenset(" .,-/+='()%?;")


def inert(value: Any) -> str:
    """`value` as one line of Markdown in which nothing is markup, a link, a table's edge or a template's.

    Punctuation becomes character references, which CommonMark (section 2.5) never takes for structure. Line breaks
    become spaces; what has no shape (controls, marks that turn the direction of writing) becomes U+FFFD.
    """
    return "".join(map(_inert_character, " ".join(str(value).split())))


def front_matter(values: Mapping[str, Any]) -> str:
    """`values` between two lines `---` as YAML that parses to the same values and holds no other `---`.

    Every value is written on one line in the JSON way, which YAML 1.2 contains and YAML 1.1 reads alike in this form.
    """
    return "\n".join(["---", *(f"{key}: {_yaml(value)}" for key, value in values.items()), "---", ""])


def _inert_character(character: str) -> str:
    if character.isalnum() or character in _PLAIN:
        return character
    if not character.isprintable():
        return "\N{REPLACEMENT CHARACTER}"
    return f"&#{ord(character)};"


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml_text(key)}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    if isinstance(value, str):
        return _yaml_text(value)
    if isinstance(value, float):
        return _yaml_float(value)
    return json.dumps(value)  # null, true, false, an integer


def _yaml_text(text: str) -> str:
    return '"' + "".join(map(_yaml_character, text)).replace("--", r"-\x2d") + '"'


def _yaml_character(character: str) -> str:
    # JSON writes what lies beyond U+FFFF as two surrogates, which YAML would read as two characters.
    code = ord(character)
    if character in '"\\':
        return "\\" + character
    if (character.isalnum() and code < 0x10000) or character in " _-.,:;/()+='!?*#&|<>[]{}%@`~^$":
        return character
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _yaml_float(number: float) -> str:
    if not math.isfinite(number):
        return "null"
    mantissa, e, exponent = repr(number).partition("e")
    # YAML 1.1 takes 1e-05 for a text: it wants a point and a sign.
    return mantissa + ".0" * (e == "e" and "." not in mantissa) + e + exponent
