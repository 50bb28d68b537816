"""A disk that is really full, and a database that is gone: what is said, and that nothing is lost or starts twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from isoflop.studio import server
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.pipeline.conftest import MACHINE
from tests.pipeline.test_full_disk import leave, small_disk
from tests.studio.conftest import NAME, send, token_of
from tests.studio.test_queue import ended, place

__all__ = ["small_disk"]
FULL = "No space left on device"


@pytest.fixture
def full(small_disk: Path, families: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Studio, TestClient]]:
    """A studio with a waiting and a finished run, someone in it, on a disk without a free byte."""
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    studio = open_studio(Places(small_disk / "runs", (families,)), Limits(), Opening())
    with TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}") as client:
        client.get(f"/enter?token={studio.sessions.new_link()}")
        place(studio, "waits")
        ended(place(studio, "ended"), 0)
        studio.catalogue.runs()
        leave(small_disk, 0)
        yield studio, client


def files(studio: Studio) -> dict[str, bytes]:
    home = studio.places.home
    paths = [path for path in studio.places.runs.rglob("*") if path.is_file() and home not in path.parents]
    return {str(path.relative_to(studio.places.runs)): path.read_bytes() for path in paths}


def test_on_a_full_disk_everything_is_shown_nothing_is_lost_and_it_goes_on_with_room(
    full: tuple[Studio, TestClient], small_disk: Path
) -> None:
    studio, client = full
    before = files(studio)
    for path in ("/", "/runs/waits", "/runs/ended", "/quote?family=tiny", "/quotes"):
        assert client.get(path).status_code == 200, path
    token = token_of(client)
    for path, fields in (
        ("/quotes/keep", {"family": "tiny"}),
        ("/runs/waits/tell/pause", {}),
        ("/runs/waits/tell/systems", {"systems": "2"}),
    ):
        answer = client.post(path, data={"token": token, **fields}, headers={"Accept": "text/html"})
        assert answer.status_code == 500, path
        assert FULL in answer.text, path
        assert "lost" in answer.text, path
    answer = client.post("/launch", data={"token": token, "family": "tiny", "name": "new"})
    assert answer.status_code == 422  # seen before anything is written
    assert "free some space" in answer.json()["error"]
    answer = client.post("/corpora?name=a.txt", content=b"x" * 50_000, headers={"X-Token": token})
    assert (answer.status_code, FULL in answer.json()["error"]) == (500, True)
    studio.queue.look()
    studio.queue.look()
    assert FULL in client.get("/runs/waits").text  # why it does not start
    assert {name: text for name, text in files(studio).items() if name in before} == before
    assert not studio.places.run("new").path.exists()
    # A server that is started now shows the same runs, though it can keep nothing of them.
    again = open_studio(studio.places, Limits(), Opening())
    assert [run.name for run in again.catalogue.runs()] == [run.name for run in studio.catalogue.runs()]
    (small_disk / "filler").unlink()
    assert send(client, "/launch", family="tiny", name="new") == 303


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_a_database_that_goes_while_the_server_runs_is_made_again(
    studio: Studio, client: TestClient, places: Places, how: str
) -> None:
    place(studio, "a")
    ended(place(studio, "b"), 1)
    place(studio, "c", price="1", by="hours", amount="0.001")
    studio.queue.change("c", priority=9)
    studio.queue.share("c", True)
    assert send(client, "/quotes/keep", family="tiny", name="kept") == 303
    runs, quotes = studio.catalogue.runs(), client.get("/quotes").text
    waits = studio.queue.waits(runs)
    if how == "deleted":
        places.database.unlink()
    else:
        places.database.write_bytes(b"no database" * 1000)
    assert studio.catalogue.runs() == runs
    assert client.get("/", follow_redirects=False).status_code == 401  # sessions were in it
    client.get(f"/enter?token={studio.sessions.new_link()}")
    assert client.get("/").status_code == 200
    anew = open_studio(places, Limits(), Opening())
    assert anew.catalogue.runs() == runs  # owners, who sees them, and what was quoted
    assert anew.queue.waits(anew.catalogue.runs()) == waits  # and the order of the queue
    token = token_of(client)
    assert client.get("/quotes").text == quotes.replace(quotes.partition('data-token="')[2].partition('"')[0], token)
