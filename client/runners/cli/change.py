"""Changing jobs: `cancel`, `hold`, `release`, `retry`, `priority`, `update`; or, `--dry-run`, what that would do."""

from __future__ import annotations

import sys
import time

from runners.client import Client

from .main import complain
from .sentences import change, print_json, queued

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    from runners.api import EffectView, JobView

    from .options import Words

    Found = TypeVar("Found")


def cancel(words: Words) -> int:
    """Take them out of the queue, or stop them."""
    client = _client(words)
    if words.has("dry-run"):
        return _effects(words, client.effects_of_cancel, lambda id: _stopped(client, id))
    return _each(words, lambda id: client.cancel(id, now=words.has("now")))


def hold(words: Words) -> int:
    """Keep them from starting."""
    return _change(words, {"held": True})


def release(words: Words) -> int:
    """Let them start."""
    return _change(words, {"held": False})


def priority(words: Words) -> int:
    """Move them in the queue."""
    return _change(words, {"priority": words.number("N")})


def update(words: Words) -> int:
    """Change what they ask for."""
    return _change(words, assignments(words.all("KEY=VALUE")))


def retry(words: Words) -> int:
    """Queue the unsuccessful ones again."""
    from runners.errors import RunnersError

    client, made, code = _client(words), [], 0
    for id, only in _together(client, words.all("ID")):
        try:
            made.append(client.retry(id, only))
        except RunnersError as error:
            complain(error)
            code = code or error.exit
    if words.has("json"):
        print_json(made[0] if len(made) == 1 else {"pipelines": made})
    else:
        for one in made:
            sys.stdout.write(queued(one, "", sys.stdout.isatty()) + "\n")
    return code


def _together(client: Client, ids: list[str]) -> list[tuple[str, list[int]]]:
    """What to retry in one step: jobs of one pipeline belong together, so that those that need others wait for them."""
    numbers = [id for id in ids if id.isdigit()]
    if len(numbers) < 2:
        return [(id, []) for id in ids]
    from runners.api import SETTLED, JobState
    from runners.errors import NotFound

    found: dict[str, list[int]] = {id: [] for id in ids if not id.isdigit()}
    try:
        jobs = client.status(numbers)["jobs"]
    except NotFound:
        return [(id, []) for id in ids]
    for job in jobs:
        if job["pipeline"] in ids:
            continue  # the whole of it is meant
        ended_badly = job["state"] in SETTLED and job["state"] != JobState.SUCCEEDED
        # What cannot be retried is asked for by itself, so that the answer to that is no answer to the others.
        found.setdefault(job["pipeline"] if ended_badly else str(job["id"]), []).append(job["id"])
    return [(str(of[0]), []) if len(of) == 1 else (id, of) for id, of in found.items()]


def assignments(given: list[str]) -> dict[str, Any]:
    """What ``key=value`` words ask for, as the pipeline file has it: ``null`` takes a value back, ``env.K=V`` sets one
    variable, and a list may be written ``[0, 1]`` or ``0,1``. The daemon says what is wrong with a value.

    Raises:
        InvalidRequest: a word is no assignment, or its key is not a job's.
    """
    from runners.errors import InvalidRequest
    from runners.pipeline.checking import MEANT
    from runners.pipeline.schema import JOB_KEYS

    from .options import nearest

    changes: dict[str, Any] = {}
    for word in given:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise InvalidRequest(f"cannot update: {word!r} is not key=value, such as time_limit=4h")
        name, dot, variable = key.partition(".")
        if name == "env" and dot and variable:
            changes.setdefault("env", {})[variable] = value
            continue
        if key not in JOB_KEYS:
            raise InvalidRequest(f"cannot update: a job has no key {key!r}{nearest(MEANT.get(key, key), JOB_KEYS)}")
        changes[key] = _value(value, JOB_KEYS[key].as_written, key in ("gpus", "mounts", "ports"))
    return changes


def _value(text: str, as_written: bool, listing: bool) -> Any:
    import json

    if text == "null":
        return None
    if listing and not text.startswith("["):
        return text.split(",")
    if as_written and text[:1] not in ("[", "{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # a size or a time as people write it: 20GiB, 1:30:00


def _stopped(client: Client, id: str) -> list[JobView]:
    """The jobs that a cancel would stop, and not only take out of the queue: those with work to lose."""
    from runners.api import LIVE

    return [job for job in client.status([id])["jobs"] if job["state"] in LIVE]


def _client(words: Words) -> Client:
    return Client(words.text("socket"))


def _change(words: Words, changes: dict[str, Any]) -> int:
    client = _client(words)
    if words.has("dry-run"):
        return _effects(words, lambda id: client.effects(id, changes))
    return _each(words, lambda id: client.update(id, changes))


def _effects(
    words: Words, ask: Callable[[str], list[EffectView]], ends: Callable[[str], list[JobView]] | None = None
) -> int:
    """Say of every id which jobs it ``ends``, and what it would do to others; the first refusal's exit code."""
    from runners.render import foretold

    answers: list[dict[str, Any]] = []

    def say(id: str, found: list[EffectView]) -> None:
        ended = ends(id) if ends else []
        answers.append({"id": id, "effects": found, **({"stops": [job["id"] for job in ended]} if ends else {})})
        if not words.has("json"):
            now = time.time()
            lines = [foretold.stopped(job, now) for job in ended] + foretold.effects(found, now)
            sys.stdout.write(f"not done: what it would mean for {id} and for others\n")
            sys.stdout.write("".join(f"{line}\n" for line in lines))

    code = _of_all(words, ask, say)
    if words.has("json"):
        print_json({"dry_run": True, "answers": answers})
    return code


def _each(words: Words, act: Callable[[str], list[JobView]]) -> int:
    """Do it to every id and say what became of each; the first refusal's exit code."""
    done: list[JobView] = []

    def say(_: str, jobs: list[JobView]) -> None:
        done.extend(jobs)
        if not words.has("json"):
            sys.stdout.write("".join(f"{change(job, time.time())}\n" for job in jobs))

    code = _of_all(words, act, say)
    if words.has("json"):
        print_json({"jobs": done})
    return code


def _of_all(words: Words, ask: Callable[[str], Found], say: Callable[[str, Found], None]) -> int:
    """Ask for every id, and complain of those that are refused; the first one's exit code."""
    from runners.errors import DaemonUnreachable, RunnersError

    code = 0
    for id in words.all("ID"):
        try:
            found = ask(id)
        except DaemonUnreachable:
            raise
        except RunnersError as error:
            complain(error)
            code = code or error.exit
            continue
        say(id, found)
    return code
