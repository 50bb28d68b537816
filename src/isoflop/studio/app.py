"""The application: which address shows what, and what a form does."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from isoflop.errors import InputError, WorkError
from isoflop.studio import fetching, pages, quoting, running, trying
from isoflop.studio.context import Studio, studio_of
from isoflop.studio.guard import HEADERS, POLICY, ForbiddenError, Guard, account_of, form_of, read_form
from isoflop.studio.question import Question
from isoflop.studio.sessions import SESSION_SECONDS


def make_app(studio: Studio, names: list[str]) -> Starlette:
    """The application for requests that name one of `names`."""
    routes = [
        Route("/", home),
        Route("/login", login, methods=["GET", "POST"]),
        Route("/enter", enter),
        Route("/logout", logout, methods=["POST"]),
        Route("/account", account_page),
        Route("/account/link", another_link, methods=["POST"]),
        Route("/audit", audit_page),
        Route("/static/{name}", pages.static),
        *quoting.ROUTES,
        *running.ROUTES,
        *fetching.ROUTES,
        *trying.ROUTES,
    ]
    handlers: Mapping[Any, Any] = {
        InputError: _bad_input,
        WorkError: _fault,
        OSError: _fault,
        ForbiddenError: _forbidden,
        HTTPException: _http,
        Exception: _unexpected,
    }
    app = Starlette(
        routes=routes, middleware=[Middleware(Guard, studio.sessions, names)], exception_handlers=dict(handlers)
    )
    app.state.studio = studio
    return app


def home(request: Request) -> Response:
    """All runs that may be seen; on a fresh clone, the pocket family ready to launch."""
    studio, account = studio_of(request), account_of(request)
    everyone = studio.catalogue.runs()
    runs = [run for run in everyone if studio.visible(account, run)]
    waits = studio.queue.waits(everyone)
    first: dict[str, Any] = {}
    families = studio.places.family_files()
    if not runs and families and account.may("launch"):
        first = quoting.answer_parts(studio, account, Question(family=next(iter(families))))
    limits = studio.queue.limits
    filled: dict[str, Any] = {"runs": runs, "waits": waits, "limits": limits, "families": families}
    return pages.show(request, "home.html.jinja", parts=first, said="", **filled)


def enter(request: Request) -> Response:
    """Opens a session for a link that was not used yet."""
    studio = studio_of(request)
    # A browser that looks ahead, or a program that looks what a link is, must not spend it.
    if request.method == "HEAD" or "prefetch" in request.headers.get("sec-purpose", ""):
        return Response(status_code=204)
    secret = studio.sessions.use_link(request.query_params.get("token", ""))
    if secret is None:
        if request.state.account is not None:
            return RedirectResponse("/", 303)
        return pages.show(request, "message.html.jinja", 401, title="This link was used", said=_USED)
    studio.audit.add("local", "entered by link")
    return _with_session(studio, secret)


_USED = (
    "A link opens one session and is spent then. Get another under Account in the browser that is signed in, or "
    "start isoflop studio again: it prints one."
)


async def login(request: Request) -> Response:
    """Signs in with a password."""
    studio = studio_of(request)
    if not studio.sessions.by_account:
        return RedirectResponse("/", 303)
    if request.method == "GET":
        return pages.show(request, "login.html.jinja", said="", name="")
    # No session yet, so no token: the Guard has refused forms of other pages by their origin.
    fields = await read_form(request)
    name = fields.get("name", "")[:64]
    try:
        # Waiting here and not in a thread: pages need those, and nobody has signed in yet.
        async with studio.entering:
            account = await run_in_threadpool(studio.accounts.enter, name, fields.get("password", "")[:1000])
    except InputError as error:
        return pages.show(request, "login.html.jinja", 429, said=str(error), name=name)
    studio.audit.add(name, "entered" if account else "gave a wrong password")
    if account is None:
        return pages.show(request, "login.html.jinja", 403, said="No account has this name and password.", name=name)
    return _with_session(studio, studio.sessions.begin(account))


async def logout(request: Request) -> Response:
    """Ends the session."""
    await form_of(request)
    studio = studio_of(request)
    studio.sessions.end(request.cookies.get(studio.sessions.cookie))
    answer = RedirectResponse("/login" if studio.sessions.by_account else "/enter", 303)
    answer.delete_cookie(studio.sessions.cookie)
    return answer


def account_page(request: Request) -> Response:
    """Who one is, and a link for another browser."""
    return pages.show(request, "account.html.jinja", link="")


async def another_link(request: Request) -> Response:
    """A fresh link, shown once."""
    await form_of(request)
    studio, account = studio_of(request), account_of(request, "administer")
    if studio.sessions.by_account:
        raise InputError("with accounts nobody comes in by a link; use isoflop studio account")
    studio.audit.add(account.name, "made a link")
    link = f"{request.url.scheme}://{request.headers['host']}/enter?token={studio.sessions.new_link()}"
    return pages.show(request, "account.html.jinja", link=link)


def audit_page(request: Request) -> Response:
    """The newest lines of the audit log."""
    account_of(request, "administer")
    lines = studio_of(request).audit.last(200)
    for line in lines:
        line["when"] = datetime.fromtimestamp(line["time"], UTC).isoformat(timespec="seconds")
    return pages.show(request, "audit.html.jinja", lines=lines)


def wants_json(request: Request) -> bool:
    return request.url.path.endswith(".json") or "application/json" in request.headers.get("accept", "")


def _with_session(studio: Studio, secret: str) -> Response:
    answer = RedirectResponse("/", 303)
    # Lax, not strict: a link from a terminal or a mail must find the session it has opened.
    answer.set_cookie(
        studio.sessions.cookie, secret, int(SESSION_SECONDS), httponly=True, samesite="lax", secure=studio.secure
    )
    return answer


def _refused(request: Request, status: int, title: str, said: str) -> Response:
    line = " ".join(said.split())
    if wants_json(request) or "text/html" not in request.headers.get("accept", "text/html"):
        return JSONResponse({"error": line}, status)
    return pages.show(request, "message.html.jinja", status, title=title, said=line)


def _bad_input(request: Request, error: Exception) -> Response:
    return _refused(request, 422, "This cannot work", str(error))


def _fault(request: Request, error: Exception) -> Response:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _refused(request, 500, "A fault", f"{where}{error.strerror or error}; nothing that was there is lost")
    return _refused(request, 500, "A fault", str(error))


def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: the traceback goes to the terminal, and the page says where to look."""
    said = f"{type(error).__name__}: what went wrong stands in the terminal of isoflop studio. No run is touched by it."
    answer = _refused(request, 500, "A fault of the studio", said)
    # The Guard's headers are not on it: it is answered outside of all middleware.
    answer.headers.update({**HEADERS, "Content-Security-Policy": POLICY})
    return answer


def _forbidden(request: Request, error: Exception) -> Response:
    return _refused(request, 403, "Not allowed", str(error))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "Nothing here" if error.status_code == 404 else "This cannot work"
    return _refused(request, error.status_code, title, error.detail)
