"""The simulated machine with a memory of its own: what it was asked for and what it did, to hold against the records."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

from runnersd.machine.simulated import SimulatedCards, SimulatedLauncher, SimulatedMachine, _Running
from runnersd.model import Launch, Outcome, RunName
from simulation.disk import Disk


class WatchedMachine(SimulatedMachine):
    """Objects at once to what no machine may be asked for. ``sick`` launchers fail at everything they do."""

    def __init__(self, gpus: int, disk: Disk, *, seed: int, clock: Callable[[], float]) -> None:
        super().__init__(gpus, seed=seed, clock=clock)
        self.disk = disk
        self.boot = 1
        self.sick = False
        self.ends: dict[RunName, Outcome] = {}  #: how each attempt ended that ran; never forgotten
        self.cut: set[tuple[int, int]] = set()  #: attempts (job and number) that a restart found on record as live
        self.asked_for: set[RunName] = set()  #: attempts that were to be launched
        self.wrongs: list[str] = []
        self.trace: list[tuple[float, str]] = []  #: what happened, and when

    def note(self, what: str) -> None:
        """Add to the trace."""
        self.trace.append((self.clock(), what))

    def start(self, launch: Launch) -> None:
        """Run it, unless its name was used; what runs beside it is looked at."""
        run = launch.run
        before = self.starts[run]
        super().start(launch)
        if self.starts[run] == before:
            return
        self.note(f"start {run.job}.{run.attempt} on {launch.gpus}")
        if before:
            self.wrongs.append(f"{run} was started twice")
        for other, running in self.running.items():
            if other != run and other.job == run.job:
                self.wrongs.append(f"{run} was started while {other} ran")
            if other != run and not set(running.launch.gpus).isdisjoint(launch.gpus):
                self.wrongs.append(f"{run} was started on a card of {other}")
        strangers = {uuid: self.owners.get(uuid) for uuid in launch.gpus} if launch.gpus else {}
        if any(owner not in (None, "us") for owner in strangers.values()):
            self.wrongs.append(f"{run} was started on cards of others: {strangers}")

    def kill(self, run: RunName, *, at_once: bool) -> None:
        """Stop it."""
        self.note(f"kill {run.job}.{run.attempt}{' at once' if at_once else ''}")
        super().kill(run, at_once=at_once)

    def restart(self, *, power_cut: bool = False) -> None:
        """Restart the machine."""
        self.note(f"restart{' by a power cut' if power_cut else ''}")
        rows = self.disk.rows("SELECT id, attempt FROM job WHERE state IN ('starting', 'running', 'stopping')")
        self.cut.update((id, attempt) for id, attempt in rows)
        super().restart(power_cut=power_cut)
        self.boot += 1

    def _over(self, running: _Running, outcome: Outcome) -> None:
        run = running.launch.run
        self.note(f"end {run.job}.{run.attempt} {outcome.exit_code} {outcome.failure and outcome.failure.code}")
        self.ends[run] = outcome
        super()._over(running, outcome)


class WatchedLauncher(SimulatedLauncher):
    """Notes every effect that is asked for before its record is on disk. One for each life of the daemon."""

    def __init__(self, machine: WatchedMachine, cards: SimulatedCards) -> None:
        super().__init__(machine, cards=cards)
        self.watched = machine
        self.dead = False  #: whether its daemon was killed: then nothing that it asks for reaches the machine

    async def launch(self, launch: Launch) -> float:
        """Launch it; its reservation must be on disk."""
        await self._reach()
        run = launch.run
        state, attempt, cards = self._row(run)
        if state not in ("starting", "stopping") or attempt != run.attempt:
            self.watched.wrongs.append(f"{run} was launched when the disk said {state} on attempt {attempt}")
        elif cards != sorted(launch.gpus):
            self.watched.wrongs.append(f"{run} was launched on {launch.gpus} when the disk said {cards}")
        if (run.job, run.attempt) in self.watched.cut:
            self.watched.wrongs.append(f"{run} was launched after a restart of the machine that may have ended it")
        self.watched.asked_for.add(run)
        return await super().launch(launch)

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """Stop it; that it has to must be on disk, but for what never ran here or cannot run any more."""
        await self._reach()
        state, attempt, _ = self._row(run)
        may_run = run in self.watched.asked_for and (run.job, run.attempt) not in self.watched.cut
        if may_run and attempt == run.attempt and state in ("starting", "running"):
            self.watched.wrongs.append(f"{run} was stopped when the disk said {state}")
        await super().stop(run, at_once=at_once)

    async def wait(self, run: RunName) -> Outcome:
        """Wait for its end."""
        await self._reach()
        return await super().wait(run)

    async def signal(self, run: RunName, number: int) -> None:
        """Pass a signal on."""
        await self._reach()
        await super().signal(run, number)

    async def forget(self, run: RunName) -> None:
        """Forget it; its end must be on disk."""
        await self._reach()
        state, attempt, _ = self._row(run)
        if attempt == run.attempt and state in ("starting", "running", "stopping"):
            self.watched.wrongs.append(f"{run} was forgotten when the disk said {state}")
        await super().forget(run)

    def _row(self, run: RunName) -> tuple[str, int, list[str]]:
        rows = self.watched.disk.rows("SELECT state, attempt FROM job WHERE id = ?", run.job)
        state, attempt = rows[0] if rows else ("nothing", 0)
        cards = self.watched.disk.rows("SELECT gpu FROM reservation WHERE job = ? ORDER BY gpu", run.job)
        return state, attempt, [gpu for (gpu,) in cards]

    async def _reach(self) -> None:
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if self.watched.sick:
            raise OSError(errno.ENOSPC, "No space left on device")
