"""A driver that hangs, crashes, lies or loses cards: the loop goes on, and only what is gone leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fake_nvml import FakeDriver, Fault, MigDevice
from fake_nvml.observing import nvml_processes, observe, worst_lag
from runnersd.machine.nvml import NvmlObserver, connection
from runnersd.model import Inventory

Make = Callable[[int], FakeDriver]
LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 15, 16, 18, 999
TEN_MINUTES = 600.0


def lost(inventory: Inventory) -> list[str]:
    return [gpu.uuid for gpu in inventory.gpus if gpu.lost]


async def until(observer: NvmlObserver, wanted: Callable[[Inventory], bool]) -> Inventory:
    """Look again and again, until the inventory is as it should be."""
    async with asyncio.timeout(30):
        while not wanted(inventory := await observer.observe()):
            await asyncio.sleep(0.02)
    return inventory


def fresh(inventory: Inventory) -> bool:
    return not inventory.stale


# -- no driver


def no_library(driver: FakeDriver, folder: Path) -> dict[str, str]:
    (folder / "libnvidia-ml.so.1").write_text("")
    return {**driver.environment(), "LD_LIBRARY_PATH": str(folder)}


def no_driver(driver: FakeDriver, folder: Path) -> dict[str, str]:
    driver.unload()
    return driver.environment()


def no_pynvml(driver: FakeDriver, folder: Path) -> dict[str, str]:
    (folder / "pynvml.py").write_text("raise ImportError('not here')\n")
    return {**driver.environment(), "PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("missing", "says"),
    [(no_library, "libnvidia-ml.so.1"), (no_driver, "not loaded"), (no_pynvml, "nvidia-ml-py is not installed")],
)
def test_without_a_driver_there_are_no_cards_and_no_process_is_kept(
    fake_nvml: Make, tmp_path: Path, missing: Callable[[FakeDriver, Path], dict[str, str]], says: str
) -> None:
    driver = fake_nvml(1)
    environment = missing(driver, tmp_path)

    async def scenario(observer: NvmlObserver) -> None:
        first = await observer.observe()
        assert (first.gpus, first.stale) == ((), False)
        assert says in (first.problem or "")
        while nvml_processes(driver.state):
            await asyncio.sleep(0.01)
        for _ in range(5):
            assert await observer.observe() == first
            assert not nvml_processes(driver.state)

    observe(environment, scenario)


def test_a_driver_that_comes_later_is_found(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    driver.unload()

    async def scenario(observer: NvmlObserver) -> None:
        assert (await observer.observe()).gpus == ()
        driver.write()
        inventory = await until(observer, lambda seen: len(seen.gpus) == 2)
        assert (inventory.stale, inventory.problem) == (False, None)

    observe(driver.environment(), scenario, retry=0.1)


def test_a_driver_that_is_unloaded_takes_no_card_with_it(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.unload()
        after = await observer.observe()
        assert after.stale
        assert after.gpus == before.gpus
        assert "not loaded" in (after.problem or "")

    observe(driver.environment(), scenario)


# -- hangs, crashes, garbage


@pytest.mark.parametrize("call", ["nvmlDeviceGetUtilizationRates", "nvmlDeviceGetCount*"])
def test_a_driver_that_hangs_for_ten_minutes_stalls_nothing(fake_nvml: Make, call: str) -> None:
    driver = fake_nvml(8)

    async def scenario(observer: NvmlObserver) -> None:
        before = await until(observer, fresh)
        (hanging,) = nvml_processes(driver.state)
        lags = []
        for _ in range(3):  # the machine itself may be late once, a blocked loop is late every time
            driver.faults = [Fault(call, delay=TEN_MINUTES)]
            driver.write()
            begun = time.monotonic()
            seen: list[Inventory] = []

            async def look(seen: list[Inventory] = seen) -> None:
                seen.append(await observer.observe())

            lags.append(await worst_lag(look()))
            assert 0.4 < time.monotonic() - begun < 5
            assert seen[0].stale
            assert seen[0].gpus == before.gpus
            assert "has not answered for 0.5 s" in (seen[0].problem or "")
            driver.faults = []
            driver.write()
            assert await until(observer, fresh) == before
        assert hanging not in nvml_processes(driver.state)
        print(f"worst lags of the loop: {', '.join(f'{lag * 1e3:.1f} ms' for lag in lags)}")
        assert min(lags) < 0.05

    observe(driver.environment(), scenario, timeout=0.5)


def test_a_driver_that_hangs_from_the_start_gives_a_stale_inventory_of_nothing(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.faults = [Fault("nvmlInit*", delay=TEN_MINUTES)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        inventory = await observer.observe()
        assert (inventory.gpus, inventory.stale) == ((), True)

    observe(driver.environment(), scenario, timeout=0.3)


def test_failing_again_and_again_is_tried_later_and_later(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.faults = [Fault("nvmlDeviceGetCount*", crash=True)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        for _ in range(60):
            assert (await observer.observe()).stale

    observe(driver.environment(log=True), scenario)
    starts = driver.calls.read_text().count("nvmlInitWithFlags")
    assert 2 <= starts <= 4, "60 looks in a moment, and a pause that doubles from 1 s"


def test_slow_is_not_hung(fake_nvml: Make) -> None:
    """A driver without nvidia-persistenced takes its time on the first call to each card."""
    driver = fake_nvml(8)
    driver.faults = [Fault("nvmlDeviceGetHandleByIndex*", delay=0.3)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        problems = []
        async with asyncio.timeout(20):
            while (inventory := await observer.observe()).stale:
                problems.append(inventory.problem)
        assert problems
        assert set(problems) == {"the NVIDIA driver works for more than 1.5 s (is nvidia-persistenced running?)"}
        assert len(inventory.gpus) == 8

    observe(driver.environment(log=True), scenario, timeout=1.5)
    assert driver.calls.read_text().count("nvmlInitWithFlags") == 1


def test_a_crash_in_the_driver_is_one_stale_look(fake_nvml: Make) -> None:
    driver = fake_nvml(8)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetPowerUsage", gpu=5, crash=True)]
        driver.write()
        crashed = await observer.observe()
        assert crashed.stale
        assert crashed.gpus == before.gpus
        assert "SIGSEGV" in (crashed.problem or "")
        driver.faults = []
        driver.write()
        assert await observer.observe() == before

    observe(driver.environment(), scenario)


def test_a_process_killed_between_two_looks_is_replaced(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        (child,) = nvml_processes(driver.state)
        os.kill(child, signal.SIGKILL)
        while nvml_processes(driver.state):
            await asyncio.sleep(0.01)
        assert "SIGKILL" in ((await observer.observe()).problem or "")
        assert await observer.observe() == before

    observe(driver.environment(), scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"\xff\xff\xff\xffrubbish",
        b"\0\0\0\x04{{{{",
        b"\0\0\0\x02[]",
        b"\0\0\0\x02{}",
        b'\0\0\0\x14{"cards": [{"a":1}]}',
        b"\0\1\x86\xa0" + b"[" * 100_000,
        b"\0\0\0\x02\xff\xfe",
    ],
)
def test_garbage_is_a_stale_look_too(
    fake_nvml: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    driver = fake_nvml(1)
    program = tmp_path / "garbage.py"
    program.write_text(
        "import socket, time\n"
        "there = socket.socket(fileno=0)\n"
        f"there.recv(100); there.sendall({sent!r}); there.recv(100)\n"
    )

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        with monkeypatch.context() as patch:
            patch.setattr(connection, "PROGRAM", program)
            (child,) = nvml_processes(driver.state)
            os.kill(child, signal.SIGKILL)
            await observer.observe()
            garbage = await observer.observe()
        assert (garbage.gpus, garbage.stale) == (before.gpus, True)
        assert "garbage" in (garbage.problem or "")
        assert await until(observer, lambda seen: seen == before)

    observe(driver.environment(), scenario, retry=0.1)


def test_a_look_that_is_given_up_does_not_confuse_the_next(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetCount*", delay=0.2)]
        driver.write()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await observer.observe()
        driver.faults = []
        driver.write()
        assert await observer.observe() == before
        assert await observer.observe() == before

    observe(driver.environment(log=True), scenario)
    assert driver.calls.read_text().count("nvmlInitWithFlags") == 1


def test_processes_that_cannot_be_killed_do_not_pile_up(fake_nvml: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in an uninterruptible call outlives SIGKILL; here the signal is kept from it."""
    driver = fake_nvml(1)
    driver.faults = [Fault("nvmlDeviceGetCount*", delay=TEN_MINUTES)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "kill", lambda _: None)
            await until(observer, lambda seen: "processes hang" in (seen.problem or ""))
            for _ in range(10):
                await observer.observe()
                await asyncio.sleep(0.02)
        stuck = nvml_processes(driver.state)
        assert len(stuck) == 4
        for pid in stuck:
            os.kill(pid, signal.SIGKILL)
        driver.faults = []
        driver.write()
        await until(observer, fresh)

    observe(driver.environment(), scenario, timeout=0.5, retry=0.05)


# -- lost cards


@pytest.mark.parametrize("how", ["answers lost", "needs a reset", "left the bus", "loses its handle"])
def test_only_the_lost_card_leaves(fake_nvml: Make, how: str) -> None:
    driver = fake_nvml(8)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        gone = driver.cards[3].uuid
        if how == "answers lost":
            driver.cards[3].lost = True
        elif how == "needs a reset":
            driver.faults = [Fault("nvmlDeviceGetMemoryInfo*", RESET_REQUIRED, gpu=3)]
        elif how == "left the bus":
            del driver.cards[3]
        else:
            driver.faults = [Fault("nvmlDeviceGet*", LOST, gpu=3)]
        driver.write()
        for _ in range(3):
            after = await observer.observe()
            assert not after.stale
            assert lost(after) == [gone]
            assert [gpu for gpu in after.gpus if not gpu.lost] == [gpu for gpu in before.gpus if gpu.uuid != gone]
            assert [gpu.index for gpu in after.gpus] == list(range(8))
            assert gone in (after.problem or "")

    observe(driver.environment(log=True), scenario)
    starts = driver.calls.read_text().count("nvmlInitWithFlags")
    assert starts == 2, "one fresh process is believed, and asked from then on"


def test_a_card_that_is_lost_before_the_daemon_comes_is_known_as_far_as_it_says(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    driver.cards[0].lost = True
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        nameless = await observer.observe()
        assert [gpu.uuid for gpu in nameless.gpus] == [driver.cards[1].uuid]
        assert "cards that do not answer (1)" in (nameless.problem or "")

    observe(driver.environment(), scenario)
    driver.cards[0].lost = False
    driver.faults = [Fault("nvmlDeviceGetMemoryInfo*", LOST, gpu=0)]
    driver.write()

    async def named(observer: NvmlObserver) -> None:
        assert lost(await observer.observe()) == [driver.cards[0].uuid]

    observe(driver.environment(log=True), named)
    assert driver.calls.read_text().count("nvmlInitWithFlags") == 1, (
        "the first process is fresh: none fresher is needed"
    )


def test_a_card_that_comes_back_is_a_card_again(fake_nvml: Make) -> None:
    driver = fake_nvml(3)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.cards[1].lost = True
        driver.write()
        assert lost(await observer.observe())
        driver.cards[1].lost = False
        driver.write()
        assert await until(observer, lambda seen: seen == before)

    observe(driver.environment(), scenario, retry=0.2)


def test_an_error_without_a_name_makes_a_card_lost_only_when_it_stays(fake_nvml: Make) -> None:
    driver = fake_nvml(4)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [
            Fault("nvmlDeviceGetUUID", UNKNOWN, gpu=2),
            Fault("nvmlDeviceGetMemoryInfo*", UNKNOWN, gpu=2),
            Fault("nvmlDeviceGetHandleByIndex*", UNKNOWN, gpu=2),
        ]
        driver.write()
        for _ in range(2):
            doubtful = await observer.observe()
            assert (doubtful.stale, doubtful.gpus) == (True, before.gpus)
        assert lost(await observer.observe()) == [driver.cards[2].uuid]
        assert not (await observer.observe()).stale

    observe(driver.environment(), scenario)


def test_an_error_without_a_name_that_passes_is_forgotten(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        for _ in range(3):
            driver.faults = [Fault("nvmlDeviceGet[HU]*", UNKNOWN, gpu=1)]
            driver.write()
            os.kill(nvml_processes(driver.state).pop(), signal.SIGKILL)
            assert (await observer.observe()).stale
            assert (await observer.observe()).stale
            driver.faults = []
            driver.write()
            assert await observer.observe() == before

    observe(driver.environment(), scenario, retry=0.0)


def test_an_unknown_error_on_a_value_costs_one_fresh_process_and_the_value(fake_nvml: Make) -> None:
    driver = fake_nvml(2)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetPowerUsage", UNKNOWN, gpu=1)]
        driver.write()
        for again in range(4):
            inventory = await observer.observe()
            assert (inventory.stale, inventory.problem) == (False, None)
            assert [gpu.power for gpu in inventory.gpus] == [70.0, 70.0 if again % 2 else None]
            driver.faults = [] if driver.faults else [Fault("nvmlDeviceGetPowerUsage", UNKNOWN, gpu=1)]
            driver.write()

    observe(driver.environment(log=True), scenario)
    assert driver.calls.read_text().count("nvmlInitWithFlags") == 2


@pytest.mark.parametrize("call", ["nvmlInit*", "nvmlDeviceGet*"])
def test_a_driver_updated_under_us_makes_all_cards_stale_and_none_lost(fake_nvml: Make, call: str) -> None:
    driver = fake_nvml(8)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetCount*", MISMATCH), Fault(call, MISMATCH)]
        driver.write()
        for _ in range(3):
            after = await observer.observe()
            assert (after.stale, after.gpus) == (True, before.gpus)
            assert "reboot" in (after.problem or "")

    observe(driver.environment(), scenario)


def test_mig_devices_that_are_made_anew_leave_no_trace_for_long(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    driver.cards[0].mig = 1
    driver.migs = [MigDevice("MIG-a", 0), MigDevice("MIG-b", 0)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.migs = [MigDevice("MIG-b", 0), MigDevice("MIG-c", 0)]
        driver.write()
        inventory = await observer.observe()
        assert lost(inventory) == ["MIG-a"]
        assert [gpu.uuid for gpu in inventory.gpus] == ["MIG-a", "MIG-b", "MIG-c", driver.cards[1].uuid]
        inventory = await until(observer, lambda seen: len(seen.gpus) == 3)
        assert (lost(inventory), inventory.problem) == ([], None)

    observe(driver.environment(), scenario, retry=0.3)


def test_the_parts_of_a_lost_card_are_lost_with_it(fake_nvml: Make) -> None:
    driver = fake_nvml(2)
    driver.cards[0].mig = 1
    driver.migs = [MigDevice("MIG-a", 0), MigDevice("MIG-b", 0)]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetMigMode", LOST, gpu=0)]
        driver.write()
        inventory = await observer.observe()
        assert lost(inventory) == ["MIG-a", "MIG-b"]
        assert [gpu.uuid for gpu in inventory.gpus] == ["MIG-a", "MIG-b", driver.cards[1].uuid]

    observe(driver.environment(), scenario)


# -- the end


def test_close_ends_the_process(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        assert nvml_processes(driver.state)

    observe(driver.environment(), scenario)
    assert not nvml_processes(driver.state)


def test_close_waits_for_no_driver(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetCount*", delay=TEN_MINUTES)]
        driver.write()
        look = asyncio.create_task(observer.observe())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            await observer.close()
            last = await look
        assert (last.stale, last.gpus) == (True, before.gpus)
        assert (await observer.observe()).stale
        assert not nvml_processes(driver.state)

    observe(driver.environment(), scenario, timeout=TEN_MINUTES)


def test_the_process_ends_with_a_daemon_that_is_killed(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    program = (
        "import asyncio, os\n"
        "from runnersd.machine.nvml import NvmlObserver\n"
        "async def main():\n"
        "    assert len((await NvmlObserver().observe()).gpus) == 1\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    path = os.pathsep.join(sys.path)
    daemon = subprocess.run([sys.executable, "-c", program], env={**driver.environment(), "PYTHONPATH": path})
    assert daemon.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while nvml_processes(driver.state):
        assert time.monotonic() < deadline
        time.sleep(0.01)
