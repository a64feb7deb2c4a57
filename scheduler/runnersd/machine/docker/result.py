"""What the engine says of a container's state and end, as an attempt's outcome. Pure.

An exit code is believed only where the engine can know it. A container that ended because its engine stopped, or over a
restart of the machine, is lost: engines report 137, 255, or even 0 for it.
"""

from __future__ import annotations

import re
import signal as signals
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from runners.api import Code
from runners.pipeline.quantities import format_size
from runnersd.machine.docker.errors import one_line
from runnersd.machine.docker.reconcile import Status
from runnersd.machine.docker.record import Record
from runnersd.model import Outcome, Reason

#: How an engine writes a time that has not been.
_NEVER = "0001-"
_KILLED = 137
#: What an engine says of a container that it is removing; one that ran was killed for it.
_GOING = ("removing", "dead")
#: What an engine says of a container whose shim it has lost.
_SHIM_LOST = 255


def status(seen: Mapping[str, Any]) -> Status:
    """Where the container is, of what inspect says."""
    said = str(seen["State"].get("Status"))
    if said in ("running", "paused", "restarting"):
        return "running"
    if said == "created" or started_at(seen) is None:
        return "created"
    return "ended"


def started_at(seen: Mapping[str, Any]) -> float | None:
    """When it was last started (Unix seconds); None when it never was."""
    return moment(str(seen["State"].get("StartedAt") or _NEVER))


def moment(text: str) -> float | None:
    """An RFC 3339 time of the engine's, in Unix seconds; None for its zero."""
    if text.startswith(_NEVER) or not text:
        return None
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if found is None:
        return None
    whole = datetime.fromisoformat(found[1] + (found[3] if found[3] != "Z" else "+00:00")).astimezone(UTC)
    return whole.timestamp() + float(found[2] or 0)


def outcome(
    seen: Mapping[str, Any],
    said: Record,
    *,
    boot: str,
    booted_at: float,
    same_engine: bool,
    answered_at: float | None,
    orphaned: bool = False,
    out_of_memory: bool = False,
) -> Outcome:
    """How a container that has ended did so. ``said`` is the attempt's record.

    ``boot`` and ``booted_at`` are this boot of the machine's. ``same_engine`` is whether the engine that
    had it was still there after this was ``seen``, ``answered_at`` when (Unix seconds) that one last let somebody in,
    as far as is known. ``orphaned`` is whether the shim that held it ended before it did, ``out_of_memory`` whether the
    engine had news of a kill for that, which may be before its own state says so.
    """
    state = seen["State"]
    code = int(state.get("ExitCode") or 0)
    finished = moment(str(state.get("FinishedAt") or _NEVER))
    began = said.at or started_at(seen)
    if said.began is not None and str(state.get("StartedAt")) != said.began:
        return lost(began, "its container was started a second time by somebody else; what it did then is not its end")
    if said.boot != boot and (finished is None or finished >= booted_at):
        return Outcome(
            None, started_at=began, finished_at=finished,
            failure=Reason(Code.MACHINE_RESTARTED, "the machine restarted while it ran"),
        )  # fmt: skip
    if not said.told and _died_with_engine(said, same_engine, finished, answered_at):
        return lost(began, "the container engine was stopped or died, and its containers with it")
    if not said.told and code == _KILLED and state.get("Status") in _GOING:
        return lost(began, "its container was removed by somebody else")
    if not said.told and code == _KILLED and orphaned:
        return lost(began, "the shim that held it for the engine was killed, and it with it")
    if not said.told and code == _SHIM_LOST and (state.get("Error") or not same_engine):
        why = one_line(str(state.get("Error") or "it ended while the engine was away, which does not know how"))
        return lost(began, f"the engine lost sight of it: {why}")
    signal = code - 128 if 128 < code <= 128 + signals.NSIG else None
    failure = None
    killed = state.get("OOMKilled") or (out_of_memory and code == _KILLED)
    if code != 0 and killed and not said.told:
        limit = int((seen.get("HostConfig") or {}).get("Memory") or 0)
        text = f"it ran out of memory: its limit is {format_size(limit)}" if limit else "the machine ran out of memory"
        failure = Reason(Code.OUT_OF_MEMORY, text)
    if finished is not None and began is not None:
        finished = max(finished, began)  # engines take down a start late, after a short end
    return Outcome(code, signal, started_at=began, finished_at=finished, failure=failure, stopped=said.told)


def may_be_out_of_memory(seen: Mapping[str, Any], said: Record) -> bool:
    """Whether it was killed in a way that the want of memory would explain, though the engine does not say so yet."""
    state, limit = seen["State"], (seen.get("HostConfig") or {}).get("Memory")
    return bool(limit) and int(state.get("ExitCode") or 0) == _KILLED and not state.get("OOMKilled") and not said.told


def start_failure(seen: Mapping[str, Any], said: str) -> str:
    """Why a container could not be started, for the person who wrote the job."""
    text = str(seen["State"].get("Error") or said)
    cut = re.split(r"(?:OCI runtime create failed|runc create failed|starting container process caused): ", text)
    return f"cannot start its container: {one_line(cut[-1])}"


def gate_failure(seen: Mapping[str, Any], last: str) -> str:
    """Why a container ended at its gate. ``last`` is the last line of its stderr."""
    last = one_line(last)
    if last.startswith("cannot run"):
        return last
    code = int(seen["State"].get("ExitCode") or 0)
    text = one_line(str(seen["State"].get("Error") or last))
    return f"its container ended with {code} before its command was started{': ' + text if text else ''}"


def exec_failure(seen: Mapping[str, Any], last: str) -> str | None:
    """Why the engine's init could not become the command, where there was no gate to find that out; None when it did.

    ``last`` is the last line of its stderr.
    """
    found = re.fullmatch(r"\[FATAL tini \(\d+\)\] exec (.*) failed: (.*)", last)
    if found is None or seen["State"].get("ExitCode") not in (126, 127):
        return None
    return f"cannot run {found[1]}: {found[2]}"


def why_lost(seen: Mapping[str, Any] | None) -> str:
    """Why an attempt is lost that had begun, or may have; None where the engine knows no such container."""
    if seen is None:
        return "its container was removed by somebody else"
    if status(seen) == "running":
        return "its container has no process left, though the engine says that it runs"
    return "the engine died while it was started; how it ended is not known"


def lost(began: float | None, why: str) -> Outcome:
    """The end of an attempt of which nobody can say how it ended. It ``began`` then (Unix seconds), if at all."""
    return Outcome(None, started_at=began, failure=Reason(Code.CONTAINER_LOST, why))


def recorded(said: Record) -> Outcome:
    """The end that the record of an attempt tells which is over without one of its container's own."""
    if said.lost is not None:
        return lost(said.at, said.lost)
    if said.failed is not None:
        return Outcome(None, failure=Reason(Code.LAUNCH_FAILED, said.failed))
    return Outcome(None, failure=Reason(Code.CANCELLED_BY, said.stopped or "It was stopped."))


def _died_with_engine(said: Record, same_engine: bool, finished: float | None, answered_at: float | None) -> bool:
    """Whether it ended because the engine that ran it did, which kills what it cannot restore."""
    if said.live_restore or same_engine:
        return False
    # An engine that ends lets nobody in any more before it kills: what had ended by then had ended by itself.
    return answered_at is None or finished is None or finished >= answered_at
