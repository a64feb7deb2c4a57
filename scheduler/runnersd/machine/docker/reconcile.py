"""What to do with an attempt, given what its record, the engine and the kernel say. One table. Pure.

The engine alone is not believed: killed at the wrong moment it calls a container `created` whose process runs, and it
says `running` of one whose process is gone. So the kernel's word on living processes is asked too. What is not known
changes nothing: cards stay held.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

#: What the engine says of the container; `unreachable` when it says nothing.
Status = Literal["absent", "created", "running", "ended", "unreachable"]


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an attempt's container.

    ``processes`` is whether the kernel knows living ones. ``same_engine`` is whether the engine's process is still the
    one that was asked to start it, as far as can be told.
    """

    status: Status
    processes: bool
    same_engine: bool = True
    ghostly: int = 0  #: earlier looks in a row at which it was `running` without a process
    created_for: float = 0.0  #: seconds for which it was seen `created` without a process


@dataclass(frozen=True, slots=True)
class Known:
    """What the attempt's record says: whether its start was asked for, and whether its payload may have run."""

    created: bool = False
    starting: bool = False
    may_have_run: bool = False
    began: bool = False


class Step(Enum):
    """What comes next."""

    CREATE = "have it made"
    START = "have it started"
    ADOPT = "it runs: see it to its end"
    FINISH = "it has ended: read how"
    LOST = "it is gone, or was never rightly started: its end will not be known"
    REMOVE = "have it removed, so that a start that was not answered can never happen: it is lost"
    KILL = "end its processes past the engine, then look again"
    WAIT = "nothing can be said now: look again later"


#: Looks in a row at a container without processes after which it is a ghost.
GHOST_LOOKS = 3
#: Seconds after which a start that was not answered is waited for no longer.
LATE_START = 30.0


def step(known: Known, look: Look) -> Step:
    """The next step of an attempt that is not over."""
    if look.status == "unreachable":
        return Step.WAIT
    if look.status == "running":
        if look.processes:
            return Step.ADOPT
        return Step.LOST if look.ghostly + 1 >= GHOST_LOOKS else Step.WAIT
    if look.status == "ended":
        # It may have handed its processes to nobody: cards come back only when the kernel has none of them.
        if look.processes:
            return Step.KILL
        # One that its engine took along while it waited at its gate has not run: it may wait again.
        return Step.START if known.starting and not (known.may_have_run or look.same_engine) else Step.FINISH
    if look.processes:
        # `created` or gone, and yet alive: the engine has forgotten that it started it. What may be the payload
        # cannot be watched through such an engine; what is still before its gate can be thrown away.
        return Step.KILL
    if look.status == "absent":
        return Step.LOST if known.may_have_run else Step.CREATE
    if not known.may_have_run:
        return Step.START  # it was not asked for yet; or its gate is shut, which makes a second start harmless
    if known.began or not look.same_engine:
        return Step.LOST  # it may have run and ended while the engine was dead
    # Its start was not answered, and may still happen: another one could be the second.
    return Step.REMOVE if look.created_for >= LATE_START else Step.WAIT
