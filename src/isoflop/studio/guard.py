"""What stands before every page: whose request it is, where it came from, and what the answer may do in a browser."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isoflop.errors import InputError, WorkError
from isoflop.studio.accounts import Account, Role
from isoflop.studio.sessions import Sessions, is_form_token

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": browsers then send a form with the origin "null", as any page could.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
SAFE = ("GET", "HEAD")
OPEN = ("/login", "/enter", "/static/")
MOST_FORM_BYTES = 64_000


class ForbiddenError(Exception):
    """Someone is known and may not."""


class Guard:
    """Refuses what comes from other pages or from nobody; puts the account and the session's secret into `state`."""

    def __init__(self, app: ASGIApp, sessions: Sessions, names: list[str]) -> None:
        self._app, self._sessions, self._names = app, sessions, {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", POLICY)
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if _name_of(host) not in self._names:
            return PlainTextResponse("not a name of this studio; start it with --name NAME", 400)
        if scope["method"] not in SAFE:
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
                return PlainTextResponse("sent from another page: refused", 403)
            if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return PlainTextResponse("sent from another page: refused", 403)
        # Another page on this machine is of the same site: cookies come along with its image, say, of a costly page.
        elif (
            headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate"
        ):
            return PlainTextResponse("asked for by another page: refused", 403)
        state = scope.setdefault("state", {})
        secret = Request(scope).cookies.get(self._sessions.cookie)
        given = {name.lower(): value for name, value in headers.items()}
        try:
            state["account"] = self._sessions.who(secret, given)
        except WorkError:
            return PlainTextResponse("who may come in cannot be read: look at .studio/ in the run directories", 503)
        account: Account | None = state["account"]
        state["secret"] = self._sessions.secret_of(secret, account)
        if account is not None or scope["path"].startswith(OPEN):
            return None
        if self._sessions.by_account and scope["method"] in SAFE and self._sessions.header is None:
            return RedirectResponse("/login", 303)
        if self._sessions.header is not None:
            return PlainTextResponse("the proxy names no account of this studio", 401)
        return PlainTextResponse(
            "Nobody is signed in here. Open the address that isoflop studio printed; it works once. For another, "
            "look under Account in a browser that is signed in, or start isoflop studio again.",
            401,
        )


def account_of(request: Request, role: Role = "see") -> Account:
    """Who asks.

    Raises:
        ForbiddenError: they may not do what `role` may.
    """
    account: Account = request.state.account
    if not account.may(role):
        raise ForbiddenError(f"{account.name} may {account.role}; this takes the role {role}")
    return account


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form that a page of this session sent.

    Raises:
        ForbiddenError: it is from elsewhere, or from before the session.
        InputError: it is too long, or no form.
    """
    fields = await read_form(request)
    check_token(request, fields.pop("token", ""))
    return fields


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, whoever sent it.

    Raises:
        InputError: it is too long, or no form.
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_FORM_BYTES:
            raise InputError(f"the form is longer than {MOST_FORM_BYTES:,} bytes")
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100))
    except ValueError:
        raise InputError("not a form") from None


def check_token(request: Request, token: str) -> None:
    """
    Raises:
        ForbiddenError: as `form_of`.
    """
    secret: Any = request.state.secret
    if not secret or not is_form_token(secret, token):
        raise ForbiddenError("this form is of an earlier session; open the page again")


def _name_of(host: str) -> str:
    """Without the port: `[::1]:8000` is `[::1]`."""
    return (host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]).lower()
