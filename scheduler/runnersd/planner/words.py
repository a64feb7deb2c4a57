"""How reasons name people and cards."""

from __future__ import annotations

from runnersd.model import Job


def user_of(job: Job) -> str:
    """Whose job it is."""
    return job.pipeline.submitter.user or str(job.pipeline.submitter.uid)


def cards_text(count: int) -> str:
    """So many cards, in words."""
    return "1 card" if count == 1 else f"{count} cards"
