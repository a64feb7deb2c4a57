"""Is it true, what a waiting job is told? Read from the machine's own books, by counting, with nothing of the planner's."""

from __future__ import annotations

import re

from core.machine import CPUS, MARGIN, MEMORY, RUNNING, Machine
from runners.api import Code
from runnersd.model import Gpu, Job, Reason


def untrue(job: Job, reason: Reason, machine: Machine) -> str | None:
    """What contradicts the reason of a queued job; None if nothing does."""
    spec, snapshot = job.spec, machine.queue.snapshot
    live = [one for one, _ in machine.held.values()]
    match reason.code:
        case Code.BEGIN_TIME | Code.RETRY_DELAY:
            wrong = job.not_before is None or job.not_before <= machine.now
        case Code.NEEDS_JOBS:
            mine = {one.spec.name: one for one in snapshot.progress[job.pipeline.id].jobs}
            wrong = all(mine[need.job].settled for need in spec.needs)
        case Code.BARRIER:
            above = snapshot.progress[job.pipeline.id].jobs[: job.position]
            wrong = all(one.settled for one in above if one.spec.blocking)
        case Code.PIPELINE_LIMIT:
            wrong = sum(one.pipeline.id == job.pipeline.id for one in live) < job.pipeline.num_jobs
        case Code.RUNNING_LIMIT:
            wrong = len(live) < RUNNING
        case Code.NO_CPUS:
            wrong = not short_of_cpus(job, machine)
        case Code.NO_MEMORY:
            wrong = not short_of_memory(job, machine)
        case Code.NO_FREE_GPU | Code.NO_GPU_MEMORY:
            wrong = cards_for(job, machine) >= spec.num_gpus
        case Code.FOREIGN_GPU_USE:
            strangers = any(wanted(job, card) and card.processes for card in machine.cards.values())
            wrong = not strangers or cards_for(job, machine) >= spec.num_gpus
        case Code.BEHIND_RESERVATION:
            wrong = not fits(job, machine)
            found = re.match(r"job (\d+) ", reason.text)
            ahead = int(found[1]) if found else job.id
            wrong = wrong or ahead == job.id or ahead not in {made.job.id for made in machine.last.reservations}
        case _:
            return f"{reason.code.value} is no reason to wait here"
    return f"{reason.code.value}: {reason.text}" if wrong else None


def fits(job: Job, machine: Machine) -> bool:
    """Whether there is room for the job now, if nothing is kept for anybody."""
    roomy = len(machine.held) < RUNNING and not short_of_cpus(job, machine) and not short_of_memory(job, machine)
    return roomy and cards_for(job, machine) >= job.spec.num_gpus


def cards_for(job: Job, machine: Machine) -> int:
    """How many cards there are that the job could have now."""
    return sum(wanted(job, card) and has_room(job, card, machine) for card in machine.cards.values())


def wanted(job: Job, card: Gpu) -> bool:
    """Whether it is one of the cards that the job asks for."""
    return not job.spec.gpus or str(card.index) in job.spec.gpus


def has_room(job: Job, card: Gpu, machine: Machine) -> bool:
    """Whether the card is well, nobody's, and not too full for the job."""
    if card.lost or card.processes or card.uuid in machine.drained:
        return False
    beside = machine.on(card.uuid)
    if not job.spec.gpu_shared:
        return not beside
    shares = sum(one.spec.gpu_memory or 0 for one in (*beside, job))
    return all(one.spec.gpu_shared for one in beside) and shares <= (card.memory_total or 0) - MARGIN


def short_of_cpus(job: Job, machine: Machine) -> bool:
    """Whether the job names more CPUs than are left."""
    taken = sum(one.spec.cpus_wanted for one, _ in machine.held.values())
    return job.spec.cpus is not None and taken + job.spec.cpus > CPUS


def short_of_memory(job: Job, machine: Machine) -> bool:
    """Whether the job names more memory than is left."""
    taken = sum(one.spec.memory or 0 for one, _ in machine.held.values())
    return job.spec.memory is not None and taken + job.spec.memory > MEMORY
