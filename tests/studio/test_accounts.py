"""Several people: who may do what, what each sees, and what is remembered of it."""

import json
from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from isoflop.errors import InputError, WorkError
from isoflop.studio import accounts, server
from isoflop.studio.accounts import Accounts, hashed, matches
from isoflop.studio.app import make_app
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from isoflop.studio.sessions import form_token
from tests.pipeline.conftest import MACHINE
from tests.studio.conftest import NAME, send, token_of

PASSWORD = "correct horse battery"
SignIn = Callable[[str], TestClient]


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SCRYPT", {**accounts.SCRYPT, "n": 2**4, "p": 1})


@pytest.fixture
def sign_in(places: Places, monkeypatch: pytest.MonkeyPatch) -> SignIn:
    """A browser of an account; ann and bob may launch, eve may see, root administers."""
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    for name, role in (("ann", "launch"), ("bob", "launch"), ("eve", "see"), ("root", "administer")):
        Accounts(places.accounts).put(name, role, PASSWORD, 0.5 if name == "bob" else None)
    app = make_app(open_studio(places, Limits(), Opening(), by_account=True), [NAME])

    def signed_in(name: str) -> TestClient:
        client = TestClient(app, base_url=f"http://{NAME}")
        answer = client.post("/login", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 200
        return client

    return signed_in


def test_passwords_are_kept_as_salted_scrypt(places: Places) -> None:
    assert hashed(PASSWORD) != hashed(PASSWORD)
    assert matches(PASSWORD, hashed(PASSWORD))
    assert not matches(PASSWORD + " ", hashed(PASSWORD))
    assert not matches(PASSWORD, "scrypt$$")
    made = Accounts(places.accounts)
    made.put("ann", "see", PASSWORD, None)
    assert PASSWORD not in places.accounts.read_text()
    assert places.accounts.stat().st_mode & 0o077 == 0
    for name, role, password, told in (
        ("ann", "see", "short", "12 or more"),
        ("a/b", "see", PASSWORD, "use letters"),
        ("ann", "rule", PASSWORD, "use see"),
    ):
        with pytest.raises(InputError, match=told):
            made.put(name, role, password, None)
    places.accounts.write_text("[{}]")
    with pytest.raises(WorkError, match="damaged"):
        made.all()


def test_after_five_wrong_passwords_even_the_right_one_waits(sign_in: SignIn, places: Places) -> None:
    client = TestClient(sign_in("ann").app, base_url=f"http://{NAME}")
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"
    wrong = {"name": "bob", "password": "wrong wrong wrong"}
    assert [client.post("/login", data=wrong).status_code for _ in range(5)] == [403] * 5
    assert client.post("/login", data={"name": "bob", "password": PASSWORD}).status_code == 429
    assert sign_in("ann").get("/").status_code == 200
    said = [json.loads(line)["what"] for line in places.audit.read_text().splitlines()]
    assert said.count("gave a wrong password") == 5


def test_one_persons_runs_are_invisible_to_another_unless_shared(sign_in: SignIn) -> None:
    ann, bob, eve, root = (sign_in(name) for name in ("ann", "bob", "eve", "root"))
    assert send(ann, "/launch", family="tiny", name="secret") == 303
    paths = ["", "/log", "/events", "/report", "/try", "/models/w8", "/release.tar", "/try/stream"]
    assert [bob.get(f"/runs/secret{path}").status_code for path in paths] == [404] * len(paths)
    assert "secret" not in bob.get("/").text
    assert send(bob, "/runs/secret/tell/cancel") == 404
    assert root.get("/runs/secret").status_code == 200
    assert send(ann, "/runs/secret/tell/share", shared="yes") == 303
    assert [one.get("/runs/secret").status_code for one in (bob, eve)] == [200, 200]
    assert "Pause" not in bob.get("/runs/secret").text
    assert send(bob, "/runs/secret/tell/cancel") == 403
    assert send(ann, "/runs/secret/tell/share", shared="no") == 303
    assert bob.get("/runs/secret").status_code == 404


def test_roles_and_quotas_hold(sign_in: SignIn) -> None:
    bob, eve, root = (sign_in(name) for name in ("bob", "eve", "root"))
    assert "Launch" not in eve.get("/quote?family=tiny").text
    assert send(eve, "/launch", family="tiny") == 403
    assert eve.post("/corpora?name=a.txt", content=b"x", headers={"X-Token": token_of(eve)}).status_code == 403
    assert eve.get("/audit").status_code == 403
    dear = {"family": "tiny", "by": "hours", "amount": "2", "price": "1"}
    assert send(bob, "/launch", **dear) == 422
    assert send(bob, "/launch", **{**dear, "amount": "0.3"}) == 303
    assert send(bob, "/launch", **{**dear, "amount": "0.3"}) == 422
    log = root.get("/audit").text
    assert "launched" in log
    assert "bob" in log


def test_a_corpus_is_bounded_never_outside_its_folder_and_its_owners(
    sign_in: SignIn, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob, root = (sign_in(name) for name in ("ann", "bob", "root"))
    monkeypatch.setattr(type(ann.app.state.studio), "most_upload_bytes", 10_000, raising=False)
    object.__setattr__(ann.app.state.studio, "most_upload_bytes", 10_000)
    text = "".join(json.dumps({"text": f"line {i} of a text"}) + "\n" for i in range(200)).encode()

    def bring(client: TestClient, name: str, body: bytes) -> int:
        headers = {"X-Token": token_of(client)}
        return client.post("/corpora", params={"name": name}, content=body, headers=headers).status_code

    assert bring(ann, "mine.jsonl", text) == 200
    assert bring(ann, "mine.jsonl", text) == 422
    bad = ("../../x.txt", "/etc/x.txt", ".x.txt", "a.zip", "a b.txt", "x" * 200 + ".txt", "a.txt\0")
    assert [bring(ann, name, text) for name in bad] == [422] * len(bad)
    assert bring(ann, "large.txt", b"x" * 10_001) == 422
    assert bring(ann, "more.txt", b"x" * (10_001 - len(text))) == 422  # with what is there it is too much
    assert bring(ann, "empty.txt", b"") == 422
    assert ann.post("/corpora?name=b.txt", content=b"x").status_code == 403
    found = [path for path in places.runs.rglob("*") if path.is_file() and "corpora" in path.parts]
    assert found == [places.corpora("ann") / "mine.jsonl"]
    asked = {"family": "tiny", "corpus": str(found[0])}
    assert ann.get("/quote.json", params=asked).status_code == 200
    assert bob.get("/quote.json", params=asked).status_code == 422
    assert bob.get("/quote.json", params={"family": "tiny", "corpus": "/etc/passwd"}).status_code == 422
    assert root.get("/quote.json", params=asked).status_code == 200


def test_a_changed_password_and_a_removed_account_sign_out(sign_in: SignIn, places: Places) -> None:
    ann, bob = sign_in("ann"), sign_in("bob")
    server.add_account(places.runs, "ann", "launch", PASSWORD + "!", None)
    assert ann.get("/", follow_redirects=False).status_code == 303
    assert bob.get("/", follow_redirects=False).status_code == 200
    rows = [row for row in json.loads(places.accounts.read_text()) if row["name"] != "bob"]
    places.accounts.write_text(json.dumps(rows))
    assert bob.get("/", follow_redirects=False).status_code == 303


def test_a_proxys_header_names_an_account(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    Accounts(places.accounts).put("ann", "launch", PASSWORD, None)
    app = make_app(open_studio(places, Limits(), Opening(header="X-User"), by_account=True), [NAME])
    client = TestClient(app, base_url=f"http://{NAME}")
    assert client.get("/").status_code == 401
    assert client.get("/", headers={"X-User": "bob"}).status_code == 401
    client.headers["X-User"] = "ann"
    assert client.get("/").status_code == 200
    assert send(client, "/launch", family="tiny") == 303
    assert send(client, "/launch", token="0" * 64, family="tiny") == 403
    assert send(client, "/launch", token=form_token("proxy ann"), family="tiny") == 403
