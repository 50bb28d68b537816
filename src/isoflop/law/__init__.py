"""Scaling laws: fitted to a ladder of small runs, with intervals for the loss of one larger run."""

from isoflop.law.approaches import Optimum
from isoflop.law.inverse import Choice, best_for_budget, best_for_tokens, cheapest_for_loss
from isoflop.law.law import Curve, FormResult, Law, Parameter, Prediction, fit_law
from isoflop.law.points import Point, read_points

__all__ = [
    "Choice",
    "Curve",
    "FormResult",
    "Law",
    "Optimum",
    "Parameter",
    "Point",
    "Prediction",
    "best_for_budget",
    "best_for_tokens",
    "cheapest_for_loss",
    "fit_law",
    "read_points",
]
