"""What is one person's is nobody else's: every address tried by another, and two who want the same at once."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from isoflop.studio import accounts, server
from isoflop.studio.accounts import Accounts
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.order import read_order
from isoflop.studio.places import Ordered, Places
from isoflop.studio.process import start as start_really
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.pipeline.conftest import MACHINE
from tests.studio.conftest import NAME, send, token_of

PASSWORD = "correct horse battery"
TEXT = "".join(json.dumps({"text": f"line {i} of a text that ann wrote"}) + "\n" for i in range(200)).encode()


@dataclass(frozen=True)
class People:
    """A studio; its people are `ann` and `bob`, who may launch, and `eve`, who may see. Ann has a run, a quote and a
    corpus."""

    studio: Studio
    ann: TestClient
    bob: TestClient
    eve: TestClient
    corpus: Path
    quote: Path

    def order(self) -> str:
        return self.studio.places.ordered("anns").order.read_text()


@pytest.fixture
def people(places: Places, monkeypatch: pytest.MonkeyPatch) -> People:
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    monkeypatch.setattr(accounts, "SCRYPT", {**accounts.SCRYPT, "n": 2**4, "p": 1})
    studio = open_studio(places, Limits(), Opening(), by_account=True)
    app = make_app(studio, [NAME])

    def enters(name: str, role: str) -> TestClient:
        Accounts(places.accounts).put(name, role, PASSWORD, None)
        client = TestClient(app, base_url=f"http://{NAME}")
        assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 200
        return client

    ann, bob, eve = enters("ann", "launch"), enters("bob", "launch"), enters("eve", "see")
    headers = {"X-Token": token_of(ann)}
    brought = ann.post("/corpora", params={"name": "anns.jsonl"}, content=TEXT, headers=headers).json()["corpus"]
    assert send(ann, "/launch", family="tiny", name="anns", corpus=brought) == 303
    assert send(ann, "/quotes/keep", family="tiny", name="planned", corpus=brought) == 303
    (quote,) = places.quotes.iterdir()
    return People(studio, ann, bob, eve, Path(brought), quote)


def addresses(people: People, method: str, run: str, quote: str) -> Iterator[str]:
    """Every address of the studio with what is ann's filled in."""
    filled = {"run": run, "id": quote, "model": "w8", "step": "1", "what": "cancel", "name": "studio.js"}
    for route in people.ann.app.routes:  # type: ignore[attr-defined]
        assert isinstance(route, Route)
        if method in (route.methods or ()):
            yield re.sub(r"{([a-z]+)}", lambda found: filled[found[1]], route.path)


def test_every_address_of_someones_run_says_that_there_is_none(people: People) -> None:
    before = people.order()
    tried = 0
    for method in ("GET", "POST"):
        for there, nowhere in zip(
            addresses(people, method, "anns", "0"), addresses(people, method, "none", "0"), strict=True
        ):
            if there == nowhere:
                continue
            for client in (people.bob, people.eve):
                said = []
                for path, name in ((there, "anns"), (nowhere, "none")):
                    form = {"token": token_of(client), "prompt": "x"} if method == "POST" else None
                    answer = client.request(method, path, data=form, follow_redirects=False)
                    said.append((answer.status_code, answer.text.replace(name, "")))
                # Not even that it is someone's: the answer is the one about a run that there is not.
                assert said[0] == said[1], there
                assert said[0][0] in (403, 404), there
                tried += 1
    assert tried >= 2 * 10
    assert people.order() == before


@pytest.mark.parametrize("who", ["bob", "eve"])
def test_pages_and_quotes_tell_nothing_of_someones_runs_and_corpora(people: People, who: str) -> None:
    client: TestClient = getattr(people, who)
    data = people.studio.places.run("anns").data
    data.mkdir()
    (data / "manifest.json").write_text("{}")
    (data.parent / "law.json").write_text("{}")
    for path in ("/", "/quote?family=tiny", "/quotes", "/account"):
        page = client.get(path).text
        for secret in ("anns", "planned", str(people.corpus)):
            assert secret not in page, (path, secret)
    for fields in ({"corpus": str(people.corpus)}, {"corpus": str(data)}, {"law": "anns"}):
        for path in ("/quote.json", "/quote.toml", "/quote"):
            answer = client.get(path, params={"family": "tiny", **fields})
            assert answer.status_code == 422, (path, fields)
            assert "line 1 of a text" not in answer.text
        assert send(client, "/launch", family="tiny", name="stolen", **fields) in (403, 422)
    assert send(client, "/quotes/" + people.quote.stem + "/forget") == 303
    assert people.quote.exists()
    assert client.get("/audit").status_code == 403
    assert not people.studio.places.run("stolen").path.exists()


def test_who_sees_a_shared_run_may_read_it_and_change_nothing(people: People) -> None:
    assert send(people.ann, "/runs/anns/tell/share", shared="yes") == 303
    before = people.order()
    for client in (people.bob, people.eve):
        assert client.get("/runs/anns").status_code == 200
        assert client.get("/runs/anns/log").status_code == 200
        for what in ("pause", "cancel", "resume", "systems", "priority", "share"):
            assert send(client, f"/runs/anns/tell/{what}", systems="2", priority="9", shared="no") == 403
    assert people.order() == before


def test_of_two_people_who_launch_one_name_at_once_one_gets_it_and_one_process_starts(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    def start(ordered: Ordered, arguments: list[str]) -> object:
        started.append(ordered.path.parent.name)
        return start_really(ordered, ["--version"])

    monkeypatch.setattr("isoflop.studio.queue.start", start)
    send(people.ann, "/runs/anns/tell/pause")
    tokens = {client: token_of(client) for client in (people.ann, people.bob)}

    def launch(client: TestClient) -> int:
        data = {"token": tokens[client], "family": "tiny", "name": "wanted"}
        status = client.post("/launch", data=data, follow_redirects=False).status_code
        people.studio.queue.look()
        return status

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(launch, [people.ann, people.bob] * 3))
    assert sorted(statuses) == [303] + [422] * 5
    assert started == ["wanted"]
    order = read_order(people.studio.places.ordered("wanted").order)
    assert order is not None
    assert order.owner == ("ann", "bob")[statuses.index(303) % 2]


def test_two_files_sent_at_once_do_not_both_find_room(people: People) -> None:
    object.__setattr__(people.studio, "most_upload_bytes", 3 * len(TEXT))
    headers = {"X-Token": token_of(people.ann)}

    def bring(number: int) -> int:
        params = {"name": f"more-{number}.jsonl"}
        return people.ann.post("/corpora", params=params, content=iter([TEXT]), headers=headers).status_code

    with people.ann, ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(bring, range(4))) == [200, 200, 422, 422]
    assert sum(path.stat().st_size for path in people.corpus.parent.iterdir()) == 3 * len(TEXT)
