"""A family as the text of a family file, which `load_family` reads back to the same family."""

import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from isoflop.config import Family


def family_text(family: Family, head: str = "") -> str:
    """TOML of what the family says and no more: what was left out stays out. `head` becomes a comment."""
    said = family.model_dump(mode="python", exclude_unset=True, exclude_none=True)
    lines = [f"# {line}" for line in head.splitlines()]
    return "\n".join([*lines, *_table(said, ())]).strip() + "\n"


def _table(said: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """The keys of a table, then its tables; one that discriminates by its kind fits in a line."""
    plain, tables, arrays = [], [], []
    for key, value in said.items():
        if isinstance(value, Mapping) and key not in ("tokenizer",):
            tables.append((key, value))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping) and key in ("models", "deviations"):
            arrays.append((key, value))
        else:
            plain.append(f"{_key(key)} = {_value(value)}")
    for key, value in tables:
        inner = _table(value, (*path, key))
        if inner or not value:
            plain += ["", f"[{_dotted((*path, key))}]", *inner]
    for key, values in arrays:
        for value in values:
            plain += ["", f"[[{_dotted((*path, key))}]]", *_table(value, (*path, key))]
    return plain


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            text = repr(value)
            return text if "." in text or "e" in text or "n" in text else f"{text}.0"
        case Mapping():
            return "{ " + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(map(_value, value)) + "]"
        case PurePath():
            return _string(str(value))
        case _:
            return _string(str(value))


def _string(text: str) -> str:
    # JSON's escapes are TOML's, but for a delete character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else _string(key)


def _dotted(path: tuple[str, ...]) -> str:
    return ".".join(map(_key, path))
