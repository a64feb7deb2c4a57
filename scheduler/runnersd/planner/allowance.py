"""What users may still start, beside what their jobs have: the quotas of users and groups."""

from __future__ import annotations

from runners.api import Code
from runnersd.model import Reason
from runnersd.planner.decisions import Over
from runnersd.planner.world import World
from runnersd.quotas import Account, member

#: Where an administrator finds what a sentence speaks of.
_KEY = "scheduling.quotas"


class Allowance:
    """Counts as jobs start. A shared card counts whole for each of the jobs on it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._accounts: dict[int, tuple[Account, ...]] = {}
        self._had: dict[int, tuple[int, int]] = {}  # by uid: jobs, and cards
        self.over: dict[int, tuple[Over, ...]] = {}  #: by uid, as far as somebody has asked
        if world.quotas.some:
            for job in world.snapshot.live.values():
                self.take(job.pipeline.submitter.uid, job.spec.num_gpus)

    def take(self, uid: int, num_gpus: int) -> None:
        """One more job of that user runs, on so many cards."""
        jobs, cards = self._had.get(uid, (0, 0))
        self._had[uid] = (jobs + 1, cards + num_gpus)

    def exceeded(self, uid: int, num_gpus: int) -> Over | None:
        """Which jobs of that user may not start now, if one on so many cards may not; and why."""
        if not self._world.quotas.some:
            return None
        for known in self.over.get(uid, ()):  # nobody ends within a plan: it stays so
            if num_gpus >= known.num_gpus:
                return known
        for account in self._of(uid):
            over = self._exceeded(account, num_gpus)
            if over is not None:
                self.over[uid] = (*self.over.get(uid, ()), over)
                return over
        return None

    def _of(self, uid: int) -> tuple[Account, ...]:
        found = self._accounts.get(uid)
        if found is None:
            found = self._accounts[uid] = self._world.quotas.accounts(self._world.snapshot.submitters[uid])
        return found

    def _exceeded(self, account: Account, num_gpus: int) -> Over | None:
        users = self._members(account)
        jobs, cards = (sum(self._had[uid][place] for uid in users) for place in (0, 1))
        quota = account.quota
        if quota.running is not None and jobs >= quota.running:
            count = f"{jobs} job{'s' if jobs != 1 else ''} running"
            text = f"{account.name} has {count}{self._who(account, users, 0)}, at most {quota.running} may ({_KEY})"
            return Over(0, Reason(Code.QUOTA, text))
        if num_gpus and quota.gpus is not None and cards + num_gpus > quota.gpus:
            text = f"{account.name} holds {cards}{self._who(account, users, 1)} of at most {quota.gpus} ({_KEY})"
            return Over(max(quota.gpus - cards, 0) + 1, Reason(Code.QUOTA, text))
        return None

    def _members(self, account: Account) -> list[int]:
        if account.uid is not None:
            return [account.uid] if account.uid in self._had else []
        return [uid for uid in self._had if member(self._world.snapshot.submitters[uid], account)]

    def _who(self, account: Account, users: list[int], place: int) -> str:
        """Who of a group has what of it, those with most first."""
        if account.gid is None:
            return ""
        counts = sorted(((self._had[uid][place], uid) for uid in users if self._had[uid][place]), key=_most_first)
        submitters = self._world.snapshot.submitters
        named = [f"{submitters[uid].user or uid} {count}" for count, uid in counts[:3]]
        return f" ({', '.join(named)}{', ...' if len(counts) > 3 else ''})" if named else ""


def _most_first(one: tuple[int, int]) -> tuple[int, int]:
    return -one[0], one[1]
