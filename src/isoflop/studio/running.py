"""The pages of a run: the family, each model, each step; and what may be done with it."""

from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from isoflop.errors import InputError
from isoflop.report.metrics import Metrics
from isoflop.studio import pages
from isoflop.studio.catalogue import Listed
from isoflop.studio.context import Studio, studio_of
from isoflop.studio.curves import draw_course, draw_courses
from isoflop.studio.events import end_of
from isoflop.studio.guard import form_of
from isoflop.studio.live import Live, Snapshot
from isoflop.studio.places import Places
from isoflop.studio.process import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isoflop.data import Passage

LOG_BYTES = 64_000
# Passages of a step that are listed, and of each the tokens that are shown as text.
SHOWN, SHOWN_TOKENS = 500, 48


def family_page(request: Request) -> Response:
    """A run: how it stands, what it may be told, what came of it."""
    studio = studio_of(request)
    run = studio.run_of(request)
    live = studio.lives.of(run.name)
    account = request.state.account
    return pages.show(
        request,
        "family.html.jinja",
        run=run,
        live=live_part(live, run, studio.queue.said(run.name)),
        mine=account.may("launch") and (account.may("administer") or run.owner == account.name) and run.order,
        waits=studio.queue.waits(studio.catalogue.runs()).get(run.name, ""),
        end=_end_of(studio.places, run),
        released=sorted(path.parent.name for path in live.folder.path.glob("release/*/MANIFEST.json")),
        reported=live.folder.report.is_file(),
    )


def live_part(live: Live, run: Listed | None, said: str = "") -> str:
    """The part of a run's page that follows the run, the same for everyone; `said` is what a cluster says of it."""
    now = live.read()
    beside = _beside_quote(run, now)
    same = beside["quote"].get("law", {}).get("same_data") is True
    figure = draw_courses(now, beside["foretold"] if same else {})
    filled = {"run": run, "now": now, "said": said, "figure": figure, "about_foretold": _about_foretold(now, same)}
    return pages.fragment("live.html.jinja", **filled, **beside)


def events(request: Request) -> Response:
    """The live part whenever it changes, as server-sent events."""
    studio = studio_of(request)
    run = studio.run_of(request)
    return StreamingResponse(studio.lives.events(run.name), media_type="text/event-stream")


def model_page(request: Request) -> Response:
    """A model: its curve beside the one expected, its numbers, its checkpoints."""
    studio = studio_of(request)
    run = studio.run_of(request)
    live = studio.lives.of(run.name)
    snapshot = live.read()
    model = next((one for one in snapshot.models if one.name == request.path_params["model"]), None)
    if model is None:
        raise HTTPException(404, f"no model {request.path_params['model'][:80]!r} in {run.name}")
    watch = live.watch(model)
    saved = sorted(int(path.name[4:]) for path in (live.folder.model(model.name) / "checkpoints").glob("gen-*[0-9]"))
    return pages.show(
        request,
        "model.html.jinja",
        run=run,
        model=model,
        now=snapshot,
        standing=watch.standing() if watch is not None and model.metrics is not None else None,
        why=live.why_no_watch() if watch is None else "",
        figure=draw_course(model, watch),
        saved=saved,
        steps=int(model.planned.steps or 0) if model.planned else 0,
        step=len(model.metrics.tokens) if model.metrics else 0,
    )


def step_page(request: Request) -> Response:
    """A step: the documents of its batch."""
    from isoflop.pipeline.plan import stored_plan
    from isoflop.pipeline.trace import trace_step

    studio = studio_of(request)
    run = studio.run_of(request)
    live = studio.lives.of(run.name)
    family, _ = stored_plan(live.folder)
    name, step = request.path_params["model"], _whole(request.path_params, "step", digits=12)
    if step < 1:
        raise InputError("step: the first is 1")
    trace = trace_step(family, live.folder, step, name)
    model = next(one for one in live.read().models if one.name == name)
    shown = trace.passages[:SHOWN]
    index = None if model.metrics is None or step > len(model.metrics.tokens) else step - 1
    return pages.show(
        request,
        "step.html.jinja",
        run=run,
        rows=list(zip(shown, _beginnings(live, shown, trace.context_length), strict=True)),
        trace=trace,
        loss=float(model.metrics.loss[index]) if model.metrics is not None and index is not None else None,
        domains=_domains(trace.passages),
    )


def log(request: Request) -> Response:
    """The end of what the run has printed, here and in the jobs of a cluster."""
    studio = studio_of(request)
    run = studio.run_of(request)
    jobs = sorted(studio.places.run(run.name).logs.glob("job-*.txt"))
    here = end_of(studio.places.ordered(run.name).log, LOG_BYTES)
    texts = [here, *(f"\n== {path.name}\n{end_of(path, LOG_BYTES)}" for path in jobs)]
    return PlainTextResponse("".join(texts).strip("\n") + "\n" if any(texts) else "nothing was printed yet\n")


async def tell(request: Request) -> Response:
    """Pause, resume, cancel, or another number of systems, priority or company."""
    fields = await form_of(request)
    return await run_in_threadpool(_tell, request, dict(fields))


def _tell(request: Request, fields: dict[str, str]) -> Response:
    studio = studio_of(request)
    run = studio.run_of(request, mine=True)
    what = request.path_params["what"]
    studio.audit.add(request.state.account.name, what, run=run.name, **{k: v[:40] for k, v in fields.items()})
    match what:
        case "pause":
            studio.queue.pause(run.name)
        case "resume":
            studio.queue.resume(run.name, _most_price_of(studio, run))
        case "cancel":
            studio.queue.cancel(run.name)
        case "systems":
            studio.queue.change(run.name, systems=_whole(fields, "systems"))
        case "priority":
            studio.queue.change(run.name, priority=_whole(fields, "priority"))
        case "share":
            studio.queue.share(run.name, fields.get("shared") == "yes")
        case _:
            raise HTTPException(404, f"nothing does {what[:40]!r}")
    return RedirectResponse(f"/runs/{run.name}", 303)


def _most_price_of(studio: Studio, run: Listed) -> float | None:
    """What the owner of a run may spend, whoever resumes it."""
    owner = studio.accounts.all().get(run.owner)
    return owner.most_price if owner is not None else None


def _whole(fields: dict[str, str], name: str, digits: int = 6) -> int:
    text = fields.get(name, "").strip()
    if not text.isdecimal() or len(text) > digits:
        raise InputError(f"{name} = {text[:40]!r}: give a whole number")
    return int(text)


def _end_of(places: Places, run: Listed) -> str:
    """The last line of a run that failed."""
    if run.state != "failed":
        return ""
    try:
        lines = places.ordered(run.name).log.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    if look(places.ordered(run.name).process).code is None:
        return "it ended without a word: killed, or the machine went down; everything up to its last checkpoint is kept"
    return next((line for line in reversed(lines) if line.startswith("isoflop: ")), "isoflop: see the log")[9:]


def _beside_quote(run: Listed | None, now: Snapshot) -> dict[str, Any]:
    """What was quoted beside what it came to so far."""
    quote = run.order.quote if run and run.order else {}
    foretold = {one["name"]: one.get("foretold", {}) for one in quote.get("models", [])}
    tokens = sum(float(model.metrics.tokens[-1]) for model in now.models if model.metrics is not None)
    planned = sum(float(model.planned.tokens or 0) for model in now.models if model.planned)
    return {
        "quote": quote,
        "foretold": foretold,
        "share": min(1.0, tokens / planned) if planned else 0.0,
        "largest": now.models[-1] if now.models else None,
        "rate": {model.name: _rate(model.metrics) for model in now.models if model.metrics is not None},
    }


def _about_foretold(now: Snapshot, same_text: bool) -> str:
    """What stands under the curves of a run that goes on: why nothing, or not all, is foretold on them."""
    if all(model.result for model in now.models):
        return ""
    if now.watches:
        return "A healthy run stays in the band, and one that leaves it is told of as an alarm."
    said = "The band of healthy runs is known once six other models are finished."
    return said if same_text else f"{said} The quote's law is of another text, so its losses are not drawn here."


def _rate(metrics: Metrics) -> tuple[float, float]:
    """Tokens a second and share of the peak, over the last steps."""
    return float(np.nanmedian(metrics.tokens_per_second[-20:])), float(np.nanmedian(metrics.mfu[-20:]))


def _beginnings(live: Live, passages: "Sequence[Passage]", context_length: int) -> list[str]:
    """How each passage begins, as text."""
    from isoflop.data.manifest import TOKENIZER_FILE
    from isoflop.data.shards import TokenStream
    from isoflop.data.tokenizer import load_tokenizer

    stream = TokenStream(live.folder.data, "train")
    tokenizer = load_tokenizer(live.folder.data / TOKENIZER_FILE)
    found = []
    for one in passages:
        ids = stream.sample(one.sample, context_length)[one.first : one.first + min(one.tokens, SHOWN_TOKENS)]
        found.append(str(tokenizer.decode(ids.tolist(), skip_special_tokens=True)))
    return found


def _domains(passages: Any) -> list[tuple[str, int]]:
    tokens: dict[str, int] = {}
    for one in passages:
        tokens[one.domain] = tokens.get(one.domain, 0) + one.tokens
    return sorted(tokens.items(), key=lambda pair: -pair[1])


ROUTES = [
    Route("/runs/{run}", family_page),
    Route("/runs/{run}/events", events),
    Route("/runs/{run}/log", log),
    Route("/runs/{run}/models/{model}", model_page),
    Route("/runs/{run}/models/{model}/steps/{step}", step_page),
    Route("/runs/{run}/tell/{what}", tell, methods=["POST"]),
]
