"""The queue: what it starts, in which order, and that nothing is lost or started twice."""

import asyncio
import fcntl
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from isoflop.durable import write_json
from isoflop.errors import InputError, WorkError
from isoflop.studio.catalogue import Catalogue
from isoflop.studio.context import Studio
from isoflop.studio.live import Lives
from isoflop.studio.places import Ordered, Places
from isoflop.studio.process import Process, look, start, stop
from isoflop.studio.question import parse_question
from isoflop.studio.queue import Limits, Queue
from tests.studio.conftest import send


def place(studio: Studio, name: str, **fields: str) -> Ordered:
    studio.queue.place(studio.quotes.answer(parse_question({"family": "tiny", "name": name, **fields})), "local")
    return studio.places.ordered(name)


@contextmanager
def at_work(ordered: Ordered, pid: int = 0) -> Iterator[None]:
    """As if a process held the run's file."""
    with open(ordered.process, "w+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{pid or os.getpid()}\n")
        file.flush()
        yield


def ended(ordered: Ordered, code: int | None) -> None:
    """As if a process had held it and ended."""
    ordered.process.write_text("123456\n" + ("" if code is None else f"{code}\n"))


def states(studio: Studio) -> dict[str, str]:
    return {run.name: run.state for run in studio.catalogue.runs()}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What the queue would have started, and nothing is."""
    found: list[list[str]] = []

    class Child:
        def poll(self) -> None: ...

    def start_none(ordered: Ordered, arguments: list[str]) -> Child:
        found.append([ordered.path.parent.name, *arguments])
        return Child()

    monkeypatch.setattr("isoflop.studio.queue.start", start_none)
    return found


def test_a_process_holds_its_run_and_leaves_its_exit_code(tmp_path: Path) -> None:
    ordered = Ordered(tmp_path / "studio")
    ordered.path.mkdir()
    child = start(ordered, ["report", str(tmp_path / "none")])
    assert look(ordered.process).alive
    assert os.getsid(child.pid) == child.pid
    with pytest.raises(WorkError, match="at work there already"):
        start(ordered, ["report", "none"])
    assert child.wait(60) == 2
    assert (look(ordered.process).alive, look(ordered.process).code) == (False, 2)
    assert "no such run directory" in ordered.log.read_text()


def test_who_is_told_to_stop_in_its_first_moment_hears_it(tmp_path: Path) -> None:
    ordered = Ordered(tmp_path / "studio")
    ordered.path.mkdir()
    for _ in range(3):
        child = start(ordered, ["report", str(tmp_path / "none")])
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait(60) == 143
        assert look(ordered.process) == Process(child.pid, False, 143)


def test_another_process_with_the_number_is_never_told_to_stop(tmp_path: Path) -> None:
    ordered = Ordered(tmp_path)
    with at_work(ordered, os.getpid()):
        assert not stop(ordered.process)


def test_states_come_of_the_order_and_the_process(studio: Studio) -> None:
    for name in ("a", "b", "c", "d", "e", "f", "g"):
        place(studio, name)
    ended(studio.places.ordered("b"), 0)
    ended(studio.places.ordered("c"), 1)
    ended(studio.places.ordered("d"), None)
    ended(studio.places.ordered("e"), 143)
    studio.queue.pause("f")
    studio.queue.cancel("g")
    with at_work(studio.places.ordered("a")):
        assert states(studio) == {
            "a": "running",
            "b": "done",
            "c": "failed",
            "d": "failed",
            "e": "queued",
            "f": "paused",
            "g": "cancelled",
        }
        studio.queue.pause("a")
        assert states(studio)["a"] == "stopping"
    assert states(studio)["a"] == "paused"
    studio.queue.resume("c")
    assert states(studio)["c"] == "queued"


def test_the_highest_priority_starts_first_and_limits_hold(studio: Studio, started: list[list[str]]) -> None:
    for name in ("a", "b", "c"):
        place(studio, name)
    studio.queue.change("b", priority=9)
    with at_work(studio.places.ordered("a")):
        studio.queue.look()
        assert started == []
    studio.queue.pause("a")
    assert studio.queue.waits(studio.catalogue.runs()) == {"b": "next", "c": "1 of 1 at work"}
    studio.queue.look()
    assert [one[:2] for one in started] == [["b", "run"]]
    assert started[0][-4:] == ["--systems", "1", "--execution", "resident"]


def test_systems_and_money_are_limited(places: Places, studio: Studio, started: list[list[str]]) -> None:
    queue = Queue(places, studio.catalogue, Limits(at_once=5, systems=3, price=0.005))
    ask = {"family": "tiny", "by": "hours", "amount": "0.002", "price": "1"}

    def quote(**more: str) -> object:
        return studio.quotes.answer(parse_question({**ask, **more}))

    queue.place(quote(name="a", systems="2"), "local")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="may spend"):
        queue.place(quote(name="b", systems="3", amount="0.004"), "local")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has 3; ask for fewer"):
        queue.place(quote(name="b", systems="4"), "local")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this quote has no price"):
        queue.place(studio.quotes.answer(parse_question({"family": "tiny", "name": "b"})), "local")
    queue.place(quote(name="b", systems="2"), "local")  # type: ignore[arg-type]
    with at_work(places.ordered("a")):
        queue.look()
        assert started == []
    assert not places.run("c").path.exists()


def test_whoever_waits_for_systems_is_not_passed_by_smaller_ones(
    places: Places, studio: Studio, started: list[list[str]]
) -> None:
    queue = Queue(places, studio.catalogue, Limits(at_once=5, systems=3))
    for name, systems in (("a", "2"), ("b", "2"), ("c", "1")):
        place(studio, name, systems=systems)
    with at_work(places.ordered("a")):
        queue.look()
        assert started == []
        assert queue.waits(studio.catalogue.runs()) == {"b": "2 of 3 systems taken", "c": "others are first"}
    ended(places.ordered("a"), 0)
    queue.look()
    assert [one[0] for one in started] == ["b", "c"]


def test_of_two_who_launch_one_name_at_once_one_gets_it(studio: Studio) -> None:
    quote = studio.quotes.answer(parse_question({"family": "tiny", "name": "one"}))
    found: list[str] = []

    def launch(owner: str) -> None:
        try:
            studio.queue.place(quote, owner)
            found.append("launched")
        except InputError as error:
            found.append(str(error))

    threads = [threading.Thread(target=launch, args=(f"p{i}",)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found)[0] == "launched"
    assert sum("there already" in one for one in found) == 7


def test_a_deleted_database_is_made_again_from_the_runs(studio: Studio, places: Places) -> None:
    place(studio, "a")
    ended(place(studio, "b"), 1)
    studio.queue.change("a", priority=7)
    before = studio.catalogue.runs()
    for how in ("deleted", "damaged"):
        places.database.unlink() if how == "deleted" else places.database.write_bytes(b"no database" * 100)
        assert Catalogue(places).runs() == before


def test_a_full_disk_launches_nothing_and_leaves_nothing(
    studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, document: object) -> None:
        raise WorkError(f"{path}: cannot write (No space left on device); free some space and run again")

    monkeypatch.setattr("isoflop.studio.order.write_json", full)
    answer = client.post("/launch", data={"token": _token(client), "family": "tiny"})
    assert answer.status_code == 500
    assert "No space left on device" in answer.text
    assert not studio.places.run("tiny").path.exists()


def test_a_run_that_cannot_be_started_says_why(
    studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(ordered: Ordered, arguments: list[str]) -> None:
        raise WorkError(f"{ordered.process}: cannot write (No space left on device)")

    monkeypatch.setattr("isoflop.studio.queue.start", full)
    place(studio, "a")
    studio.queue.look()
    assert "No space left on device" in client.get("/").text
    assert "No space left on device" in client.get("/runs/a").text
    assert states(studio) == {"a": "queued"}


def test_systems_change_in_the_order_and_the_process_is_told(
    studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Path] = []
    monkeypatch.setattr("isoflop.studio.queue.stop", told.append)
    ordered = place(studio, "a")
    assert send(client, "/runs/a/tell/systems", systems="2") == 303
    assert json.loads(ordered.order.read_text())["systems"] == 2
    assert told == [ordered.process]
    assert send(client, "/runs/a/tell/systems", systems="2") == 303
    assert len(told) == 1
    for bad in ("0", "-1", "x", "9999999"):
        assert send(client, "/runs/a/tell/systems", systems=bad) == 422
    assert send(client, "/runs/a/tell/dance") == 404


def test_a_cluster_that_is_down_is_told_on_the_page(studio: Studio, client: TestClient) -> None:
    ordered = place(studio, "a")
    document = json.loads(ordered.order.read_text())
    write_json(ordered.order, {**document, "cluster": True})
    ordered.log.write_text("isoflop: sbatch: cannot reach the controller; try again when it answers\n")
    ended(ordered, 1)
    page = client.get("/runs/a").text
    assert "cannot reach the controller" in page
    assert "Resume" in page


def test_many_runs_are_listed_and_read_once(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        place(studio, f"r{number}")
    assert len(studio.catalogue.runs()) == 6
    asked: list[str] = []
    monkeypatch.setattr(Catalogue, "_summary", lambda self, name: asked.append(name))
    assert len(studio.catalogue.runs()) == 6
    assert asked == []


def _token(client: TestClient) -> str:
    from tests.studio.conftest import token_of

    return token_of(client)


def test_a_page_that_cannot_be_drawn_lets_its_watchers_come_again(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isoflop.studio.live.QUIET_SECONDS", 0.01)
    lives = Lives(places, lambda _: str(1 // 0))

    async def watch() -> list[bytes]:
        return [text async for text in lives.events("none")]

    assert asyncio.run(asyncio.wait_for(watch(), 30))[0].startswith(b"retry")
