"""Every address, asked by nobody, by a page of someone else, and for what lies outside its folder."""

import json
import re
from collections.abc import Iterator

import pytest
from starlette.routing import Route
from starlette.testclient import TestClient

from isoflop.studio import trying
from isoflop.studio.accounts import Account
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.guard import OPEN
from isoflop.studio.money import taken
from isoflop.studio.sessions import form_token
from tests.studio.conftest import NAME, send, token_of
from tests.studio.test_queue import ended, place

EVIL = (
    "..",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e",
    "%2e%2e%2fsecret",
    "a%00b",
    ".studio",
    "x" * 300,
    "<script>x",
    "a%2fb",
)


def addresses(studio: Studio, method: str, filled: str) -> Iterator[str]:
    for route in make_app(studio, [NAME]).routes:
        assert isinstance(route, Route)
        if method in (route.methods or ()):
            yield re.sub(r"{[^}]+}", filled, route.path)


def test_nobody_gets_anything(studio: Studio) -> None:
    place(studio, "a")
    nobody = TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}")
    for method in ("GET", "POST"):
        for path in addresses(studio, method, "a"):
            if not path.startswith(OPEN):
                assert nobody.request(method, path, follow_redirects=False).status_code == 401, path


def test_every_form_carries_the_sessions_token(studio: Studio, client: TestClient) -> None:
    ended(place(studio, "a"), 0)
    paths = [path for path in addresses(studio, "POST", "a") if path != "/login"]
    assert len(paths) >= 8
    for path in paths:
        for token in ("", "0" * 64, form_token("another")):
            answer = client.post(path, data={"token": token}, headers={"X-Token": token}, follow_redirects=False)
            assert answer.status_code == 403, path


@pytest.mark.parametrize("evil", EVIL)
def test_no_address_leads_outside(studio: Studio, client: TestClient, evil: str) -> None:
    (studio.places.runs.parent / "plan.json").write_text("{}")
    (studio.places.runs.parent / "secret").write_text("the secret")
    (studio.places.home / "plan.json").write_text("{}")
    fields = {"GET": None, "POST": {"token": token_of(client)}}
    for method in ("GET", "POST"):
        for path in addresses(studio, method, evil):
            if evil in path:
                answer = client.request(method, path, data=fields[method], headers={"Accept": "text/html"})
                # httpx itself takes ".." out of an address: what is left may be a page of ours.
                assert answer.status_code in (403, 404, 405, 422) or evil in ("..", "%2e%2e"), (
                    path,
                    answer.status_code,
                )
                assert "the secret" not in answer.text
                assert "<script>x" not in answer.text


def test_who_knows_a_name_behind_a_proxy_cannot_make_its_forms(studio: Studio) -> None:
    studio.sessions.header = "X-User"
    ann = Account(name="ann", role="launch")
    secret = studio.sessions.secret_of(None, ann)
    assert secret not in (None, "ann", "proxy ann")
    assert secret == studio.sessions.secret_of(None, ann)
    assert studio.sessions.secret_of("a cookie", None) is None


def test_a_cancelled_run_is_resumed_only_within_the_limit(studio: Studio, client: TestClient) -> None:
    object.__setattr__(studio.queue.limits, "price", 3.0)
    priced = {"family": "tiny", "by": "money", "amount": "2", "price": "1"}
    assert send(client, "/launch", **priced, name="a") == 303
    assert send(client, "/launch", **priced, name="b") == 422
    assert send(client, "/runs/a/tell/cancel") == 303
    assert send(client, "/launch", **priced, name="b") == 303
    assert send(client, "/runs/a/tell/resume") == 422
    assert send(client, "/runs/b/tell/cancel") == 303
    assert send(client, "/runs/a/tell/resume") == 303


def test_a_cancelled_run_counts_by_what_it_trained(studio: Studio, client: TestClient) -> None:
    object.__setattr__(studio.queue.limits, "price", 9.0)
    priced = {"family": "tiny", "by": "money", "amount": "2", "price": "1"}
    assert send(client, "/launch", **priced, name="a") == 303
    run = studio.catalogue.run("a")
    assert run is not None
    assert run.order is not None
    # Half of its time went into a model that is not finished.
    step = {"step": 1, "tokens": 1000, "loss": 5.0, "tokens_per_second": 2000 / run.order.quote["totals"]["seconds"]}
    log = studio.places.run("a").model("w8") / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps(step) + "\n")
    assert send(client, "/runs/a/tell/cancel") == 303
    run = studio.catalogue.run("a")
    assert run is not None
    assert run.order is not None
    price = run.order.quote["totals"]["price"]
    assert taken(studio.places, run) == pytest.approx(price / 2)
    object.__setattr__(studio.queue.limits, "price", 1.45 * price)
    assert send(client, "/launch", **priced, name="b") == 422
    object.__setattr__(studio.queue.limits, "price", 1.55 * price)
    assert send(client, "/launch", **priced, name="b") == 303


def test_a_fifth_prompt_at_once_waits(studio: Studio, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    place(studio, "a")
    monkeypatch.setattr(trying, "continuations", lambda *_: iter([{"model": "w8", "text": "x"}]))
    asked = {"prompt": "x", "model": "w8"}
    for _ in range(4):
        assert trying.AT_ONCE.acquire(blocking=False)
    try:
        assert "try again in a moment" in client.get("/runs/a/try/stream", params=asked).text
    finally:
        for _ in range(4):
            trying.AT_ONCE.release()
    for _ in range(6):
        assert '"text": "x"' in client.get("/runs/a/try/stream", params=asked).text
