"""The manifest once more as Croissant metadata (mlcommons.org/croissant/1.0), which data set tools read."""

from pathlib import Path
from typing import Any

from isoflop.data.manifest import SPLITS, TOKENIZER_FILE, Manifest
from isoflop.durable import write_json

FILE = "croissant.json"

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def write_croissant(folder: Path, manifest: Manifest) -> None:
    """Writes `folder`/croissant.json: sources and shards with licence, sizes and SHA-256, and counts by domain.

    Raises:
        WorkError: the disk is full or cannot be written.
    """
    write_json(folder / FILE, _document(folder, manifest))


def _document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    width = 2 if manifest.dtype == "uint16" else 4
    files = [_file(f"source/{source.file}", source.file, source.bytes, source.sha256) for source in manifest.sources]
    for split in SPLITS:
        for shard in manifest.split(split).shards:
            list_bytes = (folder / shard.list_file).stat().st_size
            if not shard.is_in_corpus:
                files.append(_file(shard.file, shard.file, shard.tokens * width, shard.sha256))
            files.append(_file(shard.list_file, shard.list_file, list_bytes, shard.list_sha256))
    tokenizer_bytes = (folder / TOKENIZER_FILE).stat().st_size
    files.append(_file(TOKENIZER_FILE, TOKENIZER_FILE, tokenizer_bytes, manifest.tokenizer.sha256, "application/json"))
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": "tokens",
        "description": (
            f"{manifest.splits.train.tokens} tokens to train on and {manifest.splits.held_out.tokens} held out, "
            f"little-endian {manifest.dtype}, made of {len(manifest.sources)} source files"
        ),
        "license": manifest.licence,
        **({"copyrightNotice": manifest.notice} if manifest.notice else {}),
        "distribution": files,
        "recordSet": [_domains(manifest)],
    }


def _file(name: str, url: str, size: int, sha256: str, form: str = "application/octet-stream") -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": url,
        "contentSize": f"{size} B",
        "encodingFormat": form,
        "sha256": sha256,
    }


def _domains(manifest: Manifest) -> dict[str, Any]:
    """The counts by split and domain, inline."""
    columns = {"split": "sc:Text", "domain": "sc:Text", "documents": "sc:Integer", "tokens": "sc:Integer"}
    columns["bytes"] = "sc:Integer"
    return {
        "@type": "cr:RecordSet",
        "@id": "domains",
        "name": "domains",
        "field": [
            {"@type": "cr:Field", "@id": f"domains/{name}", "name": f"domains/{name}", "dataType": kind}
            for name, kind in columns.items()
        ],
        "data": [
            {
                "domains/split": split,
                "domains/domain": domain,
                "domains/documents": counts.documents,
                "domains/tokens": counts.tokens,
                "domains/bytes": counts.bytes,
            }
            for split in SPLITS
            for domain, counts in manifest.split(split).domains.items()
        ],
    }
