"""Pure data parallelism foretold: linear while computing hides the wires, bound by them afterwards."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from isoflop.recipe import Shape, training_flops
from isoflop.recipe.hardware import Hardware, Wire
from isoflop.recipe.scaling import REPRODUCIBLE_SUM_BYTES, Work, resident, streamed

HardwareOf = Callable[[str], Hardware]
SHAPE = Shape(24, 2048, 16, 50_257, 2048)
WORK = Work(SHAPE, 512, 1)


def test_one_resident_system_needs_its_flops_over_its_rate(round_numbers: Hardware) -> None:
    one = resident(WORK, 1, round_numbers)
    assert one.step_seconds == pytest.approx(training_flops(SHAPE, WORK.tokens).model / 100e12)
    assert (one.of_linear, one.of_peak, one.sent_bytes) == (pytest.approx(1), pytest.approx(0.5), 0)


def test_resident_systems_wait_for_all_that_they_exchange(round_numbers: Hardware) -> None:
    four = resident(WORK, 4, round_numbers)
    exchanged = 0.75 * (REPRODUCIBLE_SUM_BYTES + 4) * SHAPE.params
    assert four.sent_bytes == pytest.approx(exchanged)
    assert four.communication_seconds == pytest.approx(exchanged / 10e9)
    assert four.computing_seconds == pytest.approx(resident(WORK, 1, round_numbers).computing_seconds / 4)


def test_systems_without_a_microbatch_bring_nothing(round_numbers: Hardware) -> None:
    work = replace(WORK, batch_sequences=8)
    eight, many = (resident(work, systems, round_numbers) for systems in (8, 64))
    assert many.step_seconds >= eight.step_seconds
    # Three systems share eight microbatches: two have three, and the third waits for them.
    three = resident(work, 3, replace(round_numbers, node=Wire(1e30, 0), network=Wire(1e30, 0)))
    assert three.of_linear == pytest.approx(8 / 9)


@pytest.mark.parametrize("systems", [1, 4, 16])
@pytest.mark.parametrize("network", [1e9, 10e9, 100e9])
def test_a_streamed_step_takes_as_long_as_one_played_through(
    systems: int, network: float, round_numbers: Hardware
) -> None:
    kind = replace(round_numbers, node=Wire(network, 0.0), network=Wire(network, 0.0))
    found = streamed(WORK, systems, kind)
    assert found.step_seconds == pytest.approx(played_through(WORK, systems, kind), rel=0.05)


def played_through(work: Work, systems: int, kind: Hardware) -> float:
    """Every layer of every group in turn; device, network and each way of the link do one thing at a time."""
    shape, n = work.shape, systems
    groups = -(-work.busiest_tokens(n) // 65_536)
    tokens = work.busiest_tokens(n) / groups
    layer = shape.params / shape.n_layers
    forward = (24 * shape.d_model**2 + 4 * 2048 * shape.d_model) * tokens / kind.flops_per_second
    head = 6 * shape.vocab_size * shape.d_model * tokens / kind.flops_per_second / shape.n_layers
    image, sums = 2 * layer, REPRODUCIBLE_SUM_BYTES * layer
    assert kind.link_bytes_per_second is not None
    link, network, across = kind.link_bytes_per_second, kind.network.bytes_per_second, (n - 1) / n
    into, out_of, net, device = 0.0, 0.0, 0.0, 0.0
    for _ in range(groups):
        for computing, gives in [(forward, False), (3 * forward + head, True)]:
            for _ in range(shape.n_layers):
                into += image / n / link
                net = max(net, into - image / n / link) + image * across / network
                device = max(device, into, net) + computing
                if gives:
                    net = max(net, device - computing) + sums * across / network
                    out_of = max(out_of, device) + sums / n / link
    return max(device, out_of, net)


def test_links_stop_mattering_once_a_group_has_enough_tokens(round_numbers: Hardware) -> None:
    """F/B = 4,000 tokens for the forward pass alone, 2 to 4 times as many with 64-bit sums on the way back."""
    few, many = (streamed(replace(WORK, batch_sequences=n), 1, round_numbers) for n in (1, 32))
    assert few.communication_seconds > 0.2 * few.step_seconds
    assert many.communication_seconds < 0.03 * many.step_seconds


def test_a_small_device_takes_smaller_groups(round_numbers: Hardware) -> None:
    large, small = (streamed(WORK, 1, replace(round_numbers, memory_bytes=n)) for n in (80e9, 4e9))
    assert large.memory_bytes > 4e9
    assert small.fits
    assert small.step_seconds >= large.step_seconds


def test_andromeda_is_foretold_to_scale_almost_linearly(hardware: HardwareOf) -> None:
    """GenSLM, 1.3B parameters on sequences of 10,240: 10.4 hours on four CS-2, 2.7 on sixteen, so 3.85 times as fast.

    T. Ray, ZDNET, 14 November 2022, on Zvyagin et al. 2022; shape as GPT-3 XL's and a batch of 512 are assumed here.
    """
    work = Work(Shape(24, 2048, 16, 50_257, 10_240), 512, 1, reproducible=False)
    four, sixteen = (streamed(work, systems, hardware("cs2")) for systems in (4, 16))
    assert four.step_seconds / sixteen.step_seconds == pytest.approx(10.4 / 2.7, rel=0.05)
    assert sixteen.of_linear > 0.95


def test_streaming_trains_on_one_device_what_no_layout_fits_there(hardware: HardwareOf) -> None:
    work = Work(Shape(40, 5120, 40, 50_257, 2048), 1080, 1)
    one, sixteen = (streamed(work, systems, hardware("h100-80gb")) for systems in (1, 16))
    assert one.fits
    assert not resident(work, 1, hardware("h100-80gb")).fits
    assert sixteen.of_linear > 0.95
    assert sixteen.store_bytes == pytest.approx(one.store_bytes / 16)
