"""One attempt, as its supervisor sees it through.

It takes the attempt's name (the record), runs it, copies its output into the logs, passes signals on, kills what is
asked or left behind, and writes down how it ended. It is over only when the kernel says that there are no children
left: its supervisor is a subreaper, so it inherits every process of the attempt whose own parent is gone, whatever its
group and session.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from . import order as orders
from . import processes, record
from .output import CHUNK, Stream
from .starting import LaunchError, start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .supervisor import Supervisor

AT_ONCE = signal.SIGRTMIN
#: Signals 1 to this may be passed on.
PASSED = 30

_DIRECT = (
    signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH,
    signal.SIGTSTP,
)  # fmt: skip
#: What goes to the attempt's process group when it comes to the supervisor.
FORWARD = {int(number): int(number) for number in _DIRECT}
FORWARD |= {signal.SIGRTMIN + number: number for number in range(1, PASSED + 1)}
#: Seconds between tries to start where there is no room for another process, and for which it is tried.
_TRY_AGAIN, _TRY_FOR = 0.1, 60.0
_KILL_AGAIN = (0.01, 1.0)  # seconds between looks for what still lives: the first, the longest

_boot = processes.boot_id()


def pass_on(number: int) -> int:
    """The signal that makes a supervisor send ``number`` (1 to `PASSED`) to its attempt's process group."""
    return int(signal.SIGRTMIN) + number


class Watch:
    """Runs one attempt. ``main`` is its first process, until that has been waited for."""

    def __init__(self, order: orders.Order, supervisor: Supervisor) -> None:
        self.order = order
        self.supervisor = supervisor
        self.record = -1
        self.last = b""  # its last line
        self.unsaved = False  # that could not be had on the disk
        self.main: int | None = None
        self.status: int | None = None
        self.peak = 0
        self.streams: list[Stream] = []
        self.stopping = False
        self.told = False  # to stop, while the first process ran
        self.deadline: float | None = None  # when what lives is killed, on the monotonic clock
        self.pause = _KILL_AGAIN[0]

    def run(self, fence: int | None) -> tuple[object, ...]:
        """From taking the name to the record's last line. What to tell the daemon of it; `save` comes after that.

        Every signal must be blocked; those that wait are for this attempt.
        """
        try:
            taken = self._take_name()
        except OSError as error:  # a full disk
            self._let_go()
            return "failed", f"cannot write {self.order.record}: {error.strerror}"
        finally:
            if fence is not None:
                os.close(fence)
        if not taken:
            return ("exists",)
        try:
            self._note("started")
            try:
                self._start()
            except LaunchError as error:
                why = str(error)[: record.REASON_LIMIT]
                self._write(record.line(failed=why))
                self._note("ended", failed=why)
                return "failed", why
            self._watch()
            return self._finish()
        except Exception as error:
            self._write(record.line(broken=f"{type(error).__name__}: {error}"[: record.REASON_LIMIT]))
            self.save()
            raise
        finally:
            for stream in self.streams:
                stream.close()

    def save(self) -> bool:
        """Have the record's last line on the disk. False when that does not work now.

        A record that the daemon has removed is not needed: the daemon has the end on the disk in its own way.
        """
        if self.record < 0:
            return True
        try:
            if os.fstat(self.record).st_nlink > 0:
                if self.unsaved:
                    record.append(self.record, self.last)
                os.fsync(self.record)
        except OSError:
            self.unsaved = True
            return False
        self._let_go()
        return True

    # ------------------------------------------------------------------------------------------------ starting

    def _take_name(self) -> bool:
        me, there = self.supervisor, False
        while True:
            try:
                fd = record.create(self.order.record)
                break
            except FileNotFoundError:
                if there:
                    raise
                # The state directory was moved away: it starts once that is back, if its daemon is still there then.
                there = os.access(self.order.record.rsplit("/", 3)[0], os.F_OK)
                if not there and (self._called_off() or me.line is None):
                    raise
        if fd is None:
            return False
        self.record = fd
        first = record.taken(self.order.run, _boot, me.pid, me.start, self.order.grace)
        # Not yet on the disk for good: only a power loss takes it back, and after one every live attempt is over.
        record.append(fd, first)
        return True

    def _start(self) -> None:
        ends = []
        try:
            for path in (self.order.out, self.order.err):
                source, end = os.pipe()
                ends.append(end)
                self.streams.append(Stream(source, path, self.order.log_max))
            started, self.main, unconfined = self._begin(*ends)
        finally:
            for end in ends:
                os.close(end)
        main = processes.look(self.main)
        assert main is not None  # it is our child, and not yet waited for
        self._append(record.begun(started, self.main, main.start))
        self.supervisor.tell("started", started, self.supervisor.pid, unconfined)

    def _begin(self, out: int, err: int) -> tuple[float, int, str | None]:
        """Start its first process: since when (Unix seconds) it runs, and what `start` returns. Where there is no room
        for one, there may be soon.
        """
        patience = time.monotonic() + _TRY_FOR
        while True:
            started = time.time()  # what it waited before is none of its time
            try:
                return started, *start(self.order, out, err)
            except LaunchError as error:
                if not error.passing or time.monotonic() > patience or self._called_off():
                    raise

    def _called_off(self) -> bool:
        """Whether it is to end before it has started, after a while."""
        line = self.supervisor.line
        if line is None:
            time.sleep(_TRY_AGAIN)
        elif select.select([line], [], [], _TRY_AGAIN)[0]:
            self._heard()
        return self.stopping or not signal.sigpending().isdisjoint((signal.SIGTERM, AT_ONCE))

    # ------------------------------------------------------------------------------------------------ watching

    def _watch(self) -> None:
        """Until there is no process left."""
        poll = select.poll()
        wake = self.supervisor.wake
        line = self.supervisor.line.fileno() if self.supervisor.line is not None else None
        by_fd = {stream.source: stream for stream in self.streams}
        for fd in (wake, line, *by_fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        while self._collect():
            if self.main is None and not self.stopping:  # what it left behind does not outlive it
                self._stop(self.order.grace)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self._kill(signal.SIGKILL)
                self.deadline = time.monotonic() + self.pause
                self.pause = min(self.pause * 2, _KILL_AGAIN[1])
            for fd, _ in poll.poll(self.supervisor.patience(self.deadline)):
                if fd == wake:
                    for number in self.supervisor.signals():
                        self._take(number)
                elif fd == line:
                    if not self._heard():
                        poll.unregister(fd)
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
        if number == signal.SIGTERM:
            self._ask_to_end()
        elif number == AT_ONCE:
            self._end_now()
        elif number in FORWARD:
            self._pass_on(FORWARD[number])

    def _heard(self) -> bool:
        """Do what the daemon asks of this attempt; False when the daemon is gone."""
        received = self.supervisor.hear()
        if received is None:
            return False
        what, run, how = received[0]
        if run != self.order.run:  # it was over before that came
            return True
        if what == "signal":
            self._pass_on(how)
        elif how:
            self._end_now()
        else:
            self._ask_to_end()
        return True

    def _pass_on(self, number: int) -> None:
        if self.main is not None:
            _to_group(self.main, number)

    def _ask_to_end(self) -> None:
        self.told = self.told or self.main is not None
        if not self.stopping:
            self._stop(self.order.grace)

    def _end_now(self) -> None:
        self.told = self.told or self.main is not None
        self._stop(0.0)

    def _stop(self, grace: float) -> None:
        self.stopping = True
        self.deadline = time.monotonic() + grace
        if grace > 0:
            self._kill(signal.SIGTERM)
            self._kill(signal.SIGCONT)  # a stopped process would not notice

    def _kill(self, number: int) -> None:
        """Signal all of the attempt, each process once."""
        main, ours = self.main, self.supervisor.pid
        if main is not None:  # not yet waited for, so its group is nobody else's
            _to_group(main, number)
        for process in processes.descendants(ours):
            if process.dead or process.group == main:
                continue
            if processes.send(process, number) and number == signal.SIGKILL and process.group != ours:
                _to_group(process.group, number)  # a group dies at once, however fast it forks

    # ------------------------------------------------------------------------------------------------ ending

    def _finish(self) -> tuple[object, ...]:
        assert self.status is not None
        for stream in self.streams:
            stream.finish()
        truncated = self.streams[0].truncated or self.streams[1].truncated
        code, finished = os.waitstatus_to_exitcode(self.status), time.time()
        self._write(record.ended(code, finished, self.peak, truncated, self.told))
        end = {"exit_code": code} if code >= 0 else {"signal": -code}
        self._note("ended", **end, peak_memory=self.peak)
        return "over", code, finished, self.peak, truncated, self.told

    def _note(self, event: str, **facts: object) -> None:
        """Tell the experiment, if there is one."""
        if self.order.experiment is None:
            return
        from . import noting

        if not noting.note(self.order, event, facts):
            self.supervisor.retire()

    def _append(self, data: bytes) -> None:
        try:
            os.write(self.record, data)
        except OSError:
            return  # it runs already; without this line a reader knows less, and nothing wrong

    def _write(self, data: bytes) -> None:
        """Write the line that matters, however long the disk is full: the attempt is not over before it."""
        self.last = b"\n" + data  # the newline ends what an earlier try may have torn
        pause = 0.05
        while True:
            try:
                record.append(self.record, self.last)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 1.0)

    def _let_go(self) -> None:
        if self.record >= 0:
            os.close(self.record)
            self.record = -1


def _to_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or all of it changed its user
