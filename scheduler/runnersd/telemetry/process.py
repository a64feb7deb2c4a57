"""The daemon's end of one telemetry process: starts it, sends it frames without ever waiting, hears what it says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from runnersd.child_process import ChildProcess
from runnersd.telemetry.frames import Frames

#: The most that waits to be sent (bytes): a minute of samples of 64 attempts with a card each.
MOST_WAITING = 2 << 20
#: What the process finds in its environment, of the daemon's: what Python needs to find zarr.
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG")
#: NumPy and zarr start no threads for what is so small.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"), "1")


def clean_environment() -> dict[str, str]:
    """What a telemetry process runs with."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if path := os.environ.get("PYTHONPATH"):  # which may be relative to where the daemon was started
        kept["PYTHONPATH"] = os.pathsep.join(str(Path(one).absolute()) for one in path.split(os.pathsep) if one)
    return {**kept, **_ONE_THREAD}


class TelemetryProcess:
    """One process. ``heard`` is called with every body it sends, ``gone`` once when it has ended by itself.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        root: Path,
        environment: Mapping[str, str],
        heard: Callable[[TelemetryProcess, bytes], None],
        gone: Callable[[TelemetryProcess], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard, self._gone = heard, gone
        self._frames = Frames()
        self._waiting = bytearray()
        self._ending = False
        program = ["-m", "runnersd.telemetry.child", os.fspath(root)]
        self._child = ChildProcess(program, self._readable, environment=environment, directory="/")
        self._process, self._socket = self._child.process, self._child.socket

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, frame: bytes, *, droppable: bool = False) -> bool:
        """Send a frame, or keep it until the process takes it. False: so much is kept that it was dropped."""
        if self._ending:
            return False
        if droppable and len(self._waiting) + len(frame) > MOST_WAITING:
            return False
        idle = not self._waiting
        self._waiting += frame
        if idle:
            self._writable()
            if self._waiting and not self._ending:
                self._loop.add_writer(self._socket.fileno(), self._writable)
        return True

    def end(self) -> None:
        """Let it write what it has, and end. What was not sent yet is lost."""
        if not self._ending:
            self._forget_socket()

    def kill(self) -> None:
        """End it at once."""
        self.end()
        self._process.kill()

    def ended(self) -> bool:
        """Whether it has, so that nothing is left of it."""
        return self._process.poll() is not None

    async def wait(self, limit: float) -> bool:
        """Wait for its end, for so many seconds at most; whether it came."""
        until = self._loop.time() + limit
        while not self.ended():
            if self._loop.time() >= until:
                return False
            await asyncio.sleep(0.02)
        return True

    def _writable(self) -> None:
        try:
            while self._waiting:
                sent = self._socket.send(self._waiting[: 1 << 16])
                del self._waiting[:sent]
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        self._loop.remove_writer(self._socket.fileno())

    def _readable(self) -> None:
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        try:
            bodies = [*self._frames.take(data)]
        except ValueError:
            self._process.kill()
            self._lost()
            return
        for body in bodies:
            self._heard(self, body)

    def _lost(self) -> None:
        if not self._ending:
            self._forget_socket()
            self._gone(self)

    def _forget_socket(self) -> None:
        self._ending = True
        self._waiting.clear()
        self._child.hang_up()
