"""The launcher of host jobs: has supervisors run attempts, hears how they end, takes back what another daemon ran."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from runners.api import Code
from runnersd.in_thread import NoThread, in_thread
from runnersd.machine import Cards, LaunchFailed
from runnersd.machine.host import processes, record
from runnersd.machine.host.attempt import Attempt, end_strays, ended, outcome_of
from runnersd.machine.host.channel import Message
from runnersd.machine.host.order import Order
from runnersd.machine.host.supervisors import Supervisors
from runnersd.machine.host.watch import PASSED
from runnersd.model import Launch, Outcome, Reason, RunName

_DIED = "cannot run it: its supervisor died before it was started"
_LOOK_AGAIN = 0.005  # seconds, for a record that is just being written
_NO_ROOM = 1.0  # seconds, when no descriptor was free to look at all
_FORGET = 0.02  # seconds between removals of records
_TRIES = 3  # so often an order is given whose supervisor dies before it has taken the attempt's name

log = logging.getLogger(__name__)


class HostLauncher:
    """Runs attempts as processes of this machine (:class:`runnersd.machine.Launcher`).

    ``state`` is the daemon's state directory: records and logs go to ``runs/`` below it. ``cards`` lends the locks
    of the attempt's cards to its supervisor, which keeps them while it lives.
    """

    def __init__(self, state: Path, cards: Cards | None = None) -> None:
        self.runs = Path(state) / "runs"
        self._directory = str(self.runs)
        self._made: set[int] = set()
        self._attempts: dict[RunName, Attempt] = {}
        self._supervisors = Supervisors(f"{self._directory}/spawner.lock", cards, self._heard, self._lost)
        self._tasks: set[asyncio.Task[None]] = set()
        self._forgotten: dict[RunName, asyncio.Future[None]] = {}
        self._forgetting: asyncio.Task[None] | None = None
        self._boot = processes.boot_id()
        self._unconfined: set[str] = set()  # reasons that the log has

    async def open(self) -> None:
        """Start the spawner. To be called once, before anything else.

        Raises:
            OSError: the directory cannot be made, or the spawner not started.
        """
        self.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._supervisors.open()

    async def launch(self, launch: Launch) -> float:
        """See :class:`runnersd.machine.Launcher`. An attempt that has a record is taken back, never started.

        Most have none. It is looked for where it counts: by the supervisor that makes it.
        """
        attempt = self._attempts.get(launch.run)
        if attempt is None:
            attempt = self._order(launch)
        started = await asyncio.shield(attempt.started)
        if isinstance(started, LaunchFailed):
            raise LaunchFailed(str(started))
        return started

    async def wait(self, run: RunName) -> Outcome:
        """See :class:`runnersd.machine.Launcher`. Without a record it is `supervisor_lost`, its processes killed."""
        attempt = self._find(run)
        if attempt is None:
            attempt = self._know(run)
            attempt.started.set_result(LaunchFailed(f"cannot find {run}: it has no record"))
            self._do(self._bury(attempt, record.Record()))
        return await asyncio.shield(attempt.over)

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """See :class:`runnersd.machine.Launcher`. Without a record it gets one, so that it can never start."""
        attempt = self._find(run)
        if attempt is None:
            self._make_directory(run)
            if record.bar(self._names(run)[0], stopped="It was stopped before it was started."):
                return
            attempt = self._find(run)
            if attempt is None:
                return  # made and forgotten meanwhile: it is over
        attempt.stop = True
        attempt.at_once = attempt.at_once or at_once
        attempt.pass_stop()

    async def signal(self, run: RunName, number: int) -> None:
        """See :class:`runnersd.machine.Launcher`.

        Raises:
            ValueError: it is not one of the signals 1 to 30.
        """
        if not 1 <= number <= PASSED:
            raise ValueError(f"cannot pass signal {number} on: only 1 to {PASSED}")
        attempt = self._find(run)
        if attempt is not None:
            await asyncio.shield(attempt.started)
            attempt.signal(number)

    async def forget(self, run: RunName) -> None:
        """See :class:`runnersd.machine.Launcher`.

        Raises:
            ValueError: the attempt is not over.
        """
        attempt = self._find(run)
        if attempt is not None and not attempt.over.done():
            raise ValueError(f"cannot forget {run}: it is live")
        loop = asyncio.get_running_loop()
        done = self._forgotten.setdefault(run, loop.create_future())
        if self._forgetting is None or self._forgetting.done():
            self._forgetting = loop.create_task(self._forget())
        await asyncio.shield(done)

    def supervisor(self, run: RunName) -> int | None:
        """See :class:`runnersd.machine.Launcher`."""
        attempt = self._find(run)
        return attempt.pid if attempt is not None and attempt.supervised else None

    def logs(self, run: RunName) -> tuple[Path, Path]:
        """See :class:`runnersd.machine.Launcher`."""
        _, out, err = self._names(run)
        return Path(out), Path(err)

    async def close(self) -> None:
        """See :class:`runnersd.machine.Launcher`. Who still waits is cancelled."""
        if self._forgetting is not None:
            await self._forgetting
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._supervisors.close()
        for attempt in self._attempts.values():
            attempt.unwatch()
            attempt.started.cancel()
            attempt.over.cancel()
        self._attempts.clear()

    # ------------------------------------------------------------------------------------------------ supervisors

    def _order(self, launch: Launch) -> Attempt:
        attempt = self._know(launch.run)
        name = str(launch.run)
        path, out, err = self._names(launch.run)
        who = launch.submitter
        order = Order(
            run=name, record=path, out=out, err=err, argv=launch.argv, cwd=launch.cwd, umask=launch.umask,
            environment={**launch.environment, "RUNNERS_RUN": name}, grace=launch.grace, log_max=launch.log_max,
            uid=who.uid if who else None, gid=who.gid if who else None, groups=who.groups if who else (),
            experiment=launch.experiment, away=launch.away,
        )  # fmt: skip
        attempt.order, attempt.cards = order.pack(), launch.gpus
        try:
            self._make_directory(launch.run)
        except OSError as error:
            self._heard(attempt, ("failed", f"cannot keep its output in {self.runs}: {error.strerror}"))
        else:
            self._supervisors.run(attempt)
        return attempt

    def _heard(self, attempt: Attempt, message: Message) -> None:
        what, *rest = message
        attempt.order = None
        if what == "started":
            at, attempt.pid, unconfined = rest
            if unconfined is not None and unconfined not in self._unconfined:
                self._unconfined.add(unconfined)
                log.warning("host jobs are not kept from cards that are not theirs: %s", unconfined)
            if not attempt.started.done():
                attempt.started.set_result(at)
        elif what == "over":
            code, finished, peak, truncated, told = rest
            end = {"code": code, "finished": finished, "peak": peak, "truncated": truncated, "told": told}
            started = attempt.started.result()
            assert not isinstance(started, LaunchFailed), "it said so"
            attempt.settle(ended(started, end))
        elif what == "failed":
            self._never(attempt, *rest)
        else:
            self._look(attempt, partial(self._take_back, attempt))

    def _lost(self, attempt: Attempt) -> None:
        """Its supervisor is gone and said nothing of its end: that is in the record, or was not seen."""
        if attempt.order is None:
            self._supervisor_ended(attempt)
        else:
            self._look(attempt, partial(self._order_again, attempt))

    def _order_again(self, attempt: Attempt, found: record.Record | None) -> None:
        """Its supervisor is gone and did not say that it started."""
        attempt.tries += 1
        if found is None and attempt.tries < _TRIES:  # nobody has its name: killed while idle, or with the spawner
            self._supervisors.run(attempt)
        else:
            attempt.order = None
            self._take_back(attempt, found)

    # ------------------------------------------------------------------------------------------------ attempts

    def _names(self, run: RunName) -> tuple[str, str, str]:
        return record.names(self._directory, run.job, run.attempt)

    def _make_directory(self, run: RunName) -> None:
        number = run.job // 1000
        if number not in self._made:
            (self.runs / str(number)).mkdir(mode=0o700, exist_ok=True)
            self._made.add(number)

    def _know(self, run: RunName) -> Attempt:
        attempt = self._attempts[run] = Attempt(run, self._names(run)[0], asyncio.get_running_loop())
        return attempt

    def _find(self, run: RunName) -> Attempt | None:
        """The attempt as known here, else as its record tells; None when there is no record."""
        attempt = self._attempts.get(run)
        if attempt is None:
            found = record.read(self._names(run)[0])
            if found is not None:
                attempt = self._know(run)
                self._take_back(attempt, found)
        return attempt

    def _take_back(self, attempt: Attempt, found: record.Record | None, why: str = _DIED) -> None:
        """Go on from the record: over, or alive, or its supervisor is gone. ``why`` it did not start, if it did not."""
        found = found or record.Record()
        if found.empty:
            self._never(attempt, why)
            return
        try:
            pidfd = None if found.over else self._open(found)
            if pidfd is None:
                found = record.read(attempt.path) or found  # it may have ended between the two
        except OSError as error:  # no descriptor is free: that proves nothing
            log.error("cannot watch %s: %s; trying again", attempt.run, error)
            self._do(self._look_again(attempt, _NO_ROOM))
            return
        if pidfd is None:
            self._ended(attempt, found)
            return
        attempt.pid = found.pid
        attempt.watch(pidfd, self._supervisor_ended)
        if found.started is None:
            self._do(self._await_start(attempt))
        elif not attempt.started.done():
            attempt.started.set_result(found.started)
        if attempt.stop:
            attempt.pass_stop()

    def _open(self, found: record.Record) -> int | None:
        """A pidfd of the living supervisor that wrote this, and of nobody else."""
        if found.boot != self._boot or found.pid is None:
            return None
        try:
            pidfd = os.pidfd_open(found.pid)
        except ProcessLookupError:
            return None
        ours = False
        try:
            now = processes.look(found.pid)  # after it was opened: now the pid cannot change hands
            ours = now is not None and now.start == found.start
        finally:
            if not ours:
                os.close(pidfd)
        return pidfd if ours else None

    async def _await_start(self, attempt: Attempt) -> None:
        """Of an attempt taken back in the middle of its launch."""
        while not attempt.started.done():
            await asyncio.sleep(_LOOK_AGAIN)
            found = record.read(attempt.path)
            if found is not None and found.started is not None and not attempt.started.done():
                attempt.started.set_result(found.started)

    def _never(self, attempt: Attempt, why: str) -> None:
        """It did not start: make sure that it never will."""
        try:
            self._make_directory(attempt.run)
            if not record.bar(attempt.path, failed=why):
                found = record.read(attempt.path)
                if found is not None and found.empty and not record.take_over(attempt.path, why):
                    self._do(self._look_again(attempt, _LOOK_AGAIN, why))  # somebody is just starting it
                    return
        except OSError as error:
            log.warning("cannot record that %s did not start: %s", attempt.run, error)
            attempt.settle(Outcome(None, failure=Reason(Code.LAUNCH_FAILED, why)))
            return
        found = record.read(attempt.path)
        if found is not None and found.over:
            self._ended(attempt, found)
        else:
            self._take_back(attempt, found)

    async def _look_again(self, attempt: Attempt, pause: float, why: str = _DIED) -> None:
        while True:
            await asyncio.sleep(pause)
            try:
                return self._take_back(attempt, record.read(attempt.path), why)
            except OSError as error:
                log.error("cannot read the record of %s: %s; trying again", attempt.run, error)
                pause = _NO_ROOM

    async def _forget(self) -> None:
        """Remove records, many at once and beside the loop: a journal under load lets each wait for milliseconds."""
        while self._forgotten:
            runs, self._forgotten = self._forgotten, {}
            paths = [self._names(run)[0] for run in runs]
            try:
                try:
                    await in_thread(record.remove, paths)
                except NoThread:  # who waits for this may be the one whose end makes room
                    record.remove(paths)
            except OSError as error:
                log.warning("cannot remove the records of attempts that are over: %s", error)
            for run, done in runs.items():
                self._attempts.pop(run, None)
                done.set_result(None)
            await asyncio.sleep(_FORGET)

    def _supervisor_ended(self, attempt: Attempt) -> None:
        attempt.unwatch()
        self._look(attempt, lambda found: self._ended(attempt, found or record.Record()))

    def _look(self, attempt: Attempt, then: Callable[[record.Record | None], None]) -> None:
        try:
            found = record.read(attempt.path)
        except OSError as error:
            log.error("cannot read the record of %s: %s; trying again", attempt.run, error)
            attempt.order = None
            self._do(self._look_again(attempt, _NO_ROOM))
        else:
            then(found)

    def _ended(self, attempt: Attempt, found: record.Record) -> None:
        """Its supervisor is gone: by what it wrote down, or unseen."""
        outcome = outcome_of(found)
        if outcome is None and found.boot is not None and found.boot != self._boot:
            text = "The machine was restarted while it ran."
            outcome = Outcome(None, started_at=found.started, failure=Reason(Code.MACHINE_RESTARTED, text))
        if outcome is not None:
            attempt.settle(outcome)
            return
        if not attempt.started.done():  # nobody can say that it did not run
            attempt.started.set_result(found.started or Path(attempt.path).stat().st_mtime)
        self._do(self._bury(attempt, found))

    async def _bury(self, attempt: Attempt, found: record.Record) -> None:
        log.warning("the supervisor of %s is gone: looking for its processes", attempt.run)
        await end_strays(attempt, found)
        text = "Its supervisor was killed: how it ended was not seen."
        if found.broken is not None:
            text = "Its supervisor failed: how it ended was not seen."
            log.error("the supervisor of %s failed: %s", attempt.run, found.broken)
        attempt.settle(Outcome(None, started_at=found.started, failure=Reason(Code.SUPERVISOR_LOST, text)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
