"""The files of a corpus: on this machine, or at any address that fsspec knows."""

import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from isoflop.config import DataSource
from isoflop.data.hashes import Hashes
from isoflop.data.manifest import SourceFile
from isoflop.errors import InputError, WorkError
from isoflop.given import refuse_unless_plain

SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".parquet", ".arrow", ".bin")
"""What is read beside plain text, by the end of a file's name. A .bin has its .idx beside it."""

Source = Path | str

_ABOUT_THE_CORPUS = ("notice", "license", "licence", "copying", "readme")
# What `datasets` writes beside its .arrow files.
_STATE = "state.json"
_ABOUT_A_DATASET = (_STATE, "dataset_info.json", "dataset_infos.json", "dataset_dict.json")


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """A file of a corpus: its name relative to it, with forward slashes; where it lies; its size there.

    `version` is what a remote store says to tell contents apart (an ETag or the like); None for a local file.
    """

    name: str
    address: str
    bytes: int
    version: str | None = None

    def open(self) -> BinaryIO:
        """The file's bytes, from the first."""
        if self.version is None:
            return open(self.address, "rb")
        import fsspec

        # The files of some stores read no line of bounded length themselves.
        return io.BufferedReader(cast(Any, fsspec.open(self.address, "rb").open()), 2**20)


def corpus_files(data: DataSource) -> list[CorpusFile]:
    """The files of the corpus at `data.source`: itself, or all below it (without hidden ones), sorted by name.

    Files without a known suffix that speak about the corpus (NOTICE, LICENSE, README.md ...) are no part of it.

    Raises:
        InputError: nothing is there, a folder cannot be read or holds no file, or a file's suffix is unknown.
    """
    source = data.source
    if isinstance(source, Path):
        if not os.path.exists(source):
            raise InputError(f"{source}: no such file or folder; set data.source to where the text is")
        found = list(_local_files(source))
        is_folder = source.is_dir()
    else:
        found, is_folder = _remote_files(source)
    if is_folder:
        saved = {_folder(file.name) for file in found if file.name.rpartition("/")[2] == _STATE}
        found = [file for file in found if _is_data(file.name, data) and not _is_cache(file.name, saved)]
    if not found:
        raise InputError(f"{source}: the folder holds no file to read; put files with {_known(data)} there")
    for file in found:
        if suffix_of(file.name, data) is None and not file.name.lower().endswith(".idx"):
            raise InputError(f"{file.address}: cannot tell its format by its name; give files with {_known(data)}")
        _refuse_surrogates(file)
    return sorted(found, key=lambda file: file.name)


def suffix_of(name: str, data: DataSource) -> str | None:
    """The suffix that decides how the file of that name is read; None if there is none."""
    known = sorted((*SUFFIXES, *data.text_suffixes), key=len, reverse=True)
    return next((suffix for suffix in known if name.lower().endswith(suffix.lower())), None)


def source_records(
    source: Source, files: Sequence[CorpusFile], known: Sequence[SourceFile] = (), anew: bool = False
) -> tuple[SourceFile, ...]:
    """Sizes and hashes of the files of the corpus at `source`.

    Not read again are, unless `anew` asks for it, local files that were not touched since they were hashed last, and
    remote ones that have the version which `known` says.

    Raises:
        InputError: a file cannot be read.
    """
    before = {record.file: record for record in known}
    hashes = Hashes(Path(source), anew)

    def record(file: CorpusFile) -> SourceFile:
        was = before.get(file.name)
        if was is not None and file.version is not None and was.version == file.version and not anew:
            return was
        with reading(file.address):
            if file.version is None:
                sha256 = hashes.of(Path(file.address))
            else:
                with file.open() as stream:
                    sha256 = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        return SourceFile(file=file.name, bytes=file.bytes, sha256=sha256, version=file.version)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        records = tuple(pool.map(record, files))
    hashes.keep()
    return records


def notice_of(source: Source) -> str | None:
    """The NOTICE that lies in the corpus's folder, if there is one.

    Raises:
        InputError: it cannot be read or is not UTF-8.
    """
    if isinstance(source, Path):
        path = str((source if source.is_dir() else source.parent) / "NOTICE")
        content = _read(path) if os.path.isfile(path) else None
    else:
        path, content = _remote_notice(source)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start + 1}; save it as UTF-8") from None


@contextmanager
def reading(address: str) -> Iterator[None]:
    """Whatever the file at `address` or its store says against being read, in one line.

    Raises:
        InputError: it cannot be read.
    """
    with _told(address, InputError):
        yield


@contextmanager
def at_work_on(address: str) -> Iterator[None]:
    """The same once work is under way: a store that stops to answer is no fault of what the user gave.

    Raises:
        InputError: a local file cannot be read.
        WorkError: a remote one cannot; what is finished stays.
    """
    with _told(address, WorkError if "://" in address else InputError):
        yield


@contextmanager
def _told(address: str, kind: type[InputError] | type[WorkError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise kind(_cannot_read(address, error)) from None
    except (InputError, WorkError):
        raise
    except Exception as error:
        # The clients of remote stores have classes of their own; on a local file any other error is a fault of ours.
        if "://" not in address:
            raise
        raise kind(_cannot_read(address, error)) from None


def _cannot_read(address: str, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    remedy = (
        "check the file, its permissions and its disk"
        if "://" not in address
        else "check address and credentials, and run again"
    )
    return f"{address}: cannot read ({str(reason).splitlines()[0][:200]}); {remedy}"


def _read(path: str) -> bytes:
    with reading(path):
        return Path(path).read_bytes()


def _local_files(source: Path) -> Iterator[CorpusFile]:
    def refuse(error: OSError) -> None:
        raise InputError(_cannot_read(error.filename, error))

    if not source.is_dir():
        yield _local_file(source, source.name)
        return
    for root, folders, names in os.walk(source, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            _refuse_loop(Path(root) / name, source)
        for name in names:
            path = Path(root) / name
            if not name.startswith("."):
                yield _local_file(path, path.relative_to(source).as_posix())


def _refuse_loop(folder: Path, source: Path) -> None:
    """Folders elsewhere may be linked into a corpus, but none that leads back to one on the way to it."""
    real = os.path.realpath(folder)
    if real == os.path.abspath(folder):
        return  # no link on the way
    above = itertools.takewhile(lambda one: one != source.parent, folder.parents)
    if any(os.path.realpath(one) == real for one in above):
        raise InputError(f"{folder}: is a folder that holds it, by a link; remove the link")


def _local_file(path: Path, name: str) -> CorpusFile:
    with reading(str(path)):
        refuse_unless_plain(path)
        return CorpusFile(name, str(path), path.stat().st_size)


def _remote_files(source: str) -> tuple[list[CorpusFile], bool]:
    """The files at an address, and whether it is a folder."""
    with _store(source) as (store, root):
        is_folder = store.isdir(root)
        if not is_folder and not store.isfile(root):
            raise InputError(f"{source}: no such file or folder; set data.source to where the text is")
        found = store.find(root, detail=True) if is_folder else {root: store.info(root)}
        files = []
        for path, info in found.items():
            name = path.removeprefix(root).lstrip("/") if is_folder else path.rpartition("/")[2]
            if not any(part.startswith(".") for part in name.split("/")):
                address, version = store.unstrip_protocol(path), _version(store, path, info)
                files.append(CorpusFile(name, address, int(info["size"] or 0), version))
        return files, is_folder


def _version(store: Any, path: str, info: dict[str, Any]) -> str:
    told = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return str(told).strip('"') if told else str(store.ukey(path))


def _remote_notice(source: str) -> tuple[str, bytes | None]:
    with _store(source) as (store, root):
        folder = root if store.isdir(root) else root.rpartition("/")[0]
        path = f"{folder}/NOTICE"
        return store.unstrip_protocol(path), store.cat_file(path) if store.isfile(path) else None


@contextmanager
def _store(source: str) -> Iterator[tuple[Any, str]]:
    """The file system that an address names, and the path there."""
    import fsspec

    with reading(source):
        try:
            yield fsspec.url_to_fs(source)
        except ImportError as error:
            extra = " (for s3://: the extra isoflop[s3])" if source.startswith("s3") else ""
            raise InputError(f"{source}: needs another package: {error}{extra}") from None
        except ValueError as error:
            raise InputError(f"{source}: {error}; use an address that fsspec knows") from None


def _is_data(name: str, data: DataSource) -> bool:
    base = name.rpartition("/")[2]
    about = base.split(".")[0].lower() in _ABOUT_THE_CORPUS or base in _ABOUT_A_DATASET
    return suffix_of(name, data) is not None or not about


def _is_cache(name: str, saved: Set[str]) -> bool:
    """Whether `datasets` keeps there what somebody computed of the rows that it `saved` in the folder."""
    base = name.rpartition("/")[2]
    return base.startswith("cache-") and base.endswith(".arrow") and _folder(name) in saved


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _known(data: DataSource) -> str:
    *some, last = (*data.text_suffixes, *SUFFIXES)
    return f"{', '.join(some)} or {last}"


def _refuse_surrogates(file: CorpusFile) -> None:
    if half := lone_surrogate(file.name):
        raise InputError(f"{file.address!r}: the file's name has {half}; correct or remove it")


def lone_surrogate(text: str) -> str | None:
    """What to say of the first half character in a text; None if it is whole."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"half a character (\\u{code:04x}, a lone surrogate) at character {error.start + 1}"
    return None


def is_megatron(files: Sequence[CorpusFile]) -> bool:
    """Whether the corpus is pre-tokenised.

    Raises:
        InputError: it is in part.
    """
    tokenised = [file.name.lower().endswith((".bin", ".idx")) for file in files]
    if any(tokenised) and not all(tokenised):
        text = files[tokenised.index(False)]
        raise InputError(f"{text.address}: lies among .bin and .idx files; keep text and tokens in folders apart")
    return any(tokenised)
