"""One command on exactly the cards it names, at once: it is started, or there is an error that says who has them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import config, own_daemon
from .api import WAITING, Code
from .errors import IllegalTransition, NotFound, Unavailable

if TYPE_CHECKING:
    from .api import GpuView, JobView
    from .client import Client

#: What a job is waiting for when the cards it names are not to be had.
_CARDS = frozenset(
    code.value for code in (Code.NO_FREE_GPU, Code.NO_GPU_MEMORY, Code.FOREIGN_GPU_USE, Code.BEHIND_RESERVATION)
)
#: Seconds that the daemon may take to look at a new job, and between two looks at it.
_LOOKED_AT, _AGAIN = 10.0, 0.02


def run(
    command: str | Sequence[str],
    *,
    run_in: str,
    gpus: str | None = None,
    name: str | None = None,
    image: str | None = None,
    ports: Sequence[str] = (),
    detach: bool = False,
) -> int:
    """Queue one job and see that it does not wait for its cards. Returns its id when ``detach``, else its exit code.

    A string runs under `sh -c`, a list as it is. ``gpus`` are indices or UUIDs, separated by commas; none is no card.
    Attached, the job's output is ours and our signals are its. A daemon is started where none answers.

    Raises:
        Unavailable: a card is in use, and by whom; or no daemon can be had.
        InvalidPipeline: what is asked for cannot be, on this machine.
    """
    client = own_daemon.answering()
    job: dict[str, Any] = {"command": command if isinstance(command, str) else list(command), "run_in": run_in}
    cards = [part.strip() for part in (gpus or "").split(",") if part.strip()]
    optional = {"gpus": cards, "name": name, "image": image, "ports": list(ports)}
    job |= {key: value for key, value in optional.items() if value}
    if cards:
        _refuse_taken(client, cards)
    if detach:
        id = _queue(client, job)
        _until_looked_at(client, id, cards)
        return id
    from .cli.foreground import Foreground, Signals

    with Signals() as signals:
        id = _queue(client, job)

        def refuse(view: JobView) -> None:
            _refuse_waiting(client, view, cards)

        return Foreground(client, id, signals, refuse if cards else None).stay()


def _queue(client: Client, job: Mapping[str, Any]) -> int:
    """The id of the new job."""
    from .cli.submission import surroundings

    ours = surroundings()
    submission = {
        "name": job.get("name") or "run",
        "num_jobs": 1,
        "jobs": [dict(job)],
        "cwd": config.code_directory or ours.cwd,
        "env": config.job_environment(ours.env),
        "umask": ours.umask,
    }
    [made] = client.submit([submission])
    id: int = made["jobs"][0]["id"]
    return id


def _refuse_taken(client: Client, cards: Sequence[str]) -> None:
    """Raise what says who has the cards; pass where they are free, or not there: then the daemon says so."""
    taken = who_has(client, cards)
    if taken:
        raise _error(taken, len(cards))


def _refuse_waiting(client: Client, view: JobView, cards: Sequence[str]) -> None:
    """Take the job back when it is cards that it waits for: somebody was faster, or is ahead in the queue."""
    if view["state"] not in WAITING or view["reason"]["code"] not in _CARDS:
        return
    try:
        client.cancel(view["id"])
    except (IllegalTransition, NotFound):
        return  # it has just started after all, and is over
    taken = who_has(client, cards) or [view["reason"]["text"]]
    raise _error(taken, len(cards))


def _until_looked_at(client: Client, id: int, cards: Sequence[str]) -> None:
    """Until the daemon has started the job, or said what it waits for."""
    until = time.monotonic() + _LOOKED_AT
    while cards and time.monotonic() < until:
        view = client.job(id)
        _refuse_waiting(client, view, cards)
        if view["state"] not in WAITING or view["reason"]["code"] != Code.STARTING_SOON:
            return
        time.sleep(_AGAIN)


def who_has(client: Client, cards: Sequence[str]) -> list[str]:
    """A sentence for each of these cards that cannot be had now: who has it, or what is wrong with it."""
    sentences = []
    for card in client.gpus():
        if str(card["index"]) in cards or card["uuid"] in cards:
            sentence = _who(client, card)
            if sentence is not None:
                sentences.append(f"card {card['index']} {sentence}")
    return sentences


def _who(client: Client, card: GpuView) -> str | None:
    if card["state"] == "free":
        return None
    if card["jobs"]:
        return f"is held by {' and '.join(_job(client, id) for id in card['jobs'])}"
    reason = card.get("reason")
    return f"is {card['state']}" if not reason else reason if card["state"] == "drained" else f"is {reason}"


def _job(client: Client, id: int) -> str:
    try:
        job = client.job(id)
    except NotFound:
        return f"job {id}"
    return f"job {id} ({job['name']}) of {job['user']}"


def _error(taken: Sequence[str], count: int) -> Unavailable:
    return Unavailable(
        f"cannot run now: {'; '.join(taken)}; name other cards, or let it wait for some: "
        f"`runners-client run --gpus {count} -- COMMAND`"
    )
