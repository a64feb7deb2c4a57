"""By how much the machine's clock was set while attempts ran: none of that is their time.

Another clock counts from no particular moment, and nobody sets it. Where the two have gone apart, the machine's was
set, or the machine slept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from runnersd.model import Job, JobId

log = logging.getLogger(__name__)

#: Seconds by which the two clocks may go apart before that counts.
STRAYS = 2.0


class ClockSet:
    """Sees both clocks at every turn, and remembers how far they were apart when each live attempt started."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None  # the turn before, by that clock, and how far apart
        self._started: dict[tuple[JobId, int], float] = {}
        self.by = 0.0  #: seconds by which the clock was set since the turn before
        self.since = 0.0  #: when that was, by the clock as it is now (Unix seconds)

    def see(self, live: Iterable[Job], now: float, ticks: float) -> Mapping[tuple[JobId, int], float]:
        """The attempts during which the clock was set, and by how much (seconds).

        ``now`` is by the machine's clock (Unix seconds), ``ticks`` at the same moment by the other. What an earlier
        daemon started is taken to have started when the clock as it is now says so.
        """
        apart = now - ticks
        last_turn, apart_before = self._last or (ticks, apart)
        self.since = now - (ticks - last_turn)
        self.by = apart - apart_before if abs(apart - apart_before) > STRAYS else 0.0
        if self.by:
            log.warning("the clock was set by %+.0f s, or the machine slept: time limits go on as before", self.by)
        started: dict[tuple[JobId, int], float] = {}
        for job in live:
            if job.started_at is None:
                continue
            attempt = job.id, job.attempt
            if attempt in self._started:
                started[attempt] = self._started[attempt]
            else:
                # It started since the last turn. If that is so by the clock as it is now, then that was set before.
                fits = self.since - STRAYS <= job.started_at <= now + STRAYS
                started[attempt] = apart if fits else apart_before
        self._last, self._started = (ticks, apart), started
        by_attempt = {attempt: apart - then for attempt, then in started.items()}
        return {attempt: by for attempt, by in by_attempt.items() if abs(by) > STRAYS}
