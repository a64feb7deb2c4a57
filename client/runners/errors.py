"""Every error a caller can meet, the code it travels under, and what the client exits with.

    RunnersError
    ├── InvalidRequest      invalid-request      400  exit 2  the request itself is wrong
    │   ├── InvalidPipeline invalid-pipeline     422  exit 2  the pipeline file is wrong, with every problem
    │   ├── TooLarge        too-large            413  exit 2  over a limit on size or number
    │   └── IllegalTransition illegal-transition 409  exit 2  the job cannot do that from where it is
    ├── NoSuchCard          no-such-card         404  exit 2  a card that the machine does not have, or not one alone
    ├── AlreadyTaken        already-taken        409  exit 2  cards that are booked, or needed by jobs, at that time
    ├── InvalidConfig       invalid-config       500  exit 2  a configuration file or flag is wrong
    ├── NotAllowed          not-allowed          403  exit 4  somebody else's job, or an operator's act
    ├── NotFound            not-found            404  exit 5  no such job, pipeline, booking or route
    ├── QuotaExceeded       quota-exceeded       429  exit 2  the queue or the caller's share of it is full
    ├── Unavailable         unavailable          503  exit 1  the daemon cannot promise anything now
    └── DaemonUnreachable   daemon-unreachable   503  exit 3  raised on the client's side only

A message says what happened, to what, and what to do about it. It reads `cannot X: because`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Problem(NamedTuple):
    """One thing wrong with a pipeline: where it is (``file``, 1-based ``line``, key ``path``) and what to do.

    ``file`` is empty and ``line`` is 0 when the pipeline came as JSON.
    """

    path: str
    message: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.file else ""
        return f"{where}{self.path}: {self.message}" if self.path else f"{where}{self.message}"


class RunnersError(Exception):
    """The root: something the caller can be told. ``code`` travels; ``status`` is HTTP's; ``exit`` the client's."""

    code = "internal"
    status = 500
    exit = 1


class InvalidRequest(RunnersError):
    """The request itself is wrong; sending it again will not help."""

    code = "invalid-request"
    status = 400
    exit = 2


class InvalidPipeline(InvalidRequest):
    """The pipeline is wrong. ``problems`` holds every mistake found, not only the first."""

    code = "invalid-pipeline"
    status = 422

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__(
            "\n".join([message, *map(str, self.problems)]) if message else "\n".join(map(str, self.problems))
        )


class TooLarge(InvalidRequest):
    """Over a limit on size or number."""

    code = "too-large"
    status = 413


class IllegalTransition(InvalidRequest):
    """The job cannot do that from the state it is in."""

    code = "illegal-transition"
    status = 409


class NoSuchCard(RunnersError):
    """The machine has no card of that name, or several."""

    code = "no-such-card"
    status = 404
    exit = 2


class AlreadyTaken(RunnersError):
    """The cards are booked for that time, or held by jobs until then."""

    code = "already-taken"
    status = 409
    exit = 2


class InvalidConfig(RunnersError):
    """A configuration file, variable or flag is wrong."""

    code = "invalid-config"
    exit = 2


class NotAllowed(RunnersError):
    """The caller is not the owner, nor an operator."""

    code = "not-allowed"
    status = 403
    exit = 4


class NotFound(RunnersError):
    """No such job, pipeline, booking or route."""

    code = "not-found"
    status = 404
    exit = 5


class QuotaExceeded(RunnersError):
    """The queue, or the caller's share of it, is full."""

    code = "quota-exceeded"
    status = 429
    exit = 2


class Unavailable(RunnersError):
    """The daemon cannot promise anything now (its disk is full, or it is stopping)."""

    code = "unavailable"
    status = 503


class DaemonUnreachable(RunnersError):
    """No daemon answers on the socket."""

    code = "daemon-unreachable"
    status = 503
    exit = 3
