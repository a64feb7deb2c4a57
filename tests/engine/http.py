"""As much HTTP/1.1 as standing between two who speak it takes: where a message ends, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

BLOCK = 1 << 16  # bytes read at once


@dataclass(frozen=True)
class Head:
    """The first line of a message and its headers, names in lower case; ``raw`` has the blank line at the end."""

    raw: bytes
    first: str
    headers: dict[str, str]

    @classmethod
    def read(cls, raw: bytes) -> Head:
        """Borrowed form: a line, then `Name: value` lines."""
        first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return cls(raw, first, {name.lower(): value.strip() for name, _, value in pairs})

    @property
    def length(self) -> int | None:
        """Content-Length, if it says so."""
        return int(self.headers["content-length"]) if "content-length" in self.headers else None

    @property
    def chunked(self) -> bool:
        """The body comes in chunks."""
        return self.headers.get("transfer-encoding", "").lower() == "chunked"


class Stream:
    """One side of a connection. What was read too far is kept, so its end can be watched for meanwhile."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._unread = bytearray()
        self.writer = writer

    async def fill(self) -> bool:
        """Read more; false at the end."""
        got = await self._reader.read(BLOCK)
        self._unread += got
        return bool(got)

    async def gone(self) -> None:
        """Until the other end closes."""
        while await self.fill():
            pass

    async def head(self) -> Head | None:
        """The next message's; None at the end."""
        while (end := self._unread.find(b"\r\n\r\n")) < 0:
            if not await self.fill():
                return None
        return Head.read(self._take(end + 4))

    async def block(self) -> bytes:
        """What is there; nothing at the end."""
        if not self._unread:
            await self.fill()
        return self._take(len(self._unread))

    async def pieces(self, head: Head) -> AsyncIterator[bytes]:
        """The body that belongs to ``head``, in pieces between which something may be put: chunks, or blocks."""
        if head.chunked:
            while True:
                line = await self._line()
                size = int(line.split(b";")[0], 16)
                yield line + await self._exactly(size + 2)
                if size == 0:
                    return
        left = head.length or 0
        while left:
            piece = await self._exactly(min(left, BLOCK))
            left -= len(piece)
            yield piece

    async def body(self, head: Head) -> bytes:
        """The whole body that belongs to ``head``, as it was sent."""
        return b"".join([piece async for piece in self.pieces(head)])

    def abort(self) -> None:
        """Close at once, without what is not yet sent."""
        self.writer.transport.abort()

    async def _line(self) -> bytes:
        while (end := self._unread.find(b"\r\n")) < 0:
            await self._more()
        return self._take(end + 2)

    async def _exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            await self._more()
        return self._take(size)

    async def _more(self) -> None:
        if not await self.fill():
            raise ConnectionResetError("the message was not whole")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._unread[:size])
        del self._unread[:size]
        return taken


def chunk(data: bytes) -> bytes:
    """``data`` as a chunk; nothing is the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def has_no_body(method: str, status: int) -> bool:
    """An answer that ends with its head whatever that says."""
    return method == "HEAD" or status in (204, 304) or 100 <= status < 200
