"""The launcher of container jobs: keeps in touch with the engine, and has each attempt see itself through."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runners.api import Code
from runnersd.machine import Cards, LaunchFailed, Row
from runnersd.machine.docker import body, events, kernel, noting
from runnersd.machine.docker.attempt import ContainerAttempt
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError, NotFound
from runnersd.machine.docker.images import Images
from runnersd.machine.docker.pace import RECONCILE
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.docker.staging import Staging
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.machine.docker.sweep import Sweep
from runnersd.machine.host import record as files
from runnersd.model import EngineState, GpuId, Image, ImageState, Launch, Outcome, Reason, RunName, Submitter

log = logging.getLogger(__name__)

#: Seconds before an engine that does not answer is tried again: the first, the longest.
_AGAIN = (0.2, 5.0)
#: Seconds between questions whether the engine still answers.
_KNOCK_EVERY = 5.0
#: Seconds between looks for a state directory that was moved away.
_AWAY = 0.1


async def _unknown(run: RunName) -> Row:
    """Before there are rows to ask, nothing is known."""
    return "unknown"


class DockerLauncher:
    """Runs attempts as containers (:class:`runnersd.machine.Launcher`).

    ``state`` is the daemon's state directory, ``socket`` the engine's socket, ``gated`` whether payloads wait at gates.
    ``cards`` lends the locks of cards, which are kept while a container of theirs lives.
    """

    def __init__(
        self,
        state: Path,
        socket: str,
        database: str,
        *,
        boot: str,
        gated: bool,
        private: Sequence[str] = (),
        cards: Cards | None = None,
    ) -> None:
        self.changed: Callable[[], None] = _nothing
        self.row: Callable[[RunName], Awaitable[Row]] = _unknown
        self._directory = str(Path(state) / "runs")
        self._database = database
        self._connection = Connection(socket)
        self._around = Surroundings(
            self._connection,
            Path(state),
            database,
            boot=boot,
            gated=gated,
            private=private,
            owned=self._own,
            cards=cards,
        )
        self._staging = Staging(self._around)
        self._around.take = self._staging.take
        self._images = Images(self._connection, time.time, lambda: self.changed())
        self._attempts: dict[RunName, ContainerAttempt] = {}
        self._by_container: dict[str, ContainerAttempt] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._sweep = Sweep(
            self._connection, self._staging, self._around.interiors, database, self._around.gates,
            names=self._names, known=lambda run: run in self._attempts, row=lambda run: self.row(run),
        )  # fmt: skip
        self._said: str | None = ""  # nothing yet

    async def open(self) -> None:
        """Begin to keep in touch with the engine. Does not wait for it."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._around.prepare()
        self._keeper = asyncio.get_running_loop().create_task(self._keep_in_touch(), name="engine")

    # -- what the planner is told --------------------------------------------------------------------------------------

    @property
    def state(self) -> EngineState:
        """The engine as just seen."""
        return self._around.state

    @property
    def images(self) -> dict[str, ImageState]:
        """What is known of each image that was asked for."""
        return self._images.known

    def resolve(self, image: str) -> None:
        """Find out which image a name means, and have it pulled if need be. Returns at once."""
        self._images.resolve(image)

    async def image(self, name: str) -> Image:
        """See :class:`runnersd.machine.Containers`."""
        return await self._images.get(name)

    async def failed(self) -> None:
        """See :class:`runnersd.machine.Containers`."""
        assert self._keeper is not None, "it is open"
        await asyncio.shield(self._keeper)

    def stage(self, launches: Sequence[Launch]) -> None:
        """See :class:`runnersd.machine.Containers`."""
        self._staging.want(launches)

    def claim(self, run: RunName, gpus: tuple[GpuId, ...]) -> None:
        """See :class:`runnersd.machine.Containers`."""
        self._staging.claim(run, gpus)

    # -- attempts ------------------------------------------------------------------------------------------------------

    async def launch(self, launch: Launch) -> float:
        """See :class:`runnersd.machine.Launcher`. An attempt that has a record is taken up where it was left."""
        # One that was moved away is not made anew: its place is for who puts it back, and then this begins.
        while launch.run not in self._attempts and not os.access(self._directory, os.F_OK):  # noqa: ASYNC110
            await asyncio.sleep(_AWAY)
        attempt = self._attempts.get(launch.run) or self._begin(launch)
        started = await asyncio.shield(attempt.started)
        if isinstance(started, LaunchFailed):
            raise LaunchFailed(str(started))
        return started

    async def note(self, folder: str, facts: Mapping[str, object], who: Submitter | None) -> None:
        """See :class:`runnersd.machine.ContainerLauncher`."""
        await noting.note(folder, facts, who)

    async def wait(self, run: RunName) -> Outcome:
        """See :class:`runnersd.machine.Launcher`. Without a record it is lost, and what lives of it is ended."""
        attempt = self._find(run)
        if attempt is None:
            made = self._make(run, None)
            if made is None:
                attempt = self._find(run)
            else:
                await self._discard(run)
                made.add(lost="it has no record")
                return Outcome(None, failure=Reason(Code.CONTAINER_LOST, f"cannot find {run}: it has no record"))
        assert attempt is not None, "it has a record now"
        return await asyncio.shield(attempt.over)

    async def stop(self, run: RunName, *, at_once: bool = False) -> None:
        """See :class:`runnersd.machine.Launcher`. Without a record it gets one, so that it can never start."""
        attempt = self._find(run)
        if attempt is None:
            made = self._make(run, None)
            if made is not None:
                made.add(stopped="It was stopped before it was started.")
                return
            attempt = self._find(run)
        if attempt is not None:
            attempt.stop(at_once=at_once)

    async def signal(self, run: RunName, number: int) -> None:
        """See :class:`runnersd.machine.Launcher`."""
        attempt = self._find(run)
        if attempt is not None:
            await asyncio.shield(attempt.started)
            await attempt.signal(number)

    async def forget(self, run: RunName) -> None:
        """See :class:`runnersd.machine.Launcher`. A container that cannot be removed now is at the next look.

        Raises:
            ValueError: the attempt is not over.
        """
        attempt = self._find(run)
        if attempt is not None and not attempt.over.done():
            raise ValueError(f"cannot forget {run}: it is live")
        self._attempts.pop(run, None)
        self._staging.drop(run)
        if attempt is not None and attempt.container is not None:
            self._by_container.pop(attempt.container, None)
            with contextlib.suppress(EngineError):
                await self._connection.remove(attempt.container)
        if attempt is not None:
            attempt.gate.remove()
        await self._sweep.clear(run)

    def supervisor(self, run: RunName) -> int | None:
        """See :class:`runnersd.machine.Launcher`: the container's first process, which inherits all others."""
        attempt = self._attempts.get(run)
        return attempt.pid if attempt is not None else None

    def logs(self, run: RunName) -> tuple[Path, Path]:
        """See :class:`runnersd.machine.Launcher`."""
        _, out, err = self._names(run)
        return Path(out), Path(err)

    async def close(self) -> None:
        """See :class:`runnersd.machine.Launcher`. Who still waits is cancelled."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for attempt in self._attempts.values():
            attempt.started.cancel()
            attempt.over.cancel()
        self._attempts.clear()
        self._by_container.clear()
        await self._staging.close()
        await self._images.close()
        await self._connection.close()
        self._around.close()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _names(self, run: RunName) -> tuple[str, str, str]:
        return files.names(self._directory, run.job, run.attempt)

    def _make(self, run: RunName, launch: Launch | None) -> RecordFile | None:
        path = self._names(run)[0]
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)
        first: dict[str, Any] = {"run": str(run), "boot": self._around.boot}
        if launch is not None and launch.container is not None:
            first |= {"spec": launch.container.image.id, "grace": launch.grace, "log_max": launch.log_max}
            first["gpus"] = list(launch.gpus)
        return RecordFile.make(path, **first)

    def _begin(self, launch: Launch) -> ContainerAttempt:
        try:
            made = self._make(launch.run, launch)
        except OSError as error:
            raise LaunchFailed(f"cannot write the record of {launch.run}: {error.strerror}") from error
        found = made or RecordFile.find(self._names(launch.run)[0])
        if found is None:
            raise LaunchFailed(f"cannot find the record of {launch.run}: it was removed meanwhile")
        return self._know(launch.run, found, launch, fresh=made is not None)

    def _find(self, run: RunName) -> ContainerAttempt | None:
        """The attempt as known here, else as its record tells; None when there is no record."""
        attempt = self._attempts.get(run)
        if attempt is None:
            found = RecordFile.find(self._names(run)[0])
            if found is not None:
                attempt = self._know(run, found, None, fresh=False)
        return attempt

    def _know(self, run: RunName, found: RecordFile, launch: Launch | None, *, fresh: bool) -> ContainerAttempt:
        base = self._names(run)[1].removesuffix(".out")
        attempt = self._attempts[run] = ContainerAttempt(run, found, base, self._around, launch)
        if found.said.container is not None:
            self._own(found.said.container, attempt)
        task = asyncio.get_running_loop().create_task(attempt.see_through(fresh=fresh), name=str(run))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._seen_through(attempt, done))
        return attempt

    def _seen_through(self, attempt: ContainerAttempt, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            assert error is not None
            for future in (attempt.started, attempt.over):
                if not future.done():
                    future.set_exception(error)
            self._attempts.pop(attempt.run, None)  # whoever asks again begins from its record

    def _own(self, container: str, attempt: Any) -> None:
        self._by_container[container] = attempt

    # -- the engine ----------------------------------------------------------------------------------------------------

    async def _keep_in_touch(self) -> None:
        """Connect, look at everything anew, listen; again whenever that breaks off."""
        pause, longest = _AGAIN
        while True:
            try:
                before = self._connection.engine
                engine = await self._connection.connect()
                if before is not None and before.instance != engine.instance:
                    self._images.forget()
                self._around.reached(engine)
                self._say(None)
                pause = _AGAIN[0]
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen())
                    group.create_task(self._reconcile())
            except* EngineError as errors:
                self._around.lost(str(errors.exceptions[0]))
                self._say(str(errors.exceptions[0]))
            self._staging.forget_all()
            self._wake_all()
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    def _say(self, problem: str | None) -> None:
        if problem != self._said:
            if problem is None:
                engine = self._connection.engine
                assert engine is not None
                log.info("the container engine answers: version %s, API %s", engine.version, engine.api)
            elif not self._said and self._around.state.seen:
                log.warning("the container engine does not answer: %s", problem)
            self._said = problem
        self.changed()

    async def _listen(self) -> None:
        async for container, what in events.news(self._connection, self._database):
            if not container:
                self._wake_all()  # whatever happened while nobody listened
                continue
            attempt = self._by_container.get(container)
            if attempt is not None and what == "oom":
                attempt.ran_out()
            elif attempt is not None:
                attempt.died()
        raise EngineError("the engine ended its news")

    async def _reconcile(self) -> None:
        while True:
            try:
                await self._sweep.sweep()
            except OSError as error:  # there is no thread or descriptor for it now: nothing else is to end for that
                log.warning("cannot clear away what containers left behind: %s; trying again later", error)
            for _ in range(round(RECONCILE / _KNOCK_EVERY)):
                await asyncio.sleep(_KNOCK_EVERY)
                await self._connection.instance()
            self._wake_all()

    def _wake_all(self) -> None:
        for attempt in self._attempts.values():
            attempt.wake()

    async def _discard(self, run: RunName) -> None:
        """End and remove what is there under an attempt's name, as soon as the engine can be asked."""
        pause, longest = _AGAIN
        while True:
            try:
                seen = await self._connection.inspect(body.name_of(run))
                if not body.is_that(seen, run):
                    return
                await kernel.end(str(seen["Id"]))
                await self._connection.remove(str(seen["Id"]), force=True)
            except NotFound:
                return
            except EngineError as error:
                log.warning("job %d: %s; looking again", run.job, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, longest)


def _nothing() -> None:
    """Nobody wants to know yet."""
