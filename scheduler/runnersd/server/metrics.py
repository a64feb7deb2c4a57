"""`GET /v1/metrics`: what a Prometheus server reads, in its text format 0.0.4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from aiohttp import web

import runners
from runners.api import GpuView, JobState
from runnersd.engine import Engine
from runnersd.server.call import Call

CONTENT_TYPE = "text/plain; version=0.0.4"
GPU_STATES = ("free", "reserved", "shared", "foreign", "drained", "lost")

#: A metric's values: the labels of each, and the number; a number that is not known is left out.
Samples = Iterable[tuple[Mapping[str, str], float | None]]


async def metrics(call: Call) -> web.StreamResponse:
    """The daemon's numbers."""
    body = "".join(_text(call.engine)).encode()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def _text(engine: Engine) -> Iterable[str]:
    store = engine.store
    counts = store.counts()
    submitters = (job.pipeline.submitter for job in store.snapshot.in_order())
    waiting = Counter(one.user or str(one.uid) for one in submitters)
    gpus = engine.gpus()
    cards = Counter(gpu["state"] for gpu in gpus)
    healthy = store.healthy and engine.heartbeat()
    yield _metric("info", "gauge", "The daemon.", [({"version": runners.__version__}, 1)])
    yield _metric("uptime_seconds", "gauge", "Since the daemon started.", [({}, engine.clock() - engine.started_at)])
    yield _metric("healthy", "gauge", "1 while it takes in and starts jobs.", [({}, healthy)])
    yield _metric("paused", "gauge", "1 while nothing new starts.", [({}, store.paused is not None)])
    by_state = [({"state": state.value}, counts.get(state.value, 0)) for state in JobState]
    yield _metric("jobs", "gauge", "Jobs, by state.", by_state)
    by_user = [({"user": user}, number) for user, number in sorted(waiting.items())]
    yield _metric("waiting_jobs", "gauge", "Queued and held jobs, by user.", by_user)
    yield _metric("events_total", "counter", "Events ever recorded.", [({}, store.events.last)])
    by_card_state = [({"state": state}, cards[state]) for state in GPU_STATES]
    yield _metric("gpus", "gauge", "Cards, by state.", by_card_state)
    yield from _cards(gpus)


def _cards(gpus: list[GpuView]) -> Iterable[str]:
    labels = [{"gpu": str(gpu["index"]), "uuid": gpu["uuid"], "name": gpu["name"]} for gpu in gpus]

    def each(values: Iterable[float | None]) -> Samples:
        return zip(labels, values, strict=True)

    total, used = each(gpu["memory_total"] for gpu in gpus), each(gpu["memory_used"] for gpu in gpus)
    yield _metric("gpu_memory_total_bytes", "gauge", "Memory of a card.", total)
    yield _metric("gpu_memory_used_bytes", "gauge", "Memory in use on a card.", used)
    busy = each(None if gpu["utilization"] is None else gpu["utilization"] / 100 for gpu in gpus)
    yield _metric("gpu_utilization_ratio", "gauge", "How busy a card is, 0 to 1.", busy)
    yield _metric("gpu_power_watts", "gauge", "Power a card draws.", each(gpu.get("power") for gpu in gpus))
    warmth = each(gpu.get("temperature") for gpu in gpus)
    yield _metric("gpu_temperature_celsius", "gauge", "Temperature of a card.", warmth)
    yield _metric("gpu_jobs", "gauge", "Jobs that hold a card.", each(len(gpu["jobs"]) for gpu in gpus))


def _metric(name: str, kind: str, about: str, samples: Samples) -> str:
    lines = [f"# HELP runners_{name} {about}", f"# TYPE runners_{name} {kind}"]
    for labels, value in samples:
        if value is not None:
            shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"runners_{name}{{{shown}}} {_number(value)}" if shown else f"runners_{name} {_number(value)}")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
