"""lm-evaluation-harness on a native model: no export, nothing scored by hand. Needs the extra `eval`."""

import contextlib
import difflib
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import lm_eval.evaluator
import lm_eval.tasks
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tokenizers import Tokenizer

from isoflop.errors import InputError
from isoflop.evaluate.scoring import Request, Scorer
from isoflop.evaluate.task_data import TaskData
from isoflop.evaluate.writing import write
from isoflop.model import Lanes, Reader

# The harness's own default: with it the same examples stand before a question as when its command line is used.
SHOTS_SEED = 1234
# For the standard error of a perplexity; the others have formulas. The harness's 100,000 take minutes.
BOOTSTRAPS = 1_000
MOST_TOKENS_WRITTEN = 256
_MOVED = "isoflop_moved"

OnDone = Callable[[int], None]


class Encoder:
    """A tokenizer that remembers the texts of one round of questions: all models of a family are asked the same.

    `end_of_text` begins a text that nothing precedes, as in training.
    """

    def __init__(self, tokenizer: Tokenizer, end_of_text: int) -> None:
        self.tokenizer = tokenizer
        self.end_of_text = end_of_text
        self.encode = lru_cache(maxsize=2**15)(lambda text: tuple(tokenizer.encode(text).ids))


class NativeModel(TemplateLM):  # type: ignore[misc]
    """The harness's view of a model: what it asks in text, answered in tokens."""

    def __init__(self, model: Reader, encoder: "Encoder", lanes: Lanes, on_done: OnDone = lambda n: None) -> None:
        super().__init__()
        self._reader = model
        self._scorer = Scorer(model, lanes)
        self._on_done = on_done
        self._end_of_text = encoder.end_of_text
        self.tokenizer = encoder.tokenizer
        self._encode = encoder.encode

    @property
    def eot_token_id(self) -> int:
        return self._end_of_text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return list(self._encode(string))

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        asked: list[Request] = [(context, continuation) for _, context, continuation in requests]
        return [(said.log, said.greedy) for said in self._scorer.score(asked, self._on_done)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        windows: list[Request] = []
        ends = []
        for request in requests:
            tokens = self.tok_encode(request.args[0])
            rolling = get_rolling_token_windows(tokens, self._end_of_text, self._reader.shape.context_length, 1)
            windows += [make_disjoint_window(window) for window in rolling]
            ends.append(len(windows))
        logs = [said.log for said in self._scorer.score(windows, self._on_done)]
        return [math.fsum(logs[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        answers: dict[int, str] = {}
        by_limits: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            by_limits.setdefault(self._limits(request.args[1]), []).append(number)
        for (most, until), numbers in by_limits.items():

            def stops(tokens: list[int], until: tuple[str, ...] = until) -> bool:
                if tokens[-1] == self._end_of_text:
                    return True
                text = self.tokenizer.decode(tokens, skip_special_tokens=False)
                return any(word in text for word in until)

            prompts = [self.tok_encode(requests[number].args[0]) or [self._end_of_text] for number in numbers]
            for number, tokens in zip(numbers, write(self._reader, prompts, most, stops), strict=True):
                if tokens and tokens[-1] == self._end_of_text:
                    tokens = tokens[:-1]
                text = self.tokenizer.decode(tokens, skip_special_tokens=False)
                answers[number] = text[: min((text.find(word) for word in until if word in text), default=len(text))]
            self._on_done(len(numbers))
        return [answers[number] for number in range(len(requests))]

    def _limits(self, said: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
        """The most tokens to write and the words that end an answer."""
        if said.get("do_sample") or said.get("temperature"):
            raise InputError("a task asks for sampled answers; isoflop writes greedily: leave it out")
        until = said.get("until") or []
        most = next((said[key] for key in ("max_gen_toks", "max_new_tokens", "max_tokens") if said.get(key)), None)
        most = most or MOST_TOKENS_WRITTEN
        # The harness's own loader refuses what does not fit; half of a short context is better than nothing.
        context = self._reader.shape.context_length
        return most if most < context else context // 2, tuple([until] if isinstance(until, str) else until)


@dataclass(frozen=True)
class Metric:
    """A figure of the harness and its standard error, where it gives one."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Outcome:
    """A task, or a group of tasks (`members`), with a number of examples before each question.

    `gold_bits_per_byte` is the loss on the right answers, a mean over items; None where a task has no right answer to
    score. `items_sha256` is a hash of all items: equal hash, equal questions.
    """

    task: str
    shots: int
    items: int
    metrics: dict[str, Metric]
    gold_bits_per_byte: float | None
    version: str
    items_sha256: str
    members: tuple[str, ...]


class Tasks:
    """Tasks of the harness with their data, loaded once for any number of models."""

    def __init__(self, loaded: dict[str, Any]) -> None:
        self._loaded = loaded
        # A task whose YAML fixes 0 keeps it, as in the harness.
        self._fixed = {name for name, task in loaded["tasks"].items() if task.get_config("num_fewshot") == 0}

    @property
    def names(self) -> list[str]:
        return list(self._loaded["tasks"])

    def run(self, model: NativeModel, shots: int, limit: int | None = None) -> list[Outcome]:
        """What the model reaches on each task, and on each group."""
        for name, task in self._loaded["tasks"].items():
            task.set_config(key="num_fewshot", value=0 if name in self._fixed else shots)
            task.set_fewshot_seed(seed=SHOTS_SEED)
        with _quiet():
            said = lm_eval.evaluator.evaluate(model, self._loaded, limit=limit, bootstrap_iters=BOOTSTRAPS)
        members = {name: tuple(group.child_names) for name, group in self._loaded.get("groups", {}).items()}
        golds = {name: self._gold_losses(name, said["samples"][name]) for name in self.names}
        hashes = {name: [sample["doc_hash"] for sample in said["samples"][name]] for name in self.names}
        outcomes = []
        for name in [*members, *self.names]:
            of = [one for one in members.get(name, (name,)) if one in golds]
            losses = [loss for one in of for loss in golds[one]]
            outcomes.append(
                Outcome(
                    task=name,
                    shots=shots,
                    items=sum(len(hashes[one]) for one in of),
                    metrics=_metrics(said["results"][name]),
                    gold_bits_per_byte=math.fsum(losses) / len(losses) if losses else None,
                    version=str(said["versions"].get(name)),
                    items_sha256=sha256("".join(one for member in of for one in hashes[member]).encode()).hexdigest(),
                    members=members.get(name, ()),
                )
            )
        return outcomes

    def _gold_losses(self, name: str, samples: list[dict[str, Any]]) -> list[float]:
        """Bits a byte of each right answer (Bhagia et al. 2024); none where the task is not a choice or a word."""
        task = self._loaded["tasks"][name]
        losses = []
        for sample in samples:
            gold: Any = 0
            if task.OUTPUT_TYPE == "multiple_choice":
                gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
            elif task.OUTPUT_TYPE != "loglikelihood":
                return []
            gold = gold[0] if isinstance(gold, list) and gold else gold
            if not isinstance(gold, int) or not 0 <= gold < len(sample["filtered_resps"]):
                return []
            length = len(sample["arguments"][gold][1].encode())
            losses.append(-float(sample["filtered_resps"][gold][0]) / math.log(2) / max(1, length))
        return losses


def load_tasks(names: Sequence[str], folders: Sequence[Path], data: TaskData) -> Tasks:
    """The tasks, groups and tags of those names, with their data.

    They are looked for in `folders`, then among all that the harness brings, which takes it half a minute to read.

    Raises:
        InputError: there is no task of a name, or the data of one are not at hand.
    """
    manager = TaskManager(include_path=[str(folder) for folder in folders], include_defaults=False)
    if any(name not in manager.task_index for name in names):
        manager = TaskManager(include_path=[str(folder) for folder in folders])
    specs: list[Any] = []
    moved: list[dict[str, Any]] = []
    for name in names:
        entry = manager.task_index.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, manager.all_tasks, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "lm-eval ls tasks lists all"
            raise InputError(f"--tasks {name}: lm-evaluation-harness {version('lm-eval')} has no such task; {hint}")
        at = data.find(name, (entry.cfg or {}).get("dataset_path"), (entry.cfg or {}).get("dataset_name"))
        if at is None:
            specs.append(name)
        else:
            moved.append({"task": name, "dataset_path": at.path, "dataset_name": at.name})
    if moved:
        specs.append({"group": _MOVED, "task": moved})  # only in a group may a task say something else than its YAML
    try:
        with _quiet():
            loaded = manager.load(specs)
    except ConnectionError as error:
        raise InputError(
            f"--tasks {','.join(names)}: {_line(error)}; run with --download where the hub is in reach"
        ) from None
    except Exception as error:  # a task's own code may raise anything about data that it does not know
        raise InputError(f"--tasks {','.join(names)}: the harness cannot load them: {_line(error)}") from None
    loaded.get("groups", {}).pop(_MOVED, None)
    loaded.get("group_map", {}).pop(_MOVED, None)
    return Tasks(loaded)


def harness_folders(names: Iterable[str]) -> list[Path]:
    """Folders of the harness's own tasks: to read those takes milliseconds, all of them half a minute."""
    return [Path(lm_eval.tasks.__file__).parent / name for name in sorted(names)]


def _metrics(results: dict[str, Any]) -> dict[str, Metric]:
    """`acc,none` and `acc_stderr,none` as one."""
    metrics = {}
    for key, value in results.items():
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = results.get(f"{name}_stderr,{kind}")
        stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
        metrics[name if kind == "none" else f"{name},{kind}"] = Metric(float(value), stderr)
    return metrics


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What libraries print would stand between the lines of a JSON document."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
