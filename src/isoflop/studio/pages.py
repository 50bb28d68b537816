"""Pages: the report's templates, style and script, with the studio's own beside them; nothing comes from elsewhere."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from isoflop.report import page as report
from isoflop.report.numbers import FILTERS, MISSING, digits, loss
from isoflop.studio.accounts import ROLES
from isoflop.studio.sessions import form_token

# An interval of so many times its lower end is none.
MOST_TIMES = 5.0


@cache
def environment() -> Any:
    """As the report's, with the studio's templates first; all that is filled in is escaped."""
    mine = report.templates().overlay(
        loader=ChoiceLoader(
            [PackageLoader("isoflop.studio", "templates"), PackageLoader("isoflop.report", "templates")]
        )
    )
    mine.filters.update(FILTERS, energy=energy, interval=interval)
    return mine


def energy(joules: float | None) -> str:
    """0.588 Wh, 1.20 kWh"""
    if joules is None:
        return MISSING
    hours = joules / 3600
    return f"{digits(hours / 1000)} kWh" if hours >= 999.5 else f"{digits(hours)} Wh"


def interval(foretold: Mapping[str, float], share: int) -> str:
    """3.282 to 3.590; words where the law says next to nothing."""
    low, high = foretold[f"low_{share}"], foretold[f"high_{share}"]
    return f"{loss(low)} to {loss(high)}" if high < MOST_TIMES * low else "not known"


def show(request: Request, template: str, status: int = 200, **filled: Any) -> HTMLResponse:
    """The page of a template, for whoever asks."""
    secret = getattr(request.state, "secret", None)
    context = {
        "account": getattr(request.state, "account", None),
        "token": form_token(secret) if secret else "",
        "here": request.url.path,
        "roles": ROLES,
        "by_account": request.app.state.studio.sessions.by_account,
        "signs_out": request.app.state.studio.sessions.header is None,
        **filled,
    }
    return HTMLResponse(environment().get_template(template).render(context), status_code=status)


def fragment(template: str, **filled: Any) -> str:
    """A part of a page, the same for everyone who may see it."""
    return str(environment().get_template(template).render(filled))


@cache
def stylesheet() -> str:
    """The report's colours and style, then the studio's."""
    text = environment().get_template("studio.css.jinja").render()
    return str(text)


@cache
def script() -> str:
    """The report's figures, then the studio's own few lines."""
    figures = files("isoflop.report") / "templates" / "script"
    mine = files("isoflop.studio") / "static" / "studio.js"
    names = [name for name in report.SCRIPTS if name != "page.js"]
    texts = [(figures / name).read_text(encoding="utf-8") for name in names]
    return "(() => {\n" + "\n".join([*texts, mine.read_text(encoding="utf-8")]) + "})();\n"


def static(request: Request) -> Response:
    """The one stylesheet and the one script."""
    match request.path_params["name"]:
        case "studio.css":
            return Response(stylesheet(), media_type="text/css", headers={"Cache-Control": "max-age=300"})
        case "studio.js":
            return Response(script(), media_type="text/javascript", headers={"Cache-Control": "max-age=300"})
        case _:
            return Response("no such file", 404, media_type="text/plain")
