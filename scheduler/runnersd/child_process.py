"""A program of the daemon's own in a process of its own, and the daemon's end of the socket between them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence


class ChildProcess:
    """One process of this Python. It is exec'ed, not forked, so it shares nothing with the daemon but the socket.

    The socket is its standard input; on our side nothing of it ever blocks. ``arguments`` are Python's: a file, or a
    module after ``-m``. ``readable`` is called on the loop when something has come, or nothing more will.
    ``environment`` is all that it has; None: the daemon's. ``directory`` is where it begins; None: where the daemon is.

    Raises:
        OSError: it could not be started.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        readable: Callable[[], None],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.socket, theirs = socket.socketpair()
        try:
            # A session of its own keeps a terminal's Ctrl-C from it; -P keeps the program's folder off its path.
            self.process = subprocess.Popen(
                [sys.executable, "-P", *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=None if environment is None else dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except OSError:
            self.socket.close()
            raise
        finally:
            theirs.close()
        self.socket.setblocking(False)
        self._loop.add_reader(self.socket.fileno(), readable)

    def hang_up(self) -> None:
        """Close the socket, if that is not done yet: the process hears of it, and we hear no more."""
        if self.socket.fileno() >= 0:
            self._loop.remove_reader(self.socket.fileno())
            self._loop.remove_writer(self.socket.fileno())
            self.socket.close()
