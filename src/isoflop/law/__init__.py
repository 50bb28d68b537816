"""Scaling laws: fitted to a ladder of small runs, with intervals for the loss of one larger run."""

from isoflop.law.law import Curve, FormResult, Law, Parameter, Prediction, fit_law
from isoflop.law.points import Point, read_points

__all__ = ["Curve", "FormResult", "Law", "Parameter", "Point", "Prediction", "fit_law", "read_points"]
