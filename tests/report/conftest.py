"""A run directory with synthetic numbers, as isoflop run would leave it."""

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.durable import write_json
from isoflop.law import Law, Point, fit_law
from isoflop.pipeline.scaling import foretell_published
from isoflop.published import published_recipes
from isoflop.report.run import Foretold

WIDTHS = {"w32": 32, "w48": 48, "w64": 64, "w80": 80, "w96": 96}
SEEDS = {"w32": 3, "w48": 2}
HELD_OUT = "w96"
TOKENS_PER_STEP = 4096
MATRIX_FLOPS_PER_SECOND = 8.8e11


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run directory that no test may change; its law is fitted by the law's own room."""
    directory = tmp_path_factory.mktemp("runs") / "pocket"
    models = planned_models()
    points = [
        Point(m["params"], m["tokens"], nats(m), m["flops"], m["name"], convention="isoflop")
        for m in models
        if not m["held_out"]
    ]
    law = fit_law(points)
    write_json(directory / "plan.json", plan_document(models))
    write_json(directory / "data" / "manifest.json", manifest_document())
    for model in models:
        write_model(directory / "models" / model["name"], model)
    write_json(directory / "law.json", law.to_json())
    write_json(directory / "forecast.json", forecast_document(law, models))
    return directory


@pytest.fixture(scope="session")
def compared_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run scored on tasks and compared with published models; no test may change it."""
    directory = shutil.copytree(finished_run, tmp_path_factory.mktemp("compared") / "pocket")
    for model in planned_models():
        write_json(directory / "models" / model["name"] / "tasks.json", tasks_document(model))
    write_json(directory / "compare.json", compare_document())
    return directory


@pytest.fixture(scope="session")
def foretold() -> Foretold:
    """What more systems would bring a large published model."""
    recipe = next(one for one in published_recipes("Cerebras-GPT") if one.model == "13B")
    table = foretell_published(recipe, "h100-80gb", [1, 2, 4, 8, 16, 32, 64])
    return Foretold(({**table.to_json(), "ours": False},))


@pytest.fixture
def run_directory(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run to change at will."""
    return shutil.copytree(finished_run, tmp_path / "pocket")


def planned_models() -> list[dict[str, Any]]:
    models = []
    for size, width in WIDTHS.items():
        layers = 3
        non_embedding = 12 * layers * width**2 + 13 * layers * width + 2 * width
        params = non_embedding + (1024 + 256) * width
        tokens = math.ceil(20 * params / TOKENS_PER_STEP) * TOKENS_PER_STEP
        flops = tokens * (6 * (non_embedding + 1024 * width) + 6 * layers * 256 * width)
        for seed in range(SEEDS.get(size, 1)):
            models.append(
                {
                    "name": size + (f"-s{seed}" if seed else ""),
                    "size": size,
                    "seed": seed,
                    "n_layers": layers,
                    "d_model": width,
                    "n_heads": width // 16,
                    "params": params,
                    "params_non_embedding": non_embedding,
                    "tokens": tokens,
                    "context_length": 256,
                    "batch_schedule": [{"from_tokens": 0, "sequences": 16}],
                    "batch_sequences": 16,
                    "batch_tokens": TOKENS_PER_STEP,
                    "steps": tokens // TOKENS_PER_STEP,
                    "peak_lr": 8e-3,
                    "flops": flops,
                    "flops_6nd": 6 * params * tokens,
                    "weights_bytes": 4 * params,
                    "optimizer_bytes": 8 * params,
                    "activation_bytes": 10**8,
                    "seconds": flops / (0.3 * MATRIX_FLOPS_PER_SECOND),
                    "joules": flops / (0.3 * MATRIX_FLOPS_PER_SECOND) * 30,
                    "price": flops / (0.3 * MATRIX_FLOPS_PER_SECOND) / 3600 * 0.1,
                    "held_out": size == HELD_OUT,
                }
            )
    return models


def plan_document(models: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {
        "processor": "AMD EPYC 9R45",
        "threads": 2,
        "matrix_flops_per_second": MATRIX_FLOPS_PER_SECOND,
        "memory_bytes": 8 * 2**30,
    }
    totals = {"flops": sum(model["flops"] for model in models)}
    return {
        "family": "pocket",
        "precision": "bf16",
        "systems": 1,
        "currency": "USD",
        "machine": machine,
        "models": models,
        "totals": totals,
    }


def nats(model: dict[str, Any]) -> float:
    """A power law with 0.4 % of scatter."""
    wobble = np.random.default_rng([model["seed"], model["d_model"]]).normal(0, 0.004)
    return float(4.6 * (model["flops"] / 4e11) ** -0.076) * math.exp(wobble)


def write_model(folder: Path, model: dict[str, Any]) -> None:
    """metrics.jsonl and result.json of one model."""
    steps = model["steps"]
    rng = np.random.default_rng(model["seed"])
    final = nats(model)
    share = np.arange(1, steps + 1) / steps
    loss = final + (6.95 - final) * np.exp(-4.2 * share**0.42) + rng.normal(0, 0.05, steps)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for step in range(steps):
            line = {
                "step": step + 1,
                "tokens": round(model["tokens"] * share[step]),
                "loss": float(loss[step]),
                "lr": 8e-3,
                "grad_norm": 0.5,
                "tokens_per_second": 1.2e5 * 32 / model["d_model"],
                "mfu": 0.25 + model["d_model"] / 1000,
                "time": 1.76e9 + step,
            }
            file.write(json.dumps(line) + "\n")
    result = {key: model[key] for key in ("name", "size", "seed", "params", "params_non_embedding", "tokens", "flops")}
    seconds = model["seconds"] * 1.07
    result |= {
        "nats_per_token": final,
        "bits_per_byte": final / math.log(2) / 2.42,
        "system_seconds": seconds,
        "seconds": seconds,
        "joules": seconds * 30,
        "joules_origin": "declared",
        "price": model["price"] * 1.07,
        "weights_sha256": "5d41402abc4b2a76b9719d911017c592" * 2,
    }
    write_json(folder / "result.json", result)


def forecast_document(law: Law, models: list[dict[str, Any]]) -> dict[str, Any]:
    held = next(model for model in models if model["held_out"])
    foretold = law.predict(held["params"], held["tokens"], held["flops"])
    keys = ("loss", "low_80", "high_80", "low_95", "high_95")
    return {
        "model": held["name"],
        "params": held["params"],
        "tokens": held["tokens"],
        "flops": held["flops"],
        **{key: getattr(foretold, key) for key in keys},
        "bits_per_byte": {key: getattr(foretold, key) / math.log(2) / 2.42 for key in keys},
        "points": [asdict(point) for point in law.points],
        "time": "2026-11-24T09:12:03+00:00",
        "warnings": [],
    }


def tasks_document(model: dict[str, Any]) -> dict[str, Any]:
    """Scores that grow with compute, on a task of ours and on a published one."""

    def score(task: str, shots: int, chance: float, members: list[str]) -> dict[str, Any]:
        value = chance + 0.1 * math.log10(model["flops"] / 1e11) + 0.01 * model["seed"]
        figure = {"value": value, "stderr": 0.012}
        said = {"task": task, "shots": shots, "limit": None, "step": model["steps"], "tokens": model["tokens"]}
        said |= {"metric": "acc", "chance": chance, "metrics": {"acc": figure}, "items": 1200, "members": members}
        return {**said, "precision": "fp32", "gold_bits_per_byte": 2.1}

    scores = [score("heldout_cloze", shots, 0.25, ["heldout_cloze_web"]) for shots in (0, 5)]
    scores += [score("heldout_cloze_web", 0, 0.25, []), score("lambada_openai", 0, 0.0, [])]
    return {"format": 1, "model": model["name"], "scores": scores}


def compare_document() -> dict[str, Any]:
    """compare.json: our models, and three published ones of which one has no loss."""

    def compared(family: str, model: str, flops: float, bits: float | None, **more: Any) -> dict[str, Any]:
        scores = {"0": {"lambada": 0.1 * math.log10(flops / 1e18) + 0.2, "piqa": 0.6}}
        said = {"family": family, "model": model, "ours": False, "params": flops**0.5 / 11, "tokens": flops**0.5}
        said |= {"flops": flops, "bits_per_byte": bits, "text": "Pile test", "comparable": True, "scores": scores}
        return {**said, "averages": {}, "source": f"arXiv 2304.03208, {model}", **more}

    ours = [
        compared("pocket", m["name"], m["flops"], nats(m) / math.log(2) / 2.42, ours=True, text="pocket's", scores={})
        for m in planned_models()
    ]
    theirs = [compared("Cerebras-GPT", f"{k}B", 10.0 ** (18 + k), 1.2 - 0.1 * k) for k in range(1, 6)]
    parts = dict.fromkeys(("data", "code", "weights", "recipe"), "open")
    openness = {"family": "Cerebras-GPT", **parts, "licence": "Apache-2.0", "tokens_per_parameter_low": 20.0}
    openness |= {"tokens_per_parameter_high": 20.0, "compute_optimal": "yes", "note": "the Pile", "source": "arXiv"}
    closed = {**openness, "family": "GPT-4", "data": "closed", "weights": "closed", "compute_optimal": "unknown"}
    closed |= {"tokens_per_parameter_low": None, "tokens_per_parameter_high": None}
    needed = {"family": "Cerebras-GPT", "models": 5, "flops": 1e21, "low_80": 9e20, "high_80": 1.1e21}
    needed |= {"times_largest": 0.1, "times_least": 1.0, "why_not": ""}
    return {
        "family": "pocket",
        "text": "Pile test",
        "loss": 1.9,
        "models": [*ours, *theirs, compared("OPT", "125M", 4e20, None)],
        "needed": [needed, {**needed, "family": "OPT", "flops": None, "why_not": "no loss is published"}],
        "openness": [{**openness, "family": "pocket", "ours": True}, openness, closed],
        "notes": ["losses of ours are of another text"],
    }


def manifest_document() -> dict[str, Any]:
    names = ["books", "code", "encyclopaedia", "law", "mathematics", "questions", "science", "web"]
    train = {
        name: {"documents": 900 + 37 * i, "tokens": 1_500_000 - 90_000 * i, "bytes": 3_700_000 - 200_000 * i}
        for i, name in enumerate(names)
    }
    held = {name: {key: value // 50 for key, value in counts.items()} for name, counts in train.items()}

    def split(name: str, domains: dict[str, dict[str, int]]) -> dict[str, Any]:
        totals = {key: sum(counts[key] for counts in domains.values()) for key in ("documents", "tokens", "bytes")}
        files = {"file": f"{name}-00000.bin", "sha256": "ab" * 32}
        lists = {"list_file": f"{name}-00000.documents.npy", "list_sha256": "12" * 32, "domains": list(domains)}
        return {**totals, "shards": [{**totals, **files, **lists}] if domains else [], "domains": domains}

    return {
        "format_version": 2,
        "sources": [{"file": "pocket.jsonl.zst", "bytes": 9_400_000, "sha256": "cd" * 32}],
        "licence": "public domain and permissive; see NOTICE",
        "notice": "books: Project Gutenberg texts, public domain.\ncode: MIT.\n",
        "preparation": {
            "text_key": "text",
            "text_suffixes": [".txt"],
            "held_out_fraction": 0.02,
            "test_fraction": 0.0,
            "faults_allowed": 0.001,
            "end_of_text": True,
            "shuffle_documents": False,
            "duplicates": "keep",
            "similarity": 0.8,
            "mixture": {},
            "decontaminate": {},
            "chunk_bytes": 2**27,
        },
        "documents_read": 11_689,
        "empty_documents": 0,
        "duplicates_removed": 0,
        "faults": [],
        "overlaps": {},
        "tokenizer": {"kind": "bpe", "vocab_size": 1024, "end_of_text": 0, "sha256": "ef" * 32},
        "dtype": "uint16",
        "splits": {"train": split("train", train), "held_out": split("held_out", held), "test": split("test", {})},
    }
