"""A multi-domain corpus of some 290 MB from Debian packages and the pocket corpus, by one command:

    python corpora/assemble.py corpora/larger

Needs apt-get with Debian 12's sources, and zstandard. Makes one .jsonl.zst a set, in the Pile's form, and a NOTICE with
every set's licence, package, version and SHA-256. Packages move with point releases: a set whose text is not the one
that sets.lock.json tells of is named.
"""

import argparse
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import zstandard

HERE = Path(__file__).parent
LOCK = HERE / "sets.lock.json"
LONGEST_DOCUMENT = 2**20


def main() -> None:
    """Assembles the corpus in the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the corpus goes; made if missing")
    parser.add_argument("--permissive", action="store_true", help="only sets that may be shipped under Apache-2.0")
    parser.add_argument("--lock", action="store_true", help="take what is made as what sets.lock.json says")
    arguments = parser.parse_args()
    sets = tomllib.loads((HERE / "packages.toml").read_text())["set"]
    if arguments.permissive:
        sets = [one for one in sets if not one.get("copyleft")]
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        packages = sorted({one["package"] for one in sets})
        versions = _unpack(packages, Path(work))
        made = []
        for one in sets:
            documents = sorted(set(_documents(one, Path(work) / one["package"])), key=_digest)
            made.append(_write(folder, one, documents, versions[one["package"]]))
            print(_row(made[-1]), flush=True)
    made += _pocket(folder)
    (folder / "NOTICE").write_text(_notice(made), encoding="utf-8")
    total = {key: sum(one[key] for one in made) for key in ("documents", "bytes")}
    print(_row({"name": "all", **total}))
    _compare(made, arguments.lock)


def _unpack(packages: list[str], work: Path) -> dict[str, str]:
    """Fetches the packages, unpacks each into a folder of its name, and tells their versions."""

    def unpack(package: str) -> tuple[str, str]:
        target = work / f"{package}.deb.d"
        target.mkdir()
        # Root's apt would fetch as another user, who may not write here.
        fetch = ["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package]
        subprocess.run(fetch, cwd=target, check=True)
        [archive] = target.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", archive, work / package], check=True)
        field = ["dpkg-deb", "-f", archive, "Version"]
        return package, subprocess.run(field, check=True, capture_output=True, text=True).stdout.strip()

    with ThreadPoolExecutor(4) as pool:
        return dict(pool.map(unpack, packages))


def _documents(one: dict[str, Any], package: Path) -> Iterator[str]:
    """The texts of a set, each of some length and none of more than a megabyte."""
    for pattern in one["files"]:
        for path in sorted(package.glob(pattern)):
            if path.is_file() and not path.is_symlink():
                for text in KINDS[one["kind"]](path):
                    if 40 <= len(text.encode()) <= LONGEST_DOCUMENT:
                        yield text


def _text(path: Path) -> Iterator[str]:
    content = _content(path)
    try:
        yield content.decode().strip()
    except UnicodeDecodeError:
        return  # test data of compilers: files that are not text on purpose


def _html(path: Path) -> Iterator[str]:
    parser = _Text()
    parser.feed(_content(path).decode(errors="replace"))
    yield re.sub(r"\n[ \t]*(\n[ \t]*)+", "\n\n", "".join(parser.parts)).strip()


class _Text(HTMLParser):
    """What a page says, with lines where its blocks end."""

    _BLOCKS = frozenset(["p", "div", "tr", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "table", "pre", "br"])
    _SILENT = frozenset(("script", "style", "head"))

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent += tag in self._SILENT
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in self._SILENT
        if tag in self._BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.parts.append(data)


def _metamath(path: Path) -> Iterator[str]:
    """Sections, without the proofs: those are near random letters."""
    content = re.sub(r"\$=.*?\$\.", "$.", _content(path).decode(), flags=re.DOTALL)
    for section in re.split(r"\n(?=\$\(\n[#*=.-]{8})", content):
        yield section.strip()


def _wordnet(path: Path) -> Iterator[str]:
    """Twenty synonym sets a document: their words and what they mean."""
    kind = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}[path.suffix[1:]]
    lines = []
    for line in _content(path).decode().splitlines():
        if not line.startswith(" "):
            fields, _, gloss = line.partition(" | ")
            columns = fields.split(" ")
            words = [columns[4 + 2 * n].replace("_", " ") for n in range(int(columns[3], 16))]
            lines.append(f"{', '.join(words)} ({kind}): {gloss.strip()}")
    for first in range(0, len(lines), 20):
        yield "\n".join(lines[first : first + 20])


def _dictionary(path: Path) -> Iterator[str]:
    """Some 4 kB of articles a document, in their order; the index tells in base 64 where each lies."""
    content = _content(path)
    index = path.with_name(path.name.removesuffix(".dict.dz") + ".index").read_text(encoding="utf-8")
    places = {(_number(row[1]), _number(row[2])) for line in index.splitlines() if len(row := line.split("\t")) == 3}
    articles: list[str] = []
    for start, length in sorted(places):
        articles.append(content[start : start + length].decode(errors="replace").strip())
        if sum(map(len, articles)) >= 4000:
            yield "\n\n".join(articles)
            articles = []
    yield "\n\n".join(articles)


def _number(digits: str) -> int:
    number = 0
    for digit in digits:
        number = 64 * number + _BASE_64.index(digit)
    return number


_BASE_64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def _content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix in (".gz", ".dz") else path.read_bytes()


def _write(folder: Path, one: dict[str, Any], documents: list[str], version: str) -> dict[str, Any]:
    meta = {"pile_set_name": one["name"]}
    lines = (json.dumps({"text": text, "meta": meta}, ensure_ascii=False) + "\n" for text in documents)
    raw = "".join(lines).encode()
    name = one["name"].lower().replace(" ", "-") + ".jsonl.zst"
    packed = zstandard.ZstdCompressor(level=9, write_checksum=True, threads=-1).compress(raw)
    (folder / name).write_bytes(packed)
    return {
        "name": one["name"],
        "licence": one["licence"],
        "origin": f"Debian package {one['package']} {version}",
        "documents": len(documents),
        "bytes": sum(len(text.encode()) for text in documents),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def _pocket(folder: Path) -> list[dict[str, Any]]:
    """The pocket corpus joins as it is."""
    packed = (HERE / "pocket.jsonl.zst").read_bytes()
    (folder / "pocket.jsonl.zst").write_bytes(packed)
    raw = zstandard.ZstdDecompressor().stream_reader(packed).read()
    texts = [json.loads(line)["text"] for line in io.BytesIO(raw)]
    return [
        {
            "name": "pocket corpus (eight sets)",
            "licence": "as told below",
            "origin": "corpora/pocket.jsonl.zst",
            "documents": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
    ]


def _notice(made: list[dict[str, Any]]) -> str:
    rows = [f"{one['name']}: {one['licence']}; {one['origin']}; SHA-256 of the lines {one['sha256']}" for one in made]
    pocket = (HERE / "NOTICE").read_text(encoding="utf-8")
    return "Sets of this corpus, their licences and where they are from\n\n" + "\n".join(rows) + "\n\n" + pocket


def _compare(made: list[dict[str, Any]], lock: bool) -> None:
    hashes = {one["name"]: {"sha256": one["sha256"], "origin": one["origin"]} for one in made}
    if lock:
        LOCK.write_text(json.dumps(hashes, indent=2) + "\n")
    known = json.loads(LOCK.read_text()) if LOCK.exists() else {}
    for name, one in hashes.items():
        if name in known and known[name]["sha256"] != one["sha256"]:
            print(f"{name}: not the text of {LOCK.name} ({known[name]['origin']}): {one['origin']}", file=sys.stderr)


def _row(one: dict[str, Any]) -> str:
    return f"{one['name']:25} {one['documents']:7,} documents {one['bytes'] / 1e6:7.1f} MB"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


KINDS: dict[str, Callable[[Path], Iterator[str]]] = {
    "text": _text,
    "html": _html,
    "metamath": _metamath,
    "wordnet": _wordnet,
    "dictionary": _dictionary,
}
"""How a file becomes documents."""


if __name__ == "__main__":
    main()
