"""Where a job is, and why: the words that everything else is told in."""

from __future__ import annotations

from enum import StrEnum
from typing import TypedDict


class JobState(StrEnum):
    """Where a job is. Waiting, then live, then settled."""

    QUEUED = "queued"
    HELD = "held"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"


#: Not started: in the queue, or kept out of it by its owner.
WAITING = frozenset({JobState.QUEUED, JobState.HELD})
#: A job holds its cards exactly while it is in one of these.
LIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
#: Over; such a state never changes.
SETTLED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.TIMED_OUT, JobState.SKIPPED})


class Code(StrEnum):
    """Why a job is in its state."""

    # waiting
    NEEDS_JOBS = "needs_jobs"
    BARRIER = "barrier"
    PIPELINE_LIMIT = "pipeline_limit"
    RUNNING_LIMIT = "running_limit"
    NO_FREE_GPU = "no_free_gpu"
    NO_GPU_MEMORY = "no_gpu_memory"
    FOREIGN_GPU_USE = "foreign_gpu_use"
    NO_CPUS = "no_cpus"
    NO_MEMORY = "no_memory"
    QUOTA = "quota"
    BEGIN_TIME = "begin_time"
    RETRY_DELAY = "retry_delay"
    BEHIND_RESERVATION = "behind_reservation"
    HELD = "held"
    PULLING_IMAGE = "pulling_image"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    INVENTORY_STALE = "inventory_stale"
    PAUSED = "paused"
    LOW_DISK = "low_disk"
    STARTING_SOON = "starting_soon"
    # live
    LAUNCHING = "launching"
    RUNNING = "running"
    STOPPING = "stopping"
    UNKNOWN = "unknown"
    STUCK = "stuck"
    # over
    OK = "ok"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIME_LIMIT = "time_limit"
    CANCELLED_BY = "cancelled_by"
    NEED_FAILED = "need_failed"
    LAUNCH_FAILED = "launch_failed"
    GPU_LOST = "gpu_lost"
    CONTAINER_LOST = "container_lost"
    SUPERVISOR_LOST = "supervisor_lost"
    MACHINE_RESTARTED = "machine_restarted"
    PREEMPTED = "preempted"
    IDLE = "idle"  # live too: it runs, and its cards do nothing


class ReasonView(TypedDict):
    """Why, as a code for programs and a sentence for people."""

    code: str
    text: str
