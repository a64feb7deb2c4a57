"""A container's first process and the shim above it, watched through the kernel: no engine has to tell of their end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from runnersd.machine.docker import kernel
from runnersd.machine.host.processes import look

#: How the kernel calls the process that holds a container for containerd.
_SHIM = "containerd-shim"


class Watch:
    """Calls ``ended`` when the process ``pid`` that began at ``start`` (clock ticks after boot) ends.

    Raises:
        ProcessLookupError: it has ended.
    """

    def __init__(self, pid: int, start: int | None, ended: Callable[[], None]) -> None:
        self._pid, self._start, self._ended = pid, start, ended
        self._files: list[int] = []
        self.file = os.pidfd_open(pid)  #: of the first process; closed with the watch
        self.orphaned = False  #: whether the shim ended first: then the engine does not know how the container did
        self._add(self.file, self._first_ended)
        shim = look(pid)
        if shim is None or shim.start != start:
            self.close()
            raise ProcessLookupError(pid)
        if kernel.name(shim.parent).startswith(_SHIM):
            try:
                self._add(os.pidfd_open(shim.parent), self._shim_ended)
            except ProcessLookupError:
                self._shim_ended()

    def close(self) -> None:
        """Watch no longer."""
        files, self._files = self._files, []
        for file in files:
            asyncio.get_running_loop().remove_reader(file)
            os.close(file)

    def _add(self, file: int, ended: Callable[[], None]) -> None:
        self._files.append(file)
        asyncio.get_running_loop().add_reader(file, ended)

    def _first_ended(self) -> None:
        self.close()
        self._ended()

    def _shim_ended(self) -> None:
        self.orphaned = kernel.process_started(self._pid) == self._start
        self._first_ended()
