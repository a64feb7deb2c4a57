"""What a container's end means: believed only where the engine can know it."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from runners.api import Code
from runnersd.machine.docker import result
from runnersd.machine.docker.record import Record
from runnersd.model import Outcome

BOOT, BOOTED_AT = "boot-1", 1_000.0
BEGAN = "2026-01-31T12:00:00.123456789Z"
BEGAN_AT = 1769860800.1234568
#: The record of a payload that was let run by an engine that is not the one that is asked now unless said.
RECORD = Record(boot=BOOT, container="c" * 64, gated=True, starting=True, instance=(7, 70), began=BEGAN, at=BEGAN_AT + 1,
                pid=9, start=90, opened=True)  # fmt: skip


def inspected(code: int = 0, *, memory: int = 0, **state: Any) -> dict[str, Any]:
    """What the engine says of a container that ended a minute after it began."""
    said = {"Status": "exited", "ExitCode": code, "Error": "", "OOMKilled": False, "StartedAt": BEGAN,
            "FinishedAt": "2026-01-31T12:01:00.123456789Z", **state}  # fmt: skip
    return {"State": said, "HostConfig": {"Memory": memory}}


def ended(seen: dict[str, Any], said: Record = RECORD, **facts: Any) -> Outcome:
    given = {"boot": BOOT, "booted_at": BOOTED_AT, "same_engine": True, "answered_at": None, **facts}
    return result.outcome(seen, said, **given)


def why(outcome: Outcome) -> Code | None:
    return outcome.failure.code if outcome.failure is not None else None


@pytest.mark.parametrize(
    ("code", "signal"),
    [(0, None), (3, None), (125, None), (127, None), (128, None), (137, 9), (143, 15), (192, 64), (255, None)],
)
def test_an_exit_code_is_taken_as_it_is_and_above_128_names_a_signal(code: int, signal: int | None) -> None:
    outcome = ended(inspected(code))
    assert (outcome.exit_code, outcome.signal, outcome.failure) == (code, signal, None)
    assert outcome.started_at == BEGAN_AT + 1
    assert outcome.finished_at == pytest.approx(BEGAN_AT + 60)
    assert not outcome.stopped


def test_it_was_stopped_if_its_record_says_so() -> None:
    assert ended(inspected(143), replace(RECORD, told=True)).stopped


def test_one_that_nobody_saw_begin_began_when_the_engine_says_and_ends_no_earlier() -> None:
    unseen = replace(RECORD, began=None, at=None)
    assert ended(inspected(0), unseen).started_at == pytest.approx(BEGAN_AT)
    early = ended(inspected(0, FinishedAt="2026-01-31T11:59:59Z"), unseen)
    assert early.started_at == early.finished_at == pytest.approx(BEGAN_AT)


@pytest.mark.parametrize("code", [1, 137])
def test_memory_that_ran_out_is_told_with_the_limit(code: int) -> None:
    limited, whole = ended(inspected(code, OOMKilled=True, memory=1 << 30)), ended(inspected(code, OOMKilled=True))
    assert (why(limited), why(whole)) == (Code.OUT_OF_MEMORY, Code.OUT_OF_MEMORY)
    assert limited.failure is not None and "1GiB" in limited.failure.text
    assert whole.failure is not None and "the machine" in whole.failure.text
    assert limited.exit_code == code


def test_memory_that_ran_out_does_not_undo_a_success_nor_a_stop() -> None:
    """A child was killed and the payload got over it; or we killed it ourselves."""
    assert why(ended(inspected(0, OOMKilled=True))) is None
    assert why(ended(inspected(137, OOMKilled=True), replace(RECORD, told=True))) is None


@pytest.mark.parametrize("code", [0, 137, 255])
def test_what_ended_over_a_restart_of_the_machine_is_lost_whatever_its_code(code: int) -> None:
    outcome = ended(inspected(code), boot="boot-2", booted_at=BEGAN_AT + 30)
    assert (why(outcome), outcome.exit_code) == (Code.MACHINE_RESTARTED, None)


def test_what_had_ended_before_the_restart_keeps_its_code() -> None:
    assert ended(inspected(3), boot="boot-2", booted_at=BEGAN_AT + 90).exit_code == 3


@pytest.mark.parametrize("code", [0, 1, 137, 255])
def test_what_ended_with_its_engine_is_lost_whatever_its_code(code: int) -> None:
    outcome = ended(inspected(code), same_engine=False)
    assert (why(outcome), outcome.exit_code) == (Code.CONTAINER_LOST, None)


def test_what_ended_before_its_engine_did_keeps_its_code() -> None:
    """The engine let somebody in after the container's end: it was well then."""
    assert ended(inspected(3), same_engine=False, answered_at=BEGAN_AT + 61).exit_code == 3
    assert why(ended(inspected(3), same_engine=False, answered_at=BEGAN_AT + 59)) is Code.CONTAINER_LOST


def test_live_restore_keeps_the_code_over_another_engine() -> None:
    assert ended(inspected(3), replace(RECORD, live_restore=True), same_engine=False).exit_code == 3


def test_what_we_stopped_is_stopped_though_its_engine_died() -> None:
    outcome = ended(inspected(137), replace(RECORD, told=True), same_engine=False)
    assert (outcome.exit_code, outcome.failure) == (137, None)


def test_255_of_a_lost_shim_is_lost_and_one_of_the_payload_is_not() -> None:
    lost = ended(inspected(255, Error="shim disconnected\nunexpectedly"))
    assert why(lost) is Code.CONTAINER_LOST
    assert lost.failure is not None and lost.failure.text.count("\n") == 0
    assert ended(inspected(255)).exit_code == 255


def test_255_of_what_ended_while_the_engine_was_away_is_lost() -> None:
    restored = replace(RECORD, live_restore=True)
    assert why(ended(inspected(255), restored, same_engine=False)) is Code.CONTAINER_LOST
    assert ended(inspected(255), restored).exit_code == 255


def test_a_removal_by_hand_is_told_from_a_kill() -> None:
    assert why(ended(inspected(137, Status="removing"))) is Code.CONTAINER_LOST
    assert ended(inspected(137, Status="removing"), replace(RECORD, told=True)).exit_code == 137
    assert ended(inspected(3, Status="removing")).exit_code == 3, "it had ended by itself, and is removed since"


def test_a_container_that_was_killed_with_its_shim_is_lost() -> None:
    assert why(ended(inspected(137), orphaned=True)) is Code.CONTAINER_LOST
    assert ended(inspected(137), replace(RECORD, told=True), orphaned=True).exit_code == 137
    assert ended(inspected(3), orphaned=True).exit_code == 3


def test_a_second_start_by_somebody_else_is_not_its_end() -> None:
    outcome = ended(inspected(0, StartedAt="2026-01-31T12:00:30Z"))
    assert (why(outcome), outcome.exit_code) == (Code.CONTAINER_LOST, None)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"Status": "running"}, "running"),
        ({"Status": "paused"}, "running"),
        ({"Status": "restarting"}, "running"),
        ({"Status": "exited"}, "ended"),
        ({"Status": "dead"}, "ended"),
        ({"Status": "removing"}, "ended"),
        ({"Status": "created", "StartedAt": "0001-01-01T00:00:00Z"}, "created"),
        ({"Status": "exited", "StartedAt": "0001-01-01T00:00:00Z"}, "created"),
        ({"Status": "created"}, "created"),
    ],
)
def test_where_a_container_is(said: dict[str, str], status: str) -> None:
    assert result.status(inspected(**said)) == status


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", 1769860800.0),
        ("2026-01-31T12:00:00.5Z", 1769860800.5),
        ("2026-01-31T14:00:00.123456789+02:00", 1769860800.1234568),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_an_engines_times(text: str, moment: float | None) -> None:
    assert result.moment(text) == (None if moment is None else pytest.approx(moment, abs=1e-6))


@pytest.mark.parametrize(
    ("error", "last", "told"),
    [
        ("", "cannot run train: no such program in the image", "cannot run train: no such program in the image"),
        ("", "", "its container ended with 127 before its command was started"),
        ("", "sh: bad", "its container ended with 127 before its command was started: sh: bad"),
        ("no space left", "sh: bad", "its container ended with 127 before its command was started: no space left"),
    ],
)
def test_an_end_at_the_gate_says_why(error: str, last: str, told: str) -> None:
    assert result.gate_failure(inspected(127, Error=error), last) == told


def test_what_the_init_could_not_run_is_told_by_its_last_line_and_code() -> None:
    last = "[FATAL tini (8)] exec train failed: No such file or directory"
    assert result.exec_failure(inspected(127), last) == "cannot run train: No such file or directory"
    assert result.exec_failure(inspected(1), last) is None
    assert result.exec_failure(inspected(127), "train: not found") is None


def test_a_failed_start_is_told_without_the_engines_preamble() -> None:
    error = (
        "OCI runtime create failed: container_linux.go:380: starting container process caused: "
        'exec: "nvidia-container-cli": device error: unknown device'
    )
    said = result.start_failure(inspected(Error=error), "what the call answered")
    assert said == 'cannot start its container: exec: "nvidia-container-cli": device error: unknown device'
    assert "what the call answered" in result.start_failure(inspected(), "what the call answered")


class TestRecord:
    def test_the_payload_may_have_run_once_its_gate_is_open_or_its_start_asked_for_where_there_is_none(self) -> None:
        def may(**facts: Any) -> bool:
            return Record(**facts).may_have_run

        assert not may(gated=True, starting=True)
        assert may(gated=True, starting=True, opened=True)
        assert not may(gated=True, starting=True, opened=True, unread=True)
        assert may(gated=False, starting=True)
        assert not may(gated=False)

    def test_what_is_over_stays_over(self) -> None:
        for name in ("failed", "stopped", "lost"):
            assert Record(**{name: "why"}).over
        assert not Record(opened=True).over

    def test_lines_add_up_and_unknown_words_are_left_out(self) -> None:
        said = Record()
        for line in ({"starting": [7, 70], "asked": 1.0}, {"opened": 5.0}, {"unread": True}, {"from the future": 1}):
            said.take(line)
        assert (said.starting, said.instance, said.opened, said.unread) == (True, (7, 70), True, True)
        said.take({"starting": None})
        assert said.instance is None
        said.take({"engine": [8, 80], "live_restore": True})
        assert (said.starting, said.instance, said.live_restore) == (True, (8, 80), True)
        said.take({"unasked": True})
        assert (said.starting, said.instance) == (False, None)
        assert "from the future" not in {one.name for one in fields(said)}


def test_news_of_a_kill_for_want_of_memory_counts_though_the_state_does_not_say_so_yet() -> None:
    limited = {"HostConfig": {"Memory": 64 << 20}}
    killed = {"State": {"ExitCode": 137, "OOMKilled": False}, **limited}
    assert result.may_be_out_of_memory(killed, Record())
    assert not result.may_be_out_of_memory(killed, Record(told=True))
    assert not result.may_be_out_of_memory({"State": {"ExitCode": 137, "OOMKilled": False}}, Record())
    assert not result.may_be_out_of_memory({"State": {"ExitCode": 1}, **limited}, Record())
