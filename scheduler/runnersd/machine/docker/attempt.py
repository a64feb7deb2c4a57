"""One attempt in a container, from its record's first line to its end.

A loop that looks, asks `reconcile.step` what comes next, and does it. It may be left off at any line and taken up by
another daemon: what is known is in the record, what is so is found out by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runners.api import Code
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import body, kernel, result
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import Conflict, EngineError, NotFound, Refused, Unavailable, UnknownOutcome
from runnersd.machine.docker.gate import INSIDE, Gate
from runnersd.machine.docker.logs import LogCopy
from runnersd.machine.docker.making import Making
from runnersd.machine.docker.reconcile import Known, Look, Step, step
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.machine.host.processes import Process, send
from runnersd.model import Launch, Outcome, Reason, RunName

log = logging.getLogger(__name__)

#: Seconds between looks at a container that is expected to change: the first, the longest.
_SOON = (0.05, 2.0)
#: Seconds between looks at one that runs, beside the engine's news.
RECONCILE = 15.0
#: Seconds between two looks that count as one ghost's.
_GHOST_EVERY = 5.0
#: Seconds in which who still waits at a gate hears the word: who does not has passed before.
_PASSED = 2.0
#: Seconds for the last output to arrive once a container has ended.
_LAST_WORDS = 10.0
#: Ends of attempts of which nothing ran.
_NEVER_RAN = frozenset({Code.LAUNCH_FAILED, Code.CANCELLED_BY})


@dataclass(slots=True)
class _Stop:
    """How far the end that was asked for has come. Times are the loop's."""

    asked: bool = False
    at_once: bool = False
    told: bool = False
    kill_at: float = 0.0


class ContainerAttempt:
    """``launch`` is None where only its end is waited for. ``record`` is its own; ``base`` the path of its logs."""

    def __init__(
        self, run: RunName, record: RecordFile, base: str, around: Surroundings, launch: Launch | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.run, self.record, self.launch = run, record, launch
        self.started: asyncio.Future[float | LaunchFailed] = loop.create_future()
        self.over: asyncio.Future[Outcome] = loop.create_future()
        self.stopping = _Stop()
        self._base = base
        self._around = around
        self.gate = Gate(Path(record.said.gate) if record.said.gate else around.gates / str(run))
        self._making = Making(run, launch, around, self.gate) if launch is not None else None
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._pidfd: int | None = None
        self._cards_kept = False
        self._first_is_gone = False  #: its first process, and so everything in its pid namespace
        self._logs: LogCopy | None = None
        self._copying: asyncio.Task[None] | None = None
        self._ghostly, self._ghost_seen = 0, 0.0
        self._pause = _SOON[0]

    # -- what the launcher does with it --------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Its first process, above all others, while that runs."""
        return self.record.said.pid if self._pidfd is not None else None

    @property
    def container(self) -> str | None:
        """The engine's id of its container, once there is one."""
        return self.record.said.container

    def wake(self) -> None:
        """Have it look again now."""
        self._woken.set()

    def died(self) -> None:
        """The engine says that its container has died: have it look now, and its last output fetched meanwhile."""
        if self._first_is_gone:
            self._ended.set()
        self.wake()

    def stop(self, *, at_once: bool) -> None:
        """It has to end."""
        self.stopping.asked = True
        if at_once and not self.stopping.at_once:
            self.stopping.at_once, self.stopping.kill_at = True, 0.0
        self.wake()

    async def signal(self, number: int) -> None:
        """Pass a signal on, by the engine, or past it when it does not answer."""
        container = self.container
        if container is None or self.over.done():
            return
        try:
            await self._connection.kill(container, number)
        except (Conflict, NotFound):
            return  # it does not run
        except EngineError:
            self._signal_first(number)

    async def see_through(self, *, fresh: bool) -> None:
        """Until it is over. ``fresh``: nothing was asked of the engine for it yet."""
        try:
            if fresh:
                await self._guarded(self._begin)
            while not self.over.done():
                await (self._bury() if self.record.said.over else self._turn())
        finally:
            self._unwatch()
            if self._copying is not None and not self._copying.done():
                self._copying.cancel()

    # -- looking and deciding ------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> Connection:
        return self._around.connection

    async def _turn(self) -> None:
        if self.stopping.asked and await self._press():
            return
        await self._guarded(self._step)

    async def _step(self) -> None:
        look, seen = await self._look()
        said = self.record.said
        known = Known(said.container is not None, said.starting, said.may_have_run, said.began is not None)
        await self._do(step(known, look), look, seen)

    async def _guarded(self, do: Callable[[], Awaitable[None]]) -> None:
        try:
            await do()
        except LaunchFailed as failure:
            await self._never(str(failure))
        except (Unavailable, UnknownOutcome) as error:
            log.warning("job %d: %s; looking again", self.run.job, error)
            await self._wait(self._slower())
        except (EngineError, OSError) as error:
            log.warning("job %d, attempt %d: %s; looking again", self.run.job, self.run.attempt, error)
            await self._wait(self._slower())

    async def _look(self) -> tuple[Look, dict[str, Any] | None]:
        said = self.record.said
        seen: dict[str, Any] | None = None
        try:
            seen = await self._connection.inspect(said.container or body.name_of(self.run))
        except NotFound:
            status = "absent"
        except EngineError:
            return Look("unreachable", True), None
        else:
            status = result.status(seen)
            if said.container is None:
                self._adopt_made(seen)
        same = True
        if status in ("created", "ended") and said.instance is not None:
            try:  # after it was asked: whoever answers now has been there all the time
                same = await self._connection.instance() in (None, said.instance)
            except EngineError:
                return Look("unreachable", True), None
        container = self.record.said.container
        alive: list[Process] = []
        if container is not None and not (self._first_is_gone and status == "ended"):
            alive = await asyncio.to_thread(kernel.alive, container)
        ghostly = 0
        if status == "running" and not alive:
            now = asyncio.get_running_loop().time()
            if self._ghostly == 0 or now - self._ghost_seen >= _GHOST_EVERY:
                ghostly, self._ghostly, self._ghost_seen = self._ghostly, self._ghostly + 1, now
        else:
            self._ghostly = 0
        return Look(status, bool(alive), same, ghostly), seen  # type: ignore[arg-type]

    async def _do(self, what: Step, look: Look, seen: dict[str, Any] | None) -> None:
        match what:
            case Step.CREATE | Step.START if self.launch is None:
                await self._lose("it was never started, and nobody is left to say what it was")
            case Step.CREATE:
                await self._begin()
            case Step.START:
                await self._start()
            case Step.ADOPT:
                assert seen is not None
                await self._see_running(seen)
            case Step.FINISH:
                assert seen is not None
                await self._finish(seen, same_engine=look.same_engine)
            case Step.LOST:
                await self._lose(self._why_lost(seen))
            case Step.KILL:
                killed = await asyncio.to_thread(kernel.kill, self.container or "-")
                log.warning("job %d: ended %d processes that the engine has forgotten", self.run.job, len(killed))
                await self._wait(self._slower())
            case Step.WAIT:
                await self._wait(self._slower())

    # -- making and starting -------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        if not await self._take_staged():
            await self._create()
            await self._start()

    async def _take_staged(self) -> bool:
        """Take over a container that was made early for exactly this launch: all that is left is to open its gate."""
        assert self.launch is not None
        staged = await self._around.take(self.launch)
        if staged is None or self.stopping.asked:
            return False
        self.gate, engine, now = staged.gate, staged.engine, time.time()
        self._around.owns(staged.container, self)
        self.record.add(
            durable=True, container=staged.container, gated=True, gate=str(staged.gate.folder),
            starting=list(engine.instance) if engine is not None and engine.instance is not None else None, asked=now,
            live_restore=engine is not None and engine.live_restore,
            began=staged.began, at=now, pid=staged.pid, start=staged.start, opened=now,
        )  # fmt: skip
        self._watch(staged.pid)
        await self._keep_cards()
        if await self._open_gate(again=False):
            self.started.set_result(now)
        self._copy_output()
        return True

    async def _create(self) -> None:
        assert self._making is not None
        container, gated = await self._making.create()
        self._has(container, gated)
        await self._making.verify(container)

    def _has(self, container: str, gated: bool) -> None:
        self.record.add(container=container, gated=gated)
        self._around.owns(container, self)

    def _adopt_made(self, seen: dict[str, Any]) -> None:
        """A container of our name, whose making was not answered: ours if its labels say so."""
        if not body.is_that(seen, self.run):
            raise LaunchFailed(f"cannot make its container: the name {body.name_of(self.run)} belongs to another one")
        self._has(str(seen["Id"]), any(one.get("Destination") == INSIDE for one in seen.get("Mounts") or ()))

    async def _start(self) -> None:
        container, engine = self.container, self._connection.engine
        if container is None or self.stopping.asked:
            return
        instance = list(engine.instance) if engine is not None and engine.instance is not None else None
        gated = self.record.said.gated
        self.record.add(durable=not gated, starting=instance, asked=time.time(),
                        live_restore=engine is not None and engine.live_restore)  # fmt: skip
        try:
            await self._connection.start(container)
        except (Refused, NotFound, Conflict) as error:
            seen = await self._connection.inspect(container)
            if result.status(seen) == "created" and not await asyncio.to_thread(kernel.alive, container):
                raise LaunchFailed(result.start_failure(seen, str(error))) from error
            await self._see(seen)
            return
        await self._see(await self._connection.inspect(container))

    async def _see(self, seen: dict[str, Any]) -> None:
        if result.status(seen) == "running":
            await self._see_running(seen)

    # -- while it runs -------------------------------------------------------------------------------------------------

    async def _see_running(self, seen: dict[str, Any]) -> None:
        said = self.record.said
        state = seen["State"]
        pid, began = int(state.get("Pid") or 0), str(state.get("StartedAt"))
        start = kernel.process_started(pid)
        if start is None:
            await self._wait(self._slower())  # it has just ended; the engine will say so
            return
        if said.began is not None and said.began != began and said.may_have_run:
            await asyncio.to_thread(kernel.kill, str(self.container))
            await self._lose("its container was started a second time by somebody else; that run was ended")
            return
        if said.pid != pid or said.began is None:
            at = time.time() if said.gated else result.started_at(seen)  # without a gate it has been running since
            self.record.add(began=began, at=at, pid=pid, start=start)
        if not said.opened and not (said.gated is False and self.started.done()):
            await self._check(pid)
        self._watch(pid)
        await self._keep_cards()
        self._copy_output()
        if said.gated and not self.stopping.asked and not (said.may_have_run and self.started.done()):
            again = said.may_have_run
            if not again:
                self.record.add(durable=True, opened=time.time(), unread=False)
            await self._open_gate(again=again)
        if said.gated and not said.may_have_run:
            await self._wait(self._slower())  # it has ended before it could run, or has to
            return
        if not self.started.done():
            self.started.set_result(said.at or time.time())
        self._pause = _SOON[0]
        await self._wait(RECONCILE if self._pidfd is not None else _SOON[1])

    async def _open_gate(self, *, again: bool) -> bool:
        """Let the payload run; whether it may have. ``again``: an earlier daemon may have let it, and nobody wait."""
        now = asyncio.get_running_loop().time
        until = now() + _PASSED if again else math.inf
        read = await self.gate.open(lambda: self._pidfd is not None and not self.stopping.asked and now() < until)
        if not read and not again:
            self.record.add(unread=True)
        return read or again

    async def _check(self, pid: int) -> None:
        """Compare what the container has with what it was to have; of a gated one before its payload runs."""
        wrong = await self._making.difference(pid) if self._making is not None else None
        if wrong:
            await self._end_by_force()
            raise LaunchFailed(f"its container is not what was asked for: {wrong}")

    def _watch(self, pid: int) -> None:
        if self._pidfd is not None:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self.wake()
            return
        if kernel.process_started(pid) != self.record.said.start:
            os.close(fd)
            self.wake()
            return
        self._pidfd = fd
        asyncio.get_running_loop().add_reader(fd, self._first_ended)

    async def _keep_cards(self) -> None:
        """From before its payload runs until its first process has ended, its cards are locked, daemon or no daemon."""
        if not self._cards_kept and self._pidfd is not None:
            await self._around.keep_cards(self._pidfd, self.record.said.gpus)
            self._cards_kept = True

    def _first_ended(self) -> None:
        """Its first process is gone: the engine will say so in a moment."""
        self._unwatch()
        self._first_is_gone = True
        self._pause = _SOON[0]
        asyncio.get_running_loop().call_later(0.25, self.wake)

    def _unwatch(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _copy_output(self) -> None:
        if self._copying is None and self.container is not None:
            out, err = f"{self._base}.out", f"{self._base}.err"
            self._logs = LogCopy(self._connection, self.container, out, err, self.record.said.log_max)
            self._copying = asyncio.get_running_loop().create_task(self._logs.follow(self._ended))

    # -- stopping ------------------------------------------------------------------------------------------------------

    async def _press(self) -> bool:
        """Go on with the end that was asked for. Whether that was all there is to do."""
        stop, said = self.stopping, self.record.said
        if not said.may_have_run and not self.started.done():
            await self._end_by_force()
            text = "It was stopped before it was started."
            self.record.add(stopped=text)
            await self._settle(Outcome(None, failure=Reason(Code.CANCELLED_BY, text)))
            return True
        now = asyncio.get_running_loop().time()
        if not stop.told:
            stop.told = True
            if not said.told and said.pid is not None and kernel.process_started(said.pid) == said.start:
                self.record.add(told=True)
            stop.kill_at = now if stop.at_once else now + self.record.said.grace
            if not stop.at_once:
                await self.signal(signal.SIGTERM)
        if now >= stop.kill_at:
            stop.kill_at = now + 1.0
            await self._kill()
        return False

    async def _kill(self) -> None:
        """SIGKILL, by the engine; past it when it denies that there is anything to kill, or says nothing."""
        container = self.container
        if container is None:
            return
        try:
            async with asyncio.timeout(5.0):
                await self._connection.kill(container, signal.SIGKILL)
        except (EngineError, TimeoutError):
            await asyncio.to_thread(kernel.kill, container)

    def _signal_first(self, number: int) -> None:
        said = self.record.said
        if said.pid is not None and said.start is not None:
            send(Process(said.pid, "?", 0, 0, 0, said.start), number)

    async def _end_by_force(self) -> None:
        """Nothing of the container's is alive when this returns, or the engine and the kernel both cannot end it."""
        container = self.container
        if container is None:
            return
        with contextlib.suppress(EngineError):
            await self._connection.kill(container, signal.SIGKILL)
        await kernel.end(container)

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _finish(self, seen: dict[str, Any], *, same_engine: bool) -> None:
        self._unwatch()
        said = self.record.said
        self._ended.set()
        copied = await self._all_copied()
        if said.gated and not said.may_have_run:
            raise LaunchFailed(result.gate_failure(seen, self._last_error()))
        never = None if said.gated else result.exec_failure(seen, self._last_error())
        if never is not None:
            raise LaunchFailed(never)
        end = result.outcome(
            seen,
            said,
            boot=self._around.boot,
            booted_at=self._around.booted_at,
            same_engine=same_engine,
            answered_at=self._connection.answered.get(said.instance) if said.instance is not None else None,
        )
        if end.failure is not None and end.failure.code is Code.CONTAINER_LOST:
            self.record.add(lost=end.failure.text)
        await self._settle(replace(end, truncated=end.truncated or not copied or self._truncated))

    async def _all_copied(self) -> bool:
        if self.record.said.starting:
            self._copy_output()  # it may have run and ended while nobody watched
        if self._copying is None:
            return True
        done, _ = await asyncio.wait([self._copying], timeout=_LAST_WORDS)
        if not done:
            log.warning("job %d: its last output did not arrive in %g s", self.run.job, _LAST_WORDS)
        return bool(done)

    @property
    def _truncated(self) -> bool:
        return self._logs is not None and self._logs.truncated

    def _last_error(self) -> str:
        """The last line that the gate wrote before it gave up."""
        with contextlib.suppress(OSError):
            lines = Path(f"{self._base}.err").read_text(errors="replace").strip().splitlines()
            return lines[-1][:500] if lines else ""
        return ""

    def _why_lost(self, seen: dict[str, Any] | None) -> str:
        if seen is None:
            return "its container was removed by somebody else"
        if result.status(seen) == "running":
            return "its container has no process left, though the engine says that it runs"
        return "the engine died while it was started; how it ended is not known"

    async def _lose(self, why: str) -> None:
        await self._end_by_force()
        self._ended.set()
        await self._all_copied()
        self.record.add(lost=why)
        await self._settle(Outcome(None, started_at=self.record.said.at, failure=Reason(Code.CONTAINER_LOST, why)))

    async def _bury(self) -> None:
        """Its record says that it is over: say so again, and that nothing of it lives."""
        await self._end_by_force()
        said = self.record.said
        if said.lost is not None:
            end = Outcome(None, started_at=said.at, failure=Reason(Code.CONTAINER_LOST, said.lost))
        elif said.failed is not None:
            end = Outcome(None, failure=Reason(Code.LAUNCH_FAILED, said.failed))
        else:
            end = Outcome(None, failure=Reason(Code.CANCELLED_BY, said.stopped or "It was stopped."))
        await self._settle(end)

    async def _never(self, why: str) -> None:
        """Nothing of it ran, and nothing will."""
        await self._end_by_force()
        self.record.add(failed=why)
        await self._settle(Outcome(None, failure=Reason(Code.LAUNCH_FAILED, why)))

    async def _settle(self, outcome: Outcome) -> None:
        self._unwatch()
        if not self.started.done():
            failure = outcome.failure
            if failure is not None and failure.code in _NEVER_RAN:
                self.started.set_result(LaunchFailed(failure.text))
            else:  # it may have run, though nobody saw it
                self.started.set_result(outcome.started_at or self.record.said.asked or time.time())
        if not self.over.done():
            self.over.set_result(outcome)

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _slower(self) -> float:
        pause, self._pause = self._pause, min(self._pause * 2, _SOON[1])
        return pause

    async def _wait(self, seconds: float) -> None:
        if self.stopping.asked:
            left = self.stopping.kill_at - asyncio.get_running_loop().time() if self.stopping.told else 0.0
            seconds = min(seconds, max(left, 0.005))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()
