"""Who comes in: one link opens one session, and what other pages send is refused."""

import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from isoflop.errors import InputError, WorkError
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, only_one, open_studio, serve_studio
from tests.studio.conftest import NAME, send, token_of


def test_a_link_opens_one_session_and_is_spent(studio: Studio) -> None:
    app = make_app(studio, [NAME])
    link = f"/enter?token={studio.sessions.new_link()}"
    first, second = (TestClient(app, base_url=f"http://{NAME}") for _ in range(2))
    assert first.get("/").status_code == 401
    assert "Launch tiny" in first.get(link).text
    assert second.get(link).status_code == 401
    assert second.get("/").status_code == 401
    assert first.get("/").status_code == 200


def test_what_looks_ahead_spends_no_link(studio: Studio) -> None:
    app = make_app(studio, [NAME])
    client, link = TestClient(app, base_url=f"http://{NAME}"), f"/enter?token={studio.sessions.new_link()}"
    assert client.head(link).status_code == 204
    assert client.get(link, headers={"Sec-Purpose": "prefetch;prerender"}).status_code == 204
    assert client.get(link).status_code == 200


def test_a_second_studio_of_the_machine_signs_nobody_out_of_the_first(
    studio: Studio, client: TestClient, places: Places, tmp_path: Path
) -> None:
    # Cookies go to every port of a host.
    other = open_studio(Places(tmp_path / "other", places.families), Limits(), Opening())
    second = TestClient(make_app(other, [NAME]), base_url=f"http://{NAME}")
    second.cookies = client.cookies
    assert second.get("/").status_code == 401
    assert second.get(f"/enter?token={other.sessions.new_link()}").status_code == 200
    client.cookies = second.cookies
    assert [one.get("/").status_code for one in (client, second)] == [200, 200]


def test_a_session_outlives_the_server_and_ends_with_the_database(
    studio: Studio, client: TestClient, places: Places
) -> None:
    again = TestClient(make_app(open_studio(places, Limits(), Opening()), [NAME]), base_url=f"http://{NAME}")
    again.cookies = client.cookies
    assert again.get("/").status_code == 200
    places.database.unlink()
    anew = TestClient(make_app(open_studio(places, Limits(), Opening()), [NAME]), base_url=f"http://{NAME}")
    anew.cookies = client.cookies
    assert anew.get("/").status_code == 401


def test_other_hosts_and_pages_are_refused(client: TestClient) -> None:
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": f"{NAME}:8765"}).status_code == 200
    fields = {"token": token_of(client), "family": "tiny"}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post("/launch", data=fields, headers=headers).status_code == 403
    assert client.post("/launch", data={"family": "tiny"}).status_code == 403
    assert client.post("/launch", data={"family": "tiny", "token": "0" * 64}).status_code == 403
    assert client.post("/launch", content=b"x" * 100_000).status_code == 422
    assert client.get("/").text.count("Launch tiny") == 1


def test_every_answer_forbids_what_pages_do_not_need(client: TestClient) -> None:
    for path in ("/", "/quote?family=tiny", "/none", "/static/studio.js"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
    page = client.get("/quote?family=tiny").text
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert " style=" not in page


def test_a_fault_of_ours_is_a_page_and_no_traceback(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}", raise_server_exceptions=False)
    client.get(f"/enter?token={studio.sessions.new_link()}", follow_redirects=False)
    monkeypatch.setattr(type(studio.catalogue), "runs", lambda self: {}["gone"])
    answer = client.get("/")
    assert answer.status_code == 500
    assert "stands in the terminal" in answer.text
    assert "gone" not in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_signing_out_ends_the_session(client: TestClient) -> None:
    cookie = dict(client.cookies)
    assert send(client, "/logout") == 303
    client.cookies.update(cookie)
    assert client.get("/").status_code == 401


def test_what_cannot_be_served_is_one_line(places: Places, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no accounts"):
        serve_studio(places, Limits(), Opening(host="0.0.0.0", names=("here",)), print)
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="cannot listen"):
        serve_studio(places, Limits(), Opening(port=taken.getsockname()[1]), print)
    with only_one(places), pytest.raises(WorkError, match="another isoflop studio"):
        serve_studio(places, Limits(), Opening(port=0), print)
