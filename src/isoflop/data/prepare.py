"""From a corpus to tokens: read, split by document, tokenise on all cores, shard, and write the manifest last."""

import re
import shutil
from pathlib import Path

from tokenizers import Tokenizer

from isoflop.config import DataSource
from isoflop.data.chunks import CHUNK_BYTES, portions, put_in_place, read_portion
from isoflop.data.corpus import is_megatron
from isoflop.data.croissant import write_croissant
from isoflop.data.description import described, splits_of
from isoflop.data.documents import no_text
from isoflop.data.look import Corpus, look, remembered
from isoflop.data.manifest import SPLITS, TOKENIZER_FILE, Manifest, Splits, can_do_without, load_manifest, manifest_path
from isoflop.data.megatron import link_source, read_indices, split_tokens
from isoflop.data.refusals import refuse_differences, refuse_too_few
from isoflop.data.shards import check_sizes, summed
from isoflop.data.tokenisation import PARTS, Progress, dtype_for, fault_limit, tokenise, tokenizer_of
from isoflop.data.tokenizer import make_tokenizer, tokenizer_json
from isoflop.durable import sha256_of_file, write_json, write_text
from isoflop.errors import InputError, WorkError

_OUR_FILES = re.compile(
    r"(train|held_out|test)-[0-9]{5,}\.(bin|documents\.npy)|tokenizer\.json|croissant\.json|.*\.part"
)


def prepare(
    data: DataSource,
    folder: Path,
    progress: Progress,
    *,
    workers: int | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    anew: bool = False,
) -> Manifest:
    """Prepares `data` in `folder` and returns its manifest; what is already there and fits is left as it is.

    The same corpus and settings give the same bytes, whatever the number of workers (default: one a core) and however
    often the work was interrupted: it goes on after the last finished shard. The manifest comes last. `anew` hashes the
    corpus again, whatever is known of it.

    Raises:
        InputError: the corpus cannot be read or is too small, or `folder` holds data made of something else.
        WorkError: the disk is full, or what `folder` holds is damaged.
    """
    if manifest_path(folder).exists():
        return _what_is_there(data, folder, progress, chunk_bytes, anew)
    corpus = look(data, chunk_bytes, anew=anew)
    try:
        if is_megatron(corpus.files):
            return _read_in_place(data, folder, progress, corpus)
        tokenise(data, folder, progress, corpus, workers=workers)
        return _finish(data, folder, progress, corpus)
    except InputError:
        _sweep(folder)
        raise
    finally:
        _remove_if_empty(folder)


def prepare_part(
    data: DataSource, folder: Path, progress: Progress, part: int, n_parts: int, *, workers: int | None = None
) -> None:
    """Does every `n_parts`-th portion of the corpus from number `part` on; `prepare` puts all together.

    Raises:
        InputError: as `prepare`; or duplicates are to be left out, which needs the whole corpus in one place.
        WorkError: as `prepare`.
    """
    if data.duplicates != "keep":
        raise InputError("data.duplicates: needs the whole corpus on one machine; run isoflop data without --part")
    if manifest_path(folder).exists():
        _what_is_there(data, folder, progress, CHUNK_BYTES)
        return
    corpus = look(data, CHUNK_BYTES)
    if not is_megatron(corpus.files):
        tokenise(data, folder, progress, corpus, workers=workers, part=part, n_parts=n_parts)


def _finish(data: DataSource, folder: Path, progress: Progress, corpus: Corpus) -> Manifest:
    """Puts the shards in their places and writes what tells of them."""
    parts = folder / PARTS
    found = [read_portion(parts, number, corpus.key) for number in range(len(portions(corpus.files)))]
    chunks = [chunk for portion in found for chunk in portion]
    fault_limit(data, corpus, chunks).decide()
    if not any(chunk.shards for chunk in chunks):
        raise no_text(data)
    by_split = {split: [chunk.shards[split] for chunk in chunks if split in chunk.shards] for split in SPLITS}
    refuse_too_few(data, summed(by_split["train"]), summed(by_split["held_out"]))
    placed = put_in_place(folder, parts, found)
    splits = splits_of(placed, chunks)
    _tell_unknown_domains(data, splits, progress)
    tokenizer = tokenizer_of(data, corpus, parts, progress)
    manifest = described(data, corpus, tokenizer, splits, dtype_for(data), chunks)
    _write(folder, manifest, tokenizer, progress)
    shutil.rmtree(parts, ignore_errors=True)
    return manifest


def _tell_unknown_domains(data: DataSource, splits: Splits, progress: Progress) -> None:
    """A misspelt domain of the mixture changes nothing: who wrote it must hear of it."""
    known = {domain for name in SPLITS for domain in getattr(splits, name).domains}
    for domain in sorted(set(data.mixture) - known):
        shown = ", ".join(sorted(known)[:20])
        progress(f"data: data.mixture names {domain!r}, which no document kept has; there are {shown}")


def _read_in_place(data: DataSource, folder: Path, progress: Progress, corpus: Corpus) -> Manifest:
    """Describes a corpus that is tokens already; none of it is copied."""
    indexed = read_indices(data, corpus.files)
    tokenizer = make_tokenizer(data.tokenizer, ())
    progress("data: reading the tokens where they lie")
    splits = Splits(**split_tokens(data, folder, tokenizer, indexed))
    refuse_too_few(data, splits.train, splits.held_out)
    manifest = described(data, corpus, tokenizer, splits, indexed[0].dtype, [])
    manifest = manifest.model_copy(update={"documents_read": sum(len(one.documents) for one in indexed)})
    link_source(folder, Path(data.source))
    _write(folder, manifest, tokenizer, progress)
    return manifest


def _write(folder: Path, manifest: Manifest, tokenizer: Tokenizer, progress: Progress) -> None:
    splits = manifest.splits
    write_text(folder / TOKENIZER_FILE, tokenizer_json(tokenizer))
    write_croissant(folder, manifest)
    progress(f"data: tokenised: {splits.train.tokens:,} tokens to train on, {splits.held_out.tokens:,} held out")
    write_json(manifest_path(folder), manifest.model_dump(mode="json"))


def _what_is_there(
    data: DataSource, folder: Path, progress: Progress, chunk_bytes: int, anew: bool = False
) -> Manifest:
    manifest = load_manifest(folder)
    if can_do_without(data, folder):
        progress(f"data: {data.source} is not here; the tokens made of it are used")
        corpus = remembered(data, chunk_bytes, manifest)
    else:
        corpus = look(data, chunk_bytes, manifest.sources, anew)
    refuse_differences(folder, manifest, data, corpus.preparation, corpus.sources, corpus.notice)
    if is_megatron(corpus.files):
        link_source(folder, Path(data.source))
    check_sizes(folder, manifest)
    path = folder / TOKENIZER_FILE
    if not path.is_file() or sha256_of_file(path) != manifest.tokenizer.sha256:
        raise WorkError(f"{path}: missing or changed since it was written; delete {folder} and prepare the data again")
    refuse_too_few(data, manifest.splits.train, manifest.splits.held_out)
    shutil.rmtree(folder / PARTS, ignore_errors=True)  # what a kill right after the manifest left
    progress(f"data: {manifest.splits.train.tokens:,} tokens to train on are ready")
    return manifest


def _sweep(folder: Path) -> None:
    """Removes all of ours from a folder without a manifest."""
    try:
        if folder.is_dir() and not manifest_path(folder).exists():
            shutil.rmtree(folder / PARTS, ignore_errors=True)
            for path in folder.iterdir():
                if _OUR_FILES.fullmatch(path.name):
                    path.unlink()
    except OSError as error:
        raise WorkError(f"{folder}: cannot clean up ({error.strerror}); check its permissions and run again") from None


def _remove_if_empty(folder: Path) -> None:
    """Removes what an interruption before the first finished chunk left: empty journals and folders."""
    parts = folder / PARTS
    if parts.is_dir() and not any(path.suffix in (".bin", ".json", ".npz") for path in parts.rglob("*")):
        shutil.rmtree(parts, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
