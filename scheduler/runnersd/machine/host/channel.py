"""The daemon's end of a pair of sockets to a process of its own: never waits, and says when the other end is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from runnersd.machine.host import order as orders

Message = tuple[Any, ...]
Refused = Callable[[OSError], None]

log = logging.getLogger(__name__)


def _log(error: OSError) -> None:
    log.error("cannot tell a supervisor what is asked of its job: %s", error)


class Channel:
    """Sends messages in order, as soon as there is room, and calls on news.

    ``heard`` gets each message with its descriptors. ``gone`` is called once, when nobody has the other end any more.
    ``receive`` is how messages are read.
    """

    def __init__(
        self,
        end: socket.socket,
        heard: Callable[[Message, list[int]], None],
        gone: Callable[[], None],
        receive: Callable[[socket.socket], tuple[Message, list[int]] | None] = orders.receive,
    ) -> None:
        end.setblocking(False)
        self._end, self._heard, self._gone, self._receive = end, heard, gone, receive
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(end.fileno(), self._read)
        self._waiting: deque[tuple[Message, Sequence[int], Sequence[int], Refused]] = deque()
        self._open = True

    def post(
        self, message: Message, descriptors: Sequence[int] = (), owned: Sequence[int] = (), refused: Refused = _log
    ) -> None:
        """Send a message. Its descriptors are sent as they are when its turn comes; ``owned`` are closed after that.

        ``refused`` is called if it can never be sent (its descriptors are too many for this machine).
        """
        self._waiting.append((message, descriptors, owned, refused))
        if not self._open:
            self._drop()
        elif len(self._waiting) == 1:
            self._write()

    def close(self) -> None:
        """Hang up. Nothing is called any more, and what was not sent is not."""
        if self._open:
            self._open = False
            self._loop.remove_reader(self._end.fileno())
            self._loop.remove_writer(self._end.fileno())
            self._end.close()
            self._drop()

    def _write(self) -> None:
        while self._waiting:
            message, descriptors, owned, refused = self._waiting[0]
            why = None
            try:
                orders.send(self._end, message, descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._end.fileno(), self._write_on)
                return
            except ConnectionError:  # nobody is there: `gone` is about to be called
                self._drop()
                return
            except OSError as error:
                why = error
            self._waiting.popleft()
            _close(owned)
            if why is not None:
                refused(why)

    def _write_on(self) -> None:
        self._loop.remove_writer(self._end.fileno())
        self._write()

    def _drop(self) -> None:
        while self._waiting:
            _close(self._waiting.popleft()[2])

    def _read(self) -> None:
        try:
            received = self._receive(self._end)
        except BlockingIOError:
            return
        except ConnectionError:
            received = None
        if received is None:
            self.close()
            self._gone()
        else:
            self._heard(*received)


def _close(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)
