"""Subjects and texts, of one notice and of many. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from runners.pipeline.quantities import format_duration
from runnersd.notices.notice import Notice

#: Lines of a digest, and events in its JSON; the rest is counted.
LISTED = 50
#: Characters of a subject.
_SUBJECT = 200
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\u202a-\u202e\u2066-\u2069]+")


@dataclass(frozen=True, slots=True)
class Words:
    """Templates in place of the usual words; None keeps those. ``host`` is what the machine is called."""

    host: str = ""
    subject: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What goes to one receiver: of one notice or of many. ``key`` is the same each time it is tried."""

    key: str
    subject: str
    text: str
    chat: str  #: the text as short as a chat wants it
    notices: tuple[Notice, ...]
    more: int = 0  #: notices that are counted and not among these


def compose(key: str, notices: Sequence[Notice], more: int, words: Words) -> Message:
    """The message that tells of these, oldest first; of ``more`` besides nothing else is known."""
    if len(notices) == 1 and not more:
        [one] = notices
        line, text = subject(one, words), _text(one, words)
        chat = text if words.text is not None else f"{line}\n{_hint(one)}"
        return Message(key, line, text, chat, tuple(notices))
    lines = [subject(one, words) for one in notices[:LISTED]]
    left = len(notices) - len(lines) + more
    if left:
        lines.append(f"... and {left} more")
    title = _clean(f"{_counted(notices, more)}{' on ' + words.host if words.host else ''}")[:_SUBJECT]
    users = sorted({str(one.facts["user"]) for one in notices})
    ways = "runners-client status --all --mine" if len(users) == 1 else "runners-client status --all"
    text = "\n".join([title, "", *lines, "", f"see {ways}", ""])
    return Message(key, title, text, text, tuple(notices), more)


def subject(notice: Notice, words: Words) -> str:
    """A notice in one line."""
    line = sentence(notice)
    if words.subject is not None:
        line = Template(words.subject).safe_substitute(_names(notice, words, line))
    return _clean(line)[:_SUBJECT]


def sentence(notice: Notice) -> str:
    """The usual line: `job 17 train failed: exited with code 1 after 2h 3m`."""
    facts = notice.facts
    job, why, ran = f"job {facts['job']} {facts['name']}", str(facts["reason"]), facts["ran"]
    after = f" after {format_duration(ran)}" if ran is not None else ""
    if notice.kind == "idle":
        return f"{job} leaves its cards idle: {why}"
    if notice.kind == "contaminated":
        return f"{job} is not alone on its cards: {why}"
    match facts["state"]:
        case "succeeded":
            return f"{job} succeeded{after}"
        case "cancelled":
            return f"{job} was {why}{after}" if why.startswith("cancelled") else f"{job} was cancelled{after}: {why}"
        case "timed_out":
            return f"{job} timed out: {why}"
        case "skipped":
            return f"{job} was skipped: {why}"
    return f"{job} failed: {why}{after}"


def payload(message: Message, host: str) -> dict[str, Any]:
    """The message as a web hook gets it: `text` for a chat, the rest for programs."""
    return {
        "text": _for_chat(message.chat),
        "subject": message.subject,
        "host": host,
        "key": message.key,
        "events": [{"id": one.event, "at": one.at, "event": one.kind, **one.facts} for one in message.notices[:LISTED]],
        "more": max(len(message.notices) - LISTED, 0) + message.more,
    }


def variables(message: Message, host: str) -> dict[str, str]:
    """The message as a command gets it beside its text. Of many notices only what they have in common."""
    found = {
        "RUNNERS_NOTICE": message.key,
        "RUNNERS_SUBJECT": message.subject,
        "RUNNERS_HOST": host,
        "RUNNERS_COUNT": str(len(message.notices) + message.more),
    }
    names = {
        "RUNNERS_JOB_ID": "job", "RUNNERS_JOB_NAME": "name", "RUNNERS_PIPELINE_ID": "pipeline", "RUNNERS_USER": "user",
        "RUNNERS_STATE": "state", "RUNNERS_REASON": "code", "RUNNERS_EXIT_CODE": "exit_code",
    }  # fmt: skip
    values = [
        {"RUNNERS_EVENT": one.kind, **{name: one.facts[key] for name, key in names.items()}} for one in message.notices
    ]
    for name, value in values[0].items() if values else ():
        if value is not None and all(other[name] == value for other in values[1:]):
            found[name] = str(value).replace("\0", "")
    return found


# -- inside ------------------------------------------------------------------------------------------------------------


def _text(notice: Notice, words: Words) -> str:
    line = subject(notice, words)
    if words.text is not None:
        return Template(words.text).safe_substitute(_names(notice, words, line))
    facts, ran = notice.facts, notice.facts["ran"]
    rows = [
        ("job", f"{facts['job']} {facts['name']}"),
        ("pipeline", f"{facts['pipeline']} {facts['pipeline_name']}"),
        ("user", facts["user"]),
        ("state", str(facts["state"]).replace("_", " ")),
        ("reason", facts["reason"]),
        ("exit code", facts["exit_code"]),
        ("cards", ", ".join(map(str, facts["cards"]))),
        ("ran", "" if ran is None else format_duration(ran)),
        ("attempt", facts["attempt"] if facts["attempt"] > 1 else ""),
        ("machine", words.host),
    ]
    shown = [f"{label:<10} {_clean(str(value))}" for label, value in rows if value not in ("", None)]
    return "\n".join([line, "", *shown, "", _hint(notice), ""])


def _hint(notice: Notice) -> str:
    job = notice.facts["job"]
    return f"see runners-client {'logs' if notice.facts['attempt'] else 'show'} {job}"


def _names(notice: Notice, words: Words, line: str) -> dict[str, str]:
    """What a template can say; what is not known is empty."""
    facts = notice.facts
    ran = facts["ran"]
    values = {
        **facts,
        "event": notice.kind,
        "subject": line,
        "cards": ", ".join(map(str, facts["cards"])),
        "ran": None if ran is None else format_duration(ran),
        "host": words.host,
        "more": _hint(notice),
    }
    return {name: "" if value is None else str(value) for name, value in values.items()}


def _counted(notices: Sequence[Notice], more: int) -> str:
    """`1,000 jobs ended: 990 succeeded, 10 failed; 2 jobs left cards idle`."""
    ends = Counter(str(one.facts["state"]) for one in notices if one.kind in ("end", "failure"))
    said = []
    if ends:
        count = ends.total()
        states = ", ".join(f"{number:,} {state.replace('_', ' ')}" for state, number in ends.most_common())
        said.append(f"{_jobs(count)} ended: {states}")
    idle = len({one.facts["job"] for one in notices if one.kind == "idle"})
    shared = len({one.facts["job"] for one in notices if one.kind == "contaminated"})
    if idle:
        said.append(f"{_jobs(idle)} left cards idle")
    if shared:
        said.append(f"{_jobs(shared)} had others on their cards")
    if more:
        said.append(f"{more:,} events more")
    return "; ".join(said)


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _clean(text: str) -> str:
    """Without what could break a line, a header or a terminal."""
    return _UNPRINTABLE.sub(" ", text)


def _for_chat(text: str) -> str:
    """Text in which no job's name calls a whole channel: `<!channel>` and `@all` are said, and do nothing."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("@", "@\u200b")
