"""`isoflop studio`: the web server over a folder of run directories."""

import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.errors import InputError, WorkError
from isoflop.pipeline.serve import ANYWHERE, LOOPBACK
from isoflop.recipe import Machine
from isoflop.studio.accounts import Accounts
from isoflop.studio.catalogue import Catalogue
from isoflop.studio.places import Places
from isoflop.studio.queue import Limits, Queue

if TYPE_CHECKING:
    from isoflop.studio.context import Studio


@dataclass(frozen=True)
class Opening:
    """How the studio is reached. `header` is a proxy's that names who asks; `secure` says that it is reached by
    HTTPS."""

    host: str = "127.0.0.1"
    port: int = 8765
    names: tuple[str, ...] = ()
    header: str | None = None
    secure: bool = False
    most_upload_bytes: int = 2**30


def serve_studio(places: Places, limits: Limits, opening: Opening, tell: Callable[[str], None]) -> None:
    """Serves until interrupted; runs that it has started go on. `tell` hears the address to open.

    Raises:
        InputError: the extra is not installed, the port is taken, or it would be open to others without accounts.
        WorkError: another studio looks after these run directories, or they cannot be written.
    """
    by_account = _by_account(places, opening)
    try:
        import uvicorn

        from isoflop.studio.app import make_app
    except ImportError:
        raise InputError("isoflop studio needs the extra studio: pip install 'isoflop[studio]'") from None
    with only_one(places):
        try:
            family = socket.AF_INET6 if ":" in opening.host else socket.AF_INET
            listening = socket.create_server((opening.host, opening.port), family=family)
        except OSError as error:
            where = f"--host {opening.host} --port {opening.port}"
            raise InputError(f"{where}: cannot listen ({error.strerror}); give others") from None
        studio = open_studio(places, limits, opening, by_account)
        shown = f"[{opening.host}]" if ":" in opening.host else opening.host
        names = [*LOOPBACK, *(() if opening.host in ANYWHERE else (shown,)), *opening.names]
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        tell(address if by_account else f"{address}enter?token={studio.sessions.new_link()}")
        worker = threading.Thread(target=studio.queue.run, name="queue", daemon=True)
        worker.start()
        threading.Thread(target=_warm_up, args=(studio,), name="warm-up", daemon=True).start()
        settings = uvicorn.Config(
            make_app(studio, names),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=2,
        )
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        finally:
            studio.queue.end()
            worker.join(10)


def open_studio(places: Places, limits: Limits, opening: Opening, by_account: bool = False) -> "Studio":
    """The studio's parts; nothing is served and nothing started."""
    from isoflop.studio.context import Studio
    from isoflop.studio.live import Live, Lives
    from isoflop.studio.quote import Quotes
    from isoflop.studio.running import live_part
    from isoflop.studio.sessions import Audit, Sessions

    catalogue, accounts = Catalogue(places), Accounts(places.accounts)
    queue = Queue(places, catalogue, limits)

    def draw(live: Live) -> str:
        name = live.folder.path.name
        return live_part(live, catalogue.run(name), queue.said(name))

    return Studio(
        places=places,
        catalogue=catalogue,
        queue=queue,
        quotes=Quotes(places, this_machine),
        accounts=accounts,
        sessions=Sessions(catalogue, accounts, by_account, opening.header, str(places.runs)),
        audit=Audit(places.audit),
        lives=Lives(places, draw, queue.said),
        most_upload_bytes=opening.most_upload_bytes,
        secure=opening.secure,
    )


@cache
def this_machine() -> Machine:
    """This machine, measured once."""
    from isoflop.systems import measure_machine

    return measure_machine()


@contextmanager
def only_one(places: Places) -> Iterator[None]:
    """One studio looks after a folder of run directories; the kernel's lock goes when it is killed."""
    try:
        places.make_home()
        descriptor = os.open(places.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WorkError(f"{places.home}: cannot write ({error.strerror}); give another --runs folder") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise WorkError(f"{places.runs}: another isoflop studio is at work here; stop it first") from None
    try:
        yield
    finally:
        os.close(descriptor)


def add_account(runs: Path, name: str, role: str, password: str, most_price: float | None) -> None:
    """Adds or changes an account of the studio over `runs`; whoever was signed in by it is not any more.

    Raises:
        InputError: the name, role or password cannot be used.
    """
    places = Places(runs, ())
    Accounts(places.accounts).put(name, role, password, most_price)
    Catalogue(places).end_sessions(account=name)


def _by_account(places: Places, opening: Opening) -> bool:
    """Whether people sign in: always beyond loopback, and on it where there are accounts."""
    there = bool(Accounts(places.accounts).all())
    beyond = opening.host not in (*LOOPBACK, "::1")
    if (beyond or opening.header) and not there:
        raise InputError(
            f"--host {opening.host}: others would reach it, and there are no accounts; make one with isoflop studio "
            "account NAME --role administer"
        )
    if opening.host in ANYWHERE and not opening.names:
        name = socket.gethostname()
        raise InputError(f"--host {opening.host}: say by which name browsers reach it, as in --name {name}")
    return there


def _warm_up(studio: "Studio") -> None:
    """What the first page and the first quote would wait for."""
    from isoflop.studio.accounts import ALONE
    from isoflop.studio.laws import published
    from isoflop.studio.pages import environment, script, stylesheet
    from isoflop.studio.question import Question
    from isoflop.studio.quoting import answer_parts

    stylesheet(), script()
    studio.catalogue.runs()
    for family in studio.places.family_files():
        with suppress(InputError, WorkError, OSError):
            parts = answer_parts(studio, ALONE, Question(family=family))
            environment().get_template("answer.html.jinja").render(
                said="", parts=parts, account=ALONE, token="", here=""
            )
            break
    published().cheapest_params(3.0)


def families_beside(folders: Sequence[Path]) -> tuple[Path, ...]:
    """Folders of family files; a `families` where the command was started, unless others are named.

    Raises:
        InputError: one is not there.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--families {folder}: no such folder; give one that holds family files")
    return tuple(folder.absolute() for folder in folders or [Path("families")])
