"""What someone might try who may come in, or who may not: each is refused, and nothing is used up by it."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from starlette.testclient import TestClient

from isoflop.errors import InputError
from isoflop.studio import quoting, server
from isoflop.studio.accounts import Account, Accounts
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.pipeline.conftest import MACHINE
from tests.studio.conftest import NAME, send

PASSWORD = "correct horse battery"


def test_numbers_without_end_are_bad_input(client: TestClient) -> None:
    assert client.get("/runs/none/models/w8/steps/" + "9" * 5000).status_code in (404, 422)
    assert client.get("/quote.json", params={"family": "tiny", "systems": "9" * 1999}).status_code == 422


def test_a_token_that_is_not_ascii_is_refused_and_no_fault(client: TestClient) -> None:
    assert client.post("/launch", data={"token": "é" * 64, "family": "tiny"}).status_code == 403
    headers = {"X-Token": "é".encode("latin-1")}
    assert client.post("/corpora?name=a.txt", content=b"x", headers=headers).status_code == 403


def test_another_page_of_this_machine_gets_nothing_though_its_cookies_come_along(client: TestClient) -> None:
    for site in ("same-site", "cross-site"):
        image = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
        assert client.get("/runs/none/try/stream", headers=image).status_code == 403
        # A link that someone follows is no page's doing.
        assert client.get("/", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}).status_code == 200
    own = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert client.get("/quote.json?family=tiny", headers=own).status_code == 200


def test_passwords_are_looked_at_one_at_a_time(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    at_work, most = [], []

    def enter(self: Accounts, name: str, password: str) -> Account | None:
        at_work.append(name)
        most.append(len(at_work))
        threading.Event().wait(0.02)
        at_work.remove(name)
        return None

    monkeypatch.setattr(Accounts, "enter", enter)
    app = make_app(open_studio(places, Limits(), Opening(), by_account=True), [NAME])
    with TestClient(app, base_url=f"http://{NAME}") as client, ThreadPoolExecutor(6) as pool:
        answers = pool.map(lambda i: client.post("/login", data={"name": f"n{i}", "password": "x"}), range(6))
        assert {answer.status_code for answer in answers} == {403}
    assert most == [1] * 6


def test_nobody_is_called_as_whoever_sits_at_the_machine(places: Places) -> None:
    with pytest.raises(InputError, match="sits at the machine"):
        Accounts(places.accounts).put("local", "see", PASSWORD, None)


def test_the_studios_own_folder_is_closed_to_others_of_the_machine(studio: Studio, places: Places) -> None:
    assert places.home.stat().st_mode & 0o077 == 0


def test_quotes_are_kept_up_to_a_number(client: TestClient, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quoting, "MOST_QUOTES", 2)
    assert [send(client, "/quotes/keep", family="tiny") for _ in range(3)] == [303, 303, 422]
    assert len(list(places.quotes.iterdir())) == 2


def test_every_name_is_escaped_wherever_it_is_shown(client: TestClient, places: Places) -> None:
    bad = "<script>alert(1)</script>"
    for path in (
        f"/quote?family={bad}",
        f"/quote?family=tiny&name={bad}&corpus={bad}&amount={bad}&law={bad}",
        f"/runs/{bad}",
        f"/runs/none/models/{bad}",
        f"/enter?token={bad}",
    ):
        assert bad not in client.get(path, headers={"Accept": "text/html"}).text, path
    places.quotes.mkdir(parents=True, exist_ok=True)
    assert send(client, "/quotes/keep", family="tiny") == 303
    (kept,) = places.quotes.iterdir()
    document = json.loads(kept.read_text())
    kept.write_text(json.dumps({**document, "family": bad, "address": "javascript:alert(1)"}))
    page = client.get("/quotes").text
    assert bad not in page
    assert "&lt;script&gt;" in page
