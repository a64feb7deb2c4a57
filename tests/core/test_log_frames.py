"""The engine's log stream, taken apart whichever way its bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runnersd.machine.docker.frames import Demultiplexer, Piece, Position, Resume, comparable


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


@given(pieces, st.randoms(use_true_random=False), st.data())
def test_a_copy_that_is_taken_up_again_loses_and_repeats_nothing(
    some: list[Piece], random: object, data: st.DataObject
) -> None:
    """However the two streams are mixed: only within each do times never go back."""
    streams = [sorted((p for p in some if p.stream == n), key=lambda p: comparable(p.at)) for n in (1, 2)]
    wanted = []
    while any(streams):
        wanted.append(random.choice([stream for stream in streams if stream]).pop(0))  # type: ignore[attr-defined]
    cut = data.draw(st.integers(0, len(wanted)))
    first = Resume()
    copied = [piece for piece in wanted[:cut] if first.fresh(piece)]
    again = Resume(first.positions)
    told = [piece for piece in wanted if comparable(piece.at) >= comparable(again.since)]  # as an engine does
    copied += [piece for piece in told if again.fresh(piece)]
    assert [[p for p in copied if p.stream == n] for n in (1, 2)] == [
        [p for p in wanted if p.stream == n] for n in (1, 2)
    ]
    for number, position in enumerate(again.positions):
        times = [piece.at for piece in wanted if piece.stream == number + 1]
        assert position == (Position(times[-1], times.count(times[-1])) if times else Position())


def test_a_line_of_exactly_the_buffers_size_keeps_its_newline() -> None:
    at = "2026-01-01T00:00:00.1Z"
    found = Demultiplexer().feed(frame(1, at, b"x" * 16384) + frame(1, at, b"") + frame(1, at, b"\n"))
    assert b"".join(piece.data for piece in found) == b"x" * 16384 + b"\n\n"


@pytest.mark.parametrize(
    "stream",
    [b"\x03\0\0\0\0\0\0\x01x", b"GET / HTTP/1.1\r\n", b"\x01\0\0\0\xff\xff\xff\xff", frame(1, "x" * 65, b"late")],
    ids=["stream 3", "text", "4 GiB", "no time"],
)
def test_what_is_not_a_log_stream_is_told(stream: bytes) -> None:
    with pytest.raises(ValueError, match="cannot read the log stream"):
        Demultiplexer().feed(stream)
