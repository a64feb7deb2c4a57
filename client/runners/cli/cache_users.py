"""Who uses a cache: processes that lease it, and jobs whose `RUNNERS_CACHES` says that they will."""

from __future__ import annotations

import sys

from runners import paths
from runners.cache import upkeep
from runners.client import Client
from runners.errors import DaemonUnreachable, NotAllowed, RunnersError
from runners.render import words as said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runners.api import JobView
    from runners.cache.upkeep import Entry

#: Seconds that a daemon has to say which jobs it has.
_TIMEOUT = 10.0


class Users:
    """What the daemons say of jobs, and the kernel of leases."""

    def __init__(self) -> None:
        self.noted: dict[str, list[JobView]] = {}  #: jobs that are not over, by the words of their RUNNERS_CACHES
        self.cache_directory: str | None = None  #: of the first daemon's configuration
        self.unheard: list[str] = []  #: why a daemon's jobs are not known

    def needing(self, one: Entry) -> list[JobView]:
        """Jobs that are not over and have said that they use it, by its whole name or without the hash."""
        found = {(job["pipeline"], job["id"]): job for word in (one.id, one.name) for job in self.noted.get(word, ())}
        return list(found.values())

    def documents(self, one: Entry) -> list[dict[str, Any]]:
        """Who uses it: ``{"job": 12, "pid": 4711, "state": "running"}``, each None where it is not known."""
        found: list[dict[str, Any]] = [{"job": upkeep.job_of(pid), "pid": pid, "state": None} for pid in one.pids]
        if one.leased and not found:
            found.append({"job": None, "pid": None, "state": None})
        for job in self.needing(one):
            same = [user for user in found if user["job"] == job["id"]]
            for user in same:
                user["state"] = job["state"]
            if not same:
                found.append({"job": job["id"], "pid": None, "state": job["state"]})
        return found

    def of(self, one: Entry) -> list[str]:
        """The same in words: ``job 12``, ``queued job 14``, ``process 4711``; each once."""
        names = []
        for user in self.documents(one):
            if user["job"] is not None:
                waiting = user["state"] if user["state"] in said.WAITING else ""
                names.append(f"{waiting} job {user['job']}".strip())
            else:
                names.append(f"process {user['pid']}" if user["pid"] else "a process")
        return list(dict.fromkeys(names))

    def warn(self) -> None:
        """Say which daemon's jobs are not known."""
        for why in self.unheard:
            sys.stderr.write(f"runners-client: which caches queued jobs need is not known there: {why}\n")


def users_now(socket: str | None, *, removing: bool) -> Users:
    """Ask every daemon that answers: the user's own and the machine's, or the one at ``socket``.

    Raises:
        Unavailable: with ``removing``, when a daemon is there but cannot say what its jobs need.
    """
    users = Users()
    for path in paths.candidate_sockets(socket):
        client = Client(path, timeout=_TIMEOUT)
        try:
            directories = client.status(limit=1)["daemon"].get("directories") or {}
            for job in client.jobs(states=(*said.WAITING, *said.LIVE)):
                for word in job.get("caches", ()):
                    users.noted.setdefault(word, []).append(job)
        except DaemonUnreachable:
            continue
        except RunnersError as error:
            if removing and not isinstance(error, NotAllowed):
                raise
            users.unheard.append(str(error))
            continue
        users.cache_directory = users.cache_directory or directories.get("CACHE_DIRECTORY")
    return users
