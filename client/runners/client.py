"""The client of `runnersd` that scripts and `runners-client` share: blocking, one connection a request.

    from runners.client import Client

    client = Client()
    for job in client.jobs(states=["running"]):
        print(job["id"], job["name"])

Every method raises an error of :mod:`runners.errors`: :class:`DaemonUnreachable` when nothing answers,
:class:`NotAllowed` when the socket or the daemon refuses, :class:`NotFound`, :class:`InvalidRequest` and its like for
what the daemon says is wrong, :class:`Unavailable` when it cannot promise anything now.

A job is named by its number (``12``), a pipeline by its id (``"p3"``), which stands for all of its jobs.
Imports here are few, and the rest comes when needed: every start of `runners-client` pays for them.
"""

from __future__ import annotations

import os

from . import transport
from .endpoint import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from .api import (
        BookingView,
        EffectView,
        GpuView,
        HistoryView,
        JobDetailView,
        JobView,
        StatusView,
        TelemetryView,
        UsageView,
    )
    from .events import EventStream

#: Jobs asked for at once.
_PAGE = 1000


class Client(Endpoint):
    """Speaks to a daemon: ``path``, else ``$RUNNERS_SOCKET``, else the user's own if one answers, else the system's."""

    # -- looking ------------------------------------------------------------------------------------------------------

    def status(
        self, ids: Sequence[int | str] = (), *, all: bool = False, mine: bool = False, limit: int | None = None
    ) -> StatusView:
        """The daemon, its cards, and jobs: live, then queued in their order, then those that ended last."""
        query = {"ids": ",".join(map(str, ids)) or None, "all": all or None, "mine": mine or None, "limit": limit}
        answer: StatusView = self.get("/v1/status", query)
        return answer

    def jobs(
        self,
        *,
        states: Sequence[str] = (),
        user: str | None = None,
        pipeline: str | None = None,
        name: str | None = None,
        limit: int | None = None,
        newest: bool = True,
    ) -> Iterator[JobView]:
        """Jobs that fit, newest first (or oldest), fetched in pages as they are read."""
        after: int | None = None
        left = limit
        while left is None or left > 0:
            query = {
                "state": ",".join(states) or None,
                "user": user,
                "pipeline": pipeline,
                "name": name,
                "limit": _PAGE if left is None else min(left, _PAGE),
                "after": after,
                "newest": newest or None,
            }
            page = self.get("/v1/jobs", query)
            yield from page["jobs"]
            after = page.get("next")
            if after is None:
                return
            left = None if left is None else left - len(page["jobs"])

    def job(self, id: int | str) -> JobDetailView:
        """Everything known of one job."""
        answer: JobDetailView = self.get(f"/v1/jobs/{int(id)}")
        return answer

    def telemetry(self, id: int | str, *, attempt: int | None = None, points: int = 2000) -> TelemetryView:
        """What was measured while a job's attempt ran (the last one unless given), at no more than ``points`` times.

        Raises :class:`Unavailable` when the daemon cannot read it now, or keeps no series.
        """
        query = {"attempt": attempt, "points": points}
        answer: TelemetryView = self.get(f"/v1/jobs/{int(id)}/telemetry", query)
        return answer

    def jobs_of(self, id: int | str) -> list[JobView]:
        """The job of a number, or all the jobs of a pipeline."""
        answer = self.get(f"/v1/jobs/{_segment(id)}")
        found: list[JobView] = answer.get("jobs", [answer])
        return found

    def gpus(self) -> list[GpuView]:
        """The inventory."""
        answer: list[GpuView] = self.get("/v1/gpus")["gpus"]
        return answer

    def bookings(self) -> list[BookingView]:
        """The advance bookings that are not over, by when they begin."""
        answer: list[BookingView] = self.get("/v1/bookings")["bookings"]
        return answer

    def usage(self, by: str = "user", *, since: float | None = None, limit: int | None = None) -> UsageView:
        """What ran since a time (Unix seconds) added up by ``user``, ``pipeline`` or ``script``; all that is kept."""
        query = {"by": by, "since": None if since is None else int(since), "limit": limit}
        answer: UsageView = self.get("/v1/usage", query)
        return answer

    def history(self, since: float | None = None) -> HistoryView:
        """Jobs that ask for cards and were not over then (Unix seconds): when their attempts held which cards; and when
        cards came into other states. All pages as one."""
        found: HistoryView = {"jobs": [], "changes": [], "next": None}
        after: int | None = None
        while True:
            query = {"since": None if since is None else int(since), "after": after}
            page: HistoryView = self.get("/v1/history", query)
            found["jobs"] += page["jobs"]
            found["changes"] += page["changes"]
            after = page["next"]
            if after is None:
                return found

    def health(self) -> dict[str, Any]:
        """``{"status": "ok"}`` from a daemon that works."""
        answer: dict[str, Any] = self.get("/v1/health")
        return answer

    # -- queueing and changing -----------------------------------------------------------------------------------------

    def submit(
        self, submissions: Sequence[Mapping[str, Any]], *, dry_run: bool = False, key: str | None = None
    ) -> list[dict[str, Any]]:
        """Queue pipelines, all or none, durably; each gives ``{"pipeline": "p1", "jobs": [{"id": 1, "name": ""}]}``.

        ``submissions`` are the daemon's JSON: see :func:`runners.pipeline.files.to_wire`. The request carries ``key``
        (a random one unless given) and is sent again when a restarting daemon breaks the connection: it queues once.
        Raises :class:`InvalidPipeline` with every problem, :class:`QuotaExceeded`, :class:`TooLarge`.
        """
        body: dict[str, Any] = {"pipelines": list(submissions)} if len(submissions) != 1 else dict(submissions[0])
        if dry_run:
            body["dry_run"] = True
        headers = {"Idempotency-Key": key or os.urandom(16).hex()}
        answer = self.call("POST", "/v1/pipelines", body, headers=headers, repeatable=True)
        found: list[dict[str, Any]] = answer.get("pipelines", [answer])
        return found

    def effects(self, id: int | str, changes: Mapping[str, Any]) -> list[EffectView]:
        """When this job and others would start if :meth:`update` made these changes (`held` among them), and when they
        do now. Nothing is changed."""
        answer = self.call("PATCH", f"/v1/jobs/{_segment(id)}", {**changes, "dry_run": True})
        found: list[EffectView] = answer["effects"]
        return found

    def effects_of_cancel(self, id: int | str) -> list[EffectView]:
        """When others would start if :meth:`cancel` ended this job, and when they do now. Nothing is changed."""
        found: list[EffectView] = self.call("POST", f"/v1/jobs/{_segment(id)}/cancel", {"dry_run": True})["effects"]
        return found

    def cancel(self, id: int | str, *, now: bool = False) -> list[JobView]:
        """Take a job out of the queue, or stop it: SIGTERM, and SIGKILL when its grace is over (``now``: at once)."""
        return self._jobs("POST", f"/v1/jobs/{_segment(id)}/cancel", {"now": True} if now else None)

    def signal(self, id: int | str, number: int) -> list[JobView]:
        """Send a signal to a running job's processes."""
        return self._jobs("POST", f"/v1/jobs/{_segment(id)}/signal", {"signal": number})

    def hold(self, id: int | str) -> list[JobView]:
        """Keep a queued job from starting."""
        return self.update(id, {"held": True})

    def release(self, id: int | str) -> list[JobView]:
        """Let a held job start."""
        return self.update(id, {"held": False})

    def update(self, id: int | str, changes: Mapping[str, Any]) -> list[JobView]:
        """Change a queued job's keys, or a running one's time limit and name."""
        return self._jobs("PATCH", f"/v1/jobs/{_segment(id)}", dict(changes))

    def retry(self, id: int | str, only: Sequence[int] = ()) -> dict[str, Any]:
        """A new pipeline of the unsuccessful jobs (of a pipeline, these ``only``); answers as :meth:`submit` does."""
        body = {"jobs": ",".join(map(str, only))} if only else None
        answer: dict[str, Any] = self.call("POST", f"/v1/jobs/{_segment(id)}/retry", body)
        return answer

    def drain(self, gpu: str, reason: str = "") -> GpuView:
        """Let a card's jobs end and give it to no other; by index, UUID or the beginning of one."""
        answer: GpuView = self.call("POST", f"/v1/gpus/{transport.quote(gpu)}/drain", {"reason": reason})
        return answer

    def undrain(self, gpu: str) -> GpuView:
        """Use a drained card again."""
        answer: GpuView = self.call("POST", f"/v1/gpus/{transport.quote(gpu)}/undrain")
        return answer

    def book(self, wish: Mapping[str, Any]) -> BookingView:
        """Book cards: ``{"gpus": 2, "for": "4h"}``, and ``gpu_model``, ``gpu_capability``, ``cards``, ``at`` (Unix
        seconds), ``reason``.

        Raises :class:`AlreadyTaken` when they are taken then, :class:`NotAllowed` when it is more than one may book.
        """
        answer: BookingView = self.call("POST", "/v1/bookings", dict(wish))
        return answer

    def unbook(self, id: int | str) -> BookingView:
        """Take a booking back."""
        answer: BookingView = self.call("DELETE", f"/v1/bookings/{_segment(id)}")
        return answer

    def pause(self, reason: str = "") -> str:
        """Start nothing new. Returns what `status` then says of it: the reason, and by whom."""
        paused: str = self.call("POST", "/v1/daemon/pause", {"reason": reason})["paused"]
        return paused

    def resume(self) -> None:
        """Start jobs again."""
        self.call("POST", "/v1/daemon/resume")

    def shutdown(self, *, now: bool = False) -> None:
        """Stop an idle daemon; ``now``: cancel its jobs first. :class:`IllegalTransition` when it is not idle."""
        self.call("POST", "/v1/daemon/shutdown", {"now": now})

    # -- following ----------------------------------------------------------------------------------------------------

    def logs(
        self,
        id: int | str,
        *,
        stream: str = "stdout",
        follow: bool = False,
        tail: int | None = None,
        attempt: int | None = None,
    ) -> transport.Answer:
        """A job's output, exactly as it was written, readable as it comes; close it when done."""
        query = {"stream": stream, "follow": follow or None, "tail": tail, "attempt": attempt}
        answer = self.open("GET", f"/v1/jobs/{int(id)}/logs{transport.query(query)}")
        if follow:
            answer.patient()
        return answer

    def events(self, *, after: int | None = None, job: int | str | None = None) -> EventStream:
        """What happens from now on (or after an event's id), to everything or to one job."""
        from .events import EventStream

        answer = self.open("GET", "/v1/events" + transport.query({"after": after, "job": job}))
        answer.patient()
        return EventStream(answer)

    def wait(self, *ids: int | str, each: Callable[[JobView], None] | None = None) -> list[JobView]:
        """Block until all these jobs are over, through restarts of the daemon, and return them as they ended.

        ``each`` is called with every job as it ends.
        """
        from .api import SETTLED
        from .following import follow

        ended: dict[int, JobView] = {}
        for job in follow(self, ids):
            if job is not None and job["state"] in SETTLED:
                ended[job["id"]] = job
                if each:
                    each(job)
        return [ended[id] for id in sorted(ended)]

    def _jobs(self, method: str, target: str, body: Mapping[str, Any] | None = None) -> list[JobView]:
        answer = self.call(method, target, body)
        found: list[JobView] = answer.get("jobs", [answer])
        return found


def _segment(id: int | str) -> str:
    return transport.quote(str(id))
