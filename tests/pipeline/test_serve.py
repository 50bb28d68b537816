"""isoflop serve: live, read-only, and for those only who ask for this machine by its own name."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoflop.durable import write_json
from isoflop.errors import InputError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.serve import LOOPBACK, LivePage, live_app, serve_run
from tests.report.conftest import finished_run, run_directory

__all__ = ["finished_run", "run_directory"]


@pytest.fixture
def url(run_directory: Path) -> Iterator[str]:
    """Where the application answers, on a real socket."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(live_app(RunFolder(run_directory), LOOPBACK), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = True
    thread.join(10)


def ask(url: str, *, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    request = urllib.request.Request(url, method=method, headers={} if host is None else {"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_the_page_is_shown_and_nothing_is_written(run_directory: Path, url: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_directory.rglob("*")}
    status, page = ask(url)
    assert status == 200
    assert "The pocket family foretold" in page
    assert "connect-src 'self'" in page
    assert {path: path.stat().st_mtime_ns for path in run_directory.rglob("*")} == before


def test_other_hosts_methods_and_paths_are_refused(url: str) -> None:
    assert ask(url, host="evil.example")[0] == 400
    assert ask(url, host="localhost")[0] == 200
    assert [ask(url, method=method)[0] for method in ("POST", "PUT", "DELETE")] == [405] * 3
    assert [ask(url + path)[0] for path in ("plan.json", "../plan.json", "%2e%2e/plan.json")] == [404] * 3


def test_a_new_result_is_news_and_without_news_nothing_is_drawn_again(run_directory: Path) -> None:
    page = LivePage(RunFolder(run_directory))
    version, html = page.version(), page.html()
    assert page.html() is html
    path = run_directory / "models" / "w96" / "result.json"
    write_json(path, {**json.loads(path.read_bytes()), "nats_per_token": 3.2109})
    assert page.version() != version
    assert "3.211" in page.html()


def test_a_browser_shows_the_news_by_itself(run_directory: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no browser: chromium is not installed")
    path = run_directory / "models" / "w96" / "result.json"
    asked = []

    def version(self: LivePage) -> str:
        asked.append(time.monotonic())
        if len(asked) == 4:
            write_json(path, {**json.loads(path.read_bytes()), "nats_per_token": 3.2109})
        return seen(self)

    seen = LivePage.version
    monkeypatch.setattr(LivePage, "version", version)
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    options += "--enable-logging=stderr --virtual-time-budget=20000"
    command = [chromium, *options.split(), f"--user-data-dir={run_directory.parent / 'browser'}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "3.211" in done.stdout
    assert "CONSOLE" not in done.stderr


def test_what_cannot_be_served_is_bad_input(run_directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen"):
        serve_run(run_directory, "127.0.0.1", taken.getsockname()[1], [], print)
    with pytest.raises(InputError, match="by which name"):
        serve_run(run_directory, "0.0.0.0", 0, [], print)
    with pytest.raises(InputError, match="no such run directory"):
        serve_run(run_directory / "none", "127.0.0.1", 0, [], print)
