"""The most that users, and groups of them, may have at once: whose they are, and what is over one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from runnersd.config import Quota
from runnersd.model import Submitter


class Account(NamedTuple):
    """Somebody whose jobs are counted together: a user, or all members of a group."""

    name: str  #: "ann", or "the group students"
    gid: int | None  #: of a group
    uid: int | None  #: of a user
    quota: Quota


@dataclass(frozen=True, slots=True)
class Quotas:
    """Everybody's quota: of users by name, of groups by number, with the group's name."""

    default: Quota = field(default_factory=Quota)
    users: Mapping[str, Quota] = field(default_factory=dict)
    groups: Mapping[int, tuple[str, Quota]] = field(default_factory=dict)

    @property
    def some(self) -> bool:
        """Whether anybody has one."""
        return self.default != Quota() or bool(self.users) or bool(self.groups)

    def accounts(self, who: Submitter) -> tuple[Account, ...]:
        """Where a user's jobs count and are limited: as the user's own, and as those of each of the user's groups."""
        own = self.users.get(who.user) or self.users.get(str(who.uid)) or self.default
        found = [Account(who.user or str(who.uid), None, who.uid, own)]
        for gid in sorted({who.gid, *who.groups} & self.groups.keys()):
            name, quota = self.groups[gid]
            found.append(Account(f"the group {name}", gid, None, quota))
        return tuple(account for account in found if account.quota != Quota())


def member(who: Submitter, account: Account) -> bool:
    """Whether a user's jobs count in the account."""
    return who.uid == account.uid if account.gid is None else account.gid in (who.gid, *who.groups)
