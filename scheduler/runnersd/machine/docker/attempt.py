"""One attempt in a container, from its record's first line to its end.

A loop that looks, asks `reconcile.step` what comes next, and does it. It may be left off at any line and taken up by
another daemon: what is known is in the record, what is so is found out by looking.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from runners.api import Code
from runnersd.in_thread import in_thread
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import body, kernel, result
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import Conflict, EngineError, NotFound, Refused, Unavailable, UnknownOutcome
from runnersd.machine.docker.force import Force
from runnersd.machine.docker.gate import INSIDE, Gate
from runnersd.machine.docker.making import Making
from runnersd.machine.docker.output import Output
from runnersd.machine.docker.pace import Pace
from runnersd.machine.docker.process import FirstProcess
from runnersd.machine.docker.reconcile import Known, Look, Step, step
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.docker.sight import Sight
from runnersd.machine.docker.stopping import Stopping
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.model import Launch, Outcome, Reason, RunName

log = logging.getLogger(__name__)

#: Seconds in which a shell comes to its gate: one that has not by then never will.
_DEAF = 60.0
#: Seconds in which who still waits at a gate hears the word: who does not has passed before.
_PASSED = 2.0
#: Seconds in which the news of a kill for want of memory may come after that of the end.
_LATE_NEWS = 0.5
#: Ends of attempts of which nothing ran.
_NEVER_RAN = frozenset({Code.LAUNCH_FAILED, Code.CANCELLED_BY})


class ContainerAttempt:
    """``launch`` is None where only its end is waited for. ``record`` is its own; ``base`` the path of its logs."""

    def __init__(
        self, run: RunName, record: RecordFile, base: str, around: Surroundings, launch: Launch | None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.run, self.record, self.launch = run, record, launch
        self.started: asyncio.Future[float | LaunchFailed] = loop.create_future()
        self.over: asyncio.Future[Outcome] = loop.create_future()
        self.stopping = Stopping()
        self._pace = Pace(self.stopping)
        self._around = around
        self.gate = Gate(Path(record.said.gate) if record.said.gate else around.gates / str(run))
        self._sight = Sight(run, record, around.connection)
        self._force = Force(around.connection, record)
        self._output = Output(around.connection, record, base)
        self._first = FirstProcess(record, around, self._output, self._first_ended)
        self._making = Making(run, launch, around, self.gate) if launch is not None else None
        self._ran_out = asyncio.Event()

    # -- what the launcher does with it --------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Its first process, above all others, while that runs."""
        return self._first.pid

    @property
    def container(self) -> str | None:
        """The engine's id of its container, once there is one."""
        return self.record.said.container

    def wake(self) -> None:
        """Have it look again now."""
        self._pace.wake()

    def died(self) -> None:
        """The engine says that its container has died: have it look now, and its last output fetched meanwhile."""
        if self._first.gone:
            self._output.ended.set()
        self.wake()

    def ran_out(self) -> None:
        """The engine says that the kernel has killed something of it for want of memory."""
        self._ran_out.set()

    def stop(self, *, at_once: bool) -> None:
        """It has to end."""
        self.stopping.ask(at_once=at_once)
        self.wake()

    async def signal(self, number: int) -> None:
        """Pass a signal on."""
        if not self.over.done():
            await self._force.signal(number)

    async def see_through(self, *, fresh: bool) -> None:
        """Until it is over. ``fresh``: nothing was asked of the engine for it yet."""
        try:
            if fresh:
                await self._guarded(self._begin)
            while not self.over.done():
                await (self._bury() if self.record.said.over else self._turn())
        finally:
            self._first.leave()
            self._output.close()

    # -- looking and deciding ------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> Connection:
        return self._around.connection

    async def _turn(self) -> None:
        if self.stopping.asked and await self._press():
            return
        await self._guarded(self._step)

    async def _step(self) -> None:
        look, seen = await self._sight.look(self._adopt_made, gone=self._first.gone)
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
            await self._pace.slower()
        except (EngineError, OSError) as error:
            log.warning("job %d, attempt %d: %s; looking again", self.run.job, self.run.attempt, error)
            await self._pace.slower()

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
                await self._lose(result.why_lost(seen))
            case Step.KILL:
                killed = await in_thread(kernel.kill, self.container or "-")
                log.warning("job %d: ended %d processes that the engine has forgotten", self.run.job, len(killed))
                await self._pace.slower()
            case Step.REMOVE:
                await self._connection.remove(str(self.container))
                await self._lose("its start was not answered, and had not happened when its container was removed")
            case Step.WAIT:
                await self._pace.slower()

    # -- making and starting -------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        if not await self._take_staged():
            await self._create()
            await self._start()

    async def _take_staged(self) -> bool:
        """Take over a container that was made early for exactly this launch: all that is left is to open its gate."""
        assert self.launch is not None
        staged = await self._around.take(self.launch)
        if staged is None:
            return False
        self.gate, engine, now = staged.gate, staged.engine, time.time()
        self._around.owns(staged.container, self)
        if self.stopping.asked:
            self.record.add(container=staged.container, gated=True, gate=str(staged.gate.folder))
            return True
        self.record.add(
            durable=True, container=staged.container, gated=True, gate=str(staged.gate.folder),
            starting=list(engine.instance) if engine is not None and engine.instance is not None else None, asked=now,
            live_restore=engine is not None and engine.live_restore,
            began=staged.began, at=now, pid=staged.pid, start=staged.start, opened=now,
        )  # fmt: skip
        self._watch(staged.pid)
        await self._first.keep_cards()
        if await self._open_gate(again=False):
            self.started.set_result(now)
        self._output.copy()
        return True

    async def _create(self) -> None:
        assert self._making is not None
        container, gated = await self.stopping.before(self._making.create(), "make its container")
        self._has(container, gated)

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
        if container is None or self._making is None or self.stopping.asked:
            return
        if not await self._making.verify(container):
            await self._connection.remove(container)
            return  # the next look finds none
        instance = list(engine.instance) if engine is not None and engine.instance is not None else None
        gated = self.record.said.gated
        self.record.add(durable=not gated, starting=instance, asked=time.time(),
                        live_restore=engine is not None and engine.live_restore)  # fmt: skip
        try:
            await self.stopping.before(self._connection.start(container), "start its container")
        except Unavailable:
            self.record.add(unasked=True)
            raise
        except (Refused, NotFound, Conflict) as error:
            seen = await self._connection.inspect(container)
            if result.status(seen) == "created" and not await in_thread(kernel.alive, container):
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
            await self._pace.slower()  # it has just ended; the engine will say so
            return
        if said.began is not None and said.began != began and said.may_have_run:
            await in_thread(kernel.kill, str(self.container))
            await self._lose("its container was started a second time by somebody else; that run was ended")
            return
        if said.pid != pid or said.began is None:
            at = time.time() if said.gated else result.started_at(seen)  # without a gate it has been running since
            self.record.add(began=began, at=at, pid=pid, start=start)
        engine = self._connection.engine
        if said.live_restore and engine is not None and engine.instance not in (None, said.instance):
            self.record.add(engine=list(engine.instance), live_restore=engine.live_restore)
        if not said.opened and not (said.gated is False and self.started.done()):
            await self._check(pid)
        self._watch(pid)
        await self._first.keep_cards()
        self._output.copy()
        if said.gated and not self.stopping.asked and not (said.may_have_run and self.started.done()):
            again = said.may_have_run
            if not again:
                self.record.add(durable=True, opened=time.time(), unread=False)
            await self._open_gate(again=again)
        if said.gated and not said.may_have_run:
            await self._pace.slower()  # it has ended before it could run, or has to
            return
        if not self.started.done():
            self.started.set_result(said.at or time.time())
        await self._pace.steady(watched=self._first.watched)

    async def _open_gate(self, *, again: bool) -> bool:
        """Let the payload run; whether it may have. ``again``: an earlier daemon may have let it, and nobody wait.

        Raises:
            LaunchFailed: whoever is there does not wait: an image's shell may be any program.
        """
        now = asyncio.get_running_loop().time
        until = now() + (_PASSED if again else _DEAF)
        read = await self.gate.open(lambda: self._first.watched and not self.stopping.asked and now() < until)
        if not read and not again:
            self.record.add(unread=True)
            if self._first.watched and not self.stopping.asked:
                await self._force.end()
                raise LaunchFailed("the shell of its image does not wait at the gate; what ran in its place was ended")
        return read or again

    async def _check(self, pid: int) -> None:
        """Compare what the container has with what it was to have; of a gated one before its payload runs."""
        wrong = await self._making.difference(pid) if self._making is not None else None
        if wrong:
            await self._force.end()
            raise LaunchFailed(f"its container is not what was asked for: {wrong}")

    def _watch(self, pid: int) -> None:
        if not self._first.watch(pid):
            self.wake()

    def _first_ended(self) -> None:
        """Its first process is gone, or the shim above it: the engine will say so in a moment."""
        self._pace.hurry()
        asyncio.get_running_loop().call_later(0.25, self.wake)

    # -- stopping ------------------------------------------------------------------------------------------------------

    async def _press(self) -> bool:
        """Go on with the end that was asked for. Whether that was all there is to do."""
        stop, said = self.stopping, self.record.said
        if not said.may_have_run and not self.started.done():
            await self._force.end()
            text = "It was stopped before it was started."
            self.record.add(stopped=text)
            self._settle(Outcome(None, failure=Reason(Code.CANCELLED_BY, text)))
            return True
        await stop.press(self.record, self._force)
        return False

    # -- ending --------------------------------------------------------------------------------------------------------

    async def _finish(self, seen: dict[str, Any], *, same_engine: bool) -> None:
        self._first.leave()
        said = self.record.said
        copied = await self._output.whole()
        if said.gated and not said.may_have_run:
            raise LaunchFailed(result.gate_failure(seen, self._output.last_error))
        never = None if said.gated else result.exec_failure(seen, self._output.last_error)
        if never is not None:
            raise LaunchFailed(never)
        if result.may_be_out_of_memory(seen, said):
            with contextlib.suppress(TimeoutError):  # an engine may hear of that after the end
                async with asyncio.timeout(_LATE_NEWS):
                    await self._ran_out.wait()
        end = result.outcome(
            seen,
            said,
            out_of_memory=self._ran_out.is_set(),
            boot=self._around.boot,
            booted_at=self._around.booted_at,
            same_engine=same_engine,
            answered_at=self._connection.answered.get(said.instance) if said.instance is not None else None,
            orphaned=self._first.orphaned,
        )
        if end.failure is not None and end.failure.code is Code.CONTAINER_LOST:
            self.record.add(lost=end.failure.text)
        peak = self._first.peak_memory if end.failure is None or end.failure.code is Code.OUT_OF_MEMORY else None
        self._settle(replace(end, peak_memory=peak, truncated=end.truncated or not copied or self._output.truncated))

    async def _lose(self, why: str) -> None:
        await self._force.end()
        await self._output.whole()
        self.record.add(lost=why)
        self._settle(result.lost(self.record.said.at, why))

    async def _bury(self) -> None:
        """Its record says that it is over: say so again, and that nothing of it lives."""
        await self._force.end()
        self._settle(result.recorded(self.record.said))

    async def _never(self, why: str) -> None:
        """Nothing of it ran, and nothing will."""
        await self._force.end()
        self.record.add(failed=why)
        self._settle(Outcome(None, failure=Reason(Code.LAUNCH_FAILED, why)))

    def _settle(self, outcome: Outcome) -> None:
        self._first.leave()
        if not self.started.done():
            failure = outcome.failure
            if failure is not None and failure.code in _NEVER_RAN:
                self.started.set_result(LaunchFailed(failure.text))
            else:  # it may have run, though nobody saw it
                self.started.set_result(outcome.started_at or self.record.said.asked or time.time())
        if not self.over.done():
            self.over.set_result(outcome)
