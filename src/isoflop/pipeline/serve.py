"""`isoflop serve`: the report of a run directory in a browser, live while it trains; it changes nothing."""

import socket
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.errors import InputError
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.report import foretold, shown_files

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from isoflop.report.metrics import MetricsLog

LOOPBACK = ("127.0.0.1", "localhost")
ANYWHERE = ("0.0.0.0", "::")
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class LivePage:
    """The page of a run directory as it is now; drawn again only when a file that it shows has changed."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._drawn: tuple[str, str] | None = None
        self._logs: dict[Path, MetricsLog] = {}

    def version(self) -> str:
        """Another text whenever a file that the page shows is another."""
        seen = []
        for path in shown_files(self._folder):
            try:
                status = path.stat()
            except OSError:
                continue
            seen.append(f"{path.relative_to(self._folder.path)} {status.st_mtime_ns} {status.st_size}")
        return f"{hash(tuple(seen)) & 0xFFFFFFFFFFFFFFFF:016x}"

    def html(self) -> str:
        """The page, one request at a time: drawing takes all of a core."""
        from isoflop.report.page import render
        from isoflop.report.run import read_run

        with self._lock:
            version = self.version()
            if self._drawn is None or self._drawn[0] != version:
                run = read_run(self._folder.path, foretold(self._folder), self._logs)
                self._drawn = version, render(run, datetime.now(UTC), live=True)
            return self._drawn[1]


def serve_run(path: Path, host: str, port: int, names: Sequence[str], tell: Callable[[str], None]) -> None:
    """Serves the report of the run directory at `path` until interrupted, on `host` and `port`; `tell` hears where.

    Only requests for this machine, by its loopback names, `host` or one of `names`, are answered: a page elsewhere that
    gives its own name this machine's address (DNS rebinding) is refused.

    Raises:
        InputError: there is no such directory, the extra `serve` is not installed, the port is taken, or nobody could
            reach it.
    """
    folder = find_run(path)
    if host in ANYWHERE and not names:
        raise InputError(
            f"--host {host}: say by which name or address browsers reach it, as in --name {socket.gethostname()}"
        )
    try:
        import uvicorn
    except ImportError:
        raise InputError("isoflop serve needs the extra serve: pip install 'isoflop[serve]'") from None
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot listen ({error.strerror}); give others") from None
    shown = f"[{host}]" if ":" in host else host
    tell(f"http://{shown}:{listening.getsockname()[1]}/")
    app = live_app(folder, [*LOOPBACK, *(() if host in ANYWHERE else (shown,)), *names])
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(settings).run(sockets=[listening])


def live_app(folder: RunFolder, names: Sequence[str]) -> "Starlette":
    """The application: GET / is the page, GET /version what `LivePage.version` says; anything else is refused."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse
    from starlette.routing import Route

    page = LivePage(folder)

    def show(_: Request) -> HTMLResponse:
        return HTMLResponse(page.html(), headers=HEADERS)

    def version(_: Request) -> PlainTextResponse:
        return PlainTextResponse(page.version(), headers=HEADERS)

    return Starlette(
        routes=[Route("/", show, methods=["GET"]), Route("/version", version, methods=["GET"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(names), www_redirect=False)],
    )
