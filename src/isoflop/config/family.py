"""What a family file may say. One class a table; a field's description is its documentation."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Address = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+")]
TimeLimit = Annotated[str, Field(pattern=r"^(\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2})$")]
Word = Annotated[str, Field(pattern=r"^\S+$")]
SbatchOption = Annotated[str, Field(pattern=r"^--[a-z][^\n\r]*$")]
Suffix = Annotated[str, Field(pattern=r"^\.[A-Za-z0-9._+-]{1,20}$")]
HubName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")]


# Parts of an address that let whoever reads it in: they would end up in run directories and logs.
_SECRET = re.compile(r"token|secret|signature|\bsig\b|password|credential|api_?key", re.IGNORECASE)


class Table(BaseModel):
    """A TOML table: unknown keys, wrong types and later changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gpt2Tokenizer(Table):
    """The exact GPT-2 byte-level BPE: 50,257 tokens, no network needed."""

    kind: Literal["gpt2"]

    @property
    def vocab_size(self) -> int:
        return 50_257


class BpeTokenizer(Table):
    """A byte-level BPE trained on the corpus."""

    kind: Literal["bpe"]
    vocab_size: int = Field(ge=257, le=2**32 - 1, description="256 bytes, merges, and the end-of-text token")


class FileTokenizer(Table):
    """A byte-level BPE from a tokenizer.json that the `tokenizers` library reads: the one that Megatron data need."""

    kind: Literal["file"]
    path: Path = Field(description="the tokenizer.json, relative to this file")
    vocab_size: int = Field(ge=257, le=2**32 - 1, description="tokens of the model: those of the file, or padded above")


Tokenizer = Annotated[Gpt2Tokenizer | BpeTokenizer | FileTokenizer, Field(discriminator="kind")]


class DataSource(Table):
    """Where the text comes from and how it becomes tokens."""

    source: Address | Path = Field(
        description="a file or folder, relative to this file, or an fsspec address (s3://...)"
    )
    licence: str = Field("not stated", description="licence of the texts, copied into manifest and model cards")
    openness: Literal["open", "partly", "closed", "unknown"] = Field(
        "unknown", description="what anyone may have of the texts, for the table of openness"
    )
    datasets: list[HubName] = Field([], description="sets on the Hugging Face hub that the texts are from, for cards")
    text_key: str = Field("text", description="the field of a jsonl object or parquet column that holds the text")
    text_suffixes: list[Suffix] = Field([".txt"], description="files so named are one document each, as they are")
    tokenizer: Tokenizer
    context_length: int = Field(ge=8, le=2**20, description="tokens a model sees at once")
    held_out_fraction: Fraction = Field(0.02, description="share of the documents that no model trains on")
    tokens: int | None = Field(None, ge=1, description="tokens it is known to hold: plan then works without the source")
    epochs: float = Field(
        1.0, gt=0, le=1_000_000, allow_inf_nan=False, description="how often a model may read the data at most"
    )
    test_fraction: float = Field(0.0, ge=0, lt=1, allow_inf_nan=False, description="share kept apart for a last test")
    faults_allowed: float = Field(0.001, ge=0, le=1, allow_inf_nan=False, description="share of unreadable documents")
    end_of_text: bool = Field(True, description="whether an end-of-text token follows each document")
    shuffle_documents: bool = Field(False, description="whether documents are packed in random order")
    duplicates: Literal["keep", "exact", "near"] = Field("keep", description="which copies of documents are left out")
    similarity: Fraction = Field(0.8, description="with duplicates = 'near': Jaccard similarity from which on")
    decontaminate: Path | None = Field(None, description="a folder of task files whose text must not be trained on")
    mixture: dict[str, Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]] = Field(
        {}, description="how often each domain's documents are trained on, where not once"
    )

    @field_validator("source")
    @classmethod
    def _without_secrets(cls, source: Address | Path) -> Address | Path:
        if isinstance(source, str):
            try:
                parts = urlsplit(source)
                secret = parts.password is not None or any(_SECRET.search(key) for key, _ in parse_qsl(parts.query))
            except ValueError as error:
                raise ValueError(f"not an address: {error}") from None
            if secret:
                raise ValueError(
                    "the address holds a password or token, which would be copied into every run directory; "
                    "remove it and give it to fsspec by the environment or its configuration file"
                )
        return source

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.held_out_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"held_out_fraction = {self.held_out_fraction} and test_fraction = {self.test_fraction} leave nothing "
                "to train on; lower one"
            )
        return self


class BatchStage(Table):
    """From `from_tokens` on, a step reads `sequences` sequences."""

    from_tokens: int = Field(ge=0)
    sequences: int = Field(ge=1, le=2**24)


class Recipe(Table):
    """How a size becomes a run. What is left out follows the rules in isoflop.recipe."""

    tokens_per_parameter: Positive = Field(20.0, description="tokens for each parameter, embeddings included")
    tokens: int | None = Field(None, ge=1, le=2**60, description="tokens of the run, instead of tokens_per_parameter")
    batch_schedule: list[BatchStage] | None = Field(
        None, min_length=1, max_length=1_000, description="default: the rule for the size"
    )
    peak_lr: Positive | None = Field(None, description="default: the rule for the size")
    warmup_fraction: Fraction | None = Field(None, description="share of the tokens over which the rate rises")
    warmup_tokens: int | None = Field(None, ge=1, le=2**60, description="the same in tokens: whole steps within them")
    decay: Literal["linear", "cosine"] = "linear"
    final_lr_fraction: float = Field(0.1, ge=0, le=1, allow_inf_nan=False)
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False)
    clip_norm: Positive = 1.0
    init_std: Positive | None = Field(None, description="default: 0.02, under muP 0.08 at the base width")
    init_truncation: Positive | None = Field(None, ge=1, description="draws beyond so many deviations are drawn again")
    residual_init_std: Positive | None = Field(None, description="of the matrices that write to the residual stream")
    embedding_multiplier: Positive | None = Field(None, description="default: 1, under muP 10")
    output_multiplier: Positive = Field(1.0, description="of the logits, under muP before the division by the width")
    base_width: int = Field(256, ge=1, le=2**17, description="muP: the width at which rates and deviations hold")
    on_spike: Literal["warn", "skip", "rewind"] = Field("warn", description="the answer to a step that goes wrong")
    spikes_allowed: int = Field(10, ge=0, le=10_000, description="spikes answered in a run before it stops")
    microbatch_tokens: int = Field(2_048, ge=1, description="most tokens that a lane passes through the model at once")

    @model_validator(mode="after")
    def _one_warmup(self) -> Self:
        if self.warmup_fraction is not None and self.warmup_tokens is not None:
            raise ValueError("give warmup_fraction or warmup_tokens, not both")
        return self

    @field_validator("batch_schedule")
    @classmethod
    def _stages_in_order(cls, stages: list[BatchStage] | None) -> list[BatchStage] | None:
        if stages is not None:
            starts = [stage.from_tokens for stage in stages]
            if starts[0] != 0 or starts != sorted(set(starts)):
                raise ValueError(f"from_tokens must start at 0 and rise; given {starts}")
        return stages


class ModelSize(Table):
    """One member of the family."""

    name: Name
    n_layers: int = Field(ge=1, le=1000)
    d_model: int = Field(ge=8, le=2**17)
    n_heads: int = Field(ge=1, le=1024)
    seeds: int = Field(1, ge=1, le=100, description="how many runs of this size; the law learns the noise from them")
    recipe: Recipe = Field(Recipe(), description="what is otherwise for this model than [recipe] says")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.n_heads:
            near = [h for h in range(1, self.d_model + 1) if self.d_model % h == 0]
            near.sort(key=lambda h: abs(h - self.n_heads))
            raise ValueError(
                f"n_heads = {self.n_heads} does not divide d_model = {self.d_model}; "
                f"use {' or '.join(map(str, near[:2]))}"
            )
        return self


class Sizes(Table):
    """Sizes to derive instead of listing them under [[models]]: exactly one of the two."""

    target_params: list[Annotated[int, Field(ge=10_000)]] | None = Field(
        None, min_length=1, description="total parameters wanted of each model; layers, width and heads follow"
    )
    budget_flops: Positive | None = Field(
        None, description="training FLOPs of the whole family; each model takes four times the FLOPs of the one before"
    )
    count: int | None = Field(None, ge=2, le=20, description="with budget_flops: how many models (default 5)")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.target_params is None) == (self.budget_flops is None):
            raise ValueError("give either target_params or budget_flops")
        if self.count is not None and self.budget_flops is None:
            raise ValueError("count goes with budget_flops; remove it")
        if self.target_params is not None and len(set(self.target_params)) < len(self.target_params):
            raise ValueError("target_params lists a size twice; list each once")
        return self


class Cost(Table):
    """What the machine draws and costs, where it cannot be measured."""

    watts_per_system: Positive | None = None
    price_per_system_hour: float | None = Field(None, ge=0, allow_inf_nan=False)
    currency: str = "USD"


class Cluster(Table):
    """The cluster whose login node submits `isoflop train` as a job of its own."""

    kind: Literal["slurm"]
    systems_per_node: int = Field(1, ge=1, le=1024, description="workers on each node")
    partition: Word | None = Field(None, description="default: the cluster's")
    account: Word | None = Field(None, description="who pays; default: the user's")
    time_limit: TimeLimit | None = Field(None, description="as sbatch takes it; default: the partition's")
    save_seconds: int = Field(
        120, ge=30, le=3600, description="how long before the limit the run is saved and goes back to the queue"
    )
    sbatch: list[SbatchOption] = Field([], description="further options of sbatch, one each")

    @model_validator(mode="after")
    def _there_is_time_to_work(self) -> Self:
        seconds = _limit_seconds(self.time_limit or "0")
        if 0 < seconds <= self.save_seconds:
            raise ValueError(
                f"time_limit = {self.time_limit!r} ({seconds} s) is no longer than save_seconds = "
                f"{self.save_seconds}: every start would save at once and go back to the queue; make it longer"
            )
        return self


def _limit_seconds(text: str) -> int:
    """Seconds of a limit as sbatch takes it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; 0 is none."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class Evaluation(Table):
    """Which downstream tasks `isoflop evaluate` asks the models, and where their data lie."""

    tasks: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:+-]*$")]] = Field(
        ["heldout", "published"], min_length=1, description="the two suites, or names that lm-evaluation-harness knows"
    )
    shots: list[Annotated[int, Field(ge=0, le=100)]] = Field(
        [0, 5], min_length=1, description="how many examples stand before a question"
    )
    limit: int | None = Field(None, ge=1, description="most questions of a task: for trying out")
    data_dir: Path | None = Field(None, description="a folder of data sets, relative to this file")
    task_folder: Path | None = Field(None, description="a folder of own tasks in the harness's YAML")


_EITHER = (
    ("tokens_per_parameter", "tokens"),
    ("warmup_fraction", "warmup_tokens"),
    ("warmup_tokens", "warmup_fraction"),
)


class Deviation(Table):
    """Where the family departs from what was published, and why."""

    what: str = Field(min_length=1, description="a key of plan.json, or in words what no key says")
    reason: str = Field(min_length=1)


class Streaming(Table):
    """How a streamed run goes: no bit of its weights depends on it."""

    store: Literal["disk", "host"] | None = Field(
        None,
        description="where weights and optimizer live; default: in host memory beside a GPU if it fits, else on disk",
    )
    group_tokens: int | None = Field(
        None, ge=1, description="most tokens that pass a layer while it is there; default: 16,384, on a GPU 65,536"
    )
    recompute: bool = Field(
        False,
        description="on a processor: layers keep their input alone, a sixth of the disk space for a third more work",
    )
    embeddings_stay: bool = Field(
        False,
        description="on a processor with its store on disk: weights and state of the embeddings are in memory too, so "
        "that steps begin and end without waiting for the disk; 18 bytes for each of their weights, and their sums",
    )


class Published(Table):
    """The published family that this one repeats: `isoflop plan` shows its figures beside ours."""

    family: str = Field(description="its name in isoflop.published")
    deviations: list[Deviation] = Field([], description="every departure from it with its reason")


class Family(Table):
    """Models of one recipe and one data set at growing sizes: what a family file says."""

    name: Name
    description: str = ""
    seed: int = Field(0, ge=0, le=2**31 - 1)
    precision: Literal["bf16", "fp32"] = "bf16"
    systems: int = Field(1, ge=1, le=65_536)
    reproducible: bool = Field(True, description="gradients add up to the same bits on any number of systems")
    held_out: Name | Literal[False] | None = Field(
        None, description="the model whose loss the law must foretell; default: the largest; false: none"
    )
    checkpoint_seconds: Positive = Field(30.0, description="how much work an interruption may cost at most")
    keep_checkpoints: int = Field(
        0, ge=0, le=1_000, description="checkpoints on the way, evenly over each run, that stay and are released too"
    )
    parametrisation: Literal["standard", "mup"] = "standard"
    execution: Literal["resident", "streamed"] = Field(
        "resident", description="weights live on the device, or in a store that they visit it from, layer by layer"
    )
    streaming: Streaming = Streaming()
    tuned: Path | None = Field(None, description="tuned.toml of isoflop tune, for what [recipe] leaves out")
    data: DataSource
    models: list[ModelSize] | None = Field(None, min_length=1, max_length=10_000)
    sizes: Sizes | None = None
    recipe: Recipe = Recipe()
    cost: Cost = Cost()
    cluster: Cluster | None = None
    published: Published | None = None
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _sizes_are_given_once(self) -> Self:
        if (self.models is None) == (self.sizes is None):
            raise ValueError("give the sizes either as [[models]] tables or as one [sizes] table")
        names = [model.name for model in self.models or []]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"models: the name {doubled[0]!r} is given twice; names must differ")
        passing = [name for name in names if name.endswith((".part", ".old"))]
        if passing:
            raise ValueError(f"models: {passing[0]!r} is what a folder is called while it is replaced; rename it")
        if self.models and self.held_out and self.held_out not in names:
            raise ValueError(f"held_out = {self.held_out!r} is none of the models; use one of {', '.join(names)}")
        return self

    @model_validator(mode="after")
    def _nodes_are_full(self) -> Self:
        if self.cluster is not None and self.systems % self.cluster.systems_per_node:
            raise ValueError(
                f"systems = {self.systems} fills no whole number of nodes with cluster.systems_per_node = "
                f"{self.cluster.systems_per_node}; use a multiple of it"
            )
        return self

    def recipe_of(self, size: ModelSize) -> Recipe:
        """The recipe of one model: the family's, with what the model's own table says instead."""
        said = size.recipe.model_fields_set
        own = {key: getattr(size.recipe, key) for key in said}
        # What the model's table says goes before the family's other way to say it.
        own |= {other: None for one, other in _EITHER if one in said}
        return self.recipe.model_copy(update=own)
