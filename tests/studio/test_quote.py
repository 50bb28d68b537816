"""Quotes: what the plan says, in an address, a file and a page."""

import json
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from starlette.testclient import TestClient

from isoflop.config import load_family
from isoflop.errors import InputError
from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.law import ladder_law
from isoflop.pipeline.plan import store_plan
from isoflop.pipeline.result import write_result
from isoflop.recipe import plan_family
from isoflop.studio.context import Studio
from isoflop.studio.family_text import family_text
from isoflop.studio.laws import PUBLISHED, published
from isoflop.studio.question import parse_question
from isoflop.studio.quote import energy_of
from isoflop.studio.silent import Silent
from tests.pipeline.conftest import MACHINE, result_of
from tests.studio.conftest import send


def test_the_quote_is_the_plan_of_the_command_line(studio: Studio, families: Path) -> None:
    quote = studio.quotes.answer(parse_question({"family": "tiny"}))
    plan = plan_family(load_family(families / "tiny.toml"), MACHINE)
    assert quote.plan == plan
    assert quote.family.name == "tiny"
    assert quote.joules == pytest.approx(5.0 * MACHINE.cores * plan.totals()["seconds"])


@pytest.mark.parametrize(
    ("fields", "cost", "amount"),
    [
        ({"by": "flops", "amount": "1e14"}, "flops", 1e14),
        ({"by": "hours", "amount": "0.5"}, "seconds", 1800),
        ({"by": "kwh", "amount": "0.005"}, "joules", 18_000),
        ({"by": "money", "amount": "3", "price": "2", "systems": "3"}, "price", 3),
    ],
)
def test_a_budget_of_any_kind_is_met(studio: Studio, fields: dict[str, str], cost: str, amount: float) -> None:
    quote = studio.quotes.answer(parse_question({"family": "tiny", **fields}))
    assert len(quote.plan.models) == 5
    assert quote.to_json()["totals"][cost] == pytest.approx(amount, rel=0.1)


def test_a_target_loss_gives_the_size_that_the_law_reaches_it_with(studio: Studio) -> None:
    quote = studio.quotes.answer(parse_question({"family": "tiny", "by": "loss", "amount": "2.6", "ratio": "20"}))
    assert quote.foretold[-1]["loss"] == pytest.approx(2.6, rel=0.03)  # sizes are met within 10 %
    assert quote.lacks == ()


def test_a_model_too_large_for_the_machine_is_said_and_not_launched(studio: Studio, client: TestClient) -> None:
    asked = {"family": "tiny", "by": "params", "sizes": "1b, 4b"}
    quote = studio.quotes.answer(parse_question(asked))
    assert "needs" in quote.lacks[0]
    assert "of memory to train" in client.get("/quote", params=asked).text
    assert send(client, "/launch", **asked) == 422
    assert not studio.places.run("tiny").path.exists()


def test_the_family_file_reads_back_to_the_same_family(studio: Studio, client: TestClient, tmp_path: Path) -> None:
    for number, fields in enumerate(
        ({}, {"by": "hours", "amount": "0.2", "watts": "12.5"}, {"by": "params", "sizes": "20k,40k", "systems": "2"})
    ):
        question = parse_question({"family": "tiny", **fields})
        path = tmp_path / f"{number}.toml"
        path.write_text(client.get(f"/quote.toml?{question.query()}").text)
        assert load_family(path) == studio.quotes.answer(question).family


@pytest.mark.parametrize("name", ["pocket", "pocket-mup", "cerebras-gpt", "cerebras-gpt-mup", "larger"])
def test_every_shipped_family_survives_being_written(name: str, tmp_path: Path) -> None:
    family = load_family(Path(__file__).parents[2] / "families" / f"{name}.toml", use_tuned=False)
    path = tmp_path / "again.toml"
    path.write_text(family_text(family, "a head\nof two lines"))
    assert load_family(path, use_tuned=False) == family


def test_the_address_holds_the_question(studio: Studio, client: TestClient) -> None:
    question = parse_question({"family": "tiny", "by": "hours", "amount": "0.25", "name": "a-b", "count": "4"})
    assert parse_question(dict(parse_qsl(question.query()))) == question
    document = client.get(f"/quote.json?{question.query()}").json()
    assert document["address"] == f"/quote?{question.query()}"
    assert document["family"] == "a-b"
    assert client.get(document["address"]).status_code == 200


def test_a_far_extrapolation_comes_first(client: TestClient) -> None:
    page = client.get("/quote?family=tiny").text
    assert "far extrapolated" in page
    assert page.index("far extrapolated") < page.index("foretold <span")


def test_the_published_law_foretells_as_published() -> None:
    law = published()
    assert law.name == PUBLISHED
    said = law.law.predict(1.3e9, 2.6e10, 2.8e20)
    assert said.low_95 < 1.997 < said.high_95


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"family": "none"}, "no such family file"),
        ({"family": "tiny", "by": "hours"}, "say how much time"),
        ({"family": "tiny", "by": "hours", "amount": "many"}, "give a number"),
        ({"family": "tiny", "by": "hours", "amount": "-1"}, "above 0"),
        ({"family": "tiny", "by": "money", "amount": "5"}, "give the price"),
        ({"family": "tiny", "by": "params"}, "list the parameters"),
        ({"family": "tiny", "by": "params", "sizes": "12,k"}, "is no size"),
        ({"family": "tiny", "by": "params", "sizes": ",,"}, "list the parameters"),
        ({"family": "tiny", "by": "params", "sizes": "20k, 2e4"}, "20,000 is listed twice"),
        ({"family": "tiny", "by": "params", "sizes": ",".join(f"{10 + i}k" for i in range(65))}, "at most 64"),
        ({"family": "tiny", "by": "flops", "amount": "1"}, "too little"),
        ({"family": "tiny", "name": "../../etc"}, "use letters"),
        ({"family": "tiny", "corpus": "/none/here"}, "nothing at"),
        ({"family": "tiny", "systems": "1.5"}, "whole number"),
        ({"family": "tiny", "law": "none"}, "no such run"),
        ({"by": "<script>"}, "use file"),
    ],
)
def test_a_bad_field_is_one_clear_line(client: TestClient, fields: dict[str, str], told: str) -> None:
    answer = client.get("/quote.json", params=fields)
    assert answer.status_code == 422
    line = answer.json()["error"]
    assert told in line
    assert "\n" not in line
    page = client.get("/quote", params=fields)
    assert page.status_code == 422
    assert "<script>" not in page.text


def test_a_budget_of_too_deep_a_model_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.recipe.sizes.MOST_LAYERS", 2)
    answer = client.get("/quote.json", params={"family": "tiny", "by": "flops", "amount": "1e14"})
    assert (answer.status_code, "layers comes out" in answer.json()["error"]) == (422, True)


def test_a_kept_quote_stays_until_it_is_forgotten(studio: Studio, client: TestClient) -> None:
    assert send(client, "/quotes/keep", family="tiny", by="hours", amount="0.1") == 303
    page = client.get("/quotes").text
    assert "/quote?family=tiny&amp;by=hours&amp;amount=0.1" in page
    (path,) = studio.places.quotes.glob("*.json")
    assert send(client, f"/quotes/{path.stem}/forget") == 303
    assert "None yet" in client.get("/quotes").text


def test_energy_is_told_with_how_it_is_known(studio: Studio) -> None:
    quote = studio.quotes.answer(parse_question({"family": "tiny", "watts": "100"}))
    assert energy_of(quote.family, quote.plan)[1] == "watts_per_system x time"


def test_a_bad_family_cannot_be_asked_for_twice_by_name(studio: Studio) -> None:
    (studio.places.runs / "tiny").mkdir(parents=True)
    (studio.places.runs / "tiny" / "plan.json").write_text("{}")
    assert studio.quotes.answer(parse_question({"family": "tiny"})).family.name == "tiny-2"
    with pytest.raises(InputError, match="there already"):
        studio.queue.place(studio.quotes.answer(parse_question({"family": "tiny", "name": "tiny"})), "local")


def test_the_own_law_foretells_the_same_text_wherever_it_lies(studio: Studio, families: Path, tmp_path: Path) -> None:
    family = load_family(families / "tiny.toml")
    plan, folder = plan_family(family, MACHINE), studio.places.run("ladder")
    store_plan(family, plan, folder)
    prepare_data(family, folder, Silent())
    for model in plan.ladder:
        write_result(folder, result_of(model))
    ladder_law(plan, folder)

    def law(**fields: str) -> str:
        quote = studio.quotes.answer(parse_question({"family": "tiny", **fields}))
        assert quote.law.same_data == ("another text" not in " ".join(quote.beware))
        return quote.law.name if quote.law.same_data else "another text"

    elsewhere, text = tmp_path / "copy.jsonl", (families / "corpus.jsonl").read_text()
    elsewhere.write_text(text)
    assert law() == law(corpus=str(elsewhere)) == law(corpus=str(folder.data)) == "ladder"
    # Another text of the same length at the path of the one before is another.
    elsewhere.write_text(text.replace("Number 7 ", "Number 8 "))
    assert law(corpus=str(elsewhere)) == "another text"
    # So are the same files where they make other tokens.
    (families / "other.toml").write_text((families / "tiny.toml").read_text().replace("= 300", "= 320"))
    try:
        assert law(family="other") == "another text"
    finally:
        (families / "other.toml").unlink()
    # The tokens of a run are enough: its corpus may be gone.
    document = json.loads(folder.family.read_text())
    document["data"]["source"] = str(tmp_path / "gone.jsonl")
    folder.family.write_text(json.dumps(document))
    assert law(corpus=str(folder.data)) == "ladder"
