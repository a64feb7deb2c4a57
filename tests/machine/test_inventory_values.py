"""What the observer says of cards that work: real pynvml, in a real process, over a fake driver."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fake_nvml import Card, FakeDriver, Fault, MigDevice, Process
from fake_nvml.observing import nvml_processes, observe
from runnersd.machine.nvml import NvmlObserver
from runnersd.model import Gpu, Inventory

Make = Callable[[int], FakeDriver]
GIB = 1 << 30
NOT_SUPPORTED, FUNCTION_NOT_FOUND = 3, 13


def look(driver: FakeDriver, *, plain: bool = False) -> Inventory:
    """The first look at a driver."""
    seen: list[Inventory] = []

    async def scenario(observer: NvmlObserver) -> None:
        seen.append(await observer.observe())

    observe(driver.environment(), scenario, plain=plain)
    return seen[0]


@pytest.mark.parametrize("plain", [True, False], ids=["asyncio", "uvloop"])
def test_every_value_of_a_card(fake_nvml: Make, plain: bool) -> None:
    driver = fake_nvml(2)
    driver.cards[1] = Card(
        "GPU-b", "NVIDIA A100-SXM4-40GB", "00000000:81:00.0", 40 * GIB, 3 * GIB, GIB, 71, 55, 250.5, "8.0", minor=3
    )
    driver.write()
    assert look(driver, plain=plain) == Inventory(
        (
            Gpu(
                driver.cards[0].uuid,
                0,
                "NVIDIA H100 80GB HBM3",
                80 * GIB,
                0,
                0,
                70.0,
                33,
                "9.0",
                "00000000:01:00.0",
                minor=0,
            ),
            Gpu(
                "GPU-b",
                1,
                "NVIDIA A100-SXM4-40GB",
                40 * GIB,
                3 * GIB,
                71,
                250.5,
                55,
                "8.0",
                "00000000:81:00.0",
                minor=3,
            ),
        )
    )


def test_values_are_new_at_every_look(fake_nvml: Make) -> None:
    driver = fake_nvml(1)

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        driver.cards[0].used, driver.cards[0].utilization = 5 * GIB, 42
        driver.write()
        (gpu,) = (await observer.observe()).gpus
        assert (gpu.memory_used, gpu.utilization) == (5 * GIB, 42)

    observe(driver.environment(), scenario)


def test_cards_are_indexed_in_pci_order_whatever_the_drivers(fake_nvml: Make) -> None:
    driver = fake_nvml(0)
    buses = ["00000000:0A:00.0", "00000000:9B:00.0", "00000000:b0:00.0", "00000001:01:00.0"]
    driver.cards = [Card(f"GPU-{bus}", bus=bus) for bus in (buses[2], buses[0], buses[3], buses[1])]
    gpus = look(driver.write()).gpus
    assert [(gpu.index, gpu.uuid) for gpu in gpus] == [(index, f"GPU-{bus}") for index, bus in enumerate(buses)]


def test_a_shuffle_of_the_drivers_order_changes_nothing(fake_nvml: Make) -> None:
    driver = fake_nvml(8)
    for card in driver.cards:
        card.total, card.name = 10 * GIB + int(card.bus[9:11], 16), f"Card {card.bus}"
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        before = await observer.observe()
        for seed in range(5):
            random.Random(seed).shuffle(driver.cards)
            driver.write()
            assert await observer.observe() == before

    observe(driver.environment(), scenario)


def test_memory_comes_without_the_drivers_reserve_where_it_can(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.cards[0].used, driver.cards[0].reserved = GIB, GIB // 2
    assert look(driver.write()).gpus[0].memory_used == GIB
    for code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25):
        driver.faults = [Fault("nvmlDeviceGetMemoryInfo_v2", code)]
        assert look(driver.write()).gpus[0].memory_used == GIB + GIB // 2


@pytest.mark.parametrize(
    ("calls", "fields"),
    [
        ("nvmlDeviceGetMemoryInfo*", {"memory_total", "memory_used"}),
        ("nvmlDeviceGetUtilizationRates", {"utilization"}),
        ("nvmlDeviceGetPowerUsage", {"power"}),
        ("nvmlDeviceGetTemperature*", {"temperature"}),
        ("nvmlDeviceGetCudaComputeCapability", {"compute_capability"}),
        ("nvmlDeviceGet*Processes*", set()),
        ("nvmlDeviceGetMigMode", set()),
    ],
)
@pytest.mark.parametrize("code", [NOT_SUPPORTED, 4])
def test_what_a_card_does_not_support_is_not_known_and_the_rest_is(
    fake_nvml: Make, calls: str, fields: set[str], code: int
) -> None:
    driver = fake_nvml(2)
    driver.faults = [Fault(calls, code, gpu=1)]
    inventory = look(driver.write())
    assert not inventory.stale
    assert inventory.problem is None
    for gpu, unknown in zip(inventory.gpus, (set(), fields), strict=True):
        values = {
            name: getattr(gpu, name)
            for name in ("memory_total", "memory_used", "utilization", "power", "temperature", "compute_capability")
        }
        assert {name for name, value in values.items() if value is None} == unknown


def test_mig_devices_are_listed_in_place_of_their_card(fake_nvml: Make) -> None:
    driver = fake_nvml(3)
    driver.cards[0].mig, driver.cards[1].mig, driver.cards[1].temperature = 0, 1, 61
    driver.migs = [
        MigDevice("MIG-b", 1, used=GIB),
        MigDevice("MIG-a", 1, "NVIDIA H100 80GB HBM3 MIG 2g.20gb", 20 * GIB),
    ]
    me = os.getpid()
    driver.processes = [Process(me, 1, GIB, mig="MIG-b")]
    inventory = look(driver.write())
    card = driver.cards[1]
    assert [(gpu.index, gpu.uuid, gpu.parent) for gpu in inventory.gpus] == [
        (0, driver.cards[0].uuid, None),
        (1, "MIG-a", card.uuid),
        (2, "MIG-b", card.uuid),
        (3, driver.cards[2].uuid, None),
    ]
    first, second = inventory.gpus[1:3]
    assert (first.name, first.memory_total, first.memory_used) == ("NVIDIA H100 80GB HBM3 MIG 2g.20gb", 20 * GIB, 0)
    assert (second.memory_total, second.memory_used, second.compute_capability) == (10 * GIB, GIB, "9.0")
    assert (second.utilization, second.power, second.temperature, second.pci_bus) == (None, None, 61, card.bus)
    assert [process.pid for process in second.processes] == [me]
    assert first.processes == ()


@contextmanager
def child_of_a_shell(program: Path) -> Iterator[tuple[int, int]]:
    """A program run by a shell run by us; their pids."""
    shell = subprocess.Popen(
        ["sh", "-c", f"'{program}' 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert shell.stdout is not None
    pid = int(shell.stdout.readline())
    while Path(f"/proc/{pid}/exe").resolve() != program.resolve():
        time.sleep(0.005)
    try:
        yield shell.pid, pid
    finally:
        os.killpg(shell.pid, 9)
        shell.wait()
        shell.stdout.close()


@pytest.mark.parametrize("name", ["sleep", "nvidia-cuda-mps-server", "a (strange) name"])
def test_processes_have_a_name_a_user_and_ancestors(fake_nvml: Make, tmp_path: Path, name: str) -> None:
    driver = fake_nvml(2)
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "", program)
    with child_of_a_shell(program) as (shell, pid):
        driver.processes = [Process(pid, 1, 3 * GIB)]
        idle, busy = look(driver.write()).gpus
    assert idle.processes == ()
    (process,) = busy.processes
    assert (process.pid, process.kind, process.memory, process.uid) == (pid, "compute", 3 * GIB, os.getuid())
    assert process.name == name
    assert process.ancestors[:3] == (shell, os.getpid(), os.getppid())
    assert 0 not in process.ancestors


def test_a_process_says_which_attempt_it_is_of(fake_nvml: Make) -> None:
    environments: list[dict[str, str]] = [
        {"RUNNERS_RUN": "runners-abc-7-2", "RUNNERS_JOB_ID": "7", "RUNNERS_ATTEMPT": "2"},
        {"RUNNERS_JOB_ID": "8", "RUNNERS_ATTEMPT": "1"},
        {"NOT_RUNNERS_RUN": "x"},
    ]
    driver = fake_nvml(1)
    started = [subprocess.Popen(["sleep", "60"], env=environment) for environment in environments]
    try:
        driver.processes = [Process(one.pid) for one in started]
        assert [process.run for process in look(driver.write()).gpus[0].processes] == ["runners-abc-7-2", "8.1", ""]
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_a_process_counts_once_and_as_computing_if_it_computes(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    me, parent = os.getpid(), os.getppid()
    driver.processes = [
        Process(me, kind="G", memory=1),
        Process(me, kind="C", memory=2),
        Process(parent, kind="G", memory=3),
        Process(1, kind="M", memory=4),
    ]
    found = look(driver.write()).gpus[0].processes
    assert [(process.pid, process.kind, process.memory) for process in found] == [
        (me, "compute", 2),
        (1, "compute", 4),
        (parent, "graphics", 3),
    ]


def test_older_lists_of_processes_are_used_where_the_newest_is_missing(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.processes = [Process(os.getpid())]
    driver.faults = [Fault("nvmlDeviceGet*RunningProcesses_v3", FUNCTION_NOT_FOUND)]
    assert [process.pid for process in look(driver.write()).gpus[0].processes] == [os.getpid()]


def test_a_process_that_has_ended_or_is_hidden_still_counts(fake_nvml: Make) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    driver = fake_nvml(1)
    driver.processes = [Process(ended.pid)]
    (process,) = look(driver.write()).gpus[0].processes
    assert (process.pid, process.name, process.uid, process.ancestors) == (ended.pid, "", None, ())


def test_a_list_of_processes_that_fails_is_not_an_empty_one(fake_nvml: Make) -> None:
    driver = fake_nvml(1)
    driver.processes = [Process(os.getpid())]
    driver.write()

    async def scenario(observer: NvmlObserver) -> None:
        before = await observer.observe()
        driver.faults = [Fault("nvmlDeviceGetComputeRunningProcesses*", 10)]
        driver.write()
        assert await observer.observe() == before
        driver.faults, driver.processes = [], []
        driver.write()
        assert (await observer.observe()).gpus[0].processes == ()

    observe(driver.environment(), scenario)


def test_the_driver_stays_initialised_and_facts_are_read_once(fake_nvml: Make) -> None:
    driver = fake_nvml(8)

    async def scenario(observer: NvmlObserver) -> None:
        for _ in range(5):
            await observer.observe()

    observe(driver.environment(log=True), scenario)
    called = [line.split()[3] for line in driver.calls.read_text().splitlines()]
    assert called.count("nvmlInitWithFlags") == 1
    for fact in ("nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetName", "nvmlDeviceGetPciInfo_v3"):
        assert called.count(fact) == 8
    assert called.count("nvmlDeviceGetUtilizationRates") == 8 * 5


def on_cpu(pid: int) -> float:
    """Seconds a process has run, as the scheduler counted."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_a_look_a_second_costs_next_to_nothing(fake_nvml: Make, capsys: pytest.CaptureFixture[str]) -> None:
    driver = fake_nvml(8)
    driver.processes = [Process(os.getpid(), gpu) for gpu in range(8)]
    driver.write()
    looks = 100

    async def scenario(observer: NvmlObserver) -> None:
        await observer.observe()
        (child,) = nvml_processes(driver.state)
        before = on_cpu(child), time.process_time()
        for _ in range(looks):
            await observer.observe()
        theirs, ours = on_cpu(child) - before[0], time.process_time() - before[1]
        with capsys.disabled():
            print(f"\n20 looks at 8 cards: {theirs / looks * 20e3:.1f} ms there, {ours / looks * 20e3:.1f} ms here")
        assert (theirs + ours) / looks < 0.005, "more than 0.5 % of a core at a look a second"

    observe(driver.environment(), scenario)
