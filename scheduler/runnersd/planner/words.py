"""How reasons name people, cards and times."""

from __future__ import annotations

from datetime import UTC, datetime

from runners.spec import JobSpec
from runnersd.model import Job


def user_of(job: Job) -> str:
    """Whose job it is."""
    return job.pipeline.submitter.user or str(job.pipeline.submitter.uid)


def cards_text(count: int) -> str:
    """So many cards, in words."""
    return "1 card" if count == 1 else f"{count} cards"


def capability_text(spec: JobSpec) -> str:
    """What a job asks of its cards' compute capability, in words that follow the cards; none if it asks nothing."""
    return "" if spec.gpu_capability is None else f" of compute capability {spec.gpu_capability} or more"


def wanted_text(spec: JobSpec) -> str:
    """The cards that a job asks for, in words: those it names, or so many, of which kind where it says that."""
    count, named = spec.num_gpus, ", ".join(spec.gpus)
    if named and len(spec.gpus) == count:
        return f"card {named}" if count == 1 else f"cards {named}"
    if named:
        return f"{cards_text(count)} of {named}"
    like = "" if spec.gpu_model is None else f" like {spec.gpu_model}"
    return f"{cards_text(count)}{like}{capability_text(spec)}"


def clock_text(at: float, now: float) -> str:
    """A time (Unix seconds) as people say it: of the day, and with the day when that is another one."""
    then, today = (datetime.fromtimestamp(time, UTC).astimezone() for time in (at, now))
    return then.strftime("%H:%M" if then.date() == today.date() else "%a %d %b %H:%M")
