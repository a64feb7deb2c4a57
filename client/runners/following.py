"""Following jobs to their end: the daemon's events, and a look at the jobs themselves after every break."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, cast

from .api import SETTLED
from .errors import DaemonUnreachable, Unavailable

if TYPE_CHECKING:
    from .api import JobView
    from .client import Client
    from .events import EventStream

Answer = TypeVar("Answer")

#: Seconds without a daemon before following is given up.
PATIENCE = 30.0


def follow(
    client: Client,
    ids: Sequence[int | str],
    *,
    tick: float | None = None,
    patience: float = PATIENCE,
    stream: EventStream | None = None,
    queued: Sequence[int] = (),
) -> Iterator[JobView | None]:
    """Every change of these jobs' states, beginning with where they are, until all of them are over.

    With ``tick``, a ``None`` whenever that many seconds have passed in silence, so that a caller can redraw. A daemon
    that restarts is waited for, at most ``patience`` seconds, and only states passed through meanwhile are missed; then
    :class:`DaemonUnreachable`. A job that settled is reported once.

    Who subscribed before submitting gives that ``stream`` and the numbers of the jobs ``queued`` since, and sees every
    state.
    """
    seen = _Seen(queued)
    while True:
        looked = stream is not None
        with stream or subscribe(client, patience, ids[0] if len(ids) == 1 else None) as source:
            stream = None
            if not looked:
                # Subscribed first, looked second: what happens between the two is in the stream.
                for job in patiently(client, lambda: [one for id in ids for one in client.jobs_of(id)], patience):
                    if seen.news(job):
                        yield job
            while seen.unsettled and not source.ended:
                events = source.read(tick)
                if not events and not source.ended:
                    yield None
                for event in events:
                    job = cast("JobView", event.data)
                    if event.type.startswith("job.") and job.get("id") in seen.states and seen.news(job):
                        yield job
        if not seen.unsettled:
            return


def subscribe(client: Client, patience: float = PATIENCE, job: int | str | None = None) -> EventStream:
    """The events from now on (of one job), from a daemon that may be restarting."""
    return patiently(client, lambda: client.events(job=job), patience)


def patiently(client: Client, ask: Callable[[], Answer], patience: float = PATIENCE) -> Answer:
    """What ``ask`` gives; asked again for ``patience`` seconds while a daemon that has answered before is away."""
    until = time.monotonic() + patience
    while True:
        try:
            return ask()
        except (DaemonUnreachable, Unavailable):
            # Never answered on this socket at all: that is not a restart.
            if client.path is None or time.monotonic() >= until:
                raise
            time.sleep(0.1)


class _Seen:
    """What has been said of every job, so that nothing is said twice."""

    def __init__(self, queued: Sequence[int]) -> None:
        self.states: dict[int, tuple[str, int]] = dict.fromkeys(queued, ("", 0))
        self.unsettled = set(queued)

    def news(self, job: JobView) -> bool:
        """Whether ``job`` says something new; a job that is over stays so."""
        id, now = job["id"], (job["state"], job["attempt"])
        before = self.states.get(id)
        if before == now or (before is not None and before[0] in SETTLED):
            return False
        self.states[id] = now
        if now[0] in SETTLED:
            self.unsettled.discard(id)
        else:
            self.unsettled.add(id)
        return True
