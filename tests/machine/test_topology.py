"""How the observer says that cards are connected: real pynvml, in a real process, over a fake driver."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fake_nvml import FakeDriver, Fault, Link, MigDevice
from fake_nvml.observing import observe
from runnersd.machine.nvml import NvmlObserver
from runnersd.model import Topology

Make = Callable[[int], FakeDriver]
SWITCHES = ("00000000:C0:00.0", "00000000:C1:00.0")


def seen(driver: FakeDriver, looks: int = 2) -> list[Topology]:
    """The topology at each of so many looks."""
    found: list[Topology] = []

    async def scenario(observer: NvmlObserver) -> None:
        for _ in range(looks):
            found.append((await observer.observe()).topology)

    observe(driver.write().environment(), scenario)
    return found


def test_it_is_asked_for_at_the_second_look_and_kept(fake_nvml: Make) -> None:
    driver = fake_nvml(3)
    for card, place in zip(driver.cards, ((0, 0, "0.1"), (0, 0, "0.1"), (1, 2, "")), strict=True):
        card.place = place
    driver.links = [Link(0, to=1, count=4)]
    calls: list[int] = []

    async def scenario(observer: NvmlObserver) -> None:
        assert (await observer.observe()).topology == Topology()
        for _ in range(3):
            topology = (await observer.observe()).topology
            assert topology == Topology(
                tuple(card.uuid for card in driver.cards),
                ((0, 4, 0), (4, 0, 0), (0, 0, 0)),
                ((0, 10, 50), (10, 0, 50), (50, 50, 0)),
            )
            calls.append(driver.calls.read_text().count("nvmlDeviceGetTopologyCommonAncestor"))

    observe(driver.write().environment(log=True), scenario)
    assert calls == [3, 3, 3]


@pytest.mark.parametrize(
    ("one", "other", "level"),
    [
        ((0, 0, "0.1"), (0, 0, "0.1"), 10),
        ((0, 0, "0.1"), (0, 0, "0.2"), 20),
        ((0, 0, "0"), (0, 0, "1"), 30),
        ((0, 0, ""), (0, 0, ""), 30),
        ((0, 0, "0"), (0, 1, "0"), 40),
        ((0, 0, "0"), (1, 0, "0"), 50),
        (None, (1, 0, "0"), None),
    ],
)
def test_where_two_ways_on_the_bus_meet(
    fake_nvml: Make, one: tuple[int, int, str], other: tuple[int, int, str], level: int | None
) -> None:
    driver = fake_nvml(2)
    driver.cards[0].place, driver.cards[1].place = one, other
    assert seen(driver)[-1].levels == ((0, level), (level, 0))


def test_links_to_common_switches_count_as_links_between_cards(fake_nvml: Make) -> None:
    driver = fake_nvml(3)
    driver.links = [Link(card, count=6 + card, bus=bus) for card in (0, 1) for bus in SWITCHES]
    driver.links.append(Link(2, count=4, bus="00000000:D0:00.0"))
    assert seen(driver)[-1].links == ((0, 12, 0), (12, 0, 0), (0, 0, 0))


def test_two_cards_that_are_linked_to_a_third_are_not_linked(fake_nvml: Make) -> None:
    driver = fake_nvml(3)
    driver.links = [Link(0, to=1, count=3), Link(1, to=2, count=2)]
    assert seen(driver)[-1].links == ((0, 3, 0), (3, 0, 2), (0, 2, 0))


def test_where_links_lead_nobody_knows_where_peers_count(fake_nvml: Make) -> None:
    driver = fake_nvml(3)
    driver.links = [Link(0, to=1, count=3), Link(1, to=2, count=2)]
    driver.faults = [Fault("nvmlDeviceGetNvLinkRemotePciInfo*", 3)]
    assert seen(driver)[-1].links == ((0, 3, 0), (3, 0, 2), (0, 2, 0))


@pytest.mark.parametrize("code", [3, 13, 15, 999])
def test_a_driver_that_tells_nothing_has_cards_all_the_same(fake_nvml: Make, code: int) -> None:
    driver = fake_nvml(2)
    driver.links = [Link(0, to=1)]
    driver.faults = [
        Fault(call, code) for call in ("nvmlDeviceGetTopology*", "nvmlDeviceGetNvLink*", "nvmlDeviceGetP2P*")
    ]

    async def scenario(observer: NvmlObserver) -> None:
        for _ in range(3):
            inventory = await observer.observe()
            assert len(inventory.gpus) == 2 and not inventory.stale and inventory.problem is None
        assert inventory.topology.levels == ((0, None), (None, 0))
        assert inventory.topology.links == ((0, 0), (0, 0))

    observe(driver.write().environment(), scenario)


@pytest.mark.parametrize(
    "fault", [Fault("nvmlDeviceGetTopology*", delay=60), Fault("nvmlDeviceGetNvLink*", crash=True)]
)
def test_a_driver_that_hangs_or_crashes_at_it_is_not_asked_again(fake_nvml: Make, fault: Fault) -> None:
    driver = fake_nvml(2)
    driver.faults = [fault]

    async def scenario(observer: NvmlObserver) -> None:
        assert not (await observer.observe()).stale
        assert (await observer.observe()).stale
        for _ in range(3):
            inventory = await observer.observe()
            assert not inventory.stale and inventory.topology == Topology()

    observe(driver.write().environment(), scenario, timeout=0.5)


def test_it_is_asked_for_again_when_there_is_another_card(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    for card in driver.cards:
        card.place = (0, 0, "0")

    async def scenario(observer: NvmlObserver) -> None:
        for _ in range(2):
            inventory = await observer.observe()
        assert len(inventory.topology.cards) == 2
        driver.add_cards(1)
        for _ in range(2):
            inventory = await observer.observe()
        assert len(inventory.topology.cards) == 3

    observe(driver.write().environment(), scenario)


def test_parts_of_one_card_are_as_close_as_can_be(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    driver.cards[0].mig = 1
    driver.migs = [MigDevice("MIG-a", 0), MigDevice("MIG-b", 0)]
    driver.cards[0].place = driver.cards[1].place = (0, 0, "0")
    driver.links = [Link(0, to=1, count=2)]
    (_, topology) = seen(driver)
    assert topology.cards == ("MIG-a", "MIG-b", driver.cards[1].uuid)
    assert topology.levels == ((0, 0, 10), (0, 0, 10), (10, 10, 0))
    assert topology.links == ((0, 0, 0),) * 3
