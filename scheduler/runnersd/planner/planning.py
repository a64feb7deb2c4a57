"""The plan: what has to end, what will never run, and what starts."""

from __future__ import annotations

from runnersd.planner.decisions import Decision, Drop, Fail, Plan, Resolve
from runnersd.planner.stops import deadlines, stops
from runnersd.planner.walk import Walk
from runnersd.planner.world import World


def plan(world: World, now: float) -> Plan:
    """The next decisions. The same world and clock give the same plan."""
    snapshot = world.snapshot
    ending = list(stops(world, now))
    decisions: list[Decision] = [*ending]
    for id in sorted(snapshot.doomed):
        job = snapshot.jobs[id]
        decisions.append(Drop(job, snapshot.progress[job.pipeline.id].failed_need(job)))
    walk = Walk(world, now, {stop.job.id for stop in ending})
    if world.paused is None and world.low_disk is None:
        walk.run()
    else:
        walk.keep_claims()
    settled = [Fail(job, reason) for job, reason in walk.failed]
    resolve = [Resolve(image) for image in walk.grants.images.unresolved]
    times = [time for time in (snapshot.next_timer, *deadlines(world, now)) if time is not None]
    times += [walk.preemption.later] if walk.preemption.later is not None else []
    times += [made.at for made in walk.reservations if made.at > now]
    times += walk.keeping.later
    times += [time for booking in world.bookings for time in (booking.starts_at, booking.ends_at) if time > now]
    return Plan(
        (*decisions, *walk.stops, *settled, *walk.grants.starts, *resolve),
        walk.blocked,
        min(times, default=None),
        tuple(walk.next_up),
        walk.reservations,
        walk.blocked_for,
        walk.claims,
        walk.grants.allowance.over,
    )
