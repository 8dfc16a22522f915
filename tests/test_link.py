"""What the GPUs of a group tell one another: the ring by hand, and the step it is part of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.device import load_device, shipped_devices
from calibrate.link import Communication, Link, Ring, all_reduces
from calibrate.model import load_model
from calibrate.roofline import Roofline
from sim.contract import check_latency_model
from tests.test_roofline import plan_of

LLAMA = load_model("Llama-3.1-8B")
H100, H200 = load_device("H100"), load_device("H200")
BUS = Link(
    name="a bus",
    bytes_per_s=100e9,
    pair_ns=5000,
    further_gpu_ns=1000,
    most_gpus=8,
    peers=False,
    source="",
    date="",
)


def test_two_gpus_by_hand() -> None:
    """1 MB at half of 100 GB/s: each sends half of it twice, 20 us; gathered, once."""
    ring = Ring(BUS, 2, efficiency=0.5)
    assert ring.all_reduce_ns(1_000_000) == pytest.approx(5000 + 20_000)
    assert ring.all_gather_ns(1_000_000) == pytest.approx(5000 + 10_000)
    assert ring.all_reduce_ns(0) == 5000


def test_eight_gpus_by_hand() -> None:
    ring = Ring(BUS, 8, efficiency=1)
    assert ring.all_reduce_ns(8_000_000) == pytest.approx(11_000 + 2 * 7 / 8 * 80_000)


@given(
    size=st.integers(0, 10**9), more=st.integers(1, 10**6), gpus=st.sampled_from([2, 3, 4, 5, 7])
)
def test_more_bytes_and_more_gpus_take_longer(size: int, more: int, gpus: int) -> None:
    ring, larger = Ring(BUS, gpus), Ring(BUS, gpus + 1)
    assert (
        ring.all_reduce_ns(size)
        < ring.all_reduce_ns(size + more)
        < larger.all_reduce_ns(size + more)
    )
    assert ring.all_gather_ns(size) <= ring.all_reduce_ns(size)


def test_a_step_is_65_all_reduces_and_one_all_gather() -> None:
    """Llama-3.1-8B: two in each of 32 layers and the embedding's; 128,256 logits a row."""
    ring = Ring(BUS, 2)
    assert all_reduces(LLAMA) == 65
    told = Communication.of(LLAMA, ring)
    for tokens, rows in ((1, 1), (300, 7)):
        expected = 65 * ring.all_reduce_ns(tokens * 4096 * 2) + ring.all_gather_ns(
            rows * 128_256 * 2
        )
        assert told.at(tokens, rows) == pytest.approx(expected)


def test_the_roofline_adds_it_to_a_step() -> None:
    plan = plan_of(decodes=[1000] * 8, chunks=[(0, 500)])
    free, paid = (
        Roofline(LLAMA, H200, tensor_parallel_size=4, communicate=talks) for talks in (False, True)
    )
    told = Communication.of(LLAMA, Ring.of(H200, 4)).at(508, 9)
    assert paid.durations(plan, 1)[0] - free.durations(plan, 1)[0] == pytest.approx(told, abs=1)
    one = Communication.of(LLAMA, Ring.of(H200, 4)).at(500, 1)
    assert int(paid.alone(0, 500)) - int(free.alone(0, 500)) == pytest.approx(one, abs=1)
    assert "modelled: NVLink 4, 450 GB/s a direction x 0.65, 4.52 us a call" in paid.notes[0]
    assert free.notes == ("communication between the 4 GPUs takes no time",)
    assert "on 4 x H200" in paid.source


def test_one_gpu_tells_nobody() -> None:
    plan = plan_of(decodes=[1000] * 8, chunks=[(0, 500)])
    for options in ({}, {"communicate": False}, {"link_efficiency": 0.1}):
        one = Roofline(LLAMA, H200, tensor_parallel_size=1, **options)  # type: ignore[arg-type]
        assert one.durations(plan, 1) == Roofline(LLAMA, H200).durations(plan, 1)
        assert one.notes == ()
        assert "on H200," in one.source


def test_the_work_is_one_gpus() -> None:
    """All of it is halved but the KV cache of eight heads over sixteen GPUs."""
    whole, half, sixteenth = (
        Roofline(LLAMA, H200, tensor_parallel_size=tp, communicate=False).work(
            tokens=100, rows=3, area=5000, context=700
        )
        for tp in (1, 2, 16)
    )
    assert half == (whole.flop / 2, whole.bytes / 2)
    matrices = 32 * (2 * 4096 * 4096 // 16 + 2 * 4096 * 128 + 3 * 4096 * 14_336 // 16)
    head, token_bytes = 128_256 * 4096 // 16, 131_072 // 8
    assert sixteenth.flop == 2 * matrices * 100 + 2 * head * 3 + 4 * 32 * 2 * 128 * 5000
    assert sixteenth.bytes == 2 * (matrices + head) + token_bytes * 800


@pytest.mark.parametrize("tp", [2, 8])
def test_the_contract_holds_for_several_gpus(tp: int) -> None:
    check_latency_model(Roofline(LLAMA, H200, tensor_parallel_size=tp, host_ns=7))


def test_alone_is_monotone_and_takes_arrays() -> None:
    clock = Roofline(LLAMA, H200, tensor_parallel_size=2)
    tokens = np.array([0, 1, 2, 100, 4000])
    priced = clock.alone(np.zeros_like(tokens), tokens)
    assert priced.tolist() == [int(clock.alone(0, n)) for n in tokens.tolist()]
    assert priced[0] == 0
    assert (np.diff(priced) > 0).all()


def test_what_was_measured_on_h200() -> None:
    """Medians of aiconfigurator-core 0.12 (vLLM 0.24, in CUDA graphs), microseconds by GPUs and
    numbers of two bytes: the model stays within 0.6 and 1.5 of them."""
    measured = {
        (2, 4096): 4.5,
        (2, 131_072): 5.2,
        (2, 524_288): 8.4,
        (2, 8_388_608): 76.6,
        (4, 524_288): 12.1,
        (4, 8_388_608): 93.8,
        (8, 131_072): 10.1,
        (8, 8_388_608): 87.2,
        (8, 33_554_432): 323.3,
    }
    ratios = [
        Ring.of(H200, gpus).all_reduce_ns(2 * numbers) / 1e3 / us
        for (gpus, numbers), us in measured.items()
    ]
    assert 0.6 < min(ratios) < max(ratios) < 1.5
    assert 0.85 < float(np.median(ratios)) < 1.05


def test_every_link_has_a_source() -> None:
    links = {device.name: device.link for device in shipped_devices()}
    assert [name for name, link in links.items() if link is None] == ["RTX 4090"]
    for link in links.values():
        if link is not None:
            assert "datasheet" in link.source
            assert link.date
            assert link.peers == link.name.startswith("NVLink")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor_parallel_size": 16}, "NVLink 4 connects 2 to 8 GPUs of a node, got 16"),
        ({"tensor_parallel_size": 3}, "must divide Llama-3.1-8B's 32 heads.*got 3"),
        ({"device": load_device("RTX 4090")}, "2 x RTX 4090, between which no link is known"),
        ({"link_efficiency": 0.0}, r"link_efficiency must lie in \(0, 1\], got 0"),
    ],
)
def test_what_cannot_be_had(change: dict[str, object], message: str) -> None:
    known: dict[str, object] = {"model": LLAMA, "device": H200, "tensor_parallel_size": 2}
    with pytest.raises(ValueError, match=message):
        Roofline(**(known | change))  # type: ignore[arg-type]


def test_a_shared_bus_warns() -> None:
    bus = replace(H100, link=BUS)
    assert "slower" not in Roofline(LLAMA, bus, tensor_parallel_size=2).notes[0]
    assert "measured 1.5 to 6 times slower" in Roofline(LLAMA, bus, tensor_parallel_size=4).notes[0]
