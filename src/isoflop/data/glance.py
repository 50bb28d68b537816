"""What speaks against a corpus by its first megabytes: known in a moment, before anything is planned or written."""

from collections.abc import Sequence
from pathlib import Path

from isoflop.config import DataSource
from isoflop.data.corpus import CorpusFile, is_megatron
from isoflop.data.documents import no_text, parse
from isoflop.data.readers import records
from isoflop.data.records import Fault, FaultLimit, Position, Record
from isoflop.data.refusals import refuse_one_side, refuse_text_settings
from isoflop.data.split import is_held_out
from isoflop.data.task_texts import task_files

_DOCUMENTS = 1000
_BYTES = 2**24


def glance(data: DataSource, files: Sequence[CorpusFile], to_train: bool) -> None:
    """Reads the beginning of a corpus on this machine, and the tokenizer and the tasks that the family file names.

    A corpus that ends there is known whole. `to_train` asks for documents on both sides of its split.

    Raises:
        InputError: none of the first documents can be read, or over half of the first thousand; or of a whole corpus,
            more than `data` allows, or it has no text, or no document on one side of the split.
    """
    if data.tokenizer.kind == "file":
        from isoflop.data.tokenizer import make_tokenizer

        make_tokenizer(data.tokenizer, ())
    if data.decontaminate is not None:
        task_files(data.decontaminate)
    if is_megatron(files):
        refuse_text_settings(data)
        return
    if not isinstance(data.source, Path):
        return  # what a store gives is read once
    limit = FaultLimit(data.faults_allowed, [file.address for file in files])
    n_read = n_bytes = n_train = n_held_out = 0
    is_whole = True
    for number, item in enumerate(records(files, data, Position())):
        if number == _DOCUMENTS or n_bytes > _BYTES:
            is_whole = False
            break
        n_bytes += len(item.content) if isinstance(item, Record) else 0
        read = item if isinstance(item, Fault) else parse(item, files[item.file], data.text_key)
        if isinstance(read, Fault):
            limit.add({}, [read])
            continue
        limit.add({item.file: 1}, [])
        n_read += 1
        if read.text:
            n_held_out += is_held_out(read.text, data.held_out_fraction)
            n_train += not is_held_out(read.text, data.held_out_fraction + data.test_fraction)
    if is_whole or not n_read:
        limit.decide()
    if is_whole:
        if not n_train + n_held_out:
            raise no_text(data)
        if to_train:
            refuse_one_side(data, n_train, n_held_out)
