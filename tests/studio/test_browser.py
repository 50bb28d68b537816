"""The studio in a real browser: quote to verified release, by keyboard, on a desk and a phone, light and dark."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from isoflop.studio.places import Places
from isoflop.studio.process import look, stop
from tests.report.browser import chromium
from tests.studio.browser import Browser, browser

__all__ = ["chromium"]

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
FOUND = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .flatMap(one => one.nodes.map(node => `${one.id}: ${node.failureSummary} ${node.html.slice(0, 120)}`)))"""


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Iterator[Browser]:
    with browser(chromium, tmp_path) as opened:
        opened.look(1280)
        yield opened


def open_server(places: Places, families: Path, port: int) -> "tuple[subprocess.Popen[str], str]":
    """A studio as people start it, and the address that it prints."""
    command = [sys.executable, "-m", "isoflop", "studio", "--runs", str(places.runs), "--families", str(families)]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def findings(page: Browser) -> list[str]:
    """What axe-core calls serious or critical on the page as it is shown."""
    page.ask(f"typeof axe === 'object' || (() => {{ {AXE} }})()")
    found: list[str] = page.ask(FOUND)
    return found


def check(page: Browser, *, widths: tuple[int, ...] = (1280, 390)) -> None:
    """No serious finding of axe-core, nothing wider than the window: on a desk and a phone, light and dark."""
    for width in widths:
        for dark in (False, True):
            page.look(width, dark)
            where = (page.ask("location.href"), width, dark)
            assert findings(page) == [], where
            assert page.ask("document.documentElement.scrollWidth") <= width, where
    page.look(1280)


def test_the_checker_tells_what_it_is_there_for(page: Browser) -> None:
    page.ask("document.documentElement.innerHTML = '<main><input><p style=color:#aaa>pale</p></main>'")
    told = {one.split(":")[0] for one in findings(page)}
    assert {"label", "color-contrast", "html-has-lang"} <= told


@pytest.mark.slow  # a browser, three servers' starts, and a family trained
@pytest.mark.timeout(900)  # a training whole, on whatever else the machine does
def test_from_a_quote_to_a_verified_release(page: Browser, places: Places, families: Path) -> None:
    port = free_port()
    server, link = open_server(places, families, port)
    process = places.ordered("mine").process
    here = f"http://127.0.0.1:{port}"
    try:
        page.goto(link)
        assert "Launch tiny" in page.ask("document.body.innerText")
        check(page)
        # The answer follows the form, and the address follows the question.
        page.goto(f"{here}/quote?family=tiny")
        page.ask("document.querySelector('[name=name]').focus()")
        page.type("mine")
        page.until("document.querySelector('.answer button.main')?.textContent === 'Launch mine'")
        assert "name=mine" in page.ask("location.search")
        check(page)
        page.ask("document.querySelector('[name=systems]').focus()")
        page.type("0")
        page.until("document.querySelector('#answer [role=alert]')")
        assert "systems" in page.ask("document.querySelector('#answer').innerText")
        page.ask("document.querySelector('[name=systems]').select()")
        page.type("1")
        page.until("document.querySelector('.answer button.main')")
        page.ask("document.querySelector('.answer button.main').focus()")
        page.press("Enter")
        page.until("location.pathname === '/runs/mine'")
        page.ready()
        # The server is killed once the run trains; the run goes on, and the page finds the next server by itself.
        page.until("document.querySelector('#state').textContent === 'running'")
        until_trains(places)
        os.kill(server.pid, signal.SIGKILL)
        server.wait(20)
        server, _ = open_server(places, families, port)
        page.until("document.querySelector('#state').textContent === 'done'", 240)
        page.ready()
        page.until("document.querySelectorAll('.plot.ready').length > 0")
        assert not look(process).alive
        check(page)
        page.goto(f"{here}/runs/mine/models/w32")
        check(page)
        page.goto(f"{here}/runs/mine/models/w32/steps/2")
        check(page)
        # All members write side by side.
        page.goto(f"{here}/runs/mine/try?seed=7")
        page.ask("document.querySelector('[name=tokens]').value = 12")
        page.ask("document.querySelector('#try-form button.main').click()")
        page.until("document.querySelector('#trying').textContent === 'done'")
        assert page.ask("[...document.querySelectorAll('.written')].filter(one => one.textContent).length") == 5
        assert page.ask("document.querySelector('article small').textContent").startswith("seed 7")
        check(page)
        # What is fetched is whole, and the page says that it is as released.
        size = page.ask("fetch('/runs/mine/release.tar').then(answer => answer.blob()).then(blob => blob.size)")
        assert size > 100_000
        page.goto(f"{here}/runs/mine")
        page.ask("[...document.querySelectorAll('button')].find(one => one.textContent === 'Verify').click()")
        page.until("/every file is as it was released/.test(document.body.innerText)")
        check(page)
        for path in ("/", "/quotes", "/account", "/audit", "/quote?family=tiny&by=hours&amount=x"):
            page.goto(here + path)
            check(page)
        asked = [url for url in page.requests if not url.startswith(("data:", "about:", here))]
        assert asked == []
        # A bad field is answered with 422 and a connection was refused while no server was there: nothing else is said.
        said = [line for line in page.console if "422" not in line and "ERR_" not in line]
        assert said == []
    finally:
        stop(process)
        server.kill()
        server.wait(20)


def test_the_keyboard_alone_reaches_and_uses_everything(page: Browser, places: Places, families: Path) -> None:
    server, link = open_server(places, families, free_port())
    try:
        page.goto(link)
        page.press("Tab")
        assert page.ask("document.activeElement.textContent") == "Skip to content"
        seen = set()
        for _ in range(60):
            page.press("Tab")
            seen.add(page.ask("(e => e.getAttribute('href') ?? e.textContent)(document.activeElement)"))
            outlined = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.ask(f"document.activeElement === document.body || {outlined} !== 'none'")
        assert {"/quote", "/quotes", "/account", "Launch tiny", "Keep quote"} <= seen
        page.ask("[...document.querySelectorAll('button')].find(one => one.textContent === 'Keep quote').focus()")
        page.press(" ")
        page.until("location.pathname === '/quotes'")
    finally:
        server.kill()
        server.wait(20)


def until_trains(places: Places) -> None:
    ends = time.monotonic() + 120
    while not any(places.run("mine").path.glob("models/*/metrics.jsonl")):
        assert time.monotonic() < ends
        time.sleep(0.1)
