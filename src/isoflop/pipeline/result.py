"""result.json: what one trained model is, reached and cost."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from isoflop.durable import refuse_broken_seal, to_json, write_sealed
from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from isoflop.data import Manifest
    from isoflop.recipe import ModelPlan, Plan


@dataclass(frozen=True)
class Domain:
    """The held-out loss over the documents of one domain."""

    nats_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Result:
    """One trained model. Losses are of the held-out text, `tokens` and `flops` of the training.

    `system_seconds` are those of whole GPUs or machines, a second on half of a machine's cores as half; `mfu` is the
    median over steps of the share of the machine's measured matrix rate. `joules` and `price` are None where nothing is
    known of them. `threads`, `processor` and `torch` are those of the training: bits depend on them, not on `systems`.
    `fingerprint` holds the settings that decide the weights, and the hash of the data; `changes` those that were others
    on the way: {"step", "setting", "was", "is"}, of the steps after that one.
    """

    name: str
    size: str
    seed: int
    params: int
    params_non_embedding: int
    tokens: int
    steps: int
    flops: int
    nats_per_token: float
    bits_per_byte: float
    held_out_tokens: int
    held_out_bytes: int
    domains: dict[str, Domain]
    seconds: float
    joules: float | None
    joules_origin: str | None
    price: float | None
    weights_sha256: str
    systems: int
    threads: int
    processor: str
    torch: str
    isoflop: str
    time: str
    fingerprint: dict[str, Any]
    system_seconds: float | None = None
    mfu: float | None = None
    changes: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What result.json holds."""
        return asdict(self)


def write_result(folder: RunFolder, result: Result) -> None:
    """Puts result.json in place, whole.

    Raises:
        WorkError: the disk is full or cannot be written.
    """
    write_sealed(folder.result(result.name), result.to_json())


def read_result(folder: RunFolder, name: str) -> Result | None:
    """The result of a model; None while it has none.

    Raises:
        WorkError: result.json is damaged.
    """
    path = folder.result(name)
    try:
        document = refuse_broken_seal(json.loads(path.read_bytes()))
        result = TypeAdapter(Result).validate_json(json.dumps(document), strict=True)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkError(f"{path}: cannot read ({error.strerror}); check its permissions and its disk") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(path, f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, str(error).splitlines()[0]) from None
    if result.name != name:
        raise _damaged(path, f"its name is {result.name!r}")
    for key in ("params", "tokens", "flops", "nats_per_token", "bits_per_byte"):
        value = getattr(result, key)
        if not 0 < value < math.inf:
            raise _damaged(path, f"{key} is {value}")
    return result


def read_results(folder: RunFolder, plan: "Plan") -> list[Result]:
    """The results that are there, in the plan's order."""
    found = (read_result(folder, model.name) for model in plan.models)
    return [result for result in found if result is not None]


def fingerprint_of(model: "ModelPlan", data: "Manifest | None") -> dict[str, Any]:
    """What decides the weights of a model, as JSON gives it back: its settings, and the data if they are known."""
    settings: dict[str, Any] = json.loads(to_json(model.fingerprint()))
    if data is not None:
        hashes = [data.tokenizer.sha256, *(shard.sha256 for shard in data.splits.train.shards)]
        settings["data_sha256"] = hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    return settings


def refuse_changes(folder: RunFolder, plan: "Plan", data: "Manifest | None") -> None:
    """Checks that every result there is one of this plan.

    Raises:
        InputError: a model was trained with other settings; they are named.
    """
    for model in plan.models:
        result = read_result(folder, model.name)
        if result is None:
            continue
        now = fingerprint_of(model, data)
        was = {key: value for key, value in result.fingerprint.items() if data is not None or key != "data_sha256"}
        differences = [
            f"{key} was {_shown(was.get(key))} and is {_shown(now.get(key))}"
            for key in {**was, **now}
            if was.get(key) != now.get(key)
        ]
        if differences:
            more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
            raise InputError(
                f"{folder.result(model.name)}: trained with other settings: {'; '.join(differences[:5])}{more}. "
                "Use another --runs folder, or put the old values back"
            )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _damaged(path: Path, reason: str) -> WorkError:
    return WorkError(f"{path}: damaged ({reason}); delete it: the model's checkpoint gives it back")
