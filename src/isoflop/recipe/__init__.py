"""From a size or a budget to everything a run needs: counts, batch, rates, schedule, memory, time, energy, price."""

from isoflop.recipe.flops import Flops, training_flops
from isoflop.recipe.machine import Machine
from isoflop.recipe.parametrisation import STANDARD, Parametrisation
from isoflop.recipe.plan import ModelPlan, Plan, check_against_data, machines_of, plan_family
from isoflop.recipe.schedule import BatchStage, learning_rate, steps_of
from isoflop.recipe.shape import Shape

__all__ = [
    "STANDARD",
    "BatchStage",
    "Flops",
    "Machine",
    "ModelPlan",
    "Parametrisation",
    "Plan",
    "Shape",
    "check_against_data",
    "learning_rate",
    "machines_of",
    "plan_family",
    "steps_of",
    "training_flops",
]
