"""The studio in a real browser: quote to verified release, by keyboard, on a desk and a phone, light and dark."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
import uvicorn

from isoflop.pipeline.plan import store_plan
from isoflop.studio import accounts, live, server
from isoflop.studio.accounts import ALONE, Accounts
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from isoflop.studio.process import look, stop
from isoflop.studio.question import parse_question
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.pipeline.conftest import MACHINE
from tests.report.browser import chromium
from tests.studio.browser import Browser, browser
from tests.studio.test_queue import place

__all__ = ["chromium"]

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
FOUND = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
    .filter(one => ["serious", "critical"].includes(one.impact))
    .flatMap(one => one.nodes.map(node => `${one.id}: ${node.failureSummary} ${node.html.slice(0, 120)}`)))"""
HERE = "127.0.0.1"


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


@contextmanager
def serving(studio: Studio, port: int = 0) -> Iterator[str]:
    """The studio served within this process; its address."""
    with socket.create_server((HERE, port)) as listening:
        settings = uvicorn.Config(make_app(studio, [HERE]), log_level="error", timeout_graceful_shutdown=1)
        served = uvicorn.Server(settings)
        thread = threading.Thread(target=served.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{HERE}:{listening.getsockname()[1]}"
        finally:
            served.should_exit = True
            thread.join(20)


def free_port() -> int:
    with socket.create_server((HERE, 0)) as one:
        return int(one.getsockname()[1])


def findings(page: Browser) -> list[str]:
    """What axe-core calls serious or critical on the page as it is shown."""
    page.ask(f"typeof axe === 'object' || (() => {{ {AXE} }})()")
    found: list[str] = page.ask(FOUND)
    return found


def check(page: Browser, looks: tuple[tuple[int, bool], ...] = ((1280, False), (390, True))) -> None:
    """No serious finding of axe-core, and nothing wider than the window, at (width, dark)."""
    for width, dark in looks:
        page.look(width, dark)
        where = (page.ask("location.href"), width, dark)
        assert findings(page) == [], where
        assert page.ask("document.documentElement.scrollWidth") <= width, where
    page.look(1280)


def until(what: Callable[[], bool], seconds: float = 400) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_the_checker_tells_what_it_is_there_for(page: Browser) -> None:
    page.ask("document.documentElement.innerHTML = '<main><input><p style=color:#aaa>pale</p></main>'")
    told = {one.split(":")[0] for one in findings(page)}
    assert {"label", "color-contrast", "html-has-lang"} <= told


@pytest.mark.slow  # a browser, two servers, and a family trained
@pytest.mark.timeout(600)  # a training whole, on whatever else the machine does
def test_by_keyboard_from_a_quote_to_a_verified_release(page: Browser, tmp_path: Path, families: Path) -> None:
    # Its two smallest models: one is trained, one foretold where there is a law.
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "tiny.toml").write_text("[[models]]".join((families / "tiny.toml").read_text().split("[[models]]")[:3]))
    shutil.copy(families / "corpus.jsonl", folder)
    places, port = Places(tmp_path / "runs", (folder,)), free_port()
    served, link = open_server(places, folder, port)
    process = places.ordered("mine").process
    here = f"http://{HERE}:{port}"
    try:
        page.goto(link)
        assert "Launch tiny" in page.ask("document.body.innerText")
        page.tab_to("Change it")
        page.press("Enter")
        page.until("location.pathname === '/quote'")
        page.ready()
        # The answer follows the form, and the address follows the question.
        page.tab_to("name")
        page.type("mine")
        page.until("document.querySelector('.answer button.main')?.textContent === 'Launch mine'")
        assert "name=mine" in page.ask("location.search")
        page.tab_to("systems")
        page.type("0")
        page.until("document.querySelector('#answer [role=alert]')")
        assert "systems" in page.ask("document.querySelector('#answer').innerText")
        assert page.ask("document.activeElement.matches('[name=systems][aria-invalid=true]')")
        page.ask("document.activeElement.select()")
        page.type("1")
        page.until("document.querySelector('.answer button.main')")
        assert page.ask("document.querySelectorAll('[aria-invalid=true]').length") == 0
        page.tab_to("Launch mine")
        page.press("Enter")
        page.until("location.pathname === '/runs/mine'")
        page.ready()
        # The server is killed once the run trains; the run goes on, and the page finds the next server by itself.
        page.until("document.querySelector('#state').textContent === 'running'")
        until(lambda: any(places.run("mine").path.glob("models/*/metrics.jsonl")))
        os.kill(served.pid, signal.SIGKILL)
        served.wait(20)
        pid = look(process).pid
        page.until("document.querySelector('#stale').textContent.includes('not reached')")
        assert look(process).alive
        served, _ = open_server(places, folder, port)
        page.until("document.querySelector('#state').textContent === 'done'", 240)
        page.ready()
        assert look(process) == type(look(process))(pid, False, 0)
        page.until("document.querySelectorAll('.plot.ready').length > 0")
        check(page)
        for path in ("models/w12", "models/w12/steps/2"):
            page.goto(f"{here}/runs/mine/{path}")
            check(page)
        page.goto(f"{here}/runs/mine")
        # All members write side by side.
        page.tab_to("Try")
        page.press("Enter")
        page.until("location.pathname === '/runs/mine/try'")
        page.ready()
        page.tab_to("tokens")
        page.type("12")
        page.tab_to("temperature")
        page.type("x")
        page.press("Enter")
        page.until("/temperature.*give a number/.test(document.querySelector('#trying').textContent)")
        page.ask("document.activeElement.select()")
        page.type("0.8")
        page.tab_to("seed")
        page.type("7")
        page.press("Enter")
        page.until("document.querySelector('#trying').textContent === 'done'")
        written = "[...document.querySelectorAll('.written')].filter(one => one.textContent).length"
        assert page.ask(written) == len(list(places.run("mine").path.glob("models/*/result.json")))
        assert page.ask("document.querySelector('article small').textContent").startswith("seed 7")
        check(page)
        # What is fetched is whole, and the page says that it is as released.
        size = page.ask("fetch('/runs/mine/release.tar').then(answer => answer.blob()).then(blob => blob.size)")
        assert size > 100_000
        page.goto(f"{here}/runs/mine")
        page.tab_to("Verify")
        page.press("Enter")
        page.until("/every file is as it was released/.test(document.body.innerText)")
        check(page)
        for path in ("/", "/quotes"):
            page.goto(here + path)
            check(page)
        asked = [url for url in page.requests if not url.startswith(("data:", "about:", here))]
        assert asked == []
        # A bad field is answered with 422 and a connection was refused while no server was there: nothing else is said.
        said = [line for line in page.console if "422" not in line and "ERR_" not in line]
        assert said == []
    finally:
        stop(process)
        served.kill()
        served.wait(20)


def test_every_form_and_its_errors_are_accessible_light_and_dark(
    page: Browser, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(accounts, "SCRYPT", {**accounts.SCRYPT, "n": 2**4, "p": 1})
    Accounts(places.accounts).put("ann", "administer", "correct horse battery", None)
    studio = open_studio(places, Limits(), Opening(), by_account=True)
    place(studio, "mine")
    everything = tuple((width, dark) for width in (1280, 390) for dark in (False, True))
    with serving(studio) as here:
        page.goto(f"{here}/quotes")
        assert page.ask("location.pathname") == "/login"
        check(page, everything)
        page.tab_to("name")
        page.type("ann")
        page.tab_to("password")
        page.type("wrong wrong wrong")
        page.press("Enter")
        page.until("document.querySelector('[role=alert]')")
        page.ready()
        check(page, everything)
        page.tab_to("password")
        page.type("correct horse battery")
        page.press("Enter")
        page.until("location.pathname === '/'")
        page.ready()
        check(page)
        page.goto(f"{here}/quote?family=tiny&by=hours&amount=0.01")
        check(page, everything)
        page.goto(f"{here}/quote?family=tiny&by=hours&amount=x")
        check(page, everything)
        for path in ("/runs/mine", "/runs/mine/try", "/runs/none", "/account", "/audit"):
            page.goto(here + path)
            check(page)
        assert [line for line in page.console if "404" not in line and "422" not in line and "403" not in line] == []


def test_the_keyboard_alone_reaches_everything_and_sees_where_it_is(page: Browser, studio: Studio) -> None:
    with serving(studio) as here:
        page.goto(f"{here}/enter?token={studio.sessions.new_link()}")
        page.press("Tab")
        assert page.ask("document.activeElement.textContent") == "Skip to content"
        for what in ("New quote", "Quotes", "Account", "Launch tiny", "Family file", "Change it"):
            page.tab_to(what)
        page.goto(f"{here}/")
        page.tab_to("Keep quote")
        page.press(" ")
        page.until("location.pathname === '/quotes'")


def test_a_page_that_loses_its_studio_says_so_and_finds_it_again(page: Browser, studio: Studio) -> None:
    place(studio, "mine")
    port = free_port()
    told = "document.querySelector('#stale').textContent"
    with serving(studio, port) as here:
        page.goto(f"{here}/enter?token={studio.sessions.new_link()}")
        page.goto(f"{here}/runs/mine")
        # Its own waiting takes a twentieth of the time here.
        page.ask("{ const later = setTimeout; window.setTimeout = (what, wait) => later(what, wait / 20); }")
        assert page.ask(told) == ""
    page.until(f"/Not live: this is of .*not reached/.test({told})")
    # Another process has another studio, with streams of its own.
    later = open_studio(studio.places, Limits(), Opening())
    (secret,) = sessions_of(later)
    later.catalogue.end_sessions(account=ALONE.name)
    with serving(later, port):
        page.until(f"/signed out/.test({told})")  # another answer than a stream, after which a browser gives up
        later.catalogue.begin_session(secret, ALONE.name, 1000)
        page.until(f"{told} === ''")
        # Of news it hears again.
        later.queue.pause("mine")
        page.until("document.querySelector('#state').textContent === 'paused'")


def sessions_of(studio: Studio) -> list[str]:
    with studio.catalogue._open() as database:
        return [row[0] for row in database.execute("select secret from sessions")]


def test_news_leave_alone_what_someone_holds_or_reads(
    page: Browser, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOOK_SECONDS", "DRAW_SECONDS"):
        monkeypatch.setattr(live, name, 0.05)
    place(studio, "mine")
    quote = studio.quotes.answer(parse_question({"family": "tiny", "name": "mine"}))
    folder = studio.places.run("mine")
    store_plan(quote.family, quote.plan, folder)
    log = folder.model("w8") / "metrics.jsonl"
    log.parent.mkdir(parents=True)

    def steps(first: int, last: int) -> None:
        with open(log, "a") as file:
            for step in range(first, last):
                row = {
                    "step": step,
                    "tokens": 256 * step,
                    "loss": 5 - 0.01 * step,
                    "tokens_per_second": 1e4,
                    "mfu": 0.1,
                }
                file.write(json.dumps(row) + "\n")

    step = "document.querySelector('#live tbody td:nth-child(3)').textContent.trim().split(' ')[0]"
    steps(1, 11)
    with serving(studio) as here:
        page.goto(f"{here}/enter?token={studio.sessions.new_link()}")
        page.goto(f"{here}/runs/mine")
        page.until(f"{step} === '10'")
        page.tab_to("w8")
        page.ask("document.querySelector('#courses details').open = true")
        drawn = page.ask("document.querySelector('#courses svg').innerHTML.length")
        steps(11, 31)
        page.until(f"{step} === '30'")
        assert page.ask("document.activeElement.textContent") == "w8"
        assert page.ask("document.querySelector('#courses details').open")
        assert page.ask("document.querySelector('#courses svg').innerHTML.length") == drawn
        page.ask("document.querySelector('#courses details').open = false")
        steps(31, 41)
        page.until(f"{step} === '40'")
        page.until(f"document.querySelector('#courses svg').innerHTML.length !== {drawn}")
