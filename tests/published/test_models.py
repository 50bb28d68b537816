"""Published models: every row has its source, units are led over rightly, and a user adds a model with a line."""

import math
from pathlib import Path

import pytest

from isoflop.errors import InputError
from isoflop.published import (
    Openness,
    gpt2_tokens_per_byte,
    published_law,
    published_models,
    published_openness,
    published_scores,
    published_set,
    read_models,
)

PEERS = {"Cerebras-GPT", "Cerebras-GPT muP", "Pythia", "Pythia deduped", "OPT", "GPT-J", "GPT-NeoX"}


def test_36_models_of_seven_families_each_with_scores_and_source() -> None:
    models = published_models()

    assert len(models) == 36
    assert {model.family for model in models} == PEERS
    assert all(model.source and len(model.scores) == 14 for model in models)
    assert all((model.nats_per_token is None) == (model.family == "OPT") for model in models)
    assert all(score.source and 0 < score.accuracy < 1 for score in published_scores())


def test_the_averages_are_those_that_were_published() -> None:
    table = published_set("zero_shot")
    named = {"Cerebras": "Cerebras-GPT", "Cerebras muP": "Cerebras-GPT muP", "NeoX": "GPT-NeoX"}
    rows = zip(*(table.texts(column) for column in ("family", "model", "average")), strict=True)
    published = {(named.get(family, family), model): float(average) for family, model, average in rows}
    for model in published_models():
        assert model.average(0) == pytest.approx(published[model.family, model.model], abs=6e-4)
    assert published_models("GPT-J")[0].average(1) is None


def test_bits_per_byte_follow_from_the_tokens_a_byte_of_the_text() -> None:
    (neox,) = published_models("GPT-NeoX")

    a_byte = gpt2_tokens_per_byte("Pile test")
    assert a_byte == pytest.approx(0.7527 / math.log2(6.159), rel=1e-3)  # GPT-Neo 1.3B, by its README
    assert neox.bits_per_byte == pytest.approx(1.519 * 0.287 / math.log(2))
    assert published_models("OPT")[0].bits_per_byte is None


def test_the_published_law_is_read_both_ways() -> None:
    law = published_law()

    assert law.loss(2.3e22) == pytest.approx(1.572, rel=0.01)  # Cerebras-GPT 13B
    assert law.flops(law.loss(1e21)) == pytest.approx(1e21)
    assert law.flops(0.5) is None


def test_openness_has_sources_and_agrees_with_the_models() -> None:
    rows = {row.family: row for row in published_openness()}

    assert all(row.source for row in rows.values())
    for model in published_models():
        row = rows.get(model.family.removesuffix(" muP").removesuffix(" deduped"))
        assert row is not None
        if model.params and model.tokens and row.tokens_per_parameter_low and row.tokens_per_parameter_high:
            ratio = model.tokens / model.params
            assert row.tokens_per_parameter_low * 0.97 <= ratio <= row.tokens_per_parameter_high * 1.03


def test_what_no_source_tells_of_a_family_is_empty_in_the_table_and_said() -> None:
    row = published_openness()[0].model_dump() | {"data": "", "compute_optimal": "", "tokens_per_parameter_low": ""}
    read = Openness.model_validate(row)

    assert (read.data, read.compute_optimal, read.tokens_per_parameter_low) == ("unknown", "unknown", None)


def added(folder: Path, *lines: str) -> Path:
    path = folder / "more.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_user_adds_a_model_with_two_lines(tmp_path: Path) -> None:
    header = "family,model,flops,nats_per_token,tokens_per_gpt2_token,text,hellaswag_0,source"
    (model,) = read_models(added(tmp_path, header, "Mine,1B,1e21,2.5,0.8,Pile test,0.4,a notebook"))

    assert model.nats_per_gpt2_token == pytest.approx(2.0)  # fewer, dearer tokens: the same nats over more of GPT-2's
    assert model.bits_per_byte == pytest.approx(2.0 * 0.287 / math.log(2))
    assert model.scores == {("hellaswag", 0): 0.4}
    assert (model.params, model.average(0)) == (None, None)


def test_bits_per_byte_alone_are_led_over_too(tmp_path: Path) -> None:
    header = "family,model,flops,bits_per_byte,text,source"
    known, other = read_models(
        added(tmp_path, header, "Mine,1B,1e21,0.8281,Pile test,s", "Mine,2B,1e21,0.8281,another text,s")
    )

    assert known.nats_per_gpt2_token == pytest.approx(2.0, rel=1e-4)
    assert (other.bits_per_byte, other.nats_per_gpt2_token) == (0.8281, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["family,model,source", "a,b,c"], "row 1: no column flops"),
        (["family,model,flops,source"], "holds no row"),
        (["family,model,flops,source", "a,b,1e20,"], "row 2: source is empty"),
        (["family,model,flops,source", "a,b,,s"], "row 2: flops of b is empty"),
        (["family,model,flops,source", "a,b,-1,s"], "row 2: flops of b is '-1'; give a number above 0"),
        (["family,model,flops,source", "a,b,nan,s"], "row 2: flops of b is 'nan'"),
        (["family,model,flops,nats_per_token,source", "a,b,1e20,2.0,s"], "row 2: tokens_per_gpt2_token of b is empty"),
        (["family,model,flops,piqa_5,source", "a,b,1e20,61,s"], "piqa_5 of b is '61'; give a share from 0 to 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_told(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(InputError) as told:
        read_models(added(tmp_path, *lines))

    assert message in str(told.value)
