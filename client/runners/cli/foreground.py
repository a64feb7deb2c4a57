"""Staying with one job in the foreground: its output is ours, our signals are its, its exit code is ours."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

from runners.api import LIVE, SETTLED, WAITING, JobView
from runners.client import Client
from runners.errors import IllegalTransition, InvalidPipeline, InvalidRequest, NotFound, RunnersError
from runners.events import EventStream
from runners.following import subscribe
from runners.render import words as said
from runners.render.terminal import redraws

from .main import complain
from .sentences import change
from .streams import Stream, job_of, streams_of

#: What a job that did not start is shown by.
NOT_STARTED = 125
#: Sent on to a running job; the first also takes a queued one back.
_PASSED_ON = (signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
#: Ours to end by: the job is cancelled, and its end waited for.
_ENDS = (signal.SIGTERM, signal.SIGHUP)

#: Is shown a job that waits; takes it back and raises an error of `runners.errors` when it is not to wait any longer.
Refuse = Callable[[JobView], None]


def stay(client: Client, id: int, signals: Signals) -> int:
    """Stay with a job to its end, and return its exit code; 125 when it never started. What fails is said here."""
    job = Foreground(client, id, signals)
    try:
        return job.stay()
    except RunnersError as error:
        complain(error)
        return error.exit if job.started else NOT_STARTED
    except KeyboardInterrupt:
        sys.stderr.write(f"\nrunners-client: left while the daemon does not answer; `runners-client show {id}`\n")
        return 130


def of_one_job(error: RunnersError) -> RunnersError:
    """What is wrong with the only job there is, in a line each, without its place among others."""
    if not isinstance(error, InvalidPipeline) or not error.problems:
        return error
    said = (f"{one.path.removeprefix('jobs[0].')}: {one.message}" for one in error.problems)
    return InvalidRequest("cannot run: " + "\n".join(said))


class Foreground:
    """Stays with one job: its events, its streams and our signals, in one poll."""

    def __init__(self, client: Client, id: int, signals: Signals, refuse: Refuse | None = None) -> None:
        """With ``refuse`` a job that waits is looked at once a second, and shown to it."""
        self._client, self._id, self._wakes, self._refuse = client, id, signals.descriptor, refuse
        signals.taken()
        self._streams = streams_of(client, id)
        self._opened = 0  # the attempt whose output is being copied
        self._interrupts = 0
        self._ended_by: int | None = None  # the signal that made us take the job back
        self._noted = False

    @property
    def started(self) -> bool:
        """Whether any of its output has been copied."""
        return self._opened > 0

    def stay(self) -> int:
        """Until it is over; its exit code.

        Raises:
            RunnersError: the daemon went away, or ``refuse`` did not let the job wait.
            BrokenPipeError: whoever read its output has gone; the job is cancelled.
            KeyboardInterrupt: Ctrl-C again and again, with no answer from the daemon.
        """
        try:
            while True:
                with subscribe(self._client, job=self._id) as events:
                    # Subscribed first, looked second: nothing happens unseen between the two.
                    view: JobView = job_of(self._client, self._id)
                    self._resume(view)
                    view = self._with(events, view)
                    if view["state"] in SETTLED:
                        return self._end(view)
        except BrokenPipeError:
            # A shell would let the job die of SIGPIPE.
            with contextlib.suppress(RunnersError):
                self._client.cancel(self._id)
            raise
        finally:
            self._note("")
            for stream in self._streams:
                stream.close()

    def _with(self, events: EventStream, view: JobView) -> JobView:
        """As long as the events come; returns at the job's end, or when the daemon hung up."""
        self._follow(view)
        while view["state"] not in SETTLED and not events.ended:
            waiting = view["state"] in WAITING and (self._refuse is not None or redraws(sys.stderr))
            if waiting:
                if self._refuse is not None:
                    self._refuse(view)
                self._note(f"job {self._id} is {view['state']}: {said.clean(view['reason']['text'])}")
            polled: list[int | EventStream | Stream] = [
                self._wakes,
                events,
                *(one for one in self._streams if one.open),
            ]
            ready = select.select(polled, [], [], 1.0 if waiting else None)[0]
            if self._wakes in ready:
                for number in os.read(self._wakes, 64):
                    self._pass_on(number, view)
            for stream in self._streams:
                if stream in ready:
                    stream.receive()
            if events in ready:
                for event in events.read(0):
                    if event.data.get("id") == self._id:
                        view = cast("JobView", event.data)
                        self._follow(view)
            elif waiting and not ready:
                view = job_of(self._client, self._id)  # the reason it waits for changes without an event
        return view

    def _follow(self, view: JobView) -> None:
        """Copy the output of a new attempt once it runs."""
        if view["state"] in LIVE and view["started_at"] is not None and view["attempt"] != self._opened:
            self._note("")
            for stream in self._streams:
                stream.rest()
                stream.begin(view["attempt"], follow=True)
            self._opened = view["attempt"]

    def _resume(self, view: JobView) -> None:
        """After a restart of the daemon, go on with the streams it had cut, or ended before the job was over."""
        if self._opened and view["attempt"] == self._opened and view["state"] in LIVE:
            for stream in self._streams:
                if not stream.open:
                    stream.begin(self._opened, follow=True)

    def _end(self, view: JobView) -> int:
        """Copy what is left, say what the exit code does not, and return that."""
        self._note("")
        if view["started_at"] is not None:
            for stream in self._streams:
                stream.rest()
                if not stream.whole or self._opened != view["attempt"]:
                    stream.begin(view["attempt"], follow=False)
                    stream.rest()
        sys.stdout.flush()
        if self._ended_by is not None and view["started_at"] is None:
            return 128 + self._ended_by
        if view["started_at"] is None or view["reason"]["code"] == "launch_failed":
            sys.stderr.write(f"runners-client: cannot run: job {change(view, 0.0)}\n")
            return NOT_STARTED
        if view["reason"]["code"] not in ("ok", "exit_code", "signal"):
            sys.stderr.write(f"runners-client: job {self._id}: {said.clean(view['reason']['text'])}\n")
        code = view["exit_code"]
        return code if code is not None else 1

    def _pass_on(self, number: int, view: JobView) -> None:
        """A signal of ours becomes one of the job's."""
        try:
            if number in _ENDS or (view["state"] in WAITING and number in (signal.SIGINT, signal.SIGQUIT)):
                self._ended_by = number
                self._client.cancel(self._id)
                return
            if number == signal.SIGINT:
                self._interrupts += 1
                if self._interrupts > 1:
                    self._client.cancel(self._id, now=self._interrupts > 2)
                    return
            if number in _PASSED_ON and view["state"] not in WAITING:
                self._client.signal(self._id, number)
        except (IllegalTransition, NotFound):
            return  # it has just ended by itself
        except RunnersError as error:
            complain(error)

    def _note(self, text: str) -> None:
        """A line for the person who waits, in place of the last one; nothing of it stays."""
        if not redraws(sys.stderr) or not (text or self._noted):
            return
        width = os.get_terminal_size(2).columns or 80
        shown = text if len(text) < width else text[: width - 2] + "…"
        sys.stderr.write(f"\r\x1b[K{shown}")
        sys.stderr.flush()
        self._noted = bool(text)


class Signals:
    """Catches what the job is to have; ``descriptor`` gives the signals' numbers, a byte each.

    While the request is on its way a second Ctrl-C gives up; later a fifth does, should the daemon not answer. Outside
    of the main thread it catches nothing, as Python does not either.
    """

    def __init__(self) -> None:
        self.descriptor, self._writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._main = threading.current_thread() is threading.main_thread()
        self._interrupts, self._most = 0, 1
        self._handlers: dict[int, Any] = {}
        self._before = -1

    def taken(self) -> None:
        """The job is queued."""
        self._most = 4

    def __enter__(self) -> Signals:
        if not self._main:
            return self
        self._before = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (*_PASSED_ON, *_ENDS):
            # What our own caller has us ignore (nohup) stays ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._main:
            signal.set_wakeup_fd(self._before)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self.descriptor)
        os.close(self._writing)

    def _caught(self, number: int, _frame: object) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > self._most:
                raise KeyboardInterrupt
