"""Errors that the driver reports, on their way to the inventory: real pynvml, in a real process, over a fake driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from fake_nvml import FakeDriver, Fault
from fake_nvml.observing import nvml_processes, observe
from runnersd.machine.nvml import NvmlObserver
from runnersd.model import Xid

Make = Callable[[int], FakeDriver]
LOST, NOT_SUPPORTED, UNKNOWN = 15, 3, 999


def test_each_is_told_once_with_its_card(fake_nvml: Make) -> None:
    driver = fake_nvml(3)

    async def scenario(observer: NvmlObserver) -> None:
        assert (await observer.observe()).xids == ()
        driver.report(1, 79).report(2, 13).report(1, 79)
        one, two = driver.cards[1].uuid, driver.cards[2].uuid
        assert (await observer.observe()).xids == (Xid(one, 79), Xid(two, 13), Xid(one, 79))
        assert (await observer.observe()).xids == ()
        driver.report(0, 31)
        assert (await observer.observe()).xids == (Xid(driver.cards[0].uuid, 31),)

    observe(driver.environment(), scenario)


def test_a_card_that_is_lost_with_its_error_still_has_it_told(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.cards[1].lost = True
        driver.report(1, 79)
        seen = await observer.observe()
        assert seen.gpus[1].lost and not seen.gpus[0].lost
        assert seen.xids == (Xid(driver.cards[1].uuid, 79),)

    observe(driver.environment(), scenario)


def test_what_is_reported_while_the_cards_are_looked_at_is_not_lost_with_the_process(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetCount*", delay=0.5), Fault("nvmlDeviceGetPowerUsage", LOST, gpu=1)]
        driver.write()
        (before,) = nvml_processes(driver.state)
        look = asyncio.create_task(observer.observe())
        calls = driver.calls.read_text().count("nvmlEventSetWait")
        while driver.calls.read_text().count("nvmlEventSetWait") == calls:
            await asyncio.sleep(0.01)
        driver.report(1, 48)
        assert (await look).xids == (Xid(driver.cards[1].uuid, 48),)
        assert before not in nvml_processes(driver.state)

    observe(driver.environment(log=True), scenario)


def test_a_driver_that_hangs_after_it_has_reported_takes_nothing_away(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        while (await observer.observe()).stale:
            pass  # a fresh process may take longer than that on a busy machine
        driver.faults = [Fault("nvmlDeviceGetPowerUsage", delay=60)]
        driver.report(0, 119)
        seen = await observer.observe()
        assert seen.stale and seen.xids == (Xid(driver.cards[0].uuid, 119),)
        driver.faults = []
        driver.write()
        while (seen := await observer.observe()).stale:
            assert seen.xids == ()
        assert seen.xids == ()

    observe(driver.environment(), scenario, timeout=2.0)


def test_a_fresh_process_listens_too(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.cards[1].lost = True
        driver.write()
        assert (await observer.observe()).gpus[1].lost
        driver.cards[1].lost = False
        driver.write()
        while (await observer.observe()).gpus[1].lost:
            await asyncio.sleep(0.02)
        driver.report(1, 95).report(0, 13)
        assert (await observer.observe()).xids == (Xid(driver.cards[1].uuid, 95), Xid(driver.cards[0].uuid, 13))

    observe(driver.environment(), scenario, retry=0.1)


@pytest.mark.parametrize(
    "call", ["nvmlEventSetCreate", "nvmlDeviceGetSupportedEventTypes", "nvmlDeviceRegisterEvents", "nvmlEventSetWait*"]
)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, UNKNOWN])
def test_a_driver_without_such_events_is_seen_as_ever(fake_nvml: Make, call: str, code: int) -> None:
    driver = fake_nvml(2)
    driver.faults = [Fault(call, code)]

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        (process,) = nvml_processes(driver.state)
        driver.report(0, 79)
        for _ in range(3):
            seen = await observer.observe()
            assert not seen.stale and seen.problem is None and len(seen.gpus) == 2 and seen.xids == ()
        assert nvml_processes(driver.state) == {process}

    observe(driver.write().environment(), scenario)


def test_a_card_that_cannot_be_listened_to_for_a_moment_is_tried_again(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.faults = [Fault("nvmlDeviceRegisterEvents", UNKNOWN)]

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.faults = []
        driver.write()
        await observer.observe()
        driver.report(0, 79)
        assert (await observer.observe()).xids == (Xid(driver.cards[0].uuid, 79),)

    observe(driver.write().environment(), scenario)
