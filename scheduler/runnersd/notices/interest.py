"""Who wants to know of what. Pure."""

from __future__ import annotations

from runners.api import Code, JobState
from runners.pipeline.notify import is_address
from runners.spec import Notify
from runnersd.config import NotifyConfig
from runnersd.model import Job
from runnersd.notices.notice import Receiver

#: Events that are told, other than ends.
_NAMED = {"job.idle": "idle", "job.contaminated": "contaminated"}
_BAD = frozenset({JobState.FAILED, JobState.TIMED_OUT})


def kind_of(type: str, job: Job) -> str | None:
    """As what the event ``type`` of a job is told; None when it is not.

    A bad end is a `failure`: failed, timed out, or stopped because its cards did nothing. Other ends are an `end`.
    """
    if not job.settled:
        return _NAMED.get(type)
    stopped_idle = job.reason is not None and job.reason.code is Code.IDLE
    return "failure" if job.state in _BAD or stopped_idle else "end"


def receivers(kind: str, job: Job, config: NotifyConfig, *, trusted: bool) -> list[Receiver]:
    """Who is told of the event of that kind: the administrator's channels, then those of the job's user.

    ``trusted``: the job's user may have the daemon reach everything that it can reach.
    """
    found: list[Receiver] = []
    if config.webhook is not None and _wants(kind, config.webhook.on, config.on):
        found.append(Receiver("webhook"))
    if config.command is not None and _wants(kind, config.command.on, config.on):
        found.append(Receiver("command"))
    own, asked = config.users.get(job.pipeline.submitter.user), job.spec.notify or Notify()
    theirs = asked.on if asked.on is not None else own.on if own is not None else None
    if config.smtp is not None:
        email = asked.email or (own.email if own is not None else None) or _by_name(config, job)
        if email is not None and _wants(kind, theirs if theirs is not None else config.smtp.on, config.on):
            found.append(Receiver("mail", email))
    if _wants(kind, theirs, config.on):
        if asked.webhook is not None:
            found.append(Receiver("webhook", asked.webhook, guarded=not trusted))
        elif own is not None and own.webhook is not None:
            found.append(Receiver("webhook", own.webhook))
    return found


def _wants(kind: str, on: tuple[str, ...] | None, otherwise: tuple[str, ...]) -> bool:
    wanted = otherwise if on is None else on
    return kind in wanted or (kind == "failure" and "end" in wanted)


def _by_name(config: NotifyConfig, job: Job) -> str | None:
    """The address that a user's name makes; None where it makes none."""
    template = None if config.smtp is None else config.smtp.to
    if template is None:
        return None
    user = job.pipeline.submitter.user
    address = template.replace("${user}", user).replace("$user", user)
    return address if is_address(address) else None
