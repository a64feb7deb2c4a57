"""The recorder and its processes: what was sampled is read back, whatever is killed, and nothing waits for them."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from machine.telemetry_curve import BEGIN, CARDS, row
from runners.errors import Unavailable
from runnersd.telemetry import asking, process, reading, recorder
from runnersd.telemetry.layout import Attempt
from runnersd.telemetry.process import TelemetryProcess, clean_environment
from runnersd.telemetry.recorder import SeriesRecorder
from runnersd.telemetry.sample import CardSample, ProcessSample, Sample

UUIDS = [card.uuid for card in CARDS]


def sample(second: int) -> Sample:
    """The curve as the daemon sees it."""
    values = row(second)
    known = {name: _none(value) for name, value in values.items()}
    cards = [
        CardSample(
            card.uuid,
            card.index or 0,
            card.name,
            card.memory_total,
            known["memory_used"][place],
            known["utilization"][place],
            known["power"][place],
            known["temperature"][place],
        )
        for place, card in enumerate(CARDS)
    ]
    return Sample(values["at"], tuple(cards), ProcessSample(known["process_memory"], known["process_cpu"]))


def _none(value: Any) -> Any:
    if isinstance(value, list):
        return [_none(one) for one in value]
    return None if value != value else value


def feed(kept: SeriesRecorder, seconds: range, job: int = 1) -> None:
    for second in seconds:
        kept.add(job, 1, sample(second))


def is_curve(answer: dict[str, Any], seconds: range) -> bool:
    """It is the curve in these seconds, and nothing else."""
    expected = [sample(second) for second in seconds]
    return (
        answer["at"] == [one.at for one in expected]
        and [card["uuid"] for card in answer["gpus"]] == UUIDS
        and [card["memory_total"] for card in answer["gpus"]] == [card.memory_total for card in CARDS]
        and answer["gpus"][1]["power"] == [one.gpus[1].power for one in expected]
        and answer["gpus"][0]["memory_used"] == [one.gpus[0].memory_used for one in expected]
        and answer["gpus"][0]["utilization"] == [one.gpus[0].utilization for one in expected]
        and answer["gpus"][1]["temperature"] == [one.gpus[1].temperature for one in expected]
        and answer["process"]["memory"] == [one.process.memory for one in expected]
        and answer["process"]["cpu"] == [one.process.cpu for one in expected]
    )


def run(tmp_path: Path, scenario: Callable[[SeriesRecorder], Awaitable[None]], **options: Any) -> None:
    """Run it with a recorder, and leave no process behind."""

    async def whole() -> None:
        kept = SeriesRecorder(tmp_path, 1.0, **options)
        try:
            async with asyncio.timeout(60):
                await scenario(kept)
        finally:
            await kept.close()

    asyncio.run(whole())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


async def read(kept: SeriesRecorder, job: int = 1, points: int = 10_000) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await kept.read(job, 1, points))
    return found


def writing(kept: SeriesRecorder) -> TelemetryProcess:
    """The process that writes, started before its time if need be."""
    if kept._process is None:
        kept._start()
    assert kept._process is not None
    return kept._process


def on_disk(tmp_path: Path, job: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(reading.answer(tmp_path / "telemetry", Attempt(job, 1), 10_000))
    return found


def test_a_live_attempt_is_read_up_to_its_last_sample(tmp_path: Path) -> None:
    async def scenario(kept: SeriesRecorder) -> None:
        assert kept._process is None, "nothing runs, so nothing is started"
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(40))
        assert is_curve(await read(kept), range(40))
        feed(kept, range(40, 41))
        assert is_curve(await read(kept), range(41))
        found = await read(kept, points=10)
        assert (len(found["at"]), found["every"]) == (10, 1.0)
        assert await read(kept, job=2) == {}
        kept.ended(1, 1)

    run(tmp_path, scenario)
    assert is_curve(on_disk(tmp_path), range(41))
    assert json.loads((tmp_path / "telemetry/0/1.1.zarr/zarr.json").read_text())["attributes"]["ended"] is True


def test_what_was_sent_is_written_though_the_daemon_is_gone(tmp_path: Path) -> None:
    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(30))
        child = writing(kept)
        child._forget_socket()  # as the kernel closes it for a daemon that is killed
        assert await child.wait(30)

    run(tmp_path, scenario)
    assert is_curve(on_disk(tmp_path), range(30))


def test_a_process_that_is_killed_is_started_again_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder, "REST", 0.01)

    async def scenario(kept: SeriesRecorder) -> None:
        kept._rest = recorder.REST
        kept.began(1, 1, BEGIN, UUIDS)
        kept.began(2, 1, BEGIN, UUIDS)
        feed(kept, range(20))
        feed(kept, range(20), job=2)
        await read(kept)
        feed(kept, range(20, 25))  # lost: less than a chunk
        first = writing(kept)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: kept._process not in (None, first))
        feed(kept, range(25, 40))
        feed(kept, range(20, 40), job=2)
        found = await read(kept)
        assert found["at"][:20] == [BEGIN + second for second in range(20)]
        assert found["at"][-15:] == [BEGIN + second for second in range(25, 40)]
        assert found["process"]["memory"] == [(at - BEGIN) * 4096 for at in found["at"]]
        assert (await read(kept, job=2))["at"][-20:] == [BEGIN + second for second in range(20, 40)]

    run(tmp_path, scenario)
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == [
        "the process that keeps telemetry ended; it is started again in 0.01 s"
    ]


def test_the_next_daemons_process_waits_for_what_the_last_one_still_writes(tmp_path: Path) -> None:
    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(40))
        await kept._flush(writing(kept), 9, 1)  # all before it has arrived; nothing of it is written
        first = writing(kept)
        os.kill(first.pid, signal.SIGSTOP)
        first._forget_socket()
        next_one = SeriesRecorder(tmp_path, 1.0)
        try:
            next_one.began(1, 1, BEGIN, UUIDS)
            feed(next_one, range(40, 50))
            await next_one._flush(writing(next_one), 1, 1)
            feed(next_one, range(50, 60))
            next_one.ended(1, 1)
        finally:
            os.kill(first.pid, signal.SIGCONT)
        await next_one.close()

    run(tmp_path, scenario)
    assert is_curve(on_disk(tmp_path), range(60))


def test_it_is_not_started_for_a_daemon_that_ends_soon_and_then_gets_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "START_AFTER", 0.2)

    async def scenario(kept: SeriesRecorder) -> None:
        for job, seconds in ((1, 30), (2, 1), (3, 2)):
            kept.began(job, 1, BEGIN, UUIDS)
            feed(kept, range(seconds), job=job)
            assert kept._process is None
            kept.ended(job, 1)
        await until(lambda: kept._process)
        assert is_curve(await read(kept, job=1), range(30))
        assert await read(kept, job=2) == {}, "too short to be kept"
        assert is_curve(await read(kept, job=3), range(2))

    run(tmp_path, scenario)
    assert sorted(os.listdir(tmp_path / "telemetry/0")) == ["1.1.zarr", "3.1.zarr"]


def test_it_ends_when_nothing_has_run_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "IDLE", 0.05)

    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(5))
        first = writing(kept)
        kept.ended(1, 1)
        assert await first.wait(30)
        assert kept._process is None
        kept.began(2, 1, BEGIN, UUIDS)
        feed(kept, range(5), job=2)
        assert is_curve(await read(kept, job=2), range(5))

    run(tmp_path, scenario)


def test_a_process_that_does_not_keep_up_costs_samples_and_not_the_daemons_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(process, "MOST_WAITING", 20_000)
    monkeypatch.setattr(recorder, "FLUSH_LIMIT", 0.05)

    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        await read(kept)
        child = writing(kept)
        os.kill(child.pid, signal.SIGSTOP)
        try:
            feed(kept, range(5000))
            assert len(child._waiting) <= 20_000
        finally:
            os.kill(child.pid, signal.SIGCONT)
        await until(lambda: not child._waiting)
        feed(kept, range(5000, 5001))
        await read(kept)
        await until(lambda: on_disk(tmp_path).get("at", [0])[-1] == BEGIN + 5000)

    run(tmp_path, scenario)
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert told == [
        "samples of telemetry are dropped: the process that writes them does not keep up (is the disk slow?)"
    ]


def test_without_zarr_it_is_said_once_and_no_process_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent/zarr.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(tmp_path / "absent"), *sys.path])

    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(5))
        child = writing(kept)
        assert await child.wait(30)
        kept.began(2, 1, BEGIN, UUIDS)
        feed(kept, range(5), job=2)
        assert kept._process is None
        with pytest.raises(Unavailable, match="zarr is not installed"):
            await kept.read(1, 1, 10)
        await kept.keep(BEGIN, 0.0)

    run(tmp_path, scenario, environment={**clean_environment(), "PYTHONPATH": path})
    (told,) = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert told.startswith("no series of telemetry are kept: the Python package zarr is not installed: pip install")


def test_a_broken_group_and_a_full_disk_are_said_once_and_end_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "telemetry/0/1.1.zarr").mkdir(parents=True)
    later = {"attributes": {"version": 2}, "zarr_format": 3, "node_type": "group"}
    (tmp_path / "telemetry/0/1.1.zarr/zarr.json").write_text(json.dumps(later))
    (tmp_path / "telemetry/0/3.1.zarr").write_text("in the way")

    async def scenario(kept: SeriesRecorder) -> None:
        for job in (1, 2, 3, 4):
            kept.began(job, 1, BEGIN, UUIDS)
            feed(kept, range(3), job=job)
        for _ in range(2):
            await kept._flush(writing(kept), 1, 1)
            await kept._flush(writing(kept), 3, 1)
        feed(kept, range(3, 5), job=3)
        (tmp_path / "telemetry/0/3.1.zarr").unlink()
        assert is_curve(await read(kept, job=3), range(5)), "what the disk did not take is tried again"
        assert is_curve(await read(kept, job=2), range(3))
        with pytest.raises(Unavailable, match="its version is 2"):
            await read(kept)

    run(tmp_path, scenario)
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 2
    assert "cannot keep the telemetry of job 1, attempt 1" in told[0]
    assert "cannot write the telemetry of job 3, attempt 1" in told[1]


def test_a_state_directory_that_was_moved_away_is_not_made_anew(tmp_path: Path) -> None:
    """Who wants to put it back would find its place taken."""
    state, away = tmp_path / "state", tmp_path / "away"
    state.mkdir()

    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(3))
        await kept._flush(writing(kept), 1, 1)
        state.rename(away)
        kept.began(2, 1, BEGIN, UUIDS)
        for job in (1, 2):
            feed(kept, range(3, 5), job=job)
            await kept._flush(writing(kept), job, 1)
        assert not state.exists()
        away.rename(state)
        assert is_curve(await read(kept), range(5)), "its samples waited"

    run(state, scenario)


def test_a_reader_that_hangs_is_given_up_and_the_next_question_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(kept: SeriesRecorder) -> None:
        kept.began(1, 1, BEGIN, UUIDS)
        feed(kept, range(5))
        await read(kept)
        reader = kept._reader._process
        assert reader is not None
        os.kill(reader.pid, signal.SIGSTOP)
        kept._reader._limit = 0.2
        with pytest.raises(Unavailable, match=r"it took more than 0.2 s"):
            await read(kept)
        kept._reader._limit = recorder.READ_LIMIT
        assert is_curve(await read(kept), range(5))
        again = kept._reader._process
        assert again is not None
        os.kill(again.pid, signal.SIGKILL)
        await until(lambda: kept._reader._process is None)
        monkeypatch.setattr(asking, "MOST_WAITING", 0)
        with pytest.raises(Unavailable, match="too many others"):
            await read(kept)

    run(tmp_path, scenario)


def test_old_series_are_tidied_in_a_process_that_goes_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    day = 86_400.0

    async def scenario(kept: SeriesRecorder) -> None:
        for job in (1, 2):
            kept.began(job, 1, BEGIN, UUIDS)
            feed(kept, range(100), job=job)
            kept.ended(job, 1)
        await kept._flush(writing(kept), 2, 1)
        await kept.keep(BEGIN + 29 * day, 365 * day)
        assert (await read(kept))["every"] == 1.0
        await kept.keep(BEGIN + 31 * day, 365 * day)
        found = await read(kept)
        assert (found["every"], len(found["at"])) == (60.0, 2)
        await kept.forget([(1, 1)])
        assert await read(kept) == {}
        await kept.keep(BEGIN + 366 * day, 365 * day)
        assert await read(kept, job=2) == {}
        await until(lambda: kept._keeper._process is None)

    run(tmp_path, scenario)
    assert [one.getMessage() for one in caplog.records if one.name == recorder.log.name] == [
        "made 2 old series of telemetry small",
        "deleted 1 that were older than telemetry.keep",
    ]
