"""The held-out suite: downstream tasks cut from the documents that no model trains on, for machines without a hub.

Three kinds, in lm-evaluation-harness's own YAML: the last word of a passage that holds it already (after LAMBADA,
Paperno et al. 2016), which of four endings follows (after HellaSwag, Zellers et al. 2019), and which of four words
fills a gap, a task for each domain (after the Children's Book Test, Hill et al. 2016). All is a function of the
held-out documents: no random number is drawn, order and choices come from hashes of the texts.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoflop.data import load_manifest
from isoflop.durable import sha256_of_file, to_json, write_text
from isoflop.evaluate.held_out_texts import Text, hash_of, read_texts
from isoflop.evaluate.items import CHOICES, Item, endings, gaps, last_words, spread

FORMAT = 1
SUITE = "suite.json"
TAG = "heldout"
LAST_WORD, ENDING, CLOZE = "heldout_last_word", "heldout_ending", "heldout_cloze"

# An item fits six times into a context, so that five examples and the question are seen whole, unless it had fewer than
# some ten words then. It need not be longer than LAMBADA's passages, some 75 words.
ITEMS_IN_CONTEXT, FEWEST_BYTES, MOST_BYTES = 6, 60, 420
MOST_ITEMS, MOST_CLOZE_ITEMS, EXAMPLES, FEWEST_ITEMS = 1_000, 150, 50, 50


@dataclass(frozen=True)
class SuiteTask:
    """A task of the suite: how many items and examples it has, the accuracy of guessing, and its file's hash.

    `chance` is one in four of a choice and, as for LAMBADA, none for a last word, which may be any.
    """

    name: str
    domain: str | None
    items: int
    examples: int
    chance: float
    sha256: str


@dataclass(frozen=True)
class Suite:
    """What suite.json says: the tasks, and what they were cut from."""

    format: int
    held_out_sha256: str
    item_bytes: int
    tasks: tuple[SuiteTask, ...]
    left_out: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """What the harness is asked for: the gaps of all domains as one group."""
        found = [task.name for task in self.tasks if task.domain is None]
        return [*found, CLOZE] if len(found) < len(self.tasks) else found

    @property
    def chances(self) -> dict[str, float]:
        """The accuracy of guessing, by task and for the group."""
        return {CLOZE: 1 / CHOICES} | {task.name: task.chance for task in self.tasks}


def make_suite(data: Path, folder: Path, context_length: int) -> Suite:
    """The suite of the held-out documents in `data`, written to `folder` unless it is there.

    A task that finds fewer than 50 items is left out, and named.

    Raises:
        WorkError: the data are damaged or the folder cannot be written.
    """
    manifest = load_manifest(data)
    held_out = manifest.splits.held_out
    per_token = held_out.bytes / max(1, held_out.tokens)
    context_bytes = 0.9 * context_length * per_token
    item_bytes = int(min(MOST_BYTES, max(context_bytes / ITEMS_IN_CONTEXT, min(FEWEST_BYTES, context_bytes / 2))))
    content = " ".join([manifest.tokenizer.sha256, *(shard.sha256 for shard in held_out.shards)])
    held_out_sha256 = hashlib.sha256(content.encode()).hexdigest()
    suite = _read(folder)
    if suite is None or (suite.held_out_sha256, suite.item_bytes) != (held_out_sha256, item_bytes):
        suite = _write(folder, read_texts(data), held_out_sha256, item_bytes)
    return suite


def _read(folder: Path) -> Suite | None:
    """The suite that lies there whole, of this format."""
    try:
        document = json.loads((folder / SUITE).read_bytes())
        tasks = tuple(SuiteTask(**task) for task in document["tasks"])
        suite = Suite(**{**document, "tasks": tasks, "left_out": tuple(document["left_out"])})
        whole = all(sha256_of_file(folder / f"{task.name}.jsonl") == task.sha256 for task in tasks)
        moved = any(str(folder.resolve()) not in (folder / f"{task.name}.yaml").read_text() for task in tasks)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return suite if whole and not moved and suite.format == FORMAT else None


def _write(folder: Path, texts: list[Text], held_out_sha256: str, item_bytes: int) -> Suite:
    tasks, left_out = [], []
    for name, domain, items in _found(texts, item_bytes):
        examples = min(EXAMPLES, len(items) // 4)
        test = items[examples:]
        if len(test) < FEWEST_ITEMS:
            left_out.append(name)
            continue
        write_text(folder / f"{name}.examples.jsonl", _lines(name, items[:examples]))
        write_text(folder / f"{name}.jsonl", _lines(name, test))
        write_text(folder / f"{name}.yaml", _yaml(_task(folder, name)))
        chance = 0.0 if name == LAST_WORD else 1 / CHOICES
        sha256 = sha256_of_file(folder / f"{name}.jsonl")
        tasks.append(SuiteTask(name, domain, len(test), examples, chance, sha256))
    gaps_of = [task.name for task in tasks if task.domain is not None]
    if gaps_of:
        write_text(folder / f"{CLOZE}.yaml", _yaml(_group(gaps_of)))
    suite = Suite(FORMAT, held_out_sha256, item_bytes, tuple(tasks), tuple(left_out))
    write_text(folder / SUITE, to_json(asdict(suite)) + "\n")
    return suite


def _found(texts: list[Text], item_bytes: int) -> Iterator[tuple[str, str | None, list[Item]]]:
    """Name, domain and items of each task."""
    yield LAST_WORD, None, spread(last_words(texts, item_bytes), MOST_ITEMS + EXAMPLES)
    domains = sorted({text.domain for text in texts})
    of_each = 2 * (MOST_ITEMS + EXAMPLES) // max(1, len(domains))
    yield ENDING, None, spread(endings(texts, item_bytes, of_each), MOST_ITEMS + EXAMPLES)
    taken: set[str] = set()
    for domain in domains:
        slug = re.sub(r"[^a-z0-9]+", "_", domain.lower()).strip("_")[:40] or "all"
        while slug in taken:
            slug += "_"
        taken.add(slug)
        of_domain = [text for text in texts if text.domain == domain]
        most = MOST_CLOZE_ITEMS + EXAMPLES
        yield f"{CLOZE}_{slug}", domain, spread(gaps(of_domain, item_bytes, most), most)


def _lines(name: str, items: list[Item]) -> str:
    """JSON lines: the true choice of four stands at a place that its text's hash decides."""
    rows: list[dict[str, Any]] = []
    for item in items:
        if name == LAST_WORD:
            # The harness puts no delimiter before the one answer of a task of this type.
            rows.append({"query": item.query, "target": f" {item.choices[0]}", "domain": item.domain})
            continue
        choices = list(item.choices[1:])
        gold = hash_of(item.query + item.choices[0]) % CHOICES
        choices.insert(gold, item.choices[0])
        rows.append({"query": item.query, "choices": choices, "gold": gold, "domain": item.domain})
    return "".join(to_json(row, indent=None) + "\n" for row in rows)


def _task(folder: Path, name: str) -> dict[str, Any]:
    """A task as the harness's YAML says it. Its paths are absolute, so that it runs from any folder."""
    files = {"test": f"{name}.jsonl", "examples": f"{name}.examples.jsonl"}
    metrics = ["perplexity", "acc"] if name == LAST_WORD else ["acc", "acc_norm"]
    task = {
        "task": name,
        "tag": [TAG],
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(folder.resolve() / file) for split, file in files.items()}},
        "test_split": "test",
        "fewshot_split": "examples",
        "doc_to_text": "query",
        "target_delimiter": "" if name == LAST_WORD else " ",
        "metric_list": [
            {
                "metric": metric,
                "aggregation": "perplexity" if metric == "perplexity" else "mean",
                "higher_is_better": metric != "perplexity",
            }
            for metric in metrics
        ],
        "metadata": {"version": float(FORMAT)},
    }
    if name == LAST_WORD:
        return {**task, "output_type": "loglikelihood", "doc_to_target": "target"}
    return {**task, "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold"}


def _group(names: list[str]) -> dict[str, Any]:
    """All gaps together, each counting once."""
    means = [{"metric": metric, "weight_by_size": True} for metric in ("acc", "acc_norm")]
    return {"group": CLOZE, "task": names, "aggregate_metric_list": means, "metadata": {"version": float(FORMAT)}}


def _yaml(document: dict[str, Any]) -> str:
    # JSON is YAML, one key a line reads like it; names hold ASCII only and paths are escaped.
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in document.items())
