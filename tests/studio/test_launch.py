"""A family launched, paused, resumed on other systems, watched, tried and fetched, the studio killed in between."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from isoflop.config import load_family
from isoflop.pipeline import RunFolder, train_family
from isoflop.studio import server
from isoflop.studio.app import make_app
from isoflop.studio.context import Studio
from isoflop.studio.live import Lives
from isoflop.studio.places import Places
from isoflop.studio.process import look, stop
from isoflop.studio.queue import Limits
from isoflop.studio.server import Opening, open_studio
from tests.held import Hold
from tests.pipeline.conftest import MACHINE, Heard
from tests.studio.conftest import NAME, send, token_of

# a family is trained by processes of its own, which start four times
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Launched = tuple[Places, dict[str, str]]
# A hundred steps, at three of which it waits.
LONG = '\nname = "w32"\nn_layers = 1\nd_model = 32\nn_heads = 2\nrecipe = { tokens = 25_600 }\n'


def until(what: Callable[[], bool], seconds: float = 400) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.02)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, families: Path) -> Launched:
    """A family that was told to go on with two systems, paused, cancelled, resumed, killed and resumed while it
    trained, its first studio gone on the way; and the state that was shown after each."""
    folder = tmp_path_factory.mktemp("launched")
    head, small = (families / "tiny.toml").read_text().split("[[models]]")[:2]
    head = head.replace("parameter = 1.0", "parameter = 2.0\nmicrobatch_tokens = 64")
    head = head.replace('"fp32"', '"fp32"\ncheckpoint_seconds = 0.1')
    (folder / "tiny.toml").write_text("[[models]]".join([head, small, LONG]))
    shutil.copy(families / "corpus.jsonl", folder)
    places = Places(folder / "runs", (folder,))
    seen: dict[str, str] = {}
    process, hold = places.ordered("tiny").process, Hold(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", hold.environment["PYTHONPATH"])
        patch.setattr(server, "this_machine", lambda: MACHINE)
        studio = open_studio(places, Limits(), Opening())
        with TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}") as client:
            client.get(f"/enter?token={studio.sessions.new_link()}")

            def tell(what: str, **fields: str) -> None:
                assert send(client, f"/runs/tiny/tell/{what}", **fields) == 303
                seen[what] = state_of(studio)

            def goes_on() -> None:
                studio.queue.look()
                until(lambda: hold.there)
                assert look(process).alive
                assert state_of(studio) == "running"

            hold.at("w32 step 21")
            assert send(client, "/launch", family="tiny", name="tiny") == 303
            assert send(client, "/launch", family="tiny", name="tiny") == 422  # nothing starts twice
            try:
                goes_on()
                tell("systems", systems="2")
                until(lambda: not look(process).alive)
                hold.at("w32 step 41")
                goes_on()
                tell("pause")
                until(lambda: not look(process).alive)
                seen["paused"] = state_of(studio)
                tell("cancel")
                assert send(client, "/runs/tiny/tell/systems", systems="1") == 303
                hold.at("w32 step 61")
                tell("resume")
                goes_on()
                os.kill(look(process).pid or 0, signal.SIGKILL)
                until(lambda: not look(process).alive)
                hold.let_go()
                seen["killed"] = state_of(studio)
                seen["page"] = client.get("/runs/tiny").text
                tell("resume")
                studio.queue.look()
                del studio  # the server is gone: its run is not
                studio = open_studio(places, Limits(), Opening())
                seen["another server"] = state_of(studio)
                until(lambda: not look(process).alive)
                seen["end"] = state_of(studio)
            finally:
                hold.let_go()
                stop(process)
    return places, seen


def state_of(studio: Studio) -> str:
    run = studio.catalogue.run("tiny")
    assert run is not None
    return run.state


@pytest.fixture
def there(launched: Launched) -> Iterator[TestClient]:
    """A browser in a studio over the finished run."""
    studio = open_studio(launched[0], Limits(), Opening())
    with TestClient(make_app(studio, [NAME]), base_url=f"http://{NAME}") as client:
        client.get(f"/enter?token={studio.sessions.new_link()}")
        yield client


def test_each_change_is_shown_and_the_run_outlives_its_server(launched: Launched) -> None:
    places, seen = launched
    page = seen.pop("page")
    assert seen == {
        "systems": "running",
        "pause": "stopping",
        "paused": "paused",
        "cancel": "cancelled",
        "killed": "failed",
        "resume": "queued",
        "another server": "running",
        "end": "done",
    }
    assert "killed, or the machine went down" in page
    assert "Resume" in page
    assert places.run("tiny").report.is_file()
    assert places.ordered("tiny").log.read_text().count("everything is saved") == 2


def test_a_family_that_was_changed_paused_cancelled_and_killed_has_the_bits_of_one_that_never_stopped(
    launched: Launched, tmp_path: Path
) -> None:
    family = load_family(launched[0].ordered("tiny").family_file)
    trained = train_family(family, RunFolder(tmp_path / "tiny"), Heard())  # type: ignore[arg-type]
    undisturbed = {result.name: result.weights_sha256 for result in trained}
    results = launched[0].run("tiny").path.glob("models/*/result.json")
    assert {path.parent.name: json.loads(path.read_text())["weights_sha256"] for path in results} == undisturbed
    told = launched[0].ordered("tiny").events.read_text()
    assert [told.count(f"with {systems}, resident") for systems in ("1 system", "2 systems")] == [3, 1]


def test_the_pages_of_the_run_say_what_its_files_say(launched: Launched, there: TestClient) -> None:
    folder = launched[0].run("tiny")
    result = json.loads(folder.result("w32").read_text())
    page = there.get("/runs/tiny").text
    assert f"{result['nats_per_token']:.3f}" in page
    assert "2 of 2 models" in page
    assert "quoted" in page
    assert "Training loss against tokens" in page
    model = there.get("/runs/tiny/models/w32").text
    assert result["weights_sha256"] in model
    step = there.get("/runs/tiny/models/w32/steps/1").text
    assert "corpus.jsonl" in step
    assert "Number" in step  # the texts themselves
    assert there.get("/runs/tiny/models/w32/steps/0").status_code == 422
    assert there.get("/runs/tiny/models/w32/steps/99999999").status_code == 422
    assert there.get("/runs/tiny/models/none").status_code == 404
    assert there.get("/runs/..%2f..%2fetc").status_code == 404
    assert "isoflop" in there.get("/runs/tiny/log").text
    assert "tiny" in there.get("/").text


def test_a_run_of_the_command_line_has_a_page_too(launched: Launched, there: TestClient) -> None:
    order = launched[0].ordered("tiny").order
    aside = order.with_name("aside.json")
    order.rename(aside)
    try:
        page = there.get("/runs/tiny")
        assert page.status_code == 200
        assert "none was quoted" in page.text
        assert "Settings" not in page.text
        assert "command line" in there.get("/").text
    finally:
        aside.rename(order)


def test_quotes_stand_beside_what_their_run_cost_and_reached(launched: Launched, there: TestClient) -> None:
    result = json.loads(launched[0].run("tiny").result("w32").read_text())
    assert send(there, "/quotes/keep", family="tiny", name="other") == 303
    assert send(there, "/quotes/keep", family="tiny", ratio="3") == 303
    rows = there.get("/quotes").text.split("<tr>")[2:]
    assert len(rows) == 3
    assert sum("not launched" in row for row in rows) == 1
    for row in rows:
        if "not launched" not in row:
            assert '<a href="/runs/tiny">' in row
            assert f">{result['nats_per_token']:.3f}</small>" in row
    for path in launched[0].quotes.glob("*.json"):
        path.unlink()


def test_prepared_tokens_are_a_corpus_that_is_not_made_again(launched: Launched, there: TestClient) -> None:
    from isoflop.config import load_family
    from isoflop.pipeline.data import prepare_data
    from isoflop.studio.silent import Silent

    places, made = launched[0], launched[0].run("tiny").data
    assert f'value="{made}"' in there.get("/quote").text
    try:
        assert send(there, "/launch", family="tiny", name="again", corpus=str(made)) == 303
        again = places.run("again")
        assert (again.data / "manifest.json").samefile(made / "manifest.json")
        prepare_data(load_family(places.ordered("again").family_file), again, Silent())
    finally:
        shutil.rmtree(places.runs / "again", ignore_errors=True)
    (places.runs / "loose").mkdir()
    (places.runs / "loose" / "manifest.json").write_text("{}")
    answer = there.get("/quote.json", params={"family": "tiny", "corpus": str(places.runs / "loose")})
    assert "no family.json beside it" in answer.json()["error"]


def test_members_continue_a_prompt_alike_for_one_seed(there: TestClient) -> None:
    def write(**fields: object) -> dict[str, str]:
        asked = {"prompt": "Number 12 ", "tokens": 12, "seed": 3, "temperature": 1, **fields}
        texts: dict[str, str] = {}
        for line in there.get("/runs/tiny/try/stream", params=asked).text.splitlines():
            if line.startswith("data: {") and "model" in line:
                piece = json.loads(line[6:])
                texts[piece["model"]] = texts.get(piece["model"], "") + piece["text"]
        return texts

    first = write()
    assert set(first) == {"w8", "w32"}
    small = {"model": "w8"}
    assert write(**small) == {"w8": first["w8"]}
    assert write(**small, seed=4) != {"w8": first["w8"]}
    assert there.get("/runs/tiny/try/stream", params={"tokens": 0}).status_code == 422
    assert "Number" in there.get("/runs/tiny/try", params={"prompt": "Number"}).text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("isoflop.studio.writing._free_bytes", lambda: 1000)
        told = there.get("/runs/tiny/try/stream", params={"prompt": "x"}).text
    assert "event: fault" in told
    assert "choose fewer or smaller" in told


def test_kept_keys_and_values_write_what_reading_all_anew_writes(launched: Launched) -> None:
    import torch

    from isoflop.data.tokenizer import load_tokenizer
    from isoflop.studio.writing import Prompt, _reader, continuations, readable

    folder = launched[0].run("tiny")
    (step,) = [step for name, step, _ in readable(folder) if name == "w32"]
    reader = _reader(folder, "w32", step)
    tokenizer = load_tokenizer(folder.data / "tokenizer.json")
    ids = tokenizer.encode("Number 7 squared").ids
    for _ in range(10):
        logits = reader.logits(reader.features(torch.tensor([ids]))[0, -1:])
        ids.append(int(logits.argmax()))
    pieces = continuations(folder, ["w32"], Prompt("Number 7 squared", 0, 10, 0.0))
    assert "Number 7 squared" + "".join(piece["text"] for piece in pieces) == tokenizer.decode(ids)


def test_what_is_fetched_is_checked_and_whole(launched: Launched, there: TestClient) -> None:
    with tarfile.open(fileobj=io.BytesIO(there.get("/runs/tiny/release.tar").content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    sums = dict(reversed(line.split("  ")) for line in files.pop("SHA256SUMS").decode().splitlines())  # type: ignore[misc]
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert "tiny/w32/model.safetensors" in files
    with pytest.MonkeyPatch.context() as patch:  # tests/report draws them
        patch.setattr("isoflop.pipeline.report.save_figures", lambda _, to: [_written(to / "compute.svg")])
        names = zipfile.ZipFile(io.BytesIO(there.get("/runs/tiny/figures.zip").content)).namelist()
        patch.setattr("isoflop.pipeline.report.save_figures", None)  # for the same state they are not drawn again
        assert there.get("/runs/tiny/figures.zip").status_code == 200
    assert names == ["tiny-figures/compute.svg"]
    page = there.get("/runs/tiny/report")
    assert "isoflop report" in page.text
    assert page.headers["Content-Security-Policy"].startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in page.headers["Content-Security-Policy"]
    token = token_of(there)
    assert "every file is as it was released" in there.post("/runs/tiny/verify", data={"token": token}).text
    card = launched[0].run("tiny").release("w8") / "README.md"
    text = card.read_bytes()
    try:
        card.write_bytes(text + b" ")
        assert "README.md" in there.post("/runs/tiny/verify", data={"token": token}).text
        assert there.get("/runs/tiny/release.tar").status_code == 500
    finally:
        card.write_bytes(text)


def _written(path: Path) -> Path:
    path.write_text("<svg/>")
    return path


def test_watchers_share_one_look_and_hear_of_news(launched: Launched) -> None:
    looked: list[int] = []

    async def watch() -> list[bytes]:
        lives = Lives(launched[0], lambda live: looked.append(1) or f"<p>\n{live.folder.path.name}</p>")  # type: ignore[func-returns-value]

        async def first() -> bytes:
            async for text in lives.events("tiny"):
                if text.startswith(b"event"):
                    return text
            raise AssertionError

        return await asyncio.gather(*(first() for _ in range(100)))

    assert set(asyncio.run(watch())) == {b"event: live\ndata: <p>\ndata: tiny</p>\n\n"}
    assert len(looked) == 1


def test_a_watcher_who_leaves_is_no_fault(launched: Launched) -> None:
    lives = Lives(launched[0], lambda live: "<p></p>")

    async def leave() -> None:
        async def watch() -> None:
            async for _ in lives.events("tiny"):
                pass

        watching = asyncio.create_task(watch())
        await asyncio.sleep(0.05)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(leave())


def test_a_model_in_training_is_shown_beside_what_is_expected(launched: Launched, studio: Studio) -> None:
    from isoflop.studio.curves import draw_course
    from isoflop.studio.money import trained_seconds

    live = studio.lives.of("tiny")
    live.folder = launched[0].run("tiny")
    model = live.read().models[-1]
    assert live.watch(model) is None  # one other is too few
    assert model.result is not None
    assert model.metrics is not None
    assert 0 < trained_seconds(model.metrics) < 1.1 * (model.result.seconds or 0)
    figure = draw_course(model, None)
    assert figure is not None
    assert "w32" in figure.drawing.description
