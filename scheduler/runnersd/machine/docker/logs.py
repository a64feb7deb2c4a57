"""A container's output on its way into the attempt's logs, copied while it runs and taken up again by the next daemon.

The engine keeps a container's output with the time of each line. How far the copy has come is kept in a small file
beside the logs: their sizes, and the time of each one's last line. Whoever takes it up cuts the logs to these sizes
and asks the engine for what came after. So nothing is lost and nothing repeated, whenever the copier was killed; what a
reader has already read is written again as it was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from contextlib import suppress

from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.errors import EngineError, NotFound
from runnersd.machine.docker.frames import Demultiplexer, Position, Resume

log = logging.getLogger(__name__)

#: Seconds between notes of how far the copy is.
_NOTE_EVERY = 0.25
_AGAIN = (0.1, 5.0)  # seconds before a stream that broke is opened again: the first, the longest


class LogCopy:
    """Copies one container's output into two files, each at most ``limit`` bytes. ``truncated`` when more came;
    ``received`` is how many bytes the engine has sent."""

    def __init__(self, connection: Connection, container: str, out: str, err: str, limit: int) -> None:
        self.truncated = False
        self.received = 0
        self._connection = connection
        self._container = container
        self._paths = (out, err)
        self._note = f"{out.removesuffix('.out')}.pos"
        self._limit = limit
        self._sizes = [0, 0]
        self._files = [-1, -1]
        self._positions = [Position(), Position()]
        self._noted = 0.0
        self._resumed = False

    async def follow(self, ended: asyncio.Event) -> None:
        """Copy until the container has ended and all of it is here. Comes back from every failure of the engine."""
        pause, longest = _AGAIN
        try:
            while True:
                # An engine may end a stream that it follows before the last lines are in it. What is asked for once
                # the container is known to have ended is whole.
                last, failed = ended.is_set(), False
                try:
                    await self._copy(follow=not last)
                    pause = _AGAIN[0]
                except NotFound:
                    return  # removed by hand: what was copied is what there is
                except EngineError as error:
                    failed = last
                    if last:
                        log.warning("container %s: %s; asking for its last output again", self._container[:12], error)
                except ValueError as error:
                    log.warning("container %s: %s; the rest of its output is left out", self._container[:12], error)
                    self.truncated = True
                    return
                if last and not failed:
                    return
                if failed:
                    await asyncio.sleep(pause)
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await ended.wait()
                pause = min(pause * 2, longest)
        finally:
            self.close()

    async def _copy(self, *, follow: bool) -> None:
        self._resume()
        resume = Resume(self._positions)
        demultiplexer = Demultiplexer()
        params = {"follow": "1" if follow else "0", "stdout": "1", "stderr": "1", "timestamps": "1"}
        if resume.since:
            params["since"] = resume.since
        path = f"containers/{self._container}/logs"
        async with self._connection.stream(path, params, f"read the output of {self._container[:12]}") as chunks:
            async for chunk in chunks:
                self.received += len(chunk)
                fresh = [piece for piece in demultiplexer.feed(chunk) if resume.fresh(piece)]
                for number in (0, 1):
                    self._keep(number, b"".join(piece.data for piece in fresh if piece.stream == number + 1))
                self._positions = resume.positions
                if time.monotonic() - self._noted >= _NOTE_EVERY:
                    self._write_note()

    def _keep(self, number: int, new: bytes) -> None:
        room = self._limit - self._sizes[number]
        if room < 0 or not new:
            return
        data = new[:room]
        if len(new) > room:
            self.truncated = True
            data += f"\n[runners: cut here, at {self._limit} bytes]\n".encode()
        try:
            if self._files[number] < 0:
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
                self._files[number] = os.open(self._paths[number], flags, 0o600)
            while data:
                written = os.write(self._files[number], data)
                self._sizes[number] += written
                data = data[written:]
        except OSError:  # a full disk: the rest is dropped, and the job says so
            self.truncated = True
        if len(new) > room:
            self._sizes[number] = self._limit + 1

    def _resume(self) -> None:
        """Go on where an earlier daemon stopped: cut the logs to what its last note covers."""
        if self._resumed:
            return
        self._resumed = True
        sizes, positions, truncated = [0, 0], [Position(), Position()], False
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            with open(self._note, encoding="ascii") as file:
                said = json.load(file)
            read = [Position(str(at), int(pieces), bool(goes_on)) for at, pieces, goes_on in said["positions"]]
            sizes, positions, truncated = [int(size) for size in said["sizes"]], read, bool(said["truncated"])
        for number, path in enumerate(self._paths):
            if sizes[number] <= self._limit:  # past it the last bytes are the word that something was left out
                with suppress(FileNotFoundError):
                    os.truncate(path, min(sizes[number], os.stat(path).st_size))
        self._sizes, self._positions, self.truncated = sizes, positions, truncated

    def _write_note(self) -> None:
        self._noted = time.monotonic()
        said = {"sizes": self._sizes, "positions": self._positions, "truncated": self.truncated}
        try:
            with open(f"{self._note}.new", "w", encoding="ascii") as file:
                json.dump(said, file)
            os.replace(f"{self._note}.new", self._note)
        except OSError as error:
            log.warning("cannot note how far %s is: %s; a restart reads it again", self._paths[0], error.strerror)

    def close(self) -> None:
        """Close the logs; the note says how far they are."""
        if any(position.at for position in self._positions):
            self._write_note()
        for number, fd in enumerate(self._files):
            if fd >= 0:
                os.close(fd)
                self._files[number] = -1

    def forget(self) -> None:
        """Remove the note: the logs are whole, and nobody will go on with them."""
        with suppress(FileNotFoundError):
            os.unlink(self._note)
