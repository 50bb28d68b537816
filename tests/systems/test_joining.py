"""Systems come together under a token of their own, or say in time why not."""

import socket
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from isoflop.errors import InputError, LostError
from isoflop.systems import joining
from isoflop.systems.joining import Address, Meeting, meet, within

VARIABLES = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.fixture
def store() -> TCPStore:
    """A launcher's, which outlives its workers."""
    return TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=20), wait_for_workers=False)


def join(store: TCPStore, *places: tuple[int, int]) -> list[Meeting | BaseException]:
    """What comes of systems (rank, size) that join at once, each with a connection of its own."""
    answers: dict[int, Meeting | BaseException] = {}

    def one(index: int, rank: int, size: int) -> None:
        meeting = Meeting(Address(rank, size, "localhost", store.port, launched=True))
        try:
            within(100, lambda: meet(meeting, meeting.address.connect()), lambda: f"late: {meeting.waits_for}")
            answers[index] = meeting
        except (InputError, LostError) as error:
            answers[index] = error

    threads = [threading.Thread(target=one, args=(index, *place)) for index, place in enumerate(places)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(200)
    return [answers[index] for index in range(len(places))]


def test_each_meeting_has_a_token_of_its_own_whatever_an_earlier_one_left(store: TCPStore) -> None:
    seen = []
    for number in (1, 2):
        met = join(store, (0, 3), (1, 3), (2, 3))
        assert all(isinstance(one, Meeting) and one.number == number for one in met), met
        tokens = {one.token for one in met if isinstance(one, Meeting)}
        assert len(tokens) == 1
        seen += tokens
    assert seen[0] != seen[1]


def test_a_rank_that_two_processes_have_is_told_to_all_at_once(store: TCPStore) -> None:
    # Another one is still missing, so that system 0 cannot meet with the first of the two.
    told = join(store, (0, 3), (1, 3), (1, 3))
    assert [type(one) for one in told] == [InputError] * 3, told
    assert all("system 1 is there twice: process" in str(one) for one in told)


@pytest.mark.parametrize(("leader", "follower"), [(2, 3), (3, 2)])
def test_sizes_that_differ_are_told_to_all_at_once(store: TCPStore, leader: int, follower: int) -> None:
    told = join(store, (0, leader), (1, follower))
    assert [type(one) for one in told] == [InputError] * 2, told
    assert all(f"WORLD_SIZE is {leader} at system 0 and {follower} at system 1" in str(one) for one in told)


def test_one_that_comes_to_a_group_at_work_is_told(store: TCPStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "GREETING_SECONDS", 0.02)
    first, _ = join(store, (0, 2), (1, 2))
    assert isinstance(first, Meeting)
    ended = threading.Event()

    def beat() -> None:
        own, count = PrefixStore(first.token, first.address.connect()), 0
        while not ended.wait(0.01):
            count += 1
            own.set("beat/1", str(count))

    thread = threading.Thread(target=beat)
    thread.start()
    time.sleep(0.1)
    late = join(store, (1, 2), (2, 3))
    ended.set()
    thread.join()
    assert "system 1 is at work already" in str(late[0])
    assert "WORLD_SIZE is 3 here and 2 at system 0" in str(late[1])


def test_who_does_not_come_is_named_when_time_is_over(store: TCPStore) -> None:
    meeting = Meeting(Address(0, 3, "localhost", store.port, launched=True))
    connected = meeting.address.connect()
    with pytest.raises(LostError, match="no word from systems 1, 2"):
        within(1, lambda: meet(meeting, connected), lambda: meeting.waits_for)


def test_a_port_that_listens_and_never_answers_is_given_up_in_time() -> None:
    with socket.socket() as silent:
        silent.bind(("localhost", 0))
        silent.listen()
        address = Address(1, 2, "localhost", silent.getsockname()[1])
        with pytest.raises(LostError, match="late"):
            within(0.5, address.connect, lambda: "late")


def test_a_port_that_is_taken_is_told_at_once(store: TCPStore) -> None:
    with pytest.raises(InputError, match=f"port {store.port} is taken on this machine; set MASTER_PORT to a free one"):
        Address(0, 2, "localhost", store.port).connect(hosting=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RANK", "x"),
        ("RANK", "2"),
        ("RANK", "-1"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", "two"),
        ("MASTER_PORT", "abc"),
        ("MASTER_PORT", "70000"),
        ("MASTER_PORT", "0"),
    ],
)
def test_variables_that_cannot_be_are_told_in_a_line(name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"{name} is '{said}'; it must be a number from"):
        Address.of(VARIABLES | {name: said})


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_that_are_missing_are_named(name: str) -> None:
    said = "isoflop train --systems N or torchrun starts workers" if name == "RANK" else ""
    with pytest.raises(InputError, match=f"{name} is not set.*{said}"):
        Address.of({key: value for key, value in VARIABLES.items() if key != name})
