"""This daemon's supervisors: the idle ones that take the next order, and the spawner that makes more of them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from runnersd.machine import Cards
from runnersd.machine.host import order as orders
from runnersd.machine.host.attempt import Attempt
from runnersd.machine.host.channel import Channel, Message
from runnersd.machine.host.connection import Connection
from runnersd.machine.host.starting import PASSING

#: So many idle supervisors are kept, each for so many seconds.
KEPT, KEPT_FOR = 16, 10.0
#: So many attempts one supervisor has: whatever little it does not give back does not add up.
ATTEMPTS = 200
_NO_ROOM = 1.0  # seconds before orders that there was no room for are given again
_RESTART = (0.1, 5.0)  # seconds before a spawner that cannot be started is tried again: the first, the longest

log = logging.getLogger(__name__)


class Supervisors:
    """Has attempts run.

    ``lock`` is the path of the spawner's lock. ``heard`` gets what a supervisor says of its attempt, ``lost`` the
    attempt whose supervisor is gone without having said that it is over.
    """

    def __init__(
        self,
        lock: str,
        cards: Cards | None,
        heard: Callable[[Attempt, Message], None],
        lost: Callable[[Attempt], None],
    ) -> None:
        self._lock, self._cards, self._heard, self._lost = lock, cards, heard, lost
        self._spawner: Connection | None = None
        self._lines: set[_Line] = set()
        self._idle: list[_Line] = []
        self._ageing: asyncio.TimerHandle | None = None
        self._waiting: list[Attempt] = []
        self._again: asyncio.TimerHandle | None = None
        self._crowded = False  #: it has been said that there is no room
        self._restart: asyncio.Task[None] | None = None

    @property
    def spawner(self) -> int | None:
        """The pid of the spawner, when there is one."""
        return self._spawner.pid if self._spawner is not None else None

    async def open(self) -> None:
        """Start the spawner.

        Raises:
            OSError: it could not be started.
        """
        connection = Connection(self._lock, self._spawner_died)
        try:
            await connection.start()
        except BaseException:
            connection.close()
            raise
        self._spawner = connection
        self._run_waiting()

    async def close(self) -> None:
        """Hang up. Idle supervisors end, the others when their attempts are over."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        if self._ageing is not None:
            self._ageing.cancel()
        if self._again is not None:
            self._again.cancel()
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        for line in self._lines:
            line.channel.close()
        self._lines.clear()
        self._idle.clear()

    def run(self, attempt: Attempt) -> None:
        """Hand the attempt's order to a supervisor, as soon as there is a spawner, and room for one more process."""
        spawner = self._spawner
        if spawner is None:
            self._waiting.append(attempt)
            return
        try:
            self._hand_over(attempt, spawner)
        except OSError as error:
            self._cannot(attempt, error)
            return
        if attempt.stop:
            attempt.pass_stop()

    def _hand_over(self, attempt: Attempt, spawner: Connection) -> None:
        assert attempt.order is not None
        locks = self._cards.descriptors(attempt.cards) if self._cards is not None else []
        payload, memory = orders.packed(attempt.order)
        try:
            line, end = (self._idle.pop(), []) if self._idle else self._new_line()
        except OSError:
            for fd in memory:
                os.close(fd)
            raise
        line.take(attempt, large=payload is None)

        def refused(error: OSError) -> None:
            line.let_go()
            self._hang_up(line)
            self._cannot(attempt, error)

        if end:
            spawner.fork(payload, [*end, *memory, *locks], [*end, *memory], refused)
        else:
            line.channel.post(("run", payload), [spawner.fence, *memory, *locks], memory, refused)

    def _cannot(self, attempt: Attempt, error: OSError) -> None:
        if error.errno in PASSING:
            self._run_later(attempt, str(error.strerror))
        else:
            self._heard(attempt, ("failed", f"cannot hand it to a supervisor: {error.strerror}"))

    def _run_later(self, attempt: Attempt, why: str) -> None:
        """There is no room for it now. Were it to fail for that, so would all that are queued, one after the other."""
        if attempt.stop:
            self._heard(attempt, ("failed", f"cannot hand it to a supervisor: {why}"))
            return
        self._waiting.append(attempt)
        if not self._crowded:
            self._crowded = True
            log.warning("no host job can start now: %s; they wait", why)
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(_NO_ROOM, self._run_again)

    def _run_again(self) -> None:
        self._again = None
        if self._spawner is not None:
            self._run_waiting()

    def _run_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for attempt in waiting:
            self.run(attempt)

    def _new_line(self) -> tuple[_Line, list[int]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        line = _Line(self, ours)
        self._lines.add(line)
        return line, [theirs.detach()]

    # ------------------------------------------------------------------------------------------------ lines

    def hear(self, line: _Line, message: Message) -> None:
        """A supervisor says something of its attempt; unless that has just started, it is idle from now on."""
        attempt = line.attempt
        assert attempt is not None
        if message[0] == "crowded":
            line.let_go()
            self._hang_up(line)
            self._run_later(attempt, message[1])
            return
        if message[0] == "started":
            self._crowded = False
        else:
            line.let_go()
            self._keep(line)
        self._heard(attempt, message)

    def miss(self, line: _Line) -> None:
        """A supervisor is gone."""
        self._lines.discard(line)
        if line in self._idle:
            self._idle.remove(line)
        if line.attempt is not None:
            attempt = line.let_go()
            self._lost(attempt)

    def _keep(self, line: _Line) -> None:
        if line.left <= 0 or len(self._idle) >= KEPT:
            self._hang_up(line)
            return
        loop = asyncio.get_running_loop()
        line.idle_since = loop.time()
        self._idle.append(line)
        if self._ageing is None:
            self._ageing = loop.call_later(KEPT_FOR, self._age)

    def _age(self) -> None:
        """Let those go that have been idle for long: the last to become idle is the first that is used again."""
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[0].idle_since + KEPT_FOR <= loop.time():
            self._hang_up(self._idle.pop(0))
        self._ageing = loop.call_at(self._idle[0].idle_since + KEPT_FOR, self._age) if self._idle else None

    def _hang_up(self, line: _Line) -> None:
        self._lines.discard(line)
        line.channel.close()

    # ------------------------------------------------------------------------------------------------ the spawner

    def _spawner_died(self) -> None:
        former, self._spawner = self._spawner, None
        if former is not None:  # it had been ready
            log.warning("the spawner of host jobs (pid %s) died: starting another", former.pid)
            self._restart = asyncio.get_running_loop().create_task(self._reopen())

    async def _reopen(self) -> None:
        pause, longest = _RESTART
        while True:
            try:
                return await self.open()
            except OSError as error:
                log.error("%s; no host job can start; trying again", error)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)


class _Line:
    """To one supervisor. ``left``: how many attempts it may still have."""

    def __init__(self, supervisors: Supervisors, end: socket.socket) -> None:
        self._supervisors = supervisors
        self.channel = Channel(end, self._heard, self._gone, orders.listen)
        self.attempt: Attempt | None = None
        self.left = ATTEMPTS
        self.idle_since = 0.0

    def take(self, attempt: Attempt, *, large: bool) -> None:
        """It has this attempt now. A large order is the last one: the memory that it took would count as its job's."""
        self.attempt = attempt
        attempt.tell = self.channel.post
        self.left = 0 if large else self.left - 1

    def let_go(self) -> Attempt:
        """It has none now; the one that it had."""
        attempt = self.attempt
        assert attempt is not None
        attempt.tell = None
        self.attempt = None
        return attempt

    def _heard(self, message: Message, descriptors: list[int]) -> None:
        self._supervisors.hear(self, message)

    def _gone(self) -> None:
        self._supervisors.miss(self)
