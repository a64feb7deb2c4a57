"""The last output of a container, from an engine that takes its time over it, breaks off, or falls silent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runnersd.machine.docker import output
from runnersd.machine.docker.connection import Connection
from runnersd.machine.docker.output import Output
from runnersd.machine.docker.record import RecordFile

SILENCE = 0.5
LINES = [b"line %d\n" % n for n in range(12)]


def frame(n: int, data: bytes) -> bytes:
    content = b"2026-01-01T00:00:%02d.5Z " % n + data
    return bytes([1, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


Speak = Callable[[asyncio.StreamWriter, int], Any]


@asynccontextmanager
async def engine(tmp: Path, speak: Speak) -> AsyncIterator[Output]:
    """The output of a container whose engine answers the n-th request for its logs as ``speak`` does."""
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        while head := await reader.readuntil(b"\r\n\r\n"):
            if b"/logs?" in head:
                asked += 1
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                await speak(writer, asked)
            else:
                said = (
                    {"ApiVersion": "1.41", "MinAPIVersion": "1.12", "Version": "played"} if b"/version" in head else {}
                )
                body = json.dumps(said).encode()
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)

    async def guarded(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # whoever asked has left

    server = await asyncio.start_unix_server(guarded, tmp / "s")
    connection = Connection(str(tmp / "s"))
    await connection.connect()
    record = RecordFile.make(str(tmp / "1.1.run"), container="c" * 64)
    assert record is not None
    record.add(starting=None)
    made = Output(connection, record, str(tmp / "1.1"))
    try:
        yield made
    finally:
        made.close()
        await connection.close()
        server.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a test of patience does not take long."""
    monkeypatch.setattr(output, "_SILENCE", SILENCE)


async def test_all_of_it_is_waited_for_as_long_as_some_comes(tmp_path: Path) -> None:
    async def slowly(writer: asyncio.StreamWriter, asked: int) -> None:
        for n, line in enumerate(LINES):
            writer.write(chunk(frame(n, line)))
            await asyncio.sleep(SILENCE / 5)
        writer.write(chunk(b""))

    async with engine(tmp_path, slowly) as made:
        began = asyncio.get_running_loop().time()
        assert await made.whole()
        assert asyncio.get_running_loop().time() - began > 2 * SILENCE
    assert (tmp_path / "1.1.out").read_bytes() == b"".join(LINES)


async def test_an_answer_that_breaks_off_is_asked_for_again_without_a_line_twice(tmp_path: Path) -> None:
    async def at_the_third(writer: asyncio.StreamWriter, asked: int) -> None:
        for n, line in enumerate(LINES[: 4 * asked]):
            writer.write(chunk(frame(n, line)))
        await writer.drain()
        if asked < 3:
            writer.transport.abort()
        else:
            writer.write(chunk(b""))

    async with engine(tmp_path, at_the_third) as made:
        assert await made.whole()
    assert (tmp_path / "1.1.out").read_bytes() == b"".join(LINES)


async def test_what_does_not_come_any_more_is_given_up(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def half(writer: asyncio.StreamWriter, asked: int) -> None:
        for n, line in enumerate(LINES[:6]):
            writer.write(chunk(frame(n, line)))
        await left.wait()

    async with engine(tmp_path, half) as made:
        assert not await made.whole()
        left.set()
    assert (tmp_path / "1.1.out").read_bytes() == b"".join(LINES[:6])
