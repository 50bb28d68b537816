"""Reads a family file and turns every mistake in it into one line that names file, key, value and remedy."""

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isoflop.config.family import DataSource, Evaluation, Family, FileTokenizer
from isoflop.config.tuned import TUNED_KEYS, Tuned
from isoflop.errors import InputError
from isoflop.given import read_given

_Document = TypeVar("_Document", bound=BaseModel)


def load_family(path: Path, *, use_tuned: bool = True) -> Family:
    """The family that the TOML file at `path` describes, its data source made absolute.

    The values of the file that its key `tuned` names are in the recipe then, unless `use_tuned` is off.

    Raises:
        InputError: a file cannot be read, is no TOML, or says something impossible.
    """
    family = _read(path, Family)
    update: dict[str, object] = {"data": _absolute(family.data, path.parent)}
    if "evaluation" in family.model_fields_set:
        update["evaluation"] = _absolute_evaluation(family.evaluation, path.parent)
    family = family.model_copy(update=update)
    return _with_tuned(family, path) if use_tuned else family


def _with_tuned(family: Family, path: Path) -> Family:
    """The family with what tuning found in the place of what its [recipe] leaves out."""
    if family.tuned is None:
        return family
    tuned_path = _seen_from(path.parent, family.tuned)
    if not tuned_path.exists():
        raise InputError(f"{path}: tuned: no file at {tuned_path}; isoflop tune {path} makes it")
    tuned = _read(tuned_path, Tuned)
    for key, ours, theirs in (
        ("parametrisation", family.parametrisation, tuned.parametrisation),
        ("recipe.base_width", family.recipe.base_width, tuned.base_width),
    ):
        if ours != theirs:
            raise InputError(f"{path}: {key} = {ours}, but {tuned_path} was found at {theirs}; tune again or remove it")
    found = {key: getattr(tuned, key) for key in TUNED_KEYS if key not in family.recipe.model_fields_set}
    return family.model_copy(update={"recipe": family.recipe.model_copy(update=found)})


# A key of a hundred parts; tomllib takes the square of their number in memory, ten gigabytes for a file of 100 KB.
_DEEP = re.compile(r"""(?<![\w.\\-])(?:(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""")


def _read(path: Path, kind: type[_Document]) -> _Document:
    try:
        text = read_given(path).decode("utf-8-sig")
        if _DEEP.search(text):
            raise RecursionError
        document = tomllib.loads(text)
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
        return kind.model_validate(_with_paths(document))
    except ValidationError as error:
        # A mistyped key is also a missing one: the typo is what the user wants to hear about.
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        raise InputError(f"{path}: {_explain(first, document, kind)}") from None


def _absolute(data: DataSource, folder: Path) -> DataSource:
    """The same with its paths seen from `folder`; addresses stay."""
    update: dict[str, object] = {}
    if isinstance(data.source, Path):
        update["source"] = _seen_from(folder, data.source)
    if data.decontaminate is not None:
        update["decontaminate"] = _seen_from(folder, data.decontaminate)
    if isinstance(data.tokenizer, FileTokenizer):
        update["tokenizer"] = data.tokenizer.model_copy(update={"path": _seen_from(folder, data.tokenizer.path)})
    return data.model_copy(update=update)


def _absolute_evaluation(evaluation: Evaluation, folder: Path) -> Evaluation:
    given = {key: getattr(evaluation, key) for key in ("data_dir", "task_folder")}
    return evaluation.model_copy(
        update={key: _seen_from(folder, path) for key, path in given.items() if path is not None}
    )


def _seen_from(folder: Path, path: Path) -> Path:
    # Not `resolve`: it takes a link that leads to itself for a fault of the program.
    return Path(os.path.abspath(folder / path))


def _with_paths(document: dict[str, Any]) -> dict[str, Any]:
    """The document with paths where the file can only say strings; an address (s3://...) stays a string."""
    tuned = document.get("tuned")
    if isinstance(tuned, str) and tuned and "\0" not in tuned:
        document = {**document, "tuned": Path(tuned)}
    evaluation = dict(_table(document.get("evaluation")))
    for key in ("data_dir", "task_folder"):
        given = evaluation.get(key)
        if isinstance(given, str) and given and "\0" not in given:
            document = {**document, "evaluation": evaluation}
            evaluation[key] = Path(given)
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


def _explain(error: ErrorDetails, document: dict[str, Any], root: type[BaseModel]) -> str:
    """One line for the first mistake pydantic found."""
    loc = [part for part in error["loc"] if _is_key(part, error["loc"])]
    key = _key_path(loc)
    given = _shown(_at(document, loc))
    match error["type"]:
        case "extra_forbidden":
            known = _known_keys(error["loc"][:-1], root)
            if loc[-1] in _known_keys(loc[:-1], root):  # a tokenizer of another kind has it
                kind = error["loc"][-2]
                return f"{key}: not with kind = {kind!r}; remove it (known keys here: {', '.join(known)})"
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
        case "string_pattern_mismatch" if loc == ["cluster", "time_limit"]:
            return f"{key} = {given}: give minutes, hours:minutes:seconds or days-hours, as in '12:00:00'"
        case "string_pattern_mismatch" if loc[:2] == ["cluster", "sbatch"]:
            return f"{key} = {given}: give a long option of sbatch, as in '--gpus-per-node=8'"
        case "string_pattern_mismatch" if "text_suffixes" in loc:
            return f"{key} = {given}: give the end of file names, as in '.txt'"
        case "string_pattern_mismatch":
            rule = "letters, digits, '.', '_' and '-' only, at most 64, starting with a letter or digit"
            return f"{key} = {given}: use {rule}"
        case "union_tag_invalid" | "union_tag_not_found":
            return f"{key}: kind is missing or unknown; use kind = 'gpt2', 'bpe' or 'file'"
        case "is_instance_of":
            return f"{key} = {given}: give the path of a file or folder"
        case "model_type" | "model_attributes_type" if loc[-1:] == ["tokenizer"]:
            return f"{key} = {given}: give a table, as in {{ kind = 'gpt2' }} or {{ kind = 'bpe', vocab_size = 4096 }}"
        case "model_type" | "model_attributes_type":
            return f"{key} = {given}: must be a table with {', '.join(_known_keys(loc, root))}"
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
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except RecursionError:
        return "a table within tables"
    return text if len(text) <= 60 else text[:57] + "..."


def _known_keys(loc: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """The keys that a table at `loc` may have, found by following the types of the fields.

    A tag of a union in `loc`, as pydantic puts it there, leaves the tables of that `kind`; without it all are meant.
    """
    kinds: list[Any] = [root]
    for part in loc:
        if isinstance(part, str):
            fields = [k.model_fields[part].annotation for k in kinds if _is_table(k) and part in k.model_fields]
            kinds = fields or [k for k in kinds if _is_table(k) and part in _tags(k)]
        kinds = [leaf for kind in kinds for leaf in _leaves(kind)]
    return sorted({key for kind in kinds if _is_table(kind) for key in kind.model_fields})


def _tags(kind: type[BaseModel]) -> tuple[Any, ...]:
    field = kind.model_fields.get("kind")
    return () if field is None else typing.get_args(field.annotation)


def _leaves(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (typing.Union, types.UnionType, list, typing.Annotated):
        return [leaf for argument in typing.get_args(kind) for leaf in _leaves(argument)]
    return [kind]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
