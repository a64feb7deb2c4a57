"""The group of an attempt: what is read is what was written, and a kill at any step leaves whole rows."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from machine import telemetry_curve as curve
from runnersd.telemetry import reading, upkeep
from runnersd.telemetry.compaction import compact
from runnersd.telemetry.layout import MINUTES, SAMPLES, Attempt
from runnersd.telemetry.series import CHUNK, Busy, Writer

#: Every step of a kill is tried by the slow tests, and each so-manieth by the others.
STRIDES = [23, pytest.param(1, marks=pytest.mark.slow)]


def group(root: Path) -> Path:
    return curve.ATTEMPT.path(root)


def same(root: Path, rows: int) -> None:
    """It holds the first rows of the curve, exactly, and as many in each array."""
    series = reading.load(root, curve.ATTEMPT)
    assert series is not None
    assert series.about["rows"] == rows
    for name, column in series.columns.items():
        expected = np.array([curve.row(second)[name] for second in range(rows)], column.dtype)
        np.testing.assert_array_equal(column, expected.reshape(column.shape), err_msg=name)


def killed_at_every_step(what: str, template: Path, work: Path, stride: int) -> list[Path]:
    """The state directories that so many kills left; the last was not killed."""
    work.mkdir()
    path = os.pathsep.join(sys.path)
    command = [sys.executable, curve.__file__, what, template, work, "1", str(stride)]
    last = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True)
    left = [work / str(step) for step in range(1, int(last.stdout) + 1, stride)]
    assert len(left) > 3
    return left


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    curve.write(tmp_path, range(CHUNK * 2 + 33), 15)
    same(tmp_path, CHUNK * 2 + 33)
    series = reading.load(tmp_path, curve.ATTEMPT)
    assert series is not None
    assert series.cards == [card.attributes() for card in curve.CARDS]
    assert (
        series.about | {"job": 1012, "attempt": 2, "every": 1.0, "started_at": curve.BEGIN, "version": 1}
        == series.about
    )


def test_the_group_is_read_by_zarr_alone(tmp_path: Path) -> None:
    curve.write(tmp_path, range(40), 15, ended=True)
    whole = zarr.open_group(group(tmp_path), mode="r")
    power = whole["samples/power"]
    assert isinstance(power, zarr.Array)
    assert (power.shape, power.attrs["unit"], power.metadata.dimension_names) == ((40, 2), "W", ("time", "card"))
    assert {one.shape[0] for _, one in whole["samples"].arrays()} == {40}
    assert (whole.attrs["rows"], whole.attrs["ended"], whole.attrs["until"]) == (40, True, curve.BEGIN + 39)


def test_a_later_writer_goes_on_where_the_earlier_one_was_killed(tmp_path: Path) -> None:
    first = curve.writer(tmp_path)
    for second in range(100):
        first.add(curve.row(second))
    first.flush()
    first.add(curve.row(-1))  # never written
    second_writer = curve.writer(tmp_path)
    second_writer.add(curve.row(100))
    with pytest.raises(Busy):
        second_writer.flush()
    assert first._lock is not None
    os.close(first._lock)  # as the kernel does for the killed
    second_writer.flush()
    same(tmp_path, 101)
    second_writer.close()


def test_a_week_is_some_thousand_files(tmp_path: Path) -> None:
    curve.write(tmp_path, range(3 * CHUNK), CHUNK)
    files = sum(len(names) for _, _, names in os.walk(group(tmp_path)))
    assert files == 2 + 7 * (1 + 3)
    assert 7 * (7 * 86_400 / CHUNK) < 5000


def test_no_card_is_no_array(tmp_path: Path) -> None:
    with_rows = Writer(tmp_path, curve.ATTEMPT, 1.0, curve.BEGIN, ())
    with_rows.add({"at": curve.BEGIN, "process_memory": 5.0, "process_cpu": math.nan})
    with_rows.close()
    found = json.loads(reading.answer(tmp_path, curve.ATTEMPT, 10))
    assert found == {"every": 1.0, "at": [curve.BEGIN], "gpus": [], "process": {"memory": [5.0], "cpu": [None]}}


@pytest.mark.parametrize("stride", STRIDES)
def test_a_writer_killed_at_any_step_leaves_whole_rows(tmp_path: Path, stride: int) -> None:
    curve.write(tmp_path / "begin", range(880), 440)
    seen = set()
    for root in killed_at_every_step("write", tmp_path / "begin", tmp_path / "killed", stride):
        series = reading.load(root, curve.ATTEMPT)
        assert series is not None
        rows = series.about["rows"]
        assert rows in (880, 890, 900, 910, 920)
        same(root, rows)
        curve.write(root, range(rows, 950), 20)
        same(root, 950)
        seen.add(rows)
    assert len(seen) > 2


def test_a_writer_killed_while_it_makes_the_group_leaves_one_to_go_on_with(tmp_path: Path) -> None:
    (tmp_path / "begin").mkdir()
    empty = 0
    for root in killed_at_every_step("make", tmp_path / "begin", tmp_path / "killed", 5):
        series = reading.load(root, curve.ATTEMPT)
        rows = 0 if series is None else series.about["rows"]
        empty += rows == 0
        curve.write(root, range(rows, 30), 20)
        same(root, 30)
    assert empty > 2


def test_a_chunk_that_the_disk_lost_is_not_known_and_the_rest_is(tmp_path: Path) -> None:
    curve.write(tmp_path, range(CHUNK + 5), 100)
    (group(tmp_path) / "samples/power/c/0/0").write_bytes(b"")
    series = reading.load(tmp_path, curve.ATTEMPT)
    assert series is not None
    power = series.columns["power"]
    assert np.isnan(power[:CHUNK]).all()
    assert (power[CHUNK:, 0] == 300.125).all()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"attributes": {"version": 2}}'])
def test_what_is_no_series_is_said_to_be_none(tmp_path: Path, text: bytes) -> None:
    group(tmp_path).mkdir(parents=True)
    (group(tmp_path) / "zarr.json").write_bytes(text)
    with pytest.raises(reading.Unreadable, match="zarr"):
        reading.load(tmp_path, curve.ATTEMPT)


# -- reading ---------------------------------------------------------------------------------------------------------


def test_more_rows_than_points_are_means_over_equal_spans(tmp_path: Path) -> None:
    curve.write(tmp_path, range(1000), 500)
    found = json.loads(reading.answer(tmp_path, curve.ATTEMPT, 10))
    width = 999 / 10
    assert found["at"] == pytest.approx([curve.BEGIN + (span + 0.5) * width for span in range(10)])
    in_span = [[second for second in range(1000) if min(int(second / width), 9) == span] for span in range(10)]
    for span, seconds in enumerate(in_span):
        known = [curve.row(second)["power"][1] for second in seconds if not math.isnan(curve.row(second)["power"][1])]
        assert found["gpus"][1]["power"][span] == pytest.approx(sum(known) / len(known), abs=1e-3)
        assert found["process"]["memory"][span] == pytest.approx(4096 * sum(seconds) / len(seconds), abs=1e-3)


def test_a_span_without_samples_is_left_out(tmp_path: Path) -> None:
    curve.write(tmp_path, range(100), 100)
    curve.write(tmp_path, range(900, 1000), 1000)
    found = json.loads(reading.answer(tmp_path, curve.ATTEMPT, 10))
    assert [int((at - curve.BEGIN) / 99.9) for at in found["at"]] == [0, 9]
    assert all(number is not None for number in found["process"]["cpu"])


# -- old ones --------------------------------------------------------------------------------------------------------


def test_minutes_have_means_and_peaks(tmp_path: Path) -> None:
    curve.write(tmp_path, range(300), 300, ended=True)
    assert not compact(tmp_path, curve.ATTEMPT, curve.BEGIN + 299)
    assert compact(tmp_path, curve.ATTEMPT, curve.BEGIN + 300)
    assert not compact(tmp_path, curve.ATTEMPT, math.inf)
    assert sorted(os.listdir(group(tmp_path))) == [MINUTES, "zarr.json"]
    series = reading.load(tmp_path, curve.ATTEMPT)
    assert series is not None
    minutes: dict[float, list[int]] = {}
    for second in range(300):
        minutes.setdefault((curve.BEGIN + second) // 60 * 60 + 30, []).append(second)
    assert series.columns["at"].tolist() == [*minutes]
    assert (series.about["every"], series.about["measured_every"]) == (60.0, 1.0)
    held = zarr.open_group(group(tmp_path), mode="r")[MINUTES]
    for place, seconds in enumerate(minutes.values()):
        used = [curve.row(second)["memory_used"][0] for second in seconds]
        assert series.columns["memory_used"][place, 0] == pytest.approx(sum(used) / len(used))
        assert held["memory_used_peak"][place, 0] == max(used)
        assert held["power_peak"][place, 1] == 202.5


@pytest.mark.parametrize("stride", STRIDES)
def test_compaction_killed_at_any_step_leaves_one_of_the_two_whole(tmp_path: Path, stride: int) -> None:
    curve.write(tmp_path / "begin", range(1000), 100, ended=True)
    full = reading.answer(tmp_path / "begin", curve.ATTEMPT, 2000)
    *killed, done = killed_at_every_step("compact", tmp_path / "begin", tmp_path / "killed", stride)
    small = reading.answer(done, curve.ATTEMPT, 2000)
    assert len(json.loads(small)["at"]) == 17
    seen = []
    for root in killed:
        found = reading.answer(root, curve.ATTEMPT, 2000)
        assert found in (full, small)
        seen.append(found == small)
        compact(root, curve.ATTEMPT, math.inf)
        assert reading.answer(root, curve.ATTEMPT, 2000) == small
        assert sorted(os.listdir(group(root))) == [MINUTES, "zarr.json"]
    assert seen == sorted(seen)
    assert {*seen} == {False, True}


def test_series_grow_small_and_go_as_they_grow_old(tmp_path: Path) -> None:
    day = 86_400.0
    ends = {Attempt(1, 1): 400.0, Attempt(2, 1): 40.0, Attempt(1003, 1): 10.0}
    now = curve.BEGIN + 1000 * day
    for attempt, days in ends.items():
        with_rows = Writer(tmp_path, attempt, 1.0, now - days * day, ())
        for second in range(90):
            with_rows.add({"at": now - days * day + second, "process_memory": 1.0, "process_cpu": 1.0})
        with_rows.close(ended=True)
    (tmp_path / "0" / ".trash-9.1.zarr/samples").mkdir(parents=True)  # a kill left it
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("")
    (tmp_path / "0" / ".trash-9.1.zarr" / "link").symlink_to(outside)
    (tmp_path / "0" / "notes.txt").write_text("somebody's")
    (tmp_path / "5").mkdir()
    told = upkeep.keep(tmp_path, now - 30 * day, now - 365 * day)
    assert told == "made 1 old series of telemetry small; deleted 1 that were older than telemetry.keep"
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "outside"]
    assert sorted(os.listdir(tmp_path / "0")) == ["2.1.zarr", "notes.txt"]
    assert (tmp_path / "0/2.1.zarr/minutes").is_dir()
    assert (tmp_path / "1/1003.1.zarr" / SAMPLES).is_dir()
    assert (outside / "kept").exists()
    assert upkeep.keep(tmp_path, now - 30 * day, now - 365 * day) == ""
    assert upkeep.forget(tmp_path, [Attempt(1003, 1), Attempt(1003, 2), Attempt(7000, 1)]) == ""
    assert not (tmp_path / "1").exists()
