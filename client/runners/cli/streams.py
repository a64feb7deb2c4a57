"""A job's two output streams, byte for byte, each to its own descriptor, over restarts of the daemon."""

from __future__ import annotations

import errno
import os
import select
import stat
import time

from runners.api import LIVE, JobDetailView
from runners.client import Client
from runners.errors import Unavailable
from runners.following import patiently
from runners.transport import Answer

_STREAMS = (("stdout", 1), ("stderr", 2))


class Stream:
    """One of them: what has been written of it so far, and the answer that the rest comes from."""

    def __init__(self, client: Client, job: int, name: str, descriptor: int) -> None:
        self._client, self._job, self._name, self._descriptor = client, job, name, descriptor
        self._answer: Answer | None = None
        self._attempt: int | None = None
        self._skip = 0  # bytes of a new answer that an earlier one has already brought
        self._tailed = False
        self.written = 0
        self.whole = False  # all there is has come

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return self._answer is not None

    def fileno(self) -> int:
        """The descriptor to poll before :meth:`receive`, while it is ``open``."""
        return -1 if self._answer is None else self._answer.fileno()

    def begin(self, attempt: int, *, follow: bool, tail: int | None = None) -> None:
        """Begin, or go on where the daemon hung up. Another attempt begins anew."""
        if attempt != self._attempt:
            self._attempt, self.written = attempt, 0
        self.close()
        self.whole = False
        # What a tail left out is not known: after a break only its end can be shown again, so nothing is.
        again = self._tailed and self.written > 0
        self._tailed = tail is not None
        if again:
            tail = 0
        self._skip = 0 if tail is not None else self.written
        self._answer = patiently(
            self._client,
            lambda: self._client.logs(self._job, stream=self._name, follow=follow, tail=tail, attempt=attempt),
        )
        self._write(self._answer.pending())
        self._finish()

    def receive(self) -> None:
        """Write what has come. When the daemon hung up in the middle, the stream is closed but not ``whole``."""
        if self._answer is None:
            return
        try:
            piece = self._answer.receive()
        except OSError:
            self.close()
            return
        self._write(piece)
        self._finish()

    def rest(self) -> None:
        """Write all that is left, waiting for it."""
        while self._answer is not None:
            self.receive()

    def close(self) -> None:
        """Hang up."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _finish(self) -> None:
        if self._answer is not None and self._answer.ended:
            self.whole = True
            self.close()

    def _write(self, piece: bytes) -> None:
        if self._skip:
            passed = min(self._skip, len(piece))
            piece, self._skip = piece[passed:], self._skip - passed
        left = memoryview(piece)
        self.written += len(piece)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except OSError as error:
                # A terminal that was closed: its SIGHUP goes to the shell first, and comes to us after this.
                if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(self._descriptor).st_mode):
                    raise
                raise BrokenPipeError(errno.EPIPE, "the terminal was closed") from error


def streams_of(client: Client, job: int) -> list[Stream]:
    """Standard output and standard error."""
    return [Stream(client, job, name, descriptor) for name, descriptor in _STREAMS]


def copy(client: Client, job: int, attempt: int, tail: int | None) -> None:
    """All that an attempt has written so far."""
    for stream in streams_of(client, job):
        stream.begin(attempt, follow=False, tail=tail)
        stream.rest()
        if not stream.whole:
            raise Unavailable(f"cannot show all of job {job}'s output: the daemon hung up; is it restarting?")


def follow(client: Client, view: JobDetailView, attempt: int, tail: int | None) -> None:
    """What an attempt has written and writes, until it is over; a daemon that restarts is waited for."""
    streams = streams_of(client, view["id"])
    try:
        for stream in streams:
            stream.begin(attempt, follow=True, tail=tail)
        while True:
            open_ones = [stream for stream in streams if stream.open]
            if open_ones:
                for stream in select.select(open_ones, [], [], None)[0]:
                    stream.receive()
                continue
            # Both have ended: because the attempt is over, or because the daemon is.
            view = job_of(client, view["id"])
            over = view["attempt"] != attempt or view["state"] not in LIVE
            if over and all(stream.whole for stream in streams):
                return
            for stream in streams:
                stream.begin(attempt, follow=True)
            time.sleep(0.1)  # a daemon that ends each stream at once must not be asked in a circle
    finally:
        for stream in streams:
            stream.close()


def job_of(client: Client, id: int) -> JobDetailView:
    """A job, from a daemon that may be restarting."""
    return patiently(client, lambda: client.job(id))
