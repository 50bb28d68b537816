"""The harness on the native model and on the exported folder, through its own loader, gives the same numbers."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

os.environ |= {"TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
pytest.importorskip("lm_eval", reason="needs the extra eval")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from isoflop.data import load_manifest
from isoflop.data.tokenizer import load_tokenizer
from isoflop.durable import to_json
from isoflop.errors import InputError
from isoflop.evaluate.harness import Encoder, NativeModel, Tasks, load_tasks
from isoflop.evaluate.suite import CLOZE, ENDING, LAST_WORD, make_suite
from isoflop.evaluate.task_data import TaskData
from isoflop.model import Lanes, Reader, initialise
from isoflop.recipe import Shape
from isoflop.release.exporting import export_model
from isoflop.release.hugging_face import end_of_text_ids, tokenizer_config

SHAPE = Shape(n_layers=2, d_model=32, n_heads=2, vocab_size=400, context_length=128)
TEXTS = ["", "The", "A passage that goes on. " * 30, "naïve café \U0001f600 日本", "ends in spaces   "]


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[NativeModel, HFLM]:
    """One set of weights: as we run it, and as its exported folder is loaded by the harness."""
    weights = initialise(SHAPE, 0)
    for tensor in weights.values():
        tensor.add_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)), alpha=0.1)
    end_of_text = load_manifest(data).tokenizer.end_of_text
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    (tokenizer / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    (tokenizer / "tokenizer_config.json").write_text(to_json(tokenizer_config(SHAPE)))
    folder = tokenizer.parent / "exported"
    export_model(folder, weights, dict.fromkeys(weights, torch.float32), end_of_text_ids(end_of_text), tokenizer)
    encoder = Encoder(load_tokenizer(data / "tokenizer.json"), end_of_text)
    return NativeModel(Reader(weights, SHAPE), encoder, Lanes(1)), HFLM(str(folder), device="cpu", batch_size=8)


@pytest.fixture(scope="module")
def tasks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Tasks:
    folder = tmp_path_factory.mktemp("suite") / "tasks"
    make_suite(data, folder, SHAPE.context_length)
    return load_tasks([LAST_WORD, ENDING, CLOZE], [folder], TaskData())


def asked(kind: str, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("shots", [0, 5])
def test_the_suite_has_the_same_results(models: tuple[NativeModel, HFLM], tasks: Tasks, shots: int) -> None:
    native, exported = (tasks.run(model, shots, limit=40) for model in models)

    assert [one.task for one in native] == [one.task for one in exported]
    for ours, theirs in zip(native, exported, strict=True):
        assert ours.metrics.keys() == theirs.metrics.keys()
        for name, metric in ours.metrics.items():
            assert metric.value == pytest.approx(theirs.metrics[name].value, rel=1e-4), (ours.task, name)
            assert metric.stderr == pytest.approx(theirs.metrics[name].stderr, rel=1e-3)
        assert ours.gold_bits_per_byte == pytest.approx(theirs.gold_bits_per_byte, rel=1e-5)
        assert (ours.items, ours.items_sha256) == (theirs.items, theirs.items_sha256)


def test_likelihoods_are_the_same_for_odd_texts(models: tuple[NativeModel, HFLM]) -> None:
    pairs = [(context, continuation) for context in TEXTS for continuation in (" cat", "sat on it. ", " ", "日")]
    requests = [asked("loglikelihood", *pair) for pair in pairs]

    native, exported = (model.loglikelihood(requests) for model in models)

    for ours, theirs in zip(native, exported, strict=True):
        assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
        assert ours[1] == theirs[1]


def test_whole_texts_have_the_same_likelihood(models: tuple[NativeModel, HFLM]) -> None:
    requests = [asked("loglikelihood_rolling", text) for text in TEXTS[1:]]

    native, exported = (model.loglikelihood_rolling(requests) for model in models)

    assert native == pytest.approx(exported, rel=1e-5)


@pytest.mark.parametrize("until", [[], [" "], ["e", "zz"]])
def test_answers_that_are_written_are_the_same(models: tuple[NativeModel, HFLM], until: list[str]) -> None:
    limits = {"until": until, "max_gen_toks": 12, "do_sample": False}

    native, exported = (
        model.generate_until([asked("generate_until", text, dict(limits)) for text in TEXTS[1:]]) for model in models
    )

    assert native == exported


def test_sampled_answers_are_refused(models: tuple[NativeModel, HFLM]) -> None:
    with pytest.raises(InputError, match="greedily"):
        models[0].generate_until([asked("generate_until", "The", {"do_sample": True, "temperature": 0.8})])


def test_running_again_asks_the_same(models: tuple[NativeModel, HFLM], tasks: Tasks) -> None:
    first, second = (tasks.run(models[0], 3, limit=10) for _ in range(2))

    assert first == second


def test_groups_and_their_members_are_told(models: tuple[NativeModel, HFLM], tasks: Tasks) -> None:
    outcomes = {outcome.task: outcome for outcome in tasks.run(models[0], 0, limit=10)}

    members = outcomes[CLOZE].members
    assert len(members) > 3
    assert outcomes[CLOZE].items == sum(outcomes[name].items for name in members)
    mean = sum(outcomes[name].metrics["acc"].value for name in members) / len(members)
    assert outcomes[CLOZE].metrics["acc"].value == pytest.approx(mean)


def test_the_loss_on_right_answers_is_by_their_bytes(models: tuple[NativeModel, HFLM], tasks: Tasks) -> None:
    (outcome,) = (one for one in tasks.run(models[0], 0, limit=1) if one.task == LAST_WORD)
    task = tasks._loaded["tasks"][LAST_WORD]
    context, answer = task.instances[0].args
    ((log, _),) = models[0].loglikelihood([asked("loglikelihood", context, answer)])

    assert outcome.gold_bits_per_byte == pytest.approx(-log / 0.6931471805599453 / len(answer.encode()))


PIQA = {"goal": "To open a jar", "sol1": "turn its lid.", "sol2": "eat it.", "label": 0}
WINOGRANDE = {"sentence": "The cup fell off the shelf as the _ was loose.", "option1": "cup", "option2": "shelf"}


def test_the_harness_own_tasks_run_on_data_from_a_folder(models: tuple[NativeModel, HFLM], tmp_path: Path) -> None:
    rows = {"piqa": PIQA, "winogrande": {**WINOGRANDE, "answer": "2"}}
    for name, row in rows.items():
        (tmp_path / name).mkdir()
        for split in ("train", "validation"):
            text = "".join(json.dumps({**row, "id": i}) + "\n" for i in range(7))
            (tmp_path / name / f"{split}.jsonl").write_text(text)

    loaded = load_tasks(["piqa", "winogrande"], harness_task_folders(), TaskData(tmp_path))
    native, exported = (loaded.run(model, 5) for model in models)

    for ours, theirs in zip(native, exported, strict=True):
        assert ours.items == 7
        assert ours.metrics["acc"].value == theirs.metrics["acc"].value
        assert ours.gold_bits_per_byte == pytest.approx(theirs.gold_bits_per_byte, rel=1e-5)


def test_data_that_are_missing_are_told_before_anything_runs() -> None:
    with pytest.raises(InputError, match="hf download baber/piqa"):
        load_tasks(["piqa"], harness_task_folders(), TaskData())


def test_a_task_of_no_such_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import isoflop.evaluate.harness as harness

    quick = harness.TaskManager(include_path=harness_task_folders(), include_defaults=False)
    monkeypatch.setattr(harness, "TaskManager", lambda *_, **__: quick)  # all of them take half a minute to read

    with pytest.raises(InputError, match="no such task; did you mean hellaswag"):
        load_tasks(["helaswag"], [], TaskData())


def harness_task_folders() -> list[Path]:
    from isoflop.evaluate.harness import harness_folders

    return harness_folders({"piqa", "winogrande", "hellaswag"})


def test_a_tokenizer_is_asked_once_for_a_text() -> None:
    calls: list[str] = []
    tokenizer = SimpleNamespace(encode=lambda text: calls.append(text) or SimpleNamespace(ids=[1]))
    encoder = Encoder(tokenizer, 0)  # type: ignore[arg-type]

    assert encoder.encode("a") == encoder.encode("a") == (1,)
    assert calls == ["a"]
