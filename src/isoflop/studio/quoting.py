"""The pages of quotes: asked, answered, kept, downloaded, launched."""

import json
import secrets
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from isoflop.durable import write_json
from isoflop.errors import InputError
from isoflop.studio import pages
from isoflop.studio.accounts import Account
from isoflop.studio.context import Studio, studio_of
from isoflop.studio.family_text import family_text
from isoflop.studio.guard import account_of, form_of
from isoflop.studio.places import checked_name
from isoflop.studio.question import WAYS, Question, parse_question
from isoflop.studio.quote import Quote, draw_quote, memory_of

# So many take some MB, and a page of them some hundredths of a second.
MOST_QUOTES = 1000


def quote_page(request: Request) -> Response:
    """The form with its answer; with `part=answer` the answer alone, as the script asks for it."""
    studio, account = studio_of(request), account_of(request)
    given = dict(request.query_params)
    said, parts, question = "", None, Question()
    try:
        question = parse_question(given)
        parts = answer_parts(studio, account, question)
    except InputError as error:
        said = str(error)
    status = 422 if said else 200
    if given.get("part") == "answer":
        return pages.show(request, "answer.html.jinja", status, said=said, parts=parts)
    asked = {**{key: str(value) for key, value in question.to_json().items()}, **given}
    names = studio.names_of(account)
    return pages.show(
        request,
        "quote.html.jinja",
        status,
        said=said,
        parts=parts,
        asked=asked,
        ways=WAYS,
        families=studio.places.family_files(),
        laws=studio.quotes.laws.names(names),
        corpora=_corpora(studio, account),
    )


def quote_json(request: Request) -> Response:
    """The answer as JSON, for programs."""
    _, quote = _asked(request)
    return JSONResponse(quote.to_json())


def quote_toml(request: Request) -> Response:
    """The family file, to commit and to give to `isoflop run`."""
    _, quote = _asked(request)
    text = family_text(quote.family, f"quoted by isoflop studio at {quote.time}: /quote?{quote.question.query()}")
    headers = {"Content-Disposition": f'attachment; filename="{quote.family.name}.toml"'}
    return Response(text, media_type="application/toml", headers=headers)


async def launch(request: Request) -> Response:
    """Puts the quoted family into the queue and shows its page."""
    fields = await form_of(request)
    return await run_in_threadpool(_launch, request, dict(fields))


def _launch(request: Request, fields: dict[str, str]) -> Response:
    studio, account = studio_of(request), account_of(request, "launch")
    question = parse_question(fields)
    quote = _answer(studio, account, question)
    usual = studio.quotes.price_of(question.family)
    if account.most_price is not None and usual and (question.price or usual) < usual:
        raise InputError(f"price = {question.price:g}: an account with a limit pays the family file's price, {usual:g}")
    studio.audit.add(account.name, "launched", run=quote.family.name)
    studio.queue.place(quote, account.name, account.most_price)
    return RedirectResponse(f"/runs/{quote.family.name}", 303)


async def keep(request: Request) -> Response:
    """Keeps a quote with its time."""
    fields = await form_of(request)
    studio, account = studio_of(request), account_of(request)
    quote = await run_in_threadpool(_answer, studio, account, parse_question(fields))
    if sum(1 for _ in studio.places.quotes.glob("*.json")) >= MOST_QUOTES:
        raise InputError(f"{MOST_QUOTES:,} quotes are kept here; forget some first")
    number = secrets.token_hex(6)
    write_json(studio.places.quotes / f"{number}.json", {"owner": account.name, **quote.to_json()})
    return RedirectResponse("/quotes", 303)


def kept(request: Request) -> Response:
    """The quotes that were kept or launched, newest first, each beside what its run cost and reached."""
    studio, account = studio_of(request), account_of(request)
    runs = [run for run in studio.runs_of(account) if run.order and run.order.quote.get("models")]
    launched = {_asked_for(run.order.quote): run for run in reversed(runs) if run.order}
    found = [{"id": None, "run": run, **run.order.quote} for run in runs if run.order]
    for path in sorted(studio.places.quotes.glob("*.json")):
        try:
            document = json.loads(path.read_bytes())
            if document["owner"] == account.name or account.may("administer"):
                found.append({"id": path.stem, "run": launched.get(_asked_for(document)), **document})
        except (OSError, ValueError, TypeError, KeyError):
            continue
    found.sort(key=lambda one: str(one["time"]), reverse=True)
    return pages.show(request, "quotes.html.jinja", quotes=found)


def _asked_for(quote: dict[str, Any]) -> str:
    """What was asked, whatever it was called: a kept quote is launched under the first name that is free."""
    asked = {key: value for key, value in quote.get("question", {}).items() if key != "name"}
    return json.dumps(asked, sort_keys=True)


async def forget(request: Request) -> Response:
    """Removes a kept quote."""
    await form_of(request)
    studio, account = studio_of(request), account_of(request)
    path = studio.places.quotes / f"{checked_name(request.path_params['id'])}.json"
    try:
        mine = json.loads(path.read_bytes())["owner"] == account.name
    except (OSError, ValueError, TypeError, KeyError):
        mine = False
    if mine or account.may("administer"):
        path.unlink(missing_ok=True)
    return RedirectResponse("/quotes", 303)


def answer_parts(studio: Studio, account: Account, question: Question) -> dict[str, Any]:
    """What the template of an answer is filled with."""
    quote = _answer(studio, account, question)
    return {
        "quote": quote,
        "totals": quote.to_json()["totals"],
        "rows": list(zip(quote.plan.models, quote.foretold, strict=True)),
        "memory_of": memory_of,
        "figure": draw_quote(quote),
        "address": f"/quote?{question.query()}",
        "fields": {**question.to_json(), "name": quote.family.name},
        "file": f"/quote.toml?{question.query()}",
    }


def _asked(request: Request) -> tuple[Studio, Quote]:
    studio, account = studio_of(request), account_of(request)
    return studio, _answer(studio, account, parse_question(dict(request.query_params)))


def _answer(studio: Studio, account: Account, question: Question) -> Quote:
    """The quote, of a corpus that the account may read."""
    # Whoever may not administer reads no file of this machine but what they brought themselves.
    if question.corpus and not account.may("administer") and question.corpus not in _corpora(studio, account):
        raise InputError("corpus: choose one that you brought; a path on this machine takes the role administer")
    return studio.quotes.answer(question, studio.names_of(account))


def _corpora(studio: Studio, account: Account) -> list[str]:
    """What an account may train on: files that it brought, and the tokens of the runs that it sees."""
    brought = [path for path in studio.places.corpora(account.name).glob("*") if path.suffix != ".part"]
    data = [studio.places.run(name).data for name in sorted(studio.names_of(account))]
    prepared = [folder for folder in data if (folder / "manifest.json").is_file()]
    return [str(path.absolute()) for path in [*sorted(brought), *prepared]]


ROUTES = [
    Route("/quote", quote_page),
    Route("/quote.json", quote_json),
    Route("/quote.toml", quote_toml),
    Route("/quotes", kept),
    Route("/quotes/keep", keep, methods=["POST"]),
    Route("/quotes/{id}/forget", forget, methods=["POST"]),
    Route("/launch", launch, methods=["POST"]),
]
