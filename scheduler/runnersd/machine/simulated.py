"""A machine that is not there: cards and attempts made of memory, with a mind of its own about how long things take.

:class:`SimulatedMachine` outlives any daemon, as a real machine does. Each daemon gets its own :class:`SimulatedGpus`,
:class:`SimulatedCards` and :class:`SimulatedLauncher` on it. An effect that was asked for happens even when who asked
is gone meanwhile; :meth:`SimulatedLauncher.open` waits for these, as the real launchers do.

A command is read by its words (of ``sh -c``, those of the string): ``true``, ``false``, ``exit N``, ``sleep SECONDS
[N]`` end by themselves; ``raise N`` dies of signal N; ``missing`` cannot be started; ``stubborn`` ignores every signal
but SIGKILL; anything else runs until it is stopped or :meth:`SimulatedMachine.finish` ends it.
"""

from __future__ import annotations

import asyncio
import random
import shlex
import signal as signals
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from runners.api import Code
from runnersd.machine import LaunchFailed
from runnersd.model import CardOwner, Gpu, GpuId, GpuProcess, Inventory, Launch, Outcome, Reason, RunName

_SOME_PID = 1_000_000_000  # above every pid that the kernel gives


class SimulatedMachine:
    """The machine itself: what runs, what has ended, what each card looks like.

    ``latency`` is how many turns of the loop a call takes at most, ``delay`` how many seconds on top; how many it does
    take is drawn from ``seed``. ``clock`` gives Unix seconds. ``starts`` counts how often each name was started: once,
    or the launcher is wrong.
    """

    def __init__(
        self, gpus: int = 0, *, seed: int = 0, latency: int = 3, clock: Callable[[], float] = time.time
    ) -> None:
        self.gpus: dict[GpuId, Gpu] = {f"GPU-{n}": Gpu(f"GPU-{n}", n, memory_total=80 << 30) for n in range(gpus)}
        self.owners: dict[GpuId, object] = {}
        self.running: dict[RunName, _Running] = {}
        self.ended: dict[RunName, Outcome] = {}
        self.starts: Counter[RunName] = Counter()
        self.latency = latency
        self.delay = 0.0
        self.stale = False
        self.clock = clock
        self.random = random.Random(seed)
        self._asked: dict[asyncio.Task[None], RunName] = {}  # in the order it was asked for

    def finish(self, run: RunName, code: int = 0, *, signal: int | None = None) -> None:
        """End an attempt that runs; with a signal, as that kills."""
        running = self.running.pop(run, None)
        if running is not None:
            code = 128 + signal if signal is not None else code
            now, stopped = self.clock(), running.stopping
            self._over(running, Outcome(code, signal, running.started, now, peak_memory=1 << 20, stopped=stopped))

    def lose(self, run: RunName) -> None:
        """Kill an attempt's supervisor: its processes end, and nobody has seen how."""
        running = self.running.pop(run, None)
        if running is not None:
            failure = Reason(Code.SUPERVISOR_LOST, "Its supervisor was killed: how it ended was not seen.")
            self._over(running, Outcome(None, started_at=running.started, failure=failure))

    def restart(self, *, power_cut: bool = False) -> None:
        """Restart the machine: nothing runs any more, and what had ended is still known.

        After a ``power_cut`` of what ran not even the record is left: only an end is made sure to be on the disk.
        """
        for task in self._asked:
            task.cancel()
        for run, running in list(self.running.items()):
            failure = Reason(Code.MACHINE_RESTARTED, "The machine was restarted while it ran.")
            self._over(running, Outcome(None, started_at=running.started, failure=failure))
            if power_cut:
                del self.ended[run]
        self.running.clear()

    async def settled(self) -> None:
        """When everything that was asked for has happened."""
        while self._asked:
            await asyncio.wait(set(self._asked))

    async def take_time(self) -> None:
        """What a call costs."""
        for _ in range(self.random.randint(0, self.latency)):
            await asyncio.sleep(0)
        if self.delay:
            await asyncio.sleep(self.random.uniform(0, self.delay))

    async def happen(self, run: RunName, effect: Callable[[], None], *, overtakes: bool = False) -> None:
        """Let something happen to an attempt after a while, and the caller know after another, if it still is there.

        It happens after all else that was asked of this attempt, unless it ``overtakes`` that: a stop may come before
        the start, but no launcher starts an attempt once more that it has forgotten.
        """
        before = [task for task, other in self._asked.items() if other == run and not overtakes]

        async def later() -> None:
            await self.take_time()
            if before:
                await asyncio.wait(before)
            effect()

        # In a context of its own: what was asked for is the machine's from now on, not that of whoever asked.
        task = asyncio.get_running_loop().create_task(later(), context=Context())
        self._asked[task] = run
        task.add_done_callback(self._asked.pop)
        await asyncio.shield(task)
        await self.take_time()

    def cards(self) -> tuple[Gpu, ...]:
        """The cards as they are now: every attempt has a process on each of its own, below its supervisor."""
        used: dict[GpuId, list[GpuProcess]] = {}
        for running in self.running.values():
            for uuid in running.launch.gpus:
                process = GpuProcess(running.pid + _SOME_PID, "compute", 1 << 30, "python", ancestors=(running.pid,))
                used.setdefault(uuid, []).append(process)
        return tuple(
            replace(gpu, processes=(*gpu.processes, *used[gpu.uuid])) if gpu.uuid in used else gpu
            for gpu in self.gpus.values()
        )

    def start(self, launch: Launch) -> None:
        """Run an attempt, unless its name was used before."""
        run = launch.run
        if run in self.running or run in self.ended:
            return
        words = _words(launch.argv)
        if words[:1] == ["missing"]:
            text = "cannot run 'missing': No such program on its PATH"
            self.ended[run] = Outcome(None, failure=Reason(Code.LAUNCH_FAILED, text))
            return
        self.starts[run] += 1
        running = self.running[run] = _Running(launch, self.clock(), self._supervisor())
        loop = asyncio.get_running_loop()
        match words:
            case ["true"]:
                loop.call_soon(self.finish, run)
            case ["false"]:
                loop.call_soon(self.finish, run, 1)
            case ["exit", code]:
                loop.call_soon(self.finish, run, int(code))
            case ["raise", number]:
                loop.call_soon(lambda: self.finish(run, signal=int(number)))
            case ["sleep", seconds, *code]:
                running.timer = loop.call_later(float(seconds), self.finish, run, int(code[0]) if code else 0)

    def kill(self, run: RunName, *, at_once: bool) -> None:
        """Stop an attempt: SIGTERM, and SIGKILL after its grace. One that never ran never will."""
        running = self.running.get(run)
        if running is None:
            failure = Reason(Code.CANCELLED_BY, "It was stopped before it was started.")
            self.ended.setdefault(run, Outcome(None, failure=failure))
            return
        told, running.stopping = running.stopping, True
        if at_once or (running.stubborn and running.launch.grace <= 0):
            self.finish(run, signal=signals.SIGKILL)
        elif not running.stubborn:
            self.finish(run, signal=signals.SIGTERM)
        elif not told:
            running.timer = asyncio.get_running_loop().call_later(
                running.launch.grace, lambda: self.finish(run, signal=signals.SIGKILL)
            )

    def _supervisor(self) -> int:
        """The pid of one that has no attempt now: as soon as it is idle, it gets the next."""
        busy = {running.pid for running in self.running.values()}
        return next(pid for pid in count(_SOME_PID + 1) if pid not in busy)

    def _over(self, running: _Running, outcome: Outcome) -> None:
        if running.timer is not None:
            running.timer.cancel()
        self.ended[running.launch.run] = outcome
        running.over.set()


class _Running:
    """One attempt that runs."""

    def __init__(self, launch: Launch, started: float, pid: int) -> None:
        self.launch = launch
        self.started = started
        self.pid = pid
        self.over = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.stubborn = _words(launch.argv)[:1] == ["stubborn"]
        self.stopping = False  #: whether it was told to


class SimulatedGpus:
    """Sees the machine's cards (:class:`runnersd.machine.Gpus`)."""

    def __init__(self, machine: SimulatedMachine) -> None:
        self.machine = machine
        self._cards: tuple[Gpu, ...] = ()  # as last seen

    async def observe(self) -> Inventory:
        """See :class:`runnersd.machine.Gpus`. What was seen is a little old when it is told."""
        await self.machine.take_time()
        if not self.machine.stale:
            self._cards = self.machine.cards()
        problem = "The driver does not answer." if self.machine.stale else None
        seen = Inventory(self._cards, self.machine.stale, problem)
        await self.machine.take_time()
        return seen

    async def close(self) -> None:
        """See :class:`runnersd.machine.Gpus`."""


class SimulatedCards:
    """Owns the machine's cards for one state directory (:class:`runnersd.machine.Cards`): ``owner`` stands for that."""

    def __init__(self, machine: SimulatedMachine, owner: object = "us") -> None:
        self.machine = machine
        self.owner = owner

    def claim(self, uuids: Sequence[GpuId]) -> dict[GpuId, CardOwner | None]:
        """See :class:`runnersd.machine.Cards`."""
        return {
            uuid: None
            if self.machine.owners.setdefault(uuid, self.owner) == self.owner
            else CardOwner(str(self.machine.owners[uuid]), None)
            for uuid in uuids
        }

    def descriptors(self, uuids: Sequence[GpuId]) -> list[int]:
        """See :class:`runnersd.machine.Cards`. Memory has none.

        Raises:
            KeyError: a card that is not ours.
        """
        for uuid in uuids:
            if self.machine.owners[uuid] != self.owner:
                raise KeyError(uuid)
        return []

    def close(self) -> None:
        """See :class:`runnersd.machine.Cards`."""
        used = {uuid for running in self.machine.running.values() for uuid in running.launch.gpus}
        for uuid in [uuid for uuid, owner in self.machine.owners.items() if owner == self.owner and uuid not in used]:
            del self.machine.owners[uuid]


class SimulatedLauncher:
    """Runs attempts on the machine (:class:`runnersd.machine.Launcher`). ``logs`` of theirs never exist."""

    def __init__(
        self, machine: SimulatedMachine, state: Path = Path("/nonexistent"), cards: SimulatedCards | None = None
    ) -> None:
        self.machine = machine
        self.state = state
        self._cards = cards
        self._waiting: dict[asyncio.Task[Any], None] = {}

    async def open(self) -> None:
        """Wait for what an earlier daemon has asked for."""
        await self.machine.settled()

    async def launch(self, launch: Launch) -> float:
        """See :class:`runnersd.machine.Launcher`."""
        if self._cards is not None and launch.run not in self.machine.running and launch.run not in self.machine.ended:
            self._cards.descriptors(launch.gpus)
        await self.machine.happen(launch.run, lambda: self.machine.start(launch))
        running = self.machine.running.get(launch.run)
        if running is not None:
            return running.started
        outcome = self.machine.ended.get(launch.run)
        if outcome is None:
            raise LaunchFailed(f"cannot find {launch.run}: it is forgotten")
        if outcome.started_at is None:
            raise LaunchFailed(outcome.failure.text if outcome.failure is not None else "")
        return outcome.started_at

    async def wait(self, run: RunName) -> Outcome:
        """See :class:`runnersd.machine.Launcher`."""
        return await self._until_closed(self._wait(run))

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """See :class:`runnersd.machine.Launcher`."""
        await self.machine.happen(run, lambda: self.machine.kill(run, at_once=at_once), overtakes=True)

    async def signal(self, run: RunName, number: int) -> None:
        """See :class:`runnersd.machine.Launcher`. Signals that do not end a process by default do nothing."""

        def effect() -> None:
            running = self.machine.running.get(run)
            harmless = {signals.SIGCHLD, signals.SIGCONT, signals.SIGURG, signals.SIGWINCH, signals.SIGTSTP}
            if running is not None and number not in harmless and (not running.stubborn or number == signals.SIGKILL):
                self.machine.finish(run, signal=number)

        await self.machine.happen(run, effect, overtakes=True)

    async def forget(self, run: RunName) -> None:
        """See :class:`runnersd.machine.Launcher`.

        Raises:
            ValueError: the attempt is not over.
        """
        if run in self.machine.running:
            raise ValueError(f"cannot forget {run}: it is live")
        await self.machine.happen(run, lambda: _drop(self.machine.ended, run))

    def supervisor(self, run: RunName) -> int | None:
        """See :class:`runnersd.machine.Launcher`."""
        running = self.machine.running.get(run)
        return running.pid if running is not None else None

    def logs(self, run: RunName) -> tuple[Path, Path]:
        """See :class:`runnersd.machine.Launcher`."""
        base = self.state / f"{run.job}.{run.attempt}"
        return base.with_name(base.name + ".out"), base.with_name(base.name + ".err")

    async def close(self) -> None:
        """See :class:`runnersd.machine.Launcher`. Who still waits is cancelled."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _wait(self, run: RunName) -> Outcome:
        await self.machine.take_time()
        running = self.machine.running.get(run)
        if running is not None:
            await running.over.wait()
            await self.machine.take_time()
        lost = Reason(Code.SUPERVISOR_LOST, f"cannot find {run}: it has no record")
        return self.machine.ended.get(run, Outcome(None, failure=lost))

    async def _until_closed(self, work: Coroutine[Any, Any, Outcome]) -> Outcome:
        task = asyncio.get_running_loop().create_task(work)
        self._waiting[task] = None
        task.add_done_callback(self._waiting.pop)
        try:
            return await task
        finally:
            task.cancel()


def _words(argv: tuple[str, ...]) -> list[str]:
    if argv[:2] == ("sh", "-c") or argv[:2] == ("/bin/sh", "-c"):
        return shlex.split(argv[2])
    return list(argv)


def _drop(ended: dict[RunName, Outcome], run: RunName) -> None:
    ended.pop(run, None)
