"""Durations and sizes, as people write them and as they are shown."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.pipeline.quantities import MAX_SIZE, format_duration, format_size, parse_duration, parse_size

HOUR = 3600.0


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90), (90.5, 90.5), (0, 0), ("90", 90), ("90s", 90), ("30m", 1800), ("12h", 12 * HOUR), ("2d", 48 * HOUR),
        ("1:30:00", 1.5 * HOUR), ("01:30:00", 1.5 * HOUR), ("100:00:00", 100 * HOUR), ("1:30", 90), ("90:00", 1.5 * HOUR),
        ("2-00:00:00", 48 * HOUR), ("1-6", 30 * HOUR), ("0-12:30", 12.5 * HOUR), ("10-01:00:01", 241 * HOUR + 1),
        ("1h30m", 1.5 * HOUR), ("1h 30m", 1.5 * HOUR), ("2d 3h", 51 * HOUR), ("1.5h", 1.5 * HOUR), ("12H", 12 * HOUR),
        (" 5m ", 300), ("0:00:01.5", 1.5),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(written: Any, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize(
    "written",
    [
        "", " ", "h", "s", "-1", -1, True, None, [], {}, math.nan, math.inf, -math.inf, 10**400, "9" * 39, "1" * 100_000,
        "1:90:00", "1:60", "1:5", "1h 1h", "30m1h", "1h30", "1e3", "٣s", "1w", "1 year", "12 :30", "200000d", "1:30:00s",
        "2-", "-2", "1-24:00:00", "1-00:60", "1-00:00:60", "1-0:0:0", "2-1-0", "36525-12",
    ],
)  # fmt: skip
def test_what_is_no_duration_says_what_is_one(written: Any) -> None:
    with pytest.raises(ValueError, match=r"not a duration: write seconds \(90\)|more than 100 years"):
        parse_duration(written)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (0, 0), (1024, 1024), ("1024", 1024), ("100B", 100), ("20GiB", 20 << 30), ("20Gi", 20 << 30), ("20G", 20 << 30),
        ("20g", 20 << 30), ("20GB", 20 * 10**9), ("512MiB", 512 << 20), ("512MB", 512 * 10**6), ("5k", 5120), ("5kB", 5000),
        ("1TiB", 1 << 40), ("1.5GiB", 3 << 29), ("20 GiB", 20 << 30), (3.0, 3), ("1024PiB", MAX_SIZE),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(written: Any, size: int) -> None:
    parsed = parse_size(written)
    assert parsed == size
    assert type(parsed) is int


@pytest.mark.parametrize(
    "written",
    [
        "", "GiB", "1i", "1iB", "-1", -1, True, None, [], 1.5, math.nan, math.inf, 10**400, "1025PiB", "9" * 39, "1" * 100_000,
        "1e3", "20 gigs", "20GiBs", "0x10", "٣G",
    ],
)  # fmt: skip
def test_what_is_no_size_says_what_is_one(written: Any) -> None:
    with pytest.raises(ValueError, match=r"not a size: write bytes|more than 1 EiB"):
        parse_size(written)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0s"), (1.5, "1.5s"), (9.96, "10s"), (45, "45s"), (59.6, "1m"), (61, "1m 1s"), (3599.7, "1h"), (5400, "1h 30m"),
        (86399, "1d"), (90061, "1d 1h"), (400 * 86400, "400d"), (-5, "-5s"),
    ],
)  # fmt: skip
def test_durations_are_shown_in_two_units(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (20 << 30, "20GiB"), ((1 << 30) - 1, "1GiB"), (1 << 60, "1024PiB")],
)  # fmt: skip
def test_sizes_are_shown_in_one_unit(size: int, shown: str) -> None:
    assert format_size(size) == shown


@given(st.floats(0, 1e9))
def test_a_shown_duration_reads_back_nearly_the_same(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.06)


@given(st.integers(0, 1 << 59))
def test_a_shown_size_reads_back_nearly_the_same(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.06)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=60) | st.lists(st.integers()))
def test_anything_else_is_a_value_error_and_nothing_worse(value: Any) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert math.isfinite(parse(value))
        except ValueError as error:
            assert str(error)
