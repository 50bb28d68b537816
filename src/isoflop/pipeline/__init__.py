"""What the commands do: each step in order, each only as far as it is still missing."""

from isoflop.pipeline.data import prepare_data
from isoflop.pipeline.evaluate import evaluate_family
from isoflop.pipeline.folder import RunFolder, find_run
from isoflop.pipeline.law import law_of
from isoflop.pipeline.listener import Listener
from isoflop.pipeline.lock import locked
from isoflop.pipeline.plan import show_plan
from isoflop.pipeline.predict import predict
from isoflop.pipeline.release import release_run
from isoflop.pipeline.report import report_run
from isoflop.pipeline.run import Outcome, run_family
from isoflop.pipeline.train import train_family

__all__ = [
    "Listener",
    "Outcome",
    "RunFolder",
    "evaluate_family",
    "find_run",
    "law_of",
    "locked",
    "predict",
    "prepare_data",
    "release_run",
    "report_run",
    "run_family",
    "show_plan",
    "train_family",
]
