"""A container's first process and the shim above it, watched through the kernel: no engine has to tell of their end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from runnersd.machine.docker import kernel
from runnersd.machine.host.processes import look

#: How the kernel calls the process that holds a container for containerd.
_SHIM = "containerd-shim"
#: Seconds between looks at a container's memory, at most: of the last few nothing may be known.
MEASURE = 2.0


class Watch:
    """Calls ``ended`` when the process ``pid`` that began at ``start`` (clock ticks after boot) ends.

    It is the first of ``container`` (an engine's full id), whose memory is measured meanwhile.

    Raises:
        ProcessLookupError: it has ended.
    """

    def __init__(self, pid: int, start: int | None, container: str, ended: Callable[[], None]) -> None:
        self._pid, self._start, self._ended = pid, start, ended
        self._files: list[int] = []
        self.file = os.pidfd_open(pid)  #: of the first process; closed with the watch
        self.orphaned = False  #: whether the shim ended first: then the engine does not know how the container did
        self.peak_memory: int | None = None  #: bytes, as far as is known
        self._add(self.file, self._first_ended)
        self._meter = kernel.memory_meter(pid, container)
        self._next: asyncio.TimerHandle | None = None
        shim = look(pid)
        if shim is None or shim.start != start:
            self.close()
            raise ProcessLookupError(pid)
        if self._meter is not None:
            self._measure_again(0.1)
        if kernel.name(shim.parent).startswith(_SHIM):
            try:
                self._add(os.pidfd_open(shim.parent), self._shim_ended)
            except ProcessLookupError:
                self._shim_ended()

    def close(self) -> None:
        """Watch no longer."""
        if self._next is not None:
            self._next.cancel()
        if self._meter is not None:
            os.close(self._meter)
            self._meter = None
        files, self._files = self._files, []
        for file in files:
            asyncio.get_running_loop().remove_reader(file)
            os.close(file)

    def _measure(self) -> None:
        seen = None if self._meter is None else kernel.read_meter(self._meter)
        self.peak_memory = seen if seen is not None else self.peak_memory

    def _measure_again(self, pause: float) -> None:
        self._measure()
        loop = asyncio.get_running_loop()
        self._next = loop.call_later(pause, self._measure_again, min(pause * 2, MEASURE))

    def _add(self, file: int, ended: Callable[[], None]) -> None:
        self._files.append(file)
        asyncio.get_running_loop().add_reader(file, ended)

    def _first_ended(self) -> None:
        self._measure()  # with luck: the container's cgroup may be gone already
        self.close()
        self._ended()

    def _shim_ended(self) -> None:
        self.orphaned = kernel.process_started(self._pid) == self._start
        self._first_ended()
