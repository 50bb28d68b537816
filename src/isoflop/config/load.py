"""Reads a family file and turns every mistake in it into one line that names file, key, value and remedy."""

import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isoflop.config.family import DataSource, Family, FileTokenizer
from isoflop.errors import InputError


def load_family(path: Path) -> Family:
    """The family that the TOML file at `path` describes, its data source made absolute.

    Raises:
        InputError: the file cannot be read, is no TOML, or says something impossible.
    """
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot read the family file ({error.strerror}); give the path of a .toml file"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not valid TOML: nested too deeply") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise InputError(f"{path}: a number in it has thousands of digits; correct it") from None
    try:
        family = Family.model_validate(_with_paths(document))
    except ValidationError as error:
        # A mistyped key is also a missing one: the typo is what the user wants to hear about.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise InputError(f"{path}: {_explain(first, document)}") from None
    return family.model_copy(update={"data": _absolute(family.data, path.parent)})


def _absolute(data: DataSource, folder: Path) -> DataSource:
    """The same with its paths seen from `folder`; addresses stay."""
    update: dict[str, object] = {}
    if isinstance(data.source, Path):
        update["source"] = (folder / data.source).resolve()
    if data.decontaminate is not None:
        update["decontaminate"] = (folder / data.decontaminate).resolve()
    if isinstance(data.tokenizer, FileTokenizer):
        update["tokenizer"] = data.tokenizer.model_copy(update={"path": (folder / data.tokenizer.path).resolve()})
    return data.model_copy(update=update)


def _with_paths(document: dict[str, Any]) -> dict[str, Any]:
    """The document with paths where the file can only say strings; an address (s3://...) stays a string."""
    data = document.get("data")
    if not isinstance(data, dict):
        return document
    data = dict(data)
    for table, key in ((data, "source"), (data, "decontaminate"), (dict(_table(data.get("tokenizer"))), "path")):
        given = table.get(key)
        if isinstance(given, str) and given and "\0" not in given and "://" not in given:
            table[key] = Path(given)
            if key == "path":
                data["tokenizer"] = table
    return {**document, "data": data}


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _explain(error: ErrorDetails, document: dict[str, Any]) -> str:
    """One line for the first mistake pydantic found."""
    loc = [part for part in error["loc"] if _is_key(part, error["loc"])]
    key = _key_path(loc)
    given = _shown(_at(document, loc))
    match error["type"]:
        case "extra_forbidden":
            known = [key for key in _known_keys(loc[:-1]) if key != loc[-1]]
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            remedy = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(known)}"
            return f"{key}: unknown key; {remedy}"
        case "missing":
            return f"{key}: missing; add it"
        case "value_error":
            text = str(error["ctx"]["error"])
            return f"{key}: {text}" if key else text
        case _ if loc == ["data", "source"]:
            return f"{key} = {given}: give the path of a file or folder, or an address such as s3://bucket/folder"
        case "string_pattern_mismatch" if "text_suffixes" in loc:
            return f"{key} = {given}: give the end of file names, as in '.txt'"
        case "string_pattern_mismatch":
            rule = "letters, digits, '.', '_' and '-' only, at most 64, starting with a letter or digit"
            return f"{key} = {given}: use {rule}"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{key}: kind is missing or unknown; use kind = 'gpt2', 'bpe' or 'file'"
        case "is_instance_of":
            return f"{key} = {given}: give the path of a file or folder"
        case "model_type":
            return f"{key} = {given}: must be a table with {', '.join(_known_keys(loc))}"
        case _ if loc == ["held_out"]:
            return f"{key} = {given}: give the name of a model, or false"
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            return f"{key} = {given}: {message}"


def _is_key(part: int | str, loc: tuple[int | str, ...]) -> bool:
    # Pydantic adds the tag of a union to the path; the user's file has no such key.
    return not (
        isinstance(part, str)
        and ((part in ("gpt2", "bpe", "file") and "tokenizer" in loc) or "[" in part or part == "constrained-str")
    )


def _key_path(loc: list[int | str]) -> str:
    path = ""
    for part in loc:
        path += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _at(document: Any, loc: list[int | str]) -> Any:
    for part in loc:
        try:
            document = document[part]
        except (KeyError, IndexError, TypeError):
            return None
    return document


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(loc: list[int | str]) -> list[str]:
    """The keys that a table at `loc` may have, found by following the types of the fields."""
    kinds: list[Any] = [Family]
    for part in loc:
        if isinstance(part, str):
            kinds = [k.model_fields[part].annotation for k in kinds if _is_table(k) and part in k.model_fields]
        kinds = [leaf for kind in kinds for leaf in _leaves(kind)]
    return sorted({key for kind in kinds if _is_table(kind) for key in kind.model_fields})


def _leaves(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType, list, typing.Annotated):
        return [leaf for argument in typing.get_args(kind) for leaf in _leaves(argument)]
    return [kind]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
