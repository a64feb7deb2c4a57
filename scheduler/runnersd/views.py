"""The shapes of `runners.api` made from the daemon's values. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from runners.api import (
    SETTLED,
    WAITING,
    AheadJobView,
    AheadView,
    AttemptView,
    BookingView,
    EffectView,
    EventView,
    ForeseenView,
    GpuProcessView,
    GpuView,
    JobDetailView,
    JobView,
    SummaryView,
)
from runners.spec import JobSpec
from runnersd.closeness import neighbours
from runnersd.forecast import Effect, Expectation, Foreseen
from runnersd.inventory import card_state, foreign_processes
from runnersd.model import Booking, Gpu, GpuId, GpuProcess, Job, Reason
from runnersd.planner import Plan, Reservation, World, job_of, outsider_text, supervisors_on
from runnersd.planner.bookings import may_outlast, waits_for
from runnersd.planner.words import user_of
from runnersd.telemetry.verdict import Wanted, verdict

#: Jobs that are named of those ahead of one.
AHEAD = 5
#: The variable of a job's `env` that says which caches it will use. Everyone sees it, so that nobody removes them.
CACHES = "RUNNERS_CACHES"


def job_view(job: Job, reason: Reason, expected: Expectation | None = None) -> JobView:
    """The status object of a job; ``expected`` says when it starts, if it has not."""
    submitter = job.pipeline.submitter
    view: JobView = {
        "id": job.id,
        "name": job.spec.name,
        "pipeline": f"p{job.pipeline.id}",
        "user": submitter.user,
        "uid": submitter.uid,
        "state": job.state.value,
        "reason": {"code": reason.code.value, "text": reason.text},
        "priority": job.spec.priority,
        "run_in": job.spec.run_in,
        "num_gpus": job.spec.num_gpus,
        "gpus": list(job.gpus),
        "attempt": job.attempt,
        "exit_code": job.exit_code,
        "submitted_at": job.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expected_start": None,
    }
    if expected is not None and job.state in WAITING:
        view["expected_start"] = expected.likely
        view["expected_start_range"] = range_view(expected)
    if job.idle_since is not None:
        view["idle_since"] = job.idle_since
    caches = (job.spec.env or {}).get(CACHES)
    if caches and job.state not in SETTLED:
        view["caches"] = caches.replace(",", " ").split()
    return view


def detail_view(
    job: Job,
    view: JobView,
    attempts: list[AttemptView],
    events: list[EventView],
    private: bool,
) -> JobDetailView:
    """Everything known of a job. Without ``private`` its environment and who is told of it are left out."""
    spec = job.spec.to_json()
    if not private:
        spec.pop("env", None)
        spec.pop("notify", None)
    detail: JobDetailView = {
        "id": view["id"],
        "name": view["name"],
        "pipeline": view["pipeline"],
        "user": view["user"],
        "uid": view["uid"],
        "state": view["state"],
        "reason": view["reason"],
        "priority": view["priority"],
        "run_in": view["run_in"],
        "num_gpus": view["num_gpus"],
        "gpus": view["gpus"],
        "attempt": view["attempt"],
        "exit_code": view["exit_code"],
        "submitted_at": view["submitted_at"],
        "started_at": view["started_at"],
        "finished_at": view["finished_at"],
        "expected_start": view["expected_start"],
        "expected_start_range": view.get("expected_start_range"),
        "spec": spec,
        "attempts": attempts,
        "contaminated": any(one.get("contaminated") for one in attempts),
        "events": events,
        "pipeline_name": job.pipeline.name,
        "cwd": job.spec.workdir or job.pipeline.cwd,
    }
    if "idle_since" in view:
        detail["idle_since"] = view["idle_since"]
    if "caches" in view:
        detail["caches"] = view["caches"]
    return detail


def judged(summary: SummaryView, spec: JobSpec) -> SummaryView:
    """The summary of one of the job's attempts, with what it says about what the job asked for."""
    wanted = Wanted(spec.cpus_wanted, spec.memory, shared=spec.gpu_shared)
    return {**summary, "verdict": verdict(summary, wanted)}


def ahead_view(jobs: Sequence[Job]) -> AheadView:
    """Who is ahead: the first few of them."""
    shown: list[AheadJobView] = [{"id": job.id, "name": job.spec.name, "user": user_of(job)} for job in jobs[:AHEAD]]
    return {"count": len(jobs), "jobs": shown}


def effect_view(job: Job, effect: Effect) -> EffectView:
    """What a change does to a job."""
    return {
        "id": job.id,
        "name": job.spec.name,
        "user": user_of(job),
        "before": _likely(effect.before),
        "before_range": range_view(effect.before),
        "after": _likely(effect.after),
        "after_range": range_view(effect.after),
        "later": effect.later,
    }


def foreseen_view(one: Foreseen) -> ForeseenView:
    """What would become of a job if it were submitted."""
    return {
        "id": None,
        "name": one.name,
        "starts_now": one.gpus is not None,
        "gpus": list(one.gpus or ()),
        "reason": {"code": one.reason.code.value, "text": one.reason.text},
        "expected_start": _likely(one.expected),
        "expected_start_range": range_view(one.expected),
    }


def range_view(expected: Expectation | None) -> list[float | None] | None:
    """From when to when a job starts; None where nothing can be said."""
    return None if expected is None else [expected.earliest, expected.latest]


def _likely(expected: Expectation | None) -> float | None:
    return None if expected is None else expected.likely


def gpu_views(world: World, plan: Plan) -> list[GpuView]:
    """The status objects of all cards, in PCI order, with those for whom they are kept."""
    kept: dict[GpuId, Reservation] = {}
    for made in sorted(plan.reservations, key=lambda made: (made.at, made.job.id)):
        for uuid in () if made.owed else made.gpus:
            kept.setdefault(uuid, made)
    return [gpu_view(gpu, world, kept.get(gpu.uuid)) for gpu in world.inventory.gpus]


def gpu_view(gpu: Gpu, world: World, kept: Reservation | None = None) -> GpuView:
    """The status object of a card, and what it is ``kept`` for."""
    holders = world.snapshot.holders.get(gpu.uuid, {})
    foreign = foreign_processes(gpu, supervisors_on(gpu, world), world.foreign)
    state = card_state(gpu, list(holders.values()), drained=gpu.uuid in world.drained, foreign=bool(foreign))
    near = neighbours(world.inventory.topology).get(gpu.uuid)
    view: GpuView = {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "name": gpu.name,
        "memory_total": gpu.memory_total,
        "memory_used": gpu.memory_used,
        "utilization": gpu.utilization,
        "state": state,
        "jobs": sorted(holders),
        "foreign_pids": [process.pid for process in foreign],
        "power": gpu.power,
        "temperature": gpu.temperature,
        "compute_capability": gpu.compute_capability,
        "foreign": [_process_view(process, world) for process in foreign],
        "near": None if near is None else {"by": near[0], "gpus": list(near[1])},
    }
    booked = [booking.id for booking in world.bookings if gpu.uuid in booking.gpus]
    if booked:
        view["booking"] = booked[0]
    if kept is not None and state == "free":
        view["kept"] = {"job": kept.job.id, "user": user_of(kept.job), "at": kept.at}
    if gpu.uuid in world.drained:
        drain = world.drained[gpu.uuid]
        view["drained"] = {"reason": drain.reason, "by": drain.by, "at": drain.at}
        view["reason"] = str(drain)
    elif gpu.owner is not None:
        whose = f"daemon of {gpu.owner.user}" if gpu.owner.user else "another daemon"
        view["reason"] = f"{whose}, pid {gpu.owner.pid or 'unknown'}"
    elif foreign:
        view["reason"] = (
            "used by "
            + ", ".join(outsider_text(process, world) for process in foreign[:3])
            + (", ..." if foreign[3:] else "")
        )
    return view


def _process_view(process: GpuProcess, world: World) -> GpuProcessView:
    left_by = world.leftovers.get(process.pid)
    return {
        "pid": process.pid,
        "user": process.user or None,
        "uid": process.uid,
        "program": process.name or None,
        "memory": process.memory,
        "job": job_of(process, world) if left_by is None else left_by,
        "left_behind": left_by is not None,
    }


def booking_view(booking: Booking, world: World, now: float) -> BookingView:
    """The status object of a booking."""
    waited = waits_for(booking, world, now)
    said = [f"waits for {_named(waited)}"] if waited else []
    outlasting = may_outlast(booking, world, now)
    if outlasting:
        said.append(f"may wait for {_named(outlasting)}, without a time limit")
    seen = {gpu.uuid: gpu for gpu in world.inventory.gpus}
    for uuid in booking.gpus:
        gpu = seen.get(uuid)
        if gpu is None or gpu.lost:
            said.append(f"card {uuid if gpu is None else gpu.index} is lost")
        elif uuid in world.drained:
            said.append(f"card {gpu.index} is {world.drained[uuid]}")
    return {
        "id": booking.id,
        "user": booking.user,
        "uid": booking.uid,
        "gpus": list(booking.gpus),
        "starts_at": booking.starts_at,
        "ends_at": booking.ends_at,
        "made_at": booking.made_at,
        "reason": booking.reason,
        "active": booking.active(now),
        "waits_for": [job.id for job in waited],
        "text": "; ".join(said),
    }


def _named(jobs: Sequence[Job]) -> str:
    return f"job{'s' if len(jobs) > 1 else ''} " + ", ".join(f"{job.id} ({user_of(job)})" for job in jobs)
