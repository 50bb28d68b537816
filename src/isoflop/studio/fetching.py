"""What is taken away from the studio, and what is brought: report, figures, checked releases; corpora."""

import asyncio
import hashlib
import io
import os
import re
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from isoflop.durable import part_of, sync_folder
from isoflop.errors import InputError, WorkError
from isoflop.studio import pages
from isoflop.studio.context import studio_of
from isoflop.studio.guard import account_of, check_token, form_of
from isoflop.studio.silent import Silent

PIECE = 2**20
# Figures take some seconds of a core: drawn by one at a time, and once for each state of a run.
DRAWING = threading.Lock()
# The names of files that `isoflop data` reads; none of them is unpacked here.
CORPUS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(jsonl|jsonl\.zst|jsonl\.gz|parquet|arrow|txt)")
# report.html brings its own style and one script, named by its hash in the page's own policy.
# Sandboxed, it is of an origin of its own: whatever a text could bring into it reaches nothing of the studio.
REPORT_POLICY = "sandbox allow-scripts allow-downloads; frame-ancestors 'none'; connect-src 'none'"


def report(request: Request) -> Response:
    """report.html as it lies in the run directory."""
    studio = studio_of(request)
    path = studio.places.run(studio.run_of(request).name).report
    if not path.is_file():
        raise HTTPException(404, "no report yet: it is drawn when all models are trained")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def figures(request: Request) -> Response:
    """Every figure of the report as SVG, PNG and CSV, in one archive."""
    studio = studio_of(request)
    run = studio.run_of(request)
    live = studio.lives.of(run.name)
    with DRAWING:
        packed = _figures_of(live.folder.path, live.version())
    return Response(packed, media_type="application/zip", headers=_named(f"{run.name}-figures.zip"))


@lru_cache(maxsize=4)
def _figures_of(folder: Path, version: str) -> bytes:
    from isoflop.pipeline.report import save_figures

    packed = io.BytesIO()
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in save_figures(folder, Path(place)):
            archive.write(path, f"{folder.name}-figures/{path.name}")
    return packed.getvalue()


def release(request: Request) -> Response:
    """The release folders as a tar, every file of them checked against its hash before the first byte is sent."""
    from isoflop.pipeline.verification import verify_release

    studio = studio_of(request)
    run = studio.run_of(request)
    folder = studio.places.run(run.name).path
    verify_release(folder, Silent()).raise_for_faults()
    paths = [path for path in sorted((folder / "release").rglob("*")) if path.is_file() and not path.is_symlink()]
    names = [f"{run.name}/{path.relative_to(folder / 'release').as_posix()}" for path in paths]
    return StreamingResponse(
        tarred(paths, names), media_type="application/x-tar", headers=_named(f"{run.name}-release.tar")
    )


def tarred(paths: Sequence[Path], names: Sequence[str]) -> Iterator[bytes]:
    """A tar of the files, and last SHA256SUMS of them as `sha256sum --check` reads it; a piece at a time."""
    sums = []
    for path, name in zip(paths, names, strict=True):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield _header(name, size)
            left = size
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise WorkError(f"{path}: became shorter while it was read")
                digest.update(piece)
                left -= len(piece)
                yield piece
        yield bytes(-size % tarfile.BLOCKSIZE)
        sums.append(f"{digest.hexdigest()}  {name}\n")
    text = "".join(sums).encode()
    yield _header("SHA256SUMS", len(text)) + text + bytes(-len(text) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


async def verify(request: Request) -> Response:
    """`isoflop verify` of the releases."""
    from isoflop.pipeline.verification import verify_release

    await form_of(request)
    studio = studio_of(request)
    run = studio.run_of(request)
    found = await run_in_threadpool(verify_release, studio.places.run(run.name).path, Silent())
    return pages.show(request, "verified.html.jinja", run=run, verified=found.folders)


async def bring(request: Request) -> Response:
    """Keeps a corpus that is sent as the body: one file, bounded, never unpacked."""
    studio, account = studio_of(request), account_of(request, "launch")
    check_token(request, request.headers.get("x-token", ""))
    name = request.query_params.get("name", "")
    if not CORPUS_NAME.fullmatch(name):
        raise InputError(f"{name[:80]!r}: bring .jsonl (.zst, .gz), .parquet, .arrow or .txt, named in plain letters")
    path = studio.places.corpora(account.name) / name
    # One after the other: at once each would find room for itself.
    async with studio.bringing.setdefault(account.name, asyncio.Lock()):
        size = await _keep(request, path, studio.most_upload_bytes)
    studio.audit.add(account.name, "brought a corpus", file=name, bytes=size)
    return JSONResponse({"corpus": str(path.absolute()), "bytes": size})


async def _keep(request: Request, path: Path, most: int) -> int:
    """The body as the file at `path`, whole or not at all, with what lies beside it at most `most` bytes; its own.

    Raises:
        InputError: it is more, nothing, or there already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise InputError(f"{path.name}: there already; rename yours")
    for left in path.parent.glob("*.part"):  # of a server that was killed meanwhile
        left.unlink(missing_ok=True)
    there = sum(one.stat().st_size for one in path.parent.iterdir() if one.is_file())
    part, size = part_of(path), 0
    try:
        with open(part, "wb") as file:
            async for piece in request.stream():
                size += len(piece)
                if there + size > most:
                    told = f"{most / 1e6:,.0f} MB"
                    raise InputError(
                        f"{path.name}: more than {told} with what you brought before; give its path instead"
                    )
                await run_in_threadpool(file.write, piece)
            file.flush()
            await run_in_threadpool(os.fsync, file.fileno())
        if size == 0:
            raise InputError(f"{path.name}: empty")
        os.replace(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)
    return size


def _named(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


ROUTES = [
    Route("/runs/{run}/report", report),
    Route("/runs/{run}/figures.zip", figures),
    Route("/runs/{run}/release.tar", release),
    Route("/runs/{run}/verify", verify, methods=["POST"]),
    Route("/corpora", bring, methods=["POST"]),
]
