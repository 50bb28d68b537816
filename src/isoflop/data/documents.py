"""From records to documents: decoding, JSON, and what can be wrong with one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from isoflop.config import DataSource
from isoflop.data.corpus import CorpusFile, corpus_files, lone_surrogate
from isoflop.data.readers import folder_of, records, some
from isoflop.data.records import FILE_IS_DONE, Fault, FaultLimit, Position, Record
from isoflop.errors import InputError


@dataclass(frozen=True, slots=True)
class Document:
    """A text, the file it came from (relative to the corpus), where in it, and its domain.

    The domain is `meta.pile_set_name`, or else the corpus's top folder that the file lies in, or else "".
    """

    text: str
    source: str
    domain: str
    offset: int = 0


def parse(record: Record, file: CorpusFile, text_key: str) -> Document | Fault:
    """The document of a record."""
    unit = "line" if record.domain is None else "row"
    where = "" if record.end == FILE_IS_DONE else f"{unit} {record.number}: "
    try:
        content = record.content.decode()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        reason = f"{where}not UTF-8 at byte {error.start + 1} (0x{byte:02x}); save the text as UTF-8 or remove it"
        return _fault(record, reason)
    if record.domain is not None:
        return Document(content, file.name, record.domain, record.offset)
    read = _parsed(content, text_key, folder_of(file.name))
    if isinstance(read, str):
        return _fault(record, where + read)
    return Document(read[0], file.name, read[1], record.offset)


def read_documents(data: DataSource, files: Sequence[CorpusFile] | None = None) -> Iterator[Document]:
    """Every document of the corpus, files in the order of their names, empty documents included.

    Raises:
        InputError: a file cannot be read, more faults are met than `data` allows, or no document has any text.
    """
    any_text = False
    files = corpus_files(data) if files is None else files
    limit = FaultLimit(data.faults_allowed, [file.address for file in files])
    for item in records(files, data, Position()):
        read = item if isinstance(item, Fault) else parse(item, files[item.file], data.text_key)
        if isinstance(read, Fault):
            limit.add({}, [read])
        else:
            limit.add({item.file: 1}, [])
            any_text = any_text or bool(read.text)
            yield read
    limit.decide()
    if not any_text:
        raise no_text(data)


def no_text(data: DataSource) -> InputError:
    """The line for a corpus in which there is nothing to read."""
    return InputError(f"{data.source}: no document has any text; give a corpus with text in it")


def _parsed(line: str, text_key: str, folder: str) -> tuple[str, str] | str:
    """(text, domain) of one line of JSON; a `str` is what is wrong with it."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg.removesuffix(' at')} at column {error.colno}; correct or remove it"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
        return f"not readable as JSON ({error}); correct or remove it"
    if not isinstance(record, dict):
        return f'is no JSON object; every line must look like {{"{text_key}": "..."}}'
    if text_key not in record:
        return f"no field {text_key!r}; set data.text_key to one of: {some(list(record))}"
    text = record[text_key]
    if not isinstance(text, str):
        return f"field {text_key!r} is {_json_kind(text)}, not a text; correct it or set data.text_key"
    meta = record.get("meta")
    domain = meta.get("pile_set_name") if isinstance(meta, dict) else None
    domain = domain if isinstance(domain, str) else folder
    # A valid line of UTF-8 gives half a character only by an escape.
    if "\\u" in line:
        for what, said in (("the text", text), ("meta.pile_set_name", domain)):
            if half := lone_surrogate(said):
                return f"{what} has {half}; correct or remove it"
    return text, domain


def _fault(record: Record, reason: str) -> Fault:
    return Fault(record.file, record.offset, record.number, record.end, reason)


def _json_kind(value: object) -> str:
    kinds = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
