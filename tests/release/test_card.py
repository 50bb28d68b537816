"""The model card: what it says, and that no name, description or licence can make it say anything else."""

import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from isoflop.data import Manifest
from isoflop.release import Card
from isoflop.release.card import render
from isoflop.release.inert import front_matter, inert

HOSTILE = [
    "<script>alert(1)</script>",
    "</td></table><img src=x onerror=alert(1)>",
    "a | b | c",
    "`code` and ```fence```",
    "![x](http://evil.example/x.png) [y](javascript:alert(1))",
    "{{7*7}} {% raw %} ${7*7} $x^2$",
    "one\n---\nlicense: mit\n---\n# two",
    "one\r\n- item\n\n> quote\u2028three\x85four",
    "---",
    "...",
    "key: value # comment",
    "'single' \"double\" \\ back\\slash\\n",
    "&lt;b&gt; &amp; &#60;",
    "*a* _b_ ~c~ **d**",
    "\u202egnirts\u200b\ufeff\x00\x1b[31m\x7f",
    "\U0001f600 日本語 é",
    "yes",
    "1e-05",
    "~",
    "2026-11-24",
    "",
    "x" * 3000,
    "- item",
    "1. item",
    "=====",
    "\ud800",
]
hostile = pytest.mark.parametrize("text", HOSTILE)


@hostile
def test_the_front_matter_parses_to_the_very_texts(card: Card, text: str) -> None:
    found = front_matter_of(render(with_text(card, text)))

    assert found["family"] == text
    assert found["description"] == text
    assert found["data_licence"] == text
    assert found["license"] == "apache-2.0"
    [result] = found["model-index"][0]["results"]
    assert result["dataset"]["name"] == text
    assert [metric["value"] for metric in result["metrics"]] == [4.25, 1.75]


@hostile
def test_the_card_stays_the_card_whatever_the_texts_say(card: Card, text: str) -> None:
    plain = with_text(card, "plain")
    if not text:
        plain = replace(plain, description="")

    body = body_of(render(with_text(card, text)))

    assert structure_of(body) == structure_of(body_of(render(plain)))
    assert not re.search("[<>]|[{][{%]|[$]", without_references(body))


@given(st.text(st.characters()), st.floats(), st.integers())
@example("a\x85b\u2028c\ud800\U0010ffff\ufffe---", 1e-05, 0)
@example('"\\/\t: - {}[],&*#?|<>=!%@`', 1e22, -1)
def test_any_value_survives_the_front_matter(text: str, number: float, integer: int) -> None:
    key = text[:64]  # YAML reads keys of up to 1,024 written characters
    values = {"text": text, "list": [text, number], "map": {key: integer, "none": None}, "flag": True}
    finite = abs(number) < float("inf")

    written = front_matter(values)

    expected = {**values, "list": [text, number if finite else None]}
    assert yaml.safe_load(written.removeprefix("---\n").removesuffix("---\n")) == expected
    assert written.count("---") == 2
    assert front_matter({"license": "apache-2.0"}) == '---\nlicense: "apache-2.0"\n---\n'


@given(st.text())
def test_inert_text_reads_as_it_was_but_for_blanks_and_the_invisible(text: str) -> None:
    written = inert(text)

    assert not set(without_references(written)) & set('<>&|`*_[]#!~{}$:@\\^"\n\r')
    visible = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))
    assert unescape(written) == visible


def test_the_card_says_what_was_foretold_and_what_came(card: Card) -> None:
    body = body_of(render(card))

    assert "4.2500 nats per token" in body
    assert "1.7500 bits per byte" in body
    assert "Foretold before the training began (2026-11-24T09&#58;12&#58;03+00&#58;00)" in body
    assert "with 95 % between 4.0500 and 4.3500" in body
    assert "lies inside the 95 % interval" in body


def test_the_card_owns_up_to_a_loss_outside_the_interval(card: Card) -> None:
    missed = replace(card, measured=replace(card.measured, nats_per_token=4.4))

    assert "lies outside the 95 % interval" in render(missed)


def test_the_card_of_a_ladder_model_foretells_nothing(card: Card) -> None:
    plan = replace(card.plan, held_out=False)
    body = render(replace(card, foretold=None, plan=plan, documents={"law.json": "{}"}))

    assert "Foretold" not in body
    assert "one of the points that the family's law is fitted to" in body
    assert "No law was fitted to the family" in render(replace(card, foretold=None, plan=plan))


def test_the_card_of_a_held_out_model_that_was_not_foretold_claims_no_part_in_the_law(card: Card) -> None:
    plan = replace(card.plan, held_out=True)
    body = render(replace(card, foretold=None, plan=plan, documents={"law.json": "{}"}))

    assert "one of the points" not in body
    assert "fitted without this model, and its loss was not foretold" in body


def test_the_hub_is_told_the_data_sets_that_the_family_file_names(card: Card) -> None:
    assert "datasets" not in front_matter_of(render(card))
    assert front_matter_of(render(replace(card, datasets=("EleutherAI/pile",))))["datasets"] == ["EleutherAI/pile"]


def test_unknown_energy_is_called_unknown(card: Card) -> None:
    assert "| energy | 375 J (0.000104 kWh), estimated from watts" in render(card)

    unknown = replace(card, measured=replace(card.measured, joules=None, joules_origin=None))
    assert "| energy | not known |" in render(unknown)


def test_only_the_first_twenty_sources_are_named(card: Card) -> None:
    files = [{"file": f"{i}.txt", "bytes": 1, "sha256": "0" * 64} for i in range(25)]
    many = Manifest.model_validate_json(json.dumps({**card.data.model_dump(mode="json"), "sources": files}))

    body = render(replace(card, data=many))

    assert "| 19.txt |" in body
    assert "| 20.txt |" not in body
    [result] = front_matter_of(body)["model-index"][0]["results"]
    assert result["dataset"]["name"] == "0.txt and 24 more"
    assert "and 5 more, listed in `data_manifest.json`" in body


def with_text(card: Card, text: str) -> Card:
    """The card with `text` in every place that a user's words reach."""
    source = card.data.sources[0].model_copy(update={"file": text})
    data = card.data.model_copy(update={"licence": text, "sources": (source,)})
    measured = replace(card.measured, processor=text, joules_origin=text, torch=text)
    return replace(card, family=text, description=text, data=data, measured=measured)


def front_matter_of(readme: str) -> dict[str, Any]:
    # As huggingface_hub finds it.
    match = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\r|\n|$))", readme)
    assert match
    found: dict[str, Any] = yaml.safe_load(match[2])
    return found


def body_of(readme: str) -> str:
    return readme.split("\n---\n", 1)[1]


def structure_of(body: str) -> list[tuple[str, str]]:
    """Kind and tag of everything a Markdown parser sees beside plain text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    seen = [inner for token in tokens for inner in (token, *(token.children or []))]
    return [(token.type, token.tag) for token in seen if token.type != "text"]


def without_references(text: str) -> str:
    return re.sub(r"&#\d+;", "", text)
