"""A changed setting is refused with what it was; accepted, the run goes on and its result and card tell."""

import os
import re
import signal
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from isoflop.config import Family, load_family
from isoflop.durable import write_sealed
from isoflop.errors import InputError, Interrupted, WorkError
from isoflop.pipeline import RunFolder
from isoflop.pipeline.changes import accept_family_changes
from isoflop.pipeline.release import release_run
from isoflop.pipeline.train import train_family
from isoflop.release import Card
from isoflop.release.card import render

STOPPED_AFTER = 5
SPIKE = {
    **{"step": 3, "kind": "not finite", "loss": None, "grad_norm": 2.0, "limit": None},
    **{"answer": "the batch was passed over", "documents": [{"file": "corpus.jsonl"}]},
}


def stopped(family: Family, folder: RunFolder, heard: Any) -> None:
    """Trains the smallest model to a stop by a signal"""

    class Stopping(type(heard)):  # type: ignore[misc]
        def step(self, model: object, step: Any) -> None:
            if step.step == STOPPED_AFTER:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_family(family, folder, Stopping(), only="w8")


def changed(family_file: Path, settings: str) -> Family:
    family_file.write_text(family_file.read_text().replace('name = "w8"\n', f'name = "w8"\nrecipe = {settings}\n'))
    return load_family(family_file)


def test_accepted_changes_are_told_by_result_and_card(
    family: Family, family_file: Path, folder: RunFolder, heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(family, folder, heard)
    other = changed(family_file, "{ peak_lr = 0.01, weight_decay = 0.2 }")
    with pytest.raises(InputError) as refused:
        train_family(other, folder, heard, only="w8")
    assert "peak_lr was 0.0" in str(refused.value)
    assert "weight_decay was 0.1 and is 0.2" in str(refused.value)
    assert "--accept-changes" in str(refused.value)
    accept_family_changes(other, folder, heard)
    assert f"w8: weight_decay was 0.1 and is 0.2 from step {STOPPED_AFTER} on" in heard.notes
    stopped_again = len(heard.calls)
    (result,) = train_family(other, folder, heard, only="w8")
    assert [name for name, _ in heard.calls[stopped_again:]].count("step") == result.steps - STOPPED_AFTER
    assert [(one["setting"], one["step"]) for one in result.changes] == [
        ("peak_lr", STOPPED_AFTER),
        ("weight_decay", STOPPED_AFTER),
    ]
    write_sealed(folder.model("w8") / "spikes.json", {"spikes": [SPIKE]})
    cards: list[Card] = []
    monkeypatch.setattr("isoflop.release.release_model", lambda *given: cards.append(given[3]))
    release_run(folder.path, heard)
    card = unescape(render(cards[0]))
    assert "## Settings changed on the way" in card
    assert re.search(rf"\| {STOPPED_AFTER} \| weight.{{0,6}}decay \| 0.1 \| 0.2 \|", card)
    assert re.search(r"\| 3 \| not finite \| nan \| 2 \| - \| 1 \| the batch was passed over \|", card)

    path = folder.model("w8") / "spikes.json"
    path.write_text(path.read_text().replace("passed over", "trained on"))
    with pytest.raises(WorkError, match=r"spikes\.json: damaged"):
        release_run(folder.path, heard)

    # A finished model stays what it is.
    with pytest.raises(InputError, match=r"result\.json: trained with other .*weight_decay was 0\.2 and is 0\.1"):
        accept_family_changes(family, folder, heard)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ("{ init_std = 0.5 }", "no run can go on by another embedding_init_std was 0.02 and is 0.5"),
        ("{ batch_schedule = [{ from_tokens = 0, sequences = 4 }] }", "its 5 steps read 1,280 tokens, which is no"),
        ("{ tokens = 300 }", "its 5 steps read 1,280 tokens, which is no beginning of the plan's 1 steps"),
    ],
)
def test_what_no_run_can_go_on_by_is_refused_and_the_checkpoint_stays(
    family: Family, family_file: Path, folder: RunFolder, heard, settings: str, named: str
) -> None:
    stopped(family, folder, heard)
    manifests = {path: path.read_bytes() for path in folder.model("w8").glob("checkpoints/gen-*/manifest.json")}
    with pytest.raises(InputError, match=r"use another --runs folder|let the tokens") as refused:
        accept_family_changes(changed(family_file, settings), folder, heard)
    assert named in str(refused.value)
    assert {path: path.read_bytes() for path in manifests} == manifests
    assert manifests


def test_a_longer_run_goes_on_from_a_shorter_one(family: Family, family_file: Path, folder: RunFolder, heard) -> None:
    stopped(family, folder, heard)
    longer = changed(family_file, "{ tokens = 12_800 }")
    accept_family_changes(longer, folder, heard, only="w8")
    (result,) = train_family(longer, folder, heard, only="w8")
    assert result.steps == 50
    assert {one["setting"] for one in result.changes} == {"steps", "tokens", "warmup_tokens"}


def test_a_killed_streamed_run_is_to_be_stopped_first(family: Family, folder: RunFolder, heard) -> None:
    (folder.model("w8") / "store").mkdir(parents=True)
    with pytest.raises(InputError, match="a streamed run was killed here"):
        accept_family_changes(family, folder, heard)
