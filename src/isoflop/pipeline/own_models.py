"""A run directory's models as if they were published: counted, measured and scored as the published ones are."""

from isoflop.config import Family
from isoflop.pipeline.folder import RunFolder
from isoflop.pipeline.plan import stored_plan
from isoflop.pipeline.result import read_result
from isoflop.pipeline.task_scores import read_task_scores
from isoflop.published import Openness, PublishedModel, published_tasks

# Tokens a parameter that count as compute-optimal: twice either way of the 20 of Hoffmann et al. 2022.
OPTIMAL_LOW, OPTIMAL_HIGH = 10.0, 40.0


def own_models(folder: RunFolder, text: str | None = None) -> list[PublishedModel]:
    """The trained models, in the plan's order; `text` is what the held-out text is known as, if it is a published one.

    FLOPs are counted as in the Cerebras-GPT paper, so that they compare with its tables.

    Raises:
        WorkError: the data or a result are damaged.
    """
    family, plan = stored_plan(folder)
    results = [(model, read_result(folder, model.name)) for model in plan.models]
    trained = [(model, result) for model, result in results if result is not None]
    if not trained:
        return []
    ratio = _tokens_per_gpt2_token(family, folder)
    return [
        PublishedModel(
            family=family.name,
            model=model.name,
            params=float(result.params),
            tokens=float(result.tokens),
            flops=float(model.flops_paper),
            nats_per_token=result.nats_per_token,
            text=text or f"held-out text of {family.name}",
            tokenizer="GPT-2" if family.data.tokenizer.kind == "gpt2" else f"{family.name}'s own",
            tokens_per_gpt2_token=ratio,
            source=f"models/{model.name}/result.json",
            stated_bits_per_byte=result.bits_per_byte,
            scores=_scores(folder, model.name, model.steps),
        )
        for model, result in trained
    ]


def own_openness(folder: RunFolder) -> Openness:
    """The family's row: code, recipe and weights are in every release; of its data, what the family file says."""
    family, plan = stored_plan(folder)
    ratios = [model.tokens / model.shape.params for model in plan.models]
    optimal = all(OPTIMAL_LOW <= ratio <= OPTIMAL_HIGH for ratio in ratios)
    return Openness(
        family=family.name,
        data=family.data.openness,
        code="open",
        weights="open",
        recipe="open",
        licence="Apache-2.0",
        tokens_per_parameter_low=min(ratios),
        tokens_per_parameter_high=max(ratios),
        compute_optimal="yes" if optimal else "no",
        note=f"licence of the data: {family.data.licence}",
        source="family.json, plan.json, what isoflop release writes",
    )


def _scores(folder: RunFolder, name: str, steps: int) -> dict[tuple[str, int], float]:
    """Accuracies on whole published tasks at the end of the training, by short name."""
    short = {task.harness_task: task.task for task in published_tasks()}
    return {
        (short[score.task], score.shots): score.figure.value
        for score in read_task_scores(folder, name)
        if score.task in short and score.limit is None and score.step == steps and score.precision == "fp32"
    }


def _tokens_per_gpt2_token(family: Family, folder: RunFolder) -> float | None:
    """How many tokens of the family's tokenizer stand for one of GPT-2's on its held-out text; None without it."""
    if family.data.tokenizer.kind == "gpt2":
        return 1.0
    if not (folder.data / "manifest.json").exists():
        return None
    from isoflop.evaluate.tokens import tokens_per_gpt2_token

    return tokens_per_gpt2_token(folder.data)
