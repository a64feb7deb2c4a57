"""Every route, in one table: what it is called by, who may, what it reads, what does it, and what it answers.

The dispatcher (`runnersd.server.app`) obeys this table, and the API's own document (`GET /v1/openapi.json`) is made of
it: neither can promise what the other does not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from aiohttp import web

from runnersd.server import administration, bookings, jobs, metrics, pipelines, streams, telemetry, usage
from runnersd.server import parameters as p
from runnersd.server.call import Call, reply
from runnersd.server.openapi import document
from runnersd.server.parameters import Parameters

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class May(StrEnum):
    """Who may use a route: whoever can connect, the owner of the job (or an operator), or an operator."""

    ANYONE = "anyone"
    OWNER = "owner"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that can be asked of the daemon.

    ``{id}`` in ``path`` is a job or a pipeline, which the dispatcher finds and, for `May.OWNER`, checks; of a
    ``{booking}`` its handler checks that. ``body`` is
    the values of a small JSON object; a route with ``document`` takes a whole one, of the schema so named, instead.
    ``answers`` are its good statuses, each with the schema of its JSON or a content type.
    """

    method: str
    path: str
    may: May
    handler: Handler
    about: str
    answers: Mapping[int, str]
    query: Parameters = field(default_factory=Parameters)
    body: Parameters | None = None
    document: str | None = None

    @property
    def act(self) -> str:
        """What it does, for a refusal: the last word of its path, or what that means."""
        last = self.path.rpartition("/")[2]
        meant = {"logs": "show the output of", "shutdown": "stop the daemon"}
        return meant.get(last) or {"PATCH": "change", "GET": "see"}.get(self.method, last)


async def openapi(call: Call) -> web.StreamResponse:
    """The API's own description."""
    return reply(document(ROUTES))


_ID_NOTE = "ID is a job's number, or a pipeline's id such as p3, which stands for its jobs."
_MAX_LIMIT = 1000
_MAX_ROWS = 10_000

ROUTES: tuple[Route, ...] = (
    Route(
        "POST", "/v1/pipelines", May.ANYONE, pipelines.submit,
        "Queue a pipeline, or several all or none; durable when answered. With the header Idempotency-Key, sending it "
        "again queues nothing twice.",
        {201: "Accepted", 200: "Accepted"}, document="Submission",
    ),
    Route(
        "GET", "/v1/status", May.ANYONE, jobs.status,
        "Cards; then live jobs, waiting ones in the order they will run, and the last finished ones.",
        {200: "StatusView"},
        query=Parameters.of(
            p.targets("ids", "only these jobs and pipelines"),
            p.flag("all", "every finished job, not only the last ones"),
            p.flag("mine", "only the caller's jobs"),
            p.whole("limit", "at most so many jobs", 1, 1_000_000),
        ),
    ),
    Route(
        "GET", "/v1/jobs", May.ANYONE, jobs.listing,
        "Jobs that fit the filters, by id, a page at a time; `next` is the `after` of the next page.",
        {200: "JobPage"},
        query=Parameters.of(
            p.states("state", "only jobs in one of these states, separated by commas"),
            p.text("user", "only this user's jobs"),
            p.pipeline("pipeline", "only this pipeline's jobs"),
            p.text("name", "only jobs of this name"),
            p.whole("limit", "at most so many", 1, _MAX_LIMIT, default=50),
            p.whole("after", "those that come after this id", 0, 1 << 53),
            p.flag("newest", "from the highest id down"),
        ),
    ),
    Route(
        "GET", "/v1/jobs/{id}", May.ANYONE, jobs.detail,
        f"Everything known of a job; its env for its owner and operators only. {_ID_NOTE}", {200: "JobDetails"},
    ),
    Route(
        "PATCH", "/v1/jobs/{id}", May.OWNER, jobs.change,
        "Hold or release a job (held), or change its keys: any of a waiting one's, the time limit and name of a live "
        f"one. {_ID_NOTE}",
        {200: "ChangeAnswer"}, document="Changes",
    ),
    Route(
        "POST", "/v1/jobs/{id}/cancel", May.OWNER, jobs.cancel,
        f"Take a waiting job out of the queue; end a live one, by SIGKILL after its grace. {_ID_NOTE}",
        {200: "ChangeAnswer"},
        body=Parameters.of(
            p.flag("now", "leave no grace"), p.flag("dry_run", "only say when others would start for it")
        ),
    ),
    Route(
        "POST", "/v1/jobs/{id}/signal", May.OWNER, jobs.signal,
        f"Pass a signal on to a live job's processes. {_ID_NOTE}", {200: "JobOrJobs"},
        body=Parameters.of(p.signal_number("signal", "its number or name")),
    ),
    Route(
        "POST", "/v1/jobs/{id}/retry", May.OWNER, pipelines.retry,
        f"Queue what ended badly as a new pipeline of its owner. {_ID_NOTE}", {201: "Accepted"},
        body=Parameters.of(p.targets("jobs", "of a pipeline, only these jobs")),
    ),
    Route(
        "GET", "/v1/jobs/{id}/logs", May.OWNER, streams.logs,
        "A job's output as it was written. Followed, to the end of the attempt named, else of the job.",
        {200: "application/octet-stream"},
        query=Parameters.of(
            p.choice("stream", "which of the two", "stdout", "stderr"),
            p.flag("follow", "go on as it grows"),
            p.whole("tail", "only the last lines, so many", 0, 1 << 53),
            p.whole("attempt", "that of this attempt; the last one's if not given", 1, 1 << 31),
        ),
    ),
    Route(
        "GET", "/v1/jobs/{id}/telemetry", May.ANYONE, telemetry.telemetry,
        "What was measured of a job's cards and processes while it ran: means over equal spans of time where there is "
        "more than was asked for. Empty lists where nothing is kept.",
        {200: "TelemetryView"},
        query=Parameters.of(
            p.whole("attempt", "that of this attempt; the last one's if not given", 1, 1 << 31),
            p.whole("points", "at most so many times", 1, telemetry.MOST_POINTS, default=2000),
        ),
    ),
    Route(
        "GET", "/v1/usage", May.ANYONE, usage.usage,
        "What ran since a time added up: card time, waits, failures; the rows with the most card time first.",
        {200: "UsageView"},
        query=Parameters.of(
            p.choice("by", "what it is added up by", "user", "pipeline", "script"),
            p.whole("since", "only what ran after this time (Unix seconds)", 0, 1 << 40),
            p.whole("limit", "at most so many rows", 1, _MAX_ROWS, default=1000),
        ),
    ),
    Route(
        "GET", "/v1/history", May.ANYONE, usage.history,
        "Jobs that ask for cards and were not over at a time, by id, a page at a time: when their attempts held which "
        "cards. `next` is the `after` of the next page. The first page also has the changes of the cards' states.",
        {200: "HistoryView"},
        query=Parameters.of(
            p.whole("since", "only what was not over at this time (Unix seconds)", 0, 1 << 40),
            p.whole("limit", "at most so many jobs", 1, _MAX_LIMIT, default=_MAX_LIMIT),
            p.whole("after", "those that come after this id", 0, 1 << 53),
        ),
    ),
    Route(
        "GET", "/v1/gpus", May.ANYONE, administration.gpus, "The cards, in PCI order, and the bookings.",
        {200: "GpuList"},
    ),
    Route(
        "POST", "/v1/gpus/{gpu}/drain", May.OPERATOR, administration.drain,
        "Let nothing new start on a card, named by index, UUID or the beginning of one.", {200: "GpuView"},
        body=Parameters.of(p.text("reason", "shown with the card")),
    ),
    Route(
        "POST", "/v1/gpus/{gpu}/undrain", May.OPERATOR, administration.undrain,
        "Let jobs start on a card again.", {200: "GpuView"}, body=Parameters(),
    ),
    Route(
        "GET", "/v1/bookings", May.ANYONE, bookings.listing, "Bookings that are not over, by when they begin.",
        {200: "BookingList"},
    ),
    Route(
        "POST", "/v1/bookings", May.ANYONE, bookings.make,
        "Book cards for some time: so many (gpus), or these (cards). Who is no operator may book so many cards at a "
        "time as their quota lets them hold, without one half of the machine's, for times within the next 7 days.",
        {201: "BookingView"},
        body=Parameters.of(
            p.whole("gpus", "how many cards", 1, 1024),
            p.text("gpu_model", "a glob on their name", 200),
            p.capability("gpu_capability", "the least CUDA compute capability they have"),
            p.words("cards", "which cards: indices, UUIDs or the beginnings of them", 1024),
            p.duration("for", "for how long"),
            p.moment("at", "from when on; now if not given"),
            p.text("reason", "shown with the booking"),
        ),
    ),
    Route(
        "DELETE", "/v1/bookings/{booking}", May.OWNER, bookings.cancel,
        "Take a booking back; for whoever made it, and operators. What runs on its cards goes on.",
        {200: "BookingView"},
    ),
    Route(
        "GET", "/v1/events", May.ANYONE, streams.events,
        "Server-sent events `job.<state>` and `gpu.<state>` with the status object as data; from now on, or after the "
        "event whose id `after` or the header Last-Event-ID gives.",
        {200: "text/event-stream"},
        query=Parameters.of(
            p.whole("after", "resume after this event", 0, 1 << 53),
            p.one_target("job", "only of this job or pipeline"),
        ),
    ),
    Route("GET", "/v1/metrics", May.ANYONE, metrics.metrics, "Numbers for Prometheus.", {200: "text/plain"}),
    Route(
        "GET", "/v1/health", May.ANYONE, administration.health,
        "200 while the daemon takes in and starts jobs, 503 while it cannot.", {200: "Health"},
    ),
    Route("GET", "/v1/openapi.json", May.ANYONE, openapi, "This document.", {200: "object"}),
    Route(
        "POST", "/v1/daemon/pause", May.OPERATOR, administration.pause, "Start nothing new, over restarts too.",
        {200: "Paused"}, body=Parameters.of(p.text("reason", "shown with what waits")),
    ),
    Route(
        "POST", "/v1/daemon/resume", May.OPERATOR, administration.resume, "Start jobs again.",
        {200: "Paused"}, body=Parameters(),
    ),
    Route(
        "POST", "/v1/daemon/shutdown", May.OPERATOR, administration.shutdown,
        "End the daemon: if it is idle, else with `now` after ending its jobs, or with `when_idle` once it is.",
        {202: "Stopping"},
        body=Parameters.of(p.flag("now", "cancel all jobs first"), p.flag("when_idle", "when no job is left")),
    ),
)  # fmt: skip
