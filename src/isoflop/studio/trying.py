"""A prompt, and all members of a family that continue it side by side."""

import json
import secrets
import threading
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from isoflop.errors import InputError, WorkError
from isoflop.studio import pages
from isoflop.studio.context import studio_of
from isoflop.studio.writing import Prompt, continuations, readable

# Each holds a thread of the server and a core of the machine as long as it writes.
AT_ONCE = threading.BoundedSemaphore(4)


def try_page(request: Request) -> Response:
    """The form, and a column a member."""
    studio = studio_of(request)
    run = studio.run_of(request)
    asked = dict(request.query_params)
    return pages.show(
        request,
        "try.html.jinja",
        run=run,
        members=readable(studio.places.run(run.name)),
        asked=asked,
        seed=asked.get("seed") or str(secrets.randbelow(100_000)),
        chosen=request.query_params.getlist("model"),
    )


def stream(request: Request) -> Response:
    """What they write, as server-sent events."""
    studio = studio_of(request)
    run = studio.run_of(request)
    folder = studio.places.run(run.name)
    given = request.query_params
    names = given.getlist("model") or [name for name, _, _ in readable(folder)]
    prompt = Prompt(
        given.get("prompt", ""),
        round(_number(given.get("seed", "0"), "seed")),
        round(_number(given.get("tokens", "80"), "tokens")),
        _number(given.get("temperature", "0.8"), "temperature"),
    )
    if not names:
        raise InputError(f"{run.name}: no model has a checkpoint yet")

    def events() -> Iterator[str]:
        if not AT_ONCE.acquire(blocking=False):
            yield f"event: fault\ndata: {json.dumps('others are being written for; try again in a moment')}\n\n"
            return
        try:
            for piece in continuations(folder, names, prompt):
                yield f"data: {json.dumps(piece)}\n\n"
        except (InputError, WorkError) as error:
            yield f"event: fault\ndata: {json.dumps(str(error))}\n\n"
        finally:
            AT_ONCE.release()
        yield "event: end\ndata: {}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e18:
        raise InputError(f"{name} = {text[:40]!r}: give a number")
    return value


ROUTES = [Route("/runs/{run}/try", try_page), Route("/runs/{run}/try/stream", stream)]
