"""Members of a family that continue a prompt side by side, a token at a time, each with its keys and values kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.errors import InputError, WorkError
from isoflop.pipeline.folder import RunFolder
from isoflop.studio.silent import Silent

if TYPE_CHECKING:
    from isoflop.model.inference import Reader
    from isoflop.recipe import ModelPlan

MOST_TOKENS, MOST_PROMPT = 2048, 20_000
MOST_MEMBERS = 12
# Models of at most so many bytes stay in memory for the next prompt; larger ones are read anew.
KEPT_BYTES = 2**26
# What reading a checkpoint takes of memory for a parameter, at its fullest: as it is saved, and as it is used.
READING_BYTES = 8


@dataclass(frozen=True)
class Prompt:
    """What is to be continued. At `temperature` 0 the likeliest token comes each time, else one by chance: the same for
    the same seed."""

    text: str
    seed: int
    tokens: int
    temperature: float

    def __post_init__(self) -> None:
        if len(self.text) > MOST_PROMPT:
            raise InputError(f"prompt: {len(self.text):,} characters; use at most {MOST_PROMPT:,}")
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise InputError(f"tokens = {self.tokens}: use 1 to {MOST_TOKENS}")
        if not 0 <= self.temperature <= 5:
            raise InputError(f"temperature = {self.temperature:g}: use 0 to 5")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed = {self.seed}: use 0 or more")


def readable(folder: RunFolder) -> list[tuple[str, int, bool]]:
    """The members that have a checkpoint: name, its step, and whether that is the end."""
    from isoflop.pipeline.plan import stored_plan
    from isoflop.pipeline.weights import saved_steps

    try:
        _, plan = stored_plan(folder)
    except WorkError:
        return []
    found = [(model, saved_steps(model, folder)) for model in plan.models]
    return [(model.name, steps[-1], steps[-1] == model.steps) for model, steps in found if steps]


def continuations(folder: RunFolder, names: list[str], prompt: Prompt) -> Iterator[dict[str, Any]]:
    """What the members write, piece by piece in turns: `model`, `text`, and at its end `done` with the reason.

    Raises:
        InputError: there is no such member, it has no checkpoint, or memory does not do for them.
        WorkError: a checkpoint is damaged.
    """
    import torch

    from isoflop.data.manifest import TOKENIZER_FILE
    from isoflop.data.tokenizer import end_of_text, load_tokenizer

    torch.set_num_threads(1)  # a visitor's whim takes one core from a training, not all
    steps = {name: step for name, step, _ in readable(folder)}
    tokenizer = load_tokenizer(folder.data / TOKENIZER_FILE)
    stop = end_of_text(tokenizer)
    # Without a prompt a text begins.
    ids = tokenizer.encode(prompt.text, add_special_tokens=False).ids or [stop]
    chosen = names[:MOST_MEMBERS]
    for name in chosen:
        if name not in steps:
            raise InputError(f"model {name[:64]!r}: no checkpoint yet")
    _refuse_large(folder, chosen)
    writers = [(name, _Writer(_reader(folder, name, steps[name]), ids, prompt, stop)) for name in chosen]
    written: dict[str, list[int]] = {name: [] for name, _ in writers}
    told: dict[str, str] = {name: "" for name, _ in writers}
    while writers:
        for name, writer in list(writers):
            token = writer.next()
            if token is not None:
                written[name].append(token)
            text = str(tokenizer.decode(written[name], skip_special_tokens=False))
            if token is None:
                yield {"model": name, "text": text[len(told[name]) :], "done": writer.why}
                writers.remove((name, writer))
            elif not text.endswith("\N{REPLACEMENT CHARACTER}"):  # the rest of a letter comes with the next token
                piece, told[name] = text[len(told[name]) :], text
                yield {"model": name, "text": piece}


class _Writer:
    """One member at work."""

    def __init__(self, reader: "Reader", ids: list[int], prompt: Prompt, stop: int) -> None:
        import torch

        from isoflop.model.inference import Kept

        self._reader, self._prompt, self._stop = reader, prompt, stop
        # The end of a long prompt, with room for what follows.
        room = reader.shape.context_length
        self._ids = ids[-max(1, room - min(prompt.tokens, room // 2)) :]
        self._kept, self._read, self._written = Kept(), 0, 0
        self._chance = torch.Generator().manual_seed(prompt.seed)
        self.why = ""

    def next(self) -> int | None:
        """The next token; None at the end, and `why`."""
        import torch

        if self._written == self._prompt.tokens:
            self.why = "tokens asked for"
            return None
        length = self._read + len(self._ids)
        if length > self._reader.shape.context_length:
            self.why = "end of its context"
            return None
        ids = torch.tensor([self._ids])
        positions = torch.arange(self._read, length)[None]
        mask = None if self._read == 0 else torch.ones(1, 1, len(self._ids), length, dtype=torch.bool)
        features = self._reader.features(ids, positions, mask, self._kept)
        logits = self._reader.logits(features[0, -1:])[0]
        if self._prompt.temperature == 0:
            token = int(logits.argmax())
        else:
            chances = torch.softmax(logits / self._prompt.temperature, 0)
            token = int(torch.multinomial(chances, 1, generator=self._chance))
        self._read, self._ids, self._written = length, [token], self._written + 1
        if token == self._stop:
            self.why = "end of text"
            return None
        return token


def _refuse_large(folder: RunFolder, names: list[str]) -> None:
    """A prompt may take half of the memory that is free: a training beside it grows too."""
    from isoflop.pipeline.plan import stored_plan

    _, plan = stored_plan(folder)
    needed = sum(READING_BYTES * model.shape.params for model in plan.models if model.name in names)
    free = _free_bytes()
    if free is not None and needed > free / 2:
        raise InputError(
            f"models: they take {needed / 1e9:.1f} GB of memory and a prompt may have half of what is free, "
            f"{free / 1e9:.1f} GB; choose fewer or smaller ones"
        )


def _free_bytes() -> int | None:
    """None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    except (OSError, ValueError, StopIteration):
        return None


def _reader(folder: RunFolder, name: str, step: int) -> "Reader":
    from isoflop.pipeline.plan import stored_plan

    _, plan = stored_plan(folder)
    model = next(one for one in plan.models if one.name == name)
    small = 4 * model.shape.params <= KEPT_BYTES
    return _small_reader(str(folder.path), name, step) if small else _read(folder, model, step)


@lru_cache(maxsize=16)
def _small_reader(path: str, name: str, step: int) -> "Reader":
    from isoflop.pipeline.plan import stored_plan

    folder = RunFolder(Path(path))
    _, plan = stored_plan(folder)
    return _read(folder, next(one for one in plan.models if one.name == name), step)


def _read(folder: RunFolder, model: "ModelPlan", step: int) -> "Reader":
    from isoflop.model.inference import Reader
    from isoflop.pipeline.weights import weights_at

    return Reader(weights_at(model, folder, step, Silent())[0], model.shape)
