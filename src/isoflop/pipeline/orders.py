"""What a leader says to its followers, as JSON: what comes over the network is data, whoever sent it."""

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from isoflop.errors import InputError, Interrupted, LostError, WorkError
from isoflop.recipe import ModelPlan, Plan


@dataclass(frozen=True)
class TrainOrder:
    """To train, with the leader, the model of that name of its plan."""

    kind: Literal["train"]
    plan: Plan
    model: str

    @property
    def model_plan(self) -> ModelPlan:
        """The model to train."""
        return next(one for one in self.plan.models if one.name == self.model)


@dataclass(frozen=True)
class EndOrder:
    """To end as the leader does: well, where it has no fault."""

    kind: Literal["end"]
    fault: Literal["input", "work", "signal"] | None = None
    line: str = ""
    signal_number: int = 0
    saved: bool = True

    @staticmethod
    def of(error: BaseException) -> "EndOrder":
        """The leader ends with that error."""
        match error:
            case Interrupted():
                return EndOrder("end", "signal", signal_number=error.signal_number, saved=error.saved)
            case InputError():
                return EndOrder("end", "input", str(error))
            case WorkError():
                return EndOrder("end", "work", str(error))
            case _:
                return EndOrder("end", "work", f"system 0 failed: {type(error).__name__}: {error}")

    def obey(self) -> None:
        """Raises what the leader did, if it did."""
        if self.fault == "signal":
            raise Interrupted(self.signal_number, self.saved)
        if self.fault is not None:
            raise (InputError if self.fault == "input" else WorkError)(self.line)


_ORDERS: TypeAdapter[TrainOrder | EndOrder] = TypeAdapter(TrainOrder | EndOrder)


def written(order: TrainOrder | EndOrder) -> str:
    """The order as JSON; floats come back with the same bits."""
    return _ORDERS.dump_json(order).decode()


def read(text: str) -> TrainOrder | EndOrder:
    """The order that `text` says.

    Raises:
        LostError: it says none; whoever leads is no isoflop of this version.
    """
    try:
        return _ORDERS.validate_json(text)
    except ValidationError:
        raise LostError(f"the leader said what is no order: {text[:60]!r}") from None
