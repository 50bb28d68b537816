"""Scaling laws: fitted to a ladder of small runs, with intervals for the loss of one larger run."""

from isoflop.law.approaches import Optimum
from isoflop.law.downstream import DownstreamLaw, TaskPoint, fit_downstream
from isoflop.law.inverse import Choice, Smaller, best_for_budget, best_for_tokens, cheapest_for_loss, price_of_smaller
from isoflop.law.law import Curve, FormResult, Law, Parameter, Prediction, fit_law
from isoflop.law.points import Point, read_points

__all__ = [
    "Choice",
    "Curve",
    "DownstreamLaw",
    "FormResult",
    "Law",
    "Optimum",
    "Parameter",
    "Point",
    "Prediction",
    "Smaller",
    "TaskPoint",
    "best_for_budget",
    "best_for_tokens",
    "cheapest_for_loss",
    "fit_downstream",
    "fit_law",
    "price_of_smaller",
    "read_points",
]
