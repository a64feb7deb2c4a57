"""One attempt's supervisor: forked by the spawner, nothing above it but init, alive until nothing of the attempt is.

It takes the attempt's name (the record), runs it, copies its output into the logs, passes signals on, kills what is
asked or left behind, and writes down how it ended. It ends only when the kernel says that it has no children left:
being a subreaper, it inherits every process of the attempt whose own parent is gone, whatever its group and session.

Signals it takes: SIGTERM stops the attempt (SIGTERM to all of it, SIGKILL after its grace); `AT_ONCE` stops it with
SIGKILL; `pass_on(n)`, and the usual ones themselves, go to its process group.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import time

from . import order as orders
from . import processes, record
from .output import CHUNK, Stream
from .starting import EVERY, LaunchError, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import NoReturn

AT_ONCE = signal.SIGRTMIN
#: Signals 1 to this may be passed on.
PASSED = 30

_DIRECT = (
    signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH,
    signal.SIGTSTP,
)  # fmt: skip
_FORWARD = {int(number): int(number) for number in _DIRECT}
_FORWARD |= {signal.SIGRTMIN + number: number for number in range(1, PASSED + 1)}
_KILL_AGAIN = (0.01, 1.0)  # seconds between looks for what still lives: the first, the longest
_PR_SET_CHILD_SUBREAPER = 36
#: The C library keeps these for itself: its posix_spawn leaves them ignored, and its sigaction refuses them.
_INTERNAL = (32, 33)
_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "riscv64": 134}

_libc = ctypes.CDLL(None, use_errno=True)
_prctl = _libc.prctl
_boot = processes.boot_id()


def pass_on(number: int) -> int:
    """The signal that makes a supervisor send ``number`` (1 to `PASSED`) to its attempt's process group."""
    return int(signal.SIGRTMIN) + number


def prepare() -> None:
    """What a supervisor inherits, done once in the process that forks them: handlers, and every signal blocked."""
    signal.pthread_sigmask(signal.SIG_SETMASK, EVERY)
    for number in (signal.SIGCHLD, signal.SIGTERM, AT_ONCE, *_FORWARD):
        signal.signal(number, _note)
    _reset_internal_signals()
    os.umask(0o077)


def supervise(order: orders.Order, channel: socket.socket | None, fence: int | None) -> NoReturn:
    """Be the supervisor of an attempt; never returns. To be called in a process just forked.

    ``channel`` is told once that it has started, or why not. ``fence`` is a lock of the spawner's that is let go
    when the attempt's name is taken, so that a later daemon can wait for launches that an earlier one left in flight.
    """
    code = 1
    try:
        code = Supervisor(order, channel, fence).run()
    finally:
        os._exit(code)


class Supervisor:
    """Runs one attempt. ``main`` is its first process, until that has been waited for."""

    def __init__(self, order: orders.Order, channel: socket.socket | None, fence: int | None) -> None:
        self.order = order
        self.channel = channel
        self.fence = fence
        self.record = -1
        self.main: int | None = None
        self.status: int | None = None
        self.peak = 0
        self.streams: list[Stream] = []
        self.stopping = False
        self.told = False  # to stop, while the first process ran
        self.deadline: float | None = None  # when what lives is killed, on the monotonic clock
        self.pause = _KILL_AGAIN[0]

    def run(self) -> int:
        """From taking the name to the record's last line. Returns the exit status of the supervisor."""
        os.setsid()
        _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.wake, wake = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        try:
            taken = self._take_name()
        except OSError as error:  # a full disk
            self._tell("failed", self.order.run, f"cannot write {self.order.record}: {error.strerror}")
            return 0
        if not taken:
            self._tell("exists", self.order.run)
            return 0
        try:
            try:
                self._start()
            except LaunchError as error:
                why = str(error)[: record.REASON_LIMIT]
                self._write(record.line(failed=why))
                self._tell("failed", self.order.run, why)
                return 0
            self._watch()
            self._finish()
        except Exception as error:
            self._write(record.line(broken=f"{type(error).__name__}: {error}"[: record.REASON_LIMIT]))
            raise
        return 0

    # ------------------------------------------------------------------------------------------------ starting

    def _take_name(self) -> bool:
        fd = record.create(self.order.record)
        if fd is not None:
            self.record = fd
            me = processes.look("self")
            assert me is not None
            self.pid, self.start = me.pid, me.start
            first = record.taken(self.order.run, _boot, me.pid, me.start, self.order.grace)
            # Not yet on the disk for good: only a power loss takes it back, and after one every live attempt is over.
            record.append(fd, first)
        if self.fence is not None:
            os.close(self.fence)
        return fd is not None

    def _start(self) -> None:
        out, out_end = os.pipe()
        err, err_end = os.pipe()
        started = time.time()
        try:
            self.main = start(self.order, out_end, err_end)
        finally:
            os.close(out_end)
            os.close(err_end)
        for source, path in ((out, self.order.out), (err, self.order.err)):
            self.streams.append(Stream(source, path, self.order.log_max))
        main = processes.look(self.main)
        assert main is not None  # it is our child, and not yet waited for
        self._append(record.begun(started, self.main, main.start))
        self._tell("started", self.order.run, started, self.pid)

    def _tell(self, *message: object) -> None:
        if self.channel is None:
            return
        me = [os.pidfd_open(self.pid)] if message[0] == "started" else []
        try:
            orders.send(self.channel, message, me)
        except OSError as error:  # the daemon is gone; the next one reads the record
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN):
                raise
        for fd in me:
            os.close(fd)
        self.channel.close()
        self.channel = None

    # ------------------------------------------------------------------------------------------------ watching

    def _watch(self) -> None:
        """Until there is no process left."""
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        for stream in self.streams:
            poll.register(stream.source, select.POLLIN)
        by_fd = {stream.source: stream for stream in self.streams}
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while self._collect():
            if self.main is None and not self.stopping:  # what it left behind does not outlive it
                self._stop(self.order.grace)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._kill(signal.SIGKILL)
                self.deadline = time.monotonic() + self.pause
                self.pause = min(self.pause * 2, _KILL_AGAIN[1])
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic()) * 1000
            for fd, _ in poll.poll(left):
                if fd == self.wake:
                    for number in os.read(fd, CHUNK):
                        self._take(number)
                elif not by_fd[fd].copy(8 * CHUNK):
                    poll.unregister(fd)

    def _collect(self) -> bool:
        """Wait for every child that is dead. Whether any is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self.peak = max(self.peak, usage.ru_maxrss * 1024)
            if pid == self.main:
                self.main, self.status = None, status

    def _take(self, number: int) -> None:
        if number in (signal.SIGTERM, AT_ONCE):
            self.told = self.told or self.main is not None
        if number == signal.SIGTERM:
            if not self.stopping:
                self._stop(self.order.grace)
        elif number == AT_ONCE:
            self._stop(0.0)
        elif number in _FORWARD and self.main is not None:
            _to_group(self.main, _FORWARD[number])

    def _stop(self, grace: float) -> None:
        self.stopping = True
        self.deadline = time.monotonic() + grace
        if grace > 0:
            self._kill(signal.SIGTERM)
            self._kill(signal.SIGCONT)  # a stopped process would not notice

    def _kill(self, number: int) -> None:
        """Signal all of the attempt, each process once."""
        main = self.main
        if main is not None:  # not yet waited for, so its group is nobody else's
            _to_group(main, number)
        for process in processes.descendants(self.pid):
            if process.dead or process.group == main:
                continue
            if processes.send(process, number) and number == signal.SIGKILL and process.group != self.pid:
                _to_group(process.group, number)  # a group dies at once, however fast it forks

    # ------------------------------------------------------------------------------------------------ ending

    def _finish(self) -> None:
        assert self.status is not None
        for stream in self.streams:
            stream.finish()
        truncated = self.streams[0].truncated or self.streams[1].truncated
        code = os.waitstatus_to_exitcode(self.status)
        self._write(record.ended(code, time.time(), self.peak, truncated, self.told))

    def _append(self, data: bytes) -> None:
        try:
            os.write(self.record, data)
        except OSError:
            return  # it runs already; without this line a reader knows less, and nothing wrong

    def _write(self, data: bytes) -> None:
        """Write the line that matters, however long the disk is full: the attempt is not over before it."""
        pause = 0.05
        while True:
            try:
                record.write(self.record, b"\n" + data)  # the newline ends what an earlier try may have torn
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 1.0)


def _reset_internal_signals() -> None:
    """Jobs must not inherit as ignored what the C library of whoever started the daemon left so."""
    call = _RT_SIGACTION.get(os.uname().machine)
    default = (ctypes.c_ulong * 8)()  # the kernel's sigaction: SIG_DFL, no flags, an empty mask
    if call is not None:
        for number in _INTERNAL:
            _libc.syscall(call, number, default, None, 8)


def _note(number: int, frame: object) -> None:
    """A signal came: its number is in the wake-up pipe."""


def _to_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or all of it changed its user
