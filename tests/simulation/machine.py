"""The simulated machine with a memory of its own: what it was asked for and what it did, to hold against the records."""

from __future__ import annotations

import errno
from collections.abc import Callable

from runnersd.machine.simulated import SimulatedLauncher, SimulatedMachine, _Running
from runnersd.model import Launch, Outcome, RunName
from simulation.disk import Disk


class WatchedMachine(SimulatedMachine):
    """Objects at once to what no machine may be asked for. ``sick`` launchers fail at everything they do."""

    def __init__(self, gpus: int, disk: Disk, *, seed: int, clock: Callable[[], float]) -> None:
        super().__init__(gpus, seed=seed, clock=clock)
        self.disk = disk
        self.boot = 1
        self.sick = False
        self.ends: dict[RunName, Outcome] = {}  #: how each attempt ended; never forgotten
        self.stops: set[RunName] = set()  #: attempts that lived when they were told to stop
        self.wrongs: list[str] = []

    def start(self, launch: Launch) -> None:
        """Run it, unless its name was used; what runs beside it is looked at."""
        run = launch.run
        before = self.starts[run]
        super().start(launch)
        if self.starts[run] == before:
            return
        if before:
            self.wrongs.append(f"{run} was started twice")
        for other, running in self.running.items():
            if other != run and other.job == run.job:
                self.wrongs.append(f"{run} was started while {other} ran")
            if other != run and not set(running.launch.gpus).isdisjoint(launch.gpus):
                self.wrongs.append(f"{run} was started on a card of {other}")

    def kill(self, run: RunName, *, at_once: bool) -> None:
        """Stop it."""
        if run in self.running:
            self.stops.add(run)
        super().kill(run, at_once=at_once)

    def restart(self) -> None:
        """Restart the machine."""
        super().restart()
        self.boot += 1

    def _over(self, running: _Running, outcome: Outcome) -> None:
        self.ends[running.launch.run] = outcome
        super()._over(running, outcome)


class WatchedLauncher(SimulatedLauncher):
    """Notes every effect that is asked for before its record is on disk."""

    def __init__(self, machine: WatchedMachine) -> None:
        super().__init__(machine)
        self.watched = machine

    async def launch(self, launch: Launch) -> float:
        """Launch it; its reservation must be on disk."""
        state, attempt, cards = self._row(launch.run)
        if state not in ("starting", "running", "stopping") or attempt != launch.run.attempt:
            self.watched.wrongs.append(f"{launch.run} was launched when the disk said {state} on attempt {attempt}")
        elif cards != sorted(launch.gpus):
            self.watched.wrongs.append(f"{launch.run} was launched on {launch.gpus} when the disk said {cards}")
        self._ail()
        return await super().launch(launch)

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """Stop it; that it has to must be on disk."""
        state, attempt, _ = self._row(run)
        if attempt == run.attempt and state in ("starting", "running"):
            self.watched.wrongs.append(f"{run} was stopped when the disk said {state}")
        self._ail()
        await super().stop(run, at_once=at_once)

    async def forget(self, run: RunName) -> None:
        """Forget it; its end must be on disk."""
        state, attempt, _ = self._row(run)
        if attempt == run.attempt and state in ("starting", "running", "stopping"):
            self.watched.wrongs.append(f"{run} was forgotten when the disk said {state}")
        self._ail()
        await super().forget(run)

    def _row(self, run: RunName) -> tuple[str, int, list[str]]:
        rows = self.watched.disk.rows("SELECT state, attempt FROM job WHERE id = ?", run.job)
        state, attempt = rows[0] if rows else ("nothing", 0)
        cards = self.watched.disk.rows("SELECT gpu FROM reservation WHERE job = ? ORDER BY gpu", run.job)
        return state, attempt, [gpu for (gpu,) in cards]

    def _ail(self) -> None:
        if self.watched.sick:
            raise OSError(errno.ENOSPC, "No space left on device")
