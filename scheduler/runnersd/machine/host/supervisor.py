"""A supervisor: forked by the spawner, nothing above it but init, alive until nothing of its attempt is.

It has one attempt at a time (`watch`). When that is over, it is idle: it waits for the daemon to order another one, and
ends as soon as that daemon is gone or hangs up. So a daemon that did not start an attempt can rely on this: its
supervisor's daemon is gone, and the process with the record's pid and start has this attempt, or ends.

What is asked of an attempt comes on the line from the daemon and names the attempt, for it may come late. A daemon that
has no line, for an earlier one started the attempt, sends signals: SIGTERM stops it, `AT_ONCE` stops it with SIGKILL,
and `pass_on(n)`, and the usual ones themselves, go to its process group. An idle supervisor ends when it is told to
stop, and takes no notice of others.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import time

from . import order as orders
from . import processes
from .output import CHUNK
from .starting import EVERY
from .watch import AT_ONCE, FORWARD, Watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_NAME = b"runners-job"
_ENDING = frozenset((int(signal.SIGTERM), int(AT_ONCE)))  # an idle supervisor
#: Seconds in which the daemon usually has an attempt's end on the disk, and removes its record. After these, or at once
#: when the daemon is gone, the record itself is brought to the disk; if that fails, again after so many.
_SAVE, _SAVE_AGAIN, _EVER = 0.1, 1.0, float("inf")
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
#: The C library keeps these for itself: its posix_spawn leaves them ignored, and its sigaction refuses them.
_INTERNAL = (32, 33)
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl


def prepare() -> None:
    """What a supervisor inherits, done once in the process that forks them: handlers, and every signal blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, EVERY)
    for number in (signal.SIGTERM, AT_ONCE, *FORWARD):
        signal.signal(number, _note)
    _reset_internal_signals()
    os.umask(0o077)


def supervise(line: int, order: orders.Order, locks: list[int], fence: int | None) -> NoReturn:
    """Be a supervisor, from this attempt on; never returns. To be called in a process just forked.

    ``line`` is its end of a socket pair, the other is the daemon's. ``locks`` are held while the attempt lives.
    ``fence`` is a lock of the spawner's that is let go when the attempt's name is taken, so that a later daemon can
    wait for launches that an earlier one left in flight.
    """
    code = 1
    try:
        Supervisor(line).serve(order, locks, fence)
        code = 0
    finally:
        os._exit(code)


class Supervisor:
    """This process: ``pid`` and ``start`` are its own, ``wake`` gets the numbers of signals.

    ``line`` leads to the daemon; it is None once that is gone, and then no other daemon ever orders anything here.
    """

    def __init__(self, line: int) -> None:
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        _prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
        self.line: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, line)
        me = processes.look("self")
        assert me is not None
        self.pid, self.start = me.pid, me.start
        self.wake, wake = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, _note)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._unsaved: list[tuple[float, Watch]] = []  # when each one's record is to be on the disk

    def serve(self, order: orders.Order, locks: list[int], fence: int | None) -> None:
        """Run this attempt and every other that is ordered, until the daemon is gone."""
        while True:
            watch = Watch(order, self)
            last = watch.run(fence)
            for fd in locks:
                os.close(fd)
            self._unsaved.append((time.monotonic() + _SAVE, watch))
            self.tell(*last)
            received = self._idle()
            if received is None:
                break
            payload, (fence, *others) = received
            order, locks = orders.taken(payload, others)
        self._save(_EVER)
        while self._unsaved:
            time.sleep(_SAVE_AGAIN)
            self._save(_EVER)

    def retire(self) -> None:
        """Take no other order: a child that cannot be killed would be taken for one of the next attempt's."""
        self._hang_up()

    def patience(self, deadline: float | None = None) -> float | None:
        """Milliseconds to wait for something to happen, until this deadline (on the monotonic clock) at the longest."""
        self._save(time.monotonic())
        if self._unsaved:
            deadline = min(self._unsaved[0][0], _EVER if deadline is None else deadline)
        return None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000

    def tell(self, *message: object) -> None:
        """Tell the daemon, if it is there; the next one reads the record."""
        if self.line is not None and not orders.tell(self.line, message):
            self._hang_up()

    def hear(self) -> tuple[tuple[Any, ...], list[int]] | None:
        """What the daemon says, once there is something to read; None when it is gone."""
        while self.line is not None:
            try:
                received = orders.receive(self.line)
            except ConnectionResetError:  # it is gone and has not read what it was told; what it sent is still there
                continue
            if received is not None:
                return received
            self._hang_up()
        return None

    def signals(self) -> bytes:
        """The numbers of the signals that came since last asked."""
        try:
            return os.read(self.wake, CHUNK)
        except BlockingIOError:
            return b""

    def _idle(self) -> tuple[bytes | None, list[int]] | None:
        """Wait for an order, and what came with it; None when there will be none. Every signal is blocked again then.

        What came before that is not for the next attempt.
        """
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        if self.line is not None:
            poll.register(self.line, select.POLLIN)
        while self.line is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            ready = [fd for fd, _ in poll.poll(self.patience())]
            signal.pthread_sigmask(signal.SIG_SETMASK, EVERY)
            if not _ENDING.isdisjoint(self.signals()):
                return None
            received = self.hear() if self.line.fileno() in ready else None
            if received is not None and received[0][0] == "run":  # nothing else is meant for who is idle
                (_, payload), descriptors = received
                return (payload, descriptors) if descriptors else None  # no room for them: the daemon tries again
        return None

    def _hang_up(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None
            self._save(_EVER)

    def _save(self, now: float) -> None:
        """Bring to the disk what is due by then (on the monotonic clock)."""
        later = []
        while self._unsaved and self._unsaved[0][0] <= now:
            _, watch = self._unsaved.pop(0)
            if not watch.save():
                later.append((time.monotonic() + _SAVE_AGAIN, watch))
        self._unsaved += later


def _reset_internal_signals() -> None:
    """Jobs must not inherit as ignored what the C library of whoever started the daemon left so."""
    call = _RT_SIGACTION.get(os.uname().machine)
    default = (ctypes.c_ulong * 8)()  # the kernel's sigaction: SIG_DFL, no flags, an empty mask
    if call is not None:
        for number in _INTERNAL:
            _libc.syscall(call, number, default, None, 8)


def _note(number: int, frame: object) -> None:
    """A signal came: its number is in the wake-up pipe."""
