"""A studio over empty run directories with one small family to offer, and a browser's session in it."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from isoflop.studio import server
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.pipeline.conftest import MACHINE, _write_family

NAME = "studio.test"
Enter = Callable[[Studio], TestClient]


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the family file tiny.toml and its corpus."""
    folder = tmp_path_factory.mktemp("families")
    _write_family(folder)
    return folder


@pytest.fixture
def places(tmp_path: Path, families: Path) -> Places:
    return Places(tmp_path / "runs", (families,))


@pytest.fixture
def studio(places: Places, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """Its queue looks only when a test tells it to."""
    monkeypatch.setattr(server, "this_machine", lambda: MACHINE)
    return open_studio(places, Limits(), Opening())


@pytest.fixture
def client(studio: Studio) -> Iterator[TestClient]:
    """A browser that has come in by a link."""
    with TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}") as client:
        client.get(f"/enter?token={studio.sessions.new_link()}")
        yield client


def token_of(client: TestClient) -> str:
    """What the forms of the session carry."""
    found = re.search(r'data-token="([0-9a-f]+)"', client.get("/account").text)
    assert found is not None
    return found[1]


def send(client: TestClient, path: str, **fields: str) -> int:
    """Sends a form as a page of the session would; its status, redirects not followed."""
    return client.post(path, data={"token": token_of(client), **fields}, follow_redirects=False).status_code
