"""A leader's orders come through as they were given; what is none is refused, and nothing is executed."""

import pickle
from dataclasses import replace

import pytest

from isoflop.errors import FamilyError, InputError, Interrupted, LostError, WorkError
from isoflop.pipeline.orders import EndOrder, TrainOrder, read, written
from isoflop.recipe import Plan


def test_a_plan_comes_through_to_the_last_bit(plan: Plan) -> None:
    odd = replace(plan, models=(replace(plan.models[0], peak_lr=0.1 + 0.2, seconds=1e-320), *plan.models[1:]))
    order = read(written(TrainOrder("train", odd, "w12")))
    assert isinstance(order, TrainOrder)
    assert order.plan == odd
    assert order.model_plan == odd.models[1]
    assert order.model_plan.fingerprint() == odd.models[1].fingerprint()


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (FamilyError("data.x: no"), InputError, "data.x: no"),
        (WorkError("no space"), WorkError, "no space"),
        (ZeroDivisionError("by 0"), WorkError, "system 0 failed: ZeroDivisionError: by 0"),
    ],
)
def test_a_follower_ends_as_the_leader_did(error: Exception, kind: type[Exception], said: str) -> None:
    order = read(written(EndOrder.of(error)))
    assert isinstance(order, EndOrder)
    with pytest.raises(kind) as raised:
        order.obey()
    assert (type(raised.value), str(raised.value)) == (kind, said)


def test_a_follower_ends_by_the_leaders_signal_or_well() -> None:
    order = read(written(EndOrder.of(Interrupted(15, saved=False))))
    assert isinstance(order, EndOrder)
    with pytest.raises(Interrupted) as raised:
        order.obey()
    assert (raised.value.signal_number, raised.value.saved) == (15, False)
    well = read(written(EndOrder("end")))
    assert isinstance(well, EndOrder)
    well.obey()


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "train"}', pickle.dumps(EndOrder("end")).hex()])
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(LostError, match="no order"):
        read(text)
