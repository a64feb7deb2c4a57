"""Logs and events: every byte once, in order, to the end; and nothing left behind by a client that goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

import runnersd.server.streams
import runnersd.store.feed
from runnersd.server.logfile import PIECE, LogFile
from serving import Served, served_test


async def output(daemon: Served, job: int, query: str = "") -> bytes:
    answer = await daemon.ask("GET", f"/v1/jobs/{job}/logs{query}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/octet-stream"
    return answer.body


async def started(daemon: Served, **keys: Any) -> int:
    [job] = await daemon.submit("forever", **keys)
    await daemon.until_state(job, "running")
    return job


@asynccontextmanager
async def opened(daemon: Served, path: str, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that is being read."""
    async with daemon.session.get(f"http://d{path}", headers=headers) as response:
        assert response.status == 200
        yield response


# -- logs --------------------------------------------------------------------------------------------------------------


@served_test()
async def test_logs_are_the_bytes_that_were_written(daemon: Served) -> None:
    job = await started(daemon)
    assert await output(daemon, job) == b"", "a job that has written nothing has an empty log"
    blob = bytes(range(256)) * 5000
    daemon.write_log(job, blob)
    daemon.write_log(job, b"oh no\n", stream="err")
    assert await output(daemon, job) == blob
    assert await output(daemon, job, "?stream=stderr") == b"oh no\n"


@served_test()
async def test_the_tail_of_a_log(daemon: Served) -> None:
    job = await started(daemon)
    daemon.write_log(job, b"".join(b"line %d\n" % n for n in range(100_000)) + b"no end")
    assert await output(daemon, job, "?tail=0") == b""
    assert await output(daemon, job, "?tail=1") == b"no end"
    assert await output(daemon, job, "?tail=3") == b"line 99998\nline 99999\nno end"
    assert (await output(daemon, job, "?tail=60000")).count(b"\n") == 59_999
    assert (await output(daemon, job, "?tail=1000000")).startswith(b"line 0\n")


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"a", b"a\n", b"a\nb", b"\n\n\n", b"x" * PIECE + b"\n", b"\n" * PIECE * 2]
)
def test_a_tail_is_what_splitting_into_lines_says(tmp_path: Any, content: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    file = LogFile(path)
    lines = content.splitlines(keepends=True)
    for count in (0, 1, 2, 3, 10, 10**9):
        kept = b"".join(lines[max(len(lines) - count, 0) :])
        assert file.size() - file.start_of_tail(count) == len(kept), count
    file.close()


@served_test()
async def test_following_gives_what_comes_and_ends_with_the_job(daemon: Served) -> None:
    job = await started(daemon)
    daemon.write_log(job, b"before\n")
    async with opened(daemon, f"/v1/jobs/{job}/logs?follow=1") as stream:
        assert await stream.content.readexactly(7) == b"before\n"
        daemon.write_log(job, b"during\n")
        assert await stream.content.readexactly(7) == b"during\n"
        daemon.write_log(job, b"last words")
        daemon.machine.finish(daemon.run(job))
        assert await stream.content.read() == b"last words"
    assert (await daemon.ask("GET", f"/v1/jobs/{job}")).json["state"] == "succeeded"
    assert await output(daemon, job, "?follow=1&tail=1") == b"last words"


@served_test()
async def test_following_a_job_that_waits_begins_when_it_does(daemon: Served) -> None:
    [job] = await daemon.submit("forever", hold=True)
    async with opened(daemon, f"/v1/jobs/{job}/logs?follow=1") as stream:
        await daemon.ask("PATCH", f"/v1/jobs/{job}", {"held": False})
        await daemon.until_state(job, "running")
        daemon.write_log(job, b"hello\n")
        assert await stream.content.readexactly(6) == b"hello\n"
        daemon.machine.finish(daemon.run(job))
        assert await stream.content.read() == b""


@served_test()
async def test_following_a_job_that_never_starts_ends_with_it(daemon: Served) -> None:
    [job] = await daemon.submit("forever", hold=True)
    async with opened(daemon, f"/v1/jobs/{job}/logs?follow=1") as stream:
        await daemon.ask("POST", f"/v1/jobs/{job}/cancel")
        assert await asyncio.wait_for(stream.content.read(), 2.0) == b""


@served_test()
async def test_following_goes_on_to_the_next_attempt_unless_one_was_named(daemon: Served) -> None:
    job = await started(daemon, job={"retries": 1, "retry_delay": 0})
    async with (
        opened(daemon, f"/v1/jobs/{job}/logs?follow=1") as whole,
        opened(daemon, f"/v1/jobs/{job}/logs?follow=1&attempt=1") as first,
    ):
        daemon.write_log(job, b"first\n")
        daemon.machine.finish(daemon.run(job), 1)
        assert await first.content.read() == b"first\n"
        await daemon.until(lambda: daemon.run(job, 2) in daemon.machine.running)
        daemon.write_log(job, b"second\n", attempt=2)
        daemon.machine.finish(daemon.run(job, 2))
        assert await whole.content.read() == b"first\nsecond\n"
    assert await output(daemon, job, "?attempt=1") == b"first\n"
    assert await output(daemon, job) == b"second\n"
    assert (await daemon.ask("GET", f"/v1/jobs/{job}/logs?attempt=3")).status == 404


@served_test()
async def test_a_log_that_is_a_link_is_not_followed(daemon: Served) -> None:
    job = await started(daemon)
    secret = daemon.folder / "secret"
    secret.write_text("secret")
    path = daemon.write_log(job, b"")
    path.unlink()
    path.symlink_to(secret)
    assert await output(daemon, job) == b""
    path.unlink()
    path.mkdir()
    assert await output(daemon, job) == b""


@served_test()
async def test_a_pipeline_has_no_log_of_its_own(daemon: Served) -> None:
    await started(daemon)
    assert (await daemon.ask("GET", "/v1/jobs/p1/logs")).status == 400


# -- events ------------------------------------------------------------------------------------------------------------


async def events(stream: aiohttp.ClientResponse, count: int) -> list[tuple[int, str, Any]]:
    """The next events: id, type and data. Comments are passed over. A machine without cards has none of theirs."""
    found: list[tuple[int, str, Any]] = []
    fields: dict[str, str] = {}
    while len(found) < count:
        line = (await asyncio.wait_for(stream.content.readline(), 10.0)).decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
            fields = {}
    return found


@served_test(gpus=0)
async def test_events_from_now_on(daemon: Served) -> None:
    await daemon.submit("true", hold=True)
    async with opened(daemon, "/v1/events") as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert await stream.content.readline() == b": events\n"
        await daemon.submit("true")
        seen = await events(stream, 4)
    assert [type for _, type, _ in seen] == ["job.queued", "job.starting", "job.running", "job.succeeded"]
    assert {data["id"] for _, _, data in seen} == {2}
    assert sorted(seen[0][2]) == sorted((await daemon.ask("GET", "/v1/status?ids=2")).json["jobs"][0])
    assert [id for id, _, _ in seen] == sorted({id for id, _, _ in seen})


@served_test(gpus=0)
async def test_events_resume_after_an_id_without_gap_or_repeat(daemon: Served) -> None:
    await daemon.submit(*["true"] * 30)
    async with opened(daemon, "/v1/events?after=0") as stream:
        everything = [id for id, _, _ in await events(stream, 120)]
    assert len(set(everything)) == 120
    middle = everything[50]
    async with opened(daemon, f"/v1/events?after={middle}") as stream:
        assert [id for id, _, _ in await events(stream, 69)] == everything[51:]
    # The header of a client that comes back goes before the address it began with.
    async with opened(daemon, "/v1/events?after=0", **{"Last-Event-ID": str(middle)}) as stream:
        assert (await events(stream, 1))[0][0] == everything[51]
    for wrong in ("x", "-1", "9" * 30):
        refused = await daemon.ask("GET", "/v1/events", headers={"Last-Event-ID": wrong})
        assert refused.status == 400


@served_test(gpus=0)
async def test_after_an_event_that_is_yet_to_come_the_stream_begins_now(daemon: Served) -> None:
    """As when an older copy of the database was put back: nobody may listen in vain until it has caught up."""
    async with opened(daemon, "/v1/events?after=999999999") as stream:
        await daemon.submit("true")
        assert {data["id"] for _, _, data in await events(stream, 4)} == {1}


@served_test(gpus=0)
async def test_a_reader_sees_every_event_while_they_come(daemon: Served) -> None:
    async def submit_many() -> None:
        for _ in range(20):
            await daemon.submit(*["true"] * 5)

    submitting = asyncio.create_task(submit_many())
    last = 0
    seen: list[int] = []
    while len(seen) < 400:
        async with opened(daemon, f"/v1/events?after={last}") as stream:
            part = await events(stream, min(37, 400 - len(seen)))
        seen += [id for id, _, _ in part]
        last = seen[-1]
    await submitting
    assert seen == list(range(seen[0], seen[0] + 400))


@served_test(gpus=0)
async def test_a_reader_too_slow_for_memory_goes_on_from_disk(daemon: Served) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(runnersd.store.feed, "MOST", 3)
    try:
        async with opened(daemon, "/v1/events?after=0") as stream:
            await daemon.submit(*["true"] * 30)
            ids = [id for id, _, _ in await events(stream, 120)]
        assert ids == sorted(set(ids)) and len(ids) == 120
    finally:
        patch.undo()


@served_test()
async def test_events_of_one_job_or_pipeline(daemon: Served) -> None:
    await daemon.submit("true", "true", hold=True)
    await daemon.submit("true", hold=True)
    async with opened(daemon, "/v1/events?after=0&job=2") as stream:
        assert [data["id"] for _, _, data in await events(stream, 1)] == [2]
    async with opened(daemon, "/v1/events?after=0&job=p2") as stream:
        assert [data["id"] for _, _, data in await events(stream, 1)] == [3]


@served_test()
async def test_cards_have_events_too(daemon: Served) -> None:
    async with opened(daemon, "/v1/events?after=0") as stream:
        card = (await daemon.engine.drain("0", "fans", "root"))["uuid"]
        seen: list[tuple[str, str, str]] = []
        while not seen or seen[-1][0] != "gpu.drained":
            [(_, type, data)] = await events(stream, 1)
            seen.append((type, data["uuid"], data["state"]))
    assert seen[-1] == ("gpu.drained", card, "drained")
    assert ("gpu.free", card, "free") in seen


@served_test(gpus=0)
async def test_silence_is_filled_with_comments(daemon: Served) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(runnersd.server.streams, "KEEP_ALIVE", 0.02)
    try:
        async with opened(daemon, "/v1/events") as stream:
            lines = [await stream.content.readline() for _ in range(6)]
        assert lines == [b": events\n", b"\n", b": still here\n", b"\n", b": still here\n", b"\n"]
    finally:
        patch.undo()


# -- clients that go ---------------------------------------------------------------------------------------------------


@served_test()
async def test_followers_that_vanish_leave_nothing(daemon: Served) -> None:
    job = await started(daemon)
    daemon.write_log(job, b"hello\n")
    connections, feed = daemon.server._connections, daemon.server._feed
    before = len(asyncio.all_tasks())
    streams = []
    for number in range(60):
        path = f"/v1/jobs/{job}/logs?follow=1" if number % 2 else "/v1/events?after=0"
        reader, writer = await asyncio.open_unix_connection(str(daemon.socket))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
        assert await reader.readuntil(b"\r\n\r\n")
        streams.append(writer)
    assert feed.watched == 30
    for writer in streams:
        writer.close()
        await writer.wait_closed()
    await daemon.until(lambda: feed.watched == 0 and len(connections.connections) <= 1)
    # The feed's own task stays; nothing else does.
    await daemon.until(lambda: len(asyncio.all_tasks()) <= before + 1)
    assert sum(connections.per_user.values()) <= 1


@served_test()
async def test_closing_the_server_ends_streams_at_once(daemon: Served) -> None:
    job = await started(daemon)
    async with opened(daemon, f"/v1/jobs/{job}/logs?follow=1"), opened(daemon, "/v1/events"):
        await asyncio.wait_for(daemon.server.close(), 2.0)
    assert not daemon.socket.exists()
