"""A machine that has no room for one more thread loses no job, and starts none twice."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from machine.test_launcher_recovery import RUN, failure, spawner
from machine.test_launcher_tree import alive
from machine.worlds import HostWorld
from runners.api import Code
from runnersd.in_thread import NoThread, in_thread
from runnersd.machine.docker.keeper import Keeper


@contextmanager
def no_more_threads() -> Iterator[None]:
    """This process can make no other thread until the end: the kernel has no room for such a stack."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor())  # one that has made none yet
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


async def test_a_spawner_is_replaced_when_there_is_a_thread_for_it(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = await world.daemon()
    with no_more_threads():
        os.kill(await spawner(world), signal.SIGKILL)
        await world.until(lambda: "no host job can start; trying again" in caplog.text)
        launch = asyncio.ensure_future(launcher.launch(world.order("exit 3")))
        await world.until(lambda: len(launcher._supervisors._waiting) == 1)
    await launch
    assert (await launcher.wait(RUN)).exit_code == 3
    assert world.starts(RUN) == 1


async def test_what_a_lost_supervisor_left_is_ended_when_there_is_a_thread_to_look(
    world: HostWorld, caplog: pytest.LogCaptureFixture
) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.shell("sleep 1000"))
    supervisor = launcher.supervisor(RUN) or 0
    child = int(Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text())
    with no_more_threads():
        os.kill(supervisor, signal.SIGKILL)
        await world.until(lambda: "no room for one more thread; trying again" in caplog.text)
        assert alive(child)
    assert failure(await launcher.wait(RUN)) is Code.SUPERVISOR_LOST
    assert not alive(child)


async def test_an_attempt_is_forgotten_without_a_thread(world: HostWorld) -> None:
    launcher = await world.daemon()
    await launcher.launch(world.order("exit 0"))
    await launcher.wait(RUN)
    with no_more_threads():
        async with asyncio.timeout(5.0):
            await launcher.forget(RUN)
    assert not world.record(RUN).exists()


async def test_what_keeps_the_cards_of_containers_is_started_when_there_is_a_thread_for_it() -> None:
    keeper, process = Keeper(), os.pidfd_open(os.getpid())
    ours, lock = os.pipe()
    try:
        with no_more_threads(), pytest.raises(NoThread):
            await keeper.hold(process, [lock])
        await keeper.hold(process, [lock])
    finally:
        keeper.close()
        for descriptor in (process, ours, lock):
            os.close(descriptor)


async def test_what_no_thread_was_made_for_is_never_done() -> None:
    """Else a second spawner would begin, with the number of a descriptor that somebody else has by then."""
    done: list[int] = []
    with no_more_threads(), pytest.raises(NoThread, match="no room for one more thread"):
        await in_thread(done.append, 1)
    await in_thread(done.append, 2)
    assert done == [2]
