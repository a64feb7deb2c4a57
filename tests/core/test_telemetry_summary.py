"""What samples add up to, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.api import SummaryView
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample
from runnersd.telemetry.summary import Summary
from runnersd.telemetry.verdict import Wanted, verdict

GIB = 1 << 30


def card(index: int = 2, **facts: Any) -> CardSample:
    return CardSample(f"GPU-{index}", index, memory_total=80 * GIB, **facts)


def summed(samples: Sequence[Sample]) -> SummaryView:
    summary = Summary()
    for sample in samples:
        summary.add(sample)
    return summary.to_json()


def constant(seconds: int, *cards: CardSample, **process: float) -> SummaryView:
    """So many seconds in which nothing changes."""
    return summed([Sample(float(at), cards, ProcessSample(**process)) for at in range(seconds + 1)])  # type: ignore[arg-type]


def test_means_count_time_peaks_count_samples_and_energy_is_power_over_time() -> None:
    watts = {0.0: 100.0, 1.0: 300.0, 4.0: 300.0, 5.0: 100.0}
    found = summed([Sample(at, (card(power=power, utilization=power / 4),)) for at, power in watts.items()])
    (one,) = found["gpus"]
    assert one["power"] == {"mean": pytest.approx(260.0), "peak": 300.0, "seconds": 5.0}
    assert one["energy"] == found["energy"] == pytest.approx(1300.0)
    assert one["utilization"]["mean"] == pytest.approx(65.0)
    assert (found["seconds"], found["samples"]) == (5.0, 4)


def test_a_card_is_idle_while_it_is_busy_for_less_than_a_twentieth() -> None:
    busy = [90, 4, 4, 5, 90]
    (one,) = summed([Sample(float(at), (card(utilization=part),)) for at, part in enumerate(busy)])["gpus"]
    assert one["idle"] == pytest.approx(2.0), "half of the seconds into it and out of it, and the one between"


def test_what_happened_in_a_gap_is_not_guessed() -> None:
    summary = Summary()
    for at in (0.0, 1.0, 100.0, 101.0):
        summary.add(Sample(at, (card(power=200.0),), ProcessSample(GIB, 2.0)), gap=3.0)
    found = summary.to_json()
    assert (found["seconds"], found["samples"], found["energy"]) == (2.0, 4, 400.0)
    assert found["process"]["cpu"] == {"mean": 2.0, "peak": 2.0, "seconds": 2.0}


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    found = summed([Sample(at, (card(power=200.0),)) for at in (10.0, 11.0, 5.0, 6.0)])
    assert (found["seconds"], found["energy"]) == (2.0, 400.0)


def test_what_is_not_known_is_null_and_does_not_count() -> None:
    found = summed([Sample(0.0, (card(utilization=80),)), Sample(1.0, (card(),)), Sample(2.0, (card(utilization=40),))])
    (one,) = found["gpus"]
    assert one["utilization"] == {"mean": None, "peak": 80, "seconds": 0.0}
    assert one["energy"] is None and found["energy"] is None and one["memory"]["peak"] is None
    assert summed([])["energy"] is None


def test_cpu_is_of_the_time_before_each_sample() -> None:
    found = summed(
        [Sample(0.0), Sample(2.0, process=ProcessSample(cpu=4.0)), Sample(3.0, process=ProcessSample(cpu=1.0))]
    )
    assert found["process"]["cpu"] == {"mean": pytest.approx(3.0), "peak": 4.0, "seconds": 3.0}


NUMBERS = st.none() | st.floats(0, 100)


@given(st.lists(st.tuples(st.floats(0.1, 4), NUMBERS, NUMBERS), min_size=1), st.integers(0, 50))
def test_a_summary_goes_on_from_its_json_after_a_gap(steps: list[tuple[float, Any, Any]], where: int) -> None:
    whole, halves, at = Summary(), Summary(), 0.0
    for number, (pause, busy, watts) in enumerate(steps):
        at += 1000.0 if number == where else pause
        if number == where:
            halves = Summary.from_json(json.loads(json.dumps(halves.to_json())))
        for summary in (whole, halves):
            summary.add(Sample(at, (card(utilization=busy, power=watts),), ProcessSample(3, watts)))
    assert halves.to_json() == _about(whole.to_json())


def _about(value: Any) -> Any:
    """The same but for the last digits of floats."""
    if isinstance(value, dict):
        return {key: _about(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_about(one) for one in value]
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


def test_a_card_that_waits_is_told_with_how_little_of_it_was_needed() -> None:
    samples = [
        Sample(float(at), (card(utilization=0 if at % 100 < 64 else 90, memory_used=int(7.9 * GIB)),))
        for at in range(1001)
    ]
    assert verdict(summed(samples)) == ["card 2 idle 64 % of the time", "card 2: peak 7.9 GiB of 80"]


def test_a_job_that_used_what_it_had_is_told_nothing() -> None:
    found = constant(600, card(utilization=97, memory_used=70 * GIB), memory=50 * GIB, cpu=6.0)
    assert verdict(found, Wanted(cpus=8, memory=64 * GIB)) == []


def test_an_attempt_that_was_too_short_is_told_nothing() -> None:
    idle = card(utilization=0, memory_used=GIB)
    assert verdict(constant(59, idle)) == [] and verdict(constant(60, idle)) != []


def test_cards_that_did_the_same_share_a_sentence() -> None:
    alike = [card(index, utilization=0, memory_used=3 * GIB) for index in (0, 1, 2, 6)]
    assert verdict(constant(600, *alike)) == [
        "cards 0-2,6 idle 100 % of the time",
        "cards 0-2,6: peak 3 GiB of 80 each",
    ]
    other = card(7, utilization=0, memory_used=70 * GIB)
    assert verdict(constant(600, card(0, utilization=50, memory_used=60 * GIB), other)) == [
        "card 7 idle 100 % of the time"
    ]


def test_cpus_and_memory_that_were_asked_for_in_vain_are_told() -> None:
    busy = card(utilization=95, memory_used=70 * GIB)
    found = constant(600, busy, cpu=1.2, memory=3 * GIB)
    assert verdict(found, Wanted(cpus=8, memory=64 * GIB)) == [
        "used 1.2 of 8 cpus",
        "memory: peak 3 GiB of 64 asked for",
    ]
    assert verdict(found) == [], "it asked for none"


def test_cards_that_wait_for_the_cpus_are_told_as_that() -> None:
    found = constant(600, card(utilization=0, memory_used=70 * GIB), cpu=3.9)
    assert verdict(found, Wanted(cpus=4)) == [
        "card 2 idle 100 % of the time",
        "used all of its 4 cpus while its cards waited: more may keep them busy",
    ]


def test_the_memory_of_a_shared_card_is_not_told() -> None:
    found = constant(600, card(utilization=90, memory_used=900 << 20))
    assert verdict(found) == ["card 2: peak 900 MiB of 80 GiB"] and verdict(found, Wanted(shared=True)) == []
