"""The engine's log stream, taken apart whichever way its bytes arrive."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnersd.machine.docker.frames import LATE, Demultiplexer, Piece, Position, Resume, nanoseconds


def frame(stream: int, at: str, data: bytes) -> bytes:
    content = at.encode() + b" " + data
    return bytes([stream, 0, 0, 0]) + len(content).to_bytes(4, "big") + content


pieces = st.lists(
    st.builds(
        Piece,
        st.sampled_from((1, 2)),
        st.sampled_from(("2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.12Z", "2026-01-01T00:00:00.123456789Z")),
        st.binary(min_size=1, max_size=40),
    ),
    max_size=12,
)


@given(pieces, st.randoms(use_true_random=False))
def test_pieces_come_out_however_the_bytes_are_cut(wanted: list[Piece], random: object) -> None:
    stream = b"".join(frame(*piece) for piece in wanted)
    demultiplexer, found = Demultiplexer(), []
    while stream:
        cut = random.randint(1, len(stream))  # type: ignore[attr-defined]
        found += demultiplexer.feed(stream[:cut])
        stream = stream[cut:]
    assert found == wanted


SECOND = 10**9


def at(moment: int) -> str:
    """A time (nanoseconds of Unix time) as an engine writes it: without trailing zeros."""
    whole = datetime.fromtimestamp(moment // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{moment % SECOND:09}".rstrip("0").rstrip(".") + "Z"


@st.composite
def logs(draw: st.DrawFn) -> list[Piece]:
    """What an engine writes down of two streams: a line's pieces all have the time of its first, and a piece of one
    stream may come up to `LATE` after a newer one of the other."""
    clock, begun, found = 1_800_000_000 * SECOND, [0, 0], []
    last = [clock, clock]
    for number in draw(st.lists(st.sampled_from((0, 1)), max_size=14)):
        clock += draw(st.sampled_from((0, 1, SECOND // 10, 3 * SECOND, 3600 * SECOND)))
        ends, late = draw(st.booleans()), draw(st.sampled_from((0, 1, LATE)))
        moment = begun[number] or max(last[number], clock - late)
        last[number], begun[number] = moment, 0 if ends else moment
        found.append(Piece(number + 1, at(moment), b"%d%s" % (len(found), b"\n" if ends else b"")))
    return found


@given(logs(), st.data())
def test_a_copy_that_is_taken_up_again_loses_and_repeats_nothing(wanted: list[Piece], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(wanted)))
    first = Resume()
    copied = [piece for piece in wanted[:cut] if first.fresh(piece)]
    again = Resume(first.positions)
    since = int(again.since.replace(".", "") or 0)
    told = [piece for piece in wanted if nanoseconds(piece.at) >= since]  # as an engine does
    copied += [piece for piece in told if again.fresh(piece)]
    for number, position in enumerate(again.positions):
        mine = [piece for piece in wanted if piece.stream == number + 1]
        assert [piece for piece in copied if piece.stream == number + 1] == mine
        times = [piece.at for piece in mine]
        goes_on = bool(mine) and not mine[-1].data.endswith(b"\n")
        assert position == (Position(times[-1], times.count(times[-1]), goes_on) if mine else Position())


def test_what_was_copied_long_ago_is_not_asked_for_again() -> None:
    """Neither for a stream that has said nothing, nor for one that said something once: only for a line that goes on."""
    resume = Resume()
    assert resume.since == ""
    hour = 3600 * SECOND
    for n in range(3):
        assert resume.fresh(Piece(1, at((n + 1) * hour), b"epoch\n"))
    recent = f"{(3 * hour - LATE) // SECOND}.000000000"
    assert resume.since == recent
    assert resume.fresh(Piece(2, at(hour), b"warning\n"))
    assert resume.since == recent
    assert resume.fresh(Piece(2, at(2 * hour), b"50 %"))
    assert resume.since == f"{2 * hour // SECOND}.000000000"


def test_a_line_of_exactly_the_buffers_size_keeps_its_newline() -> None:
    when = "2026-01-01T00:00:00.1Z"
    found = Demultiplexer().feed(frame(1, when, b"x" * 16384) + frame(1, when, b"") + frame(1, when, b"\n"))
    assert b"".join(piece.data for piece in found) == b"x" * 16384 + b"\n\n"


@pytest.mark.parametrize(
    "stream",
    [b"\x03\0\0\0\0\0\0\x01x", b"GET / HTTP/1.1\r\n", b"\x01\0\0\0\xff\xff\xff\xff", frame(1, "x" * 65, b"late")],
    ids=["stream 3", "text", "4 GiB", "no time"],
)
def test_what_is_not_a_log_stream_is_told(stream: bytes) -> None:
    with pytest.raises(ValueError, match="cannot read the log stream"):
        Demultiplexer().feed(stream)
