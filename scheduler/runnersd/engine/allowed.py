"""Quotas as the configuration says them, with the numbers of the groups that it names."""

from __future__ import annotations

import grp
import logging

from runnersd.config import Quota, QuotasConfig
from runnersd.quotas import Quotas

log = logging.getLogger(__name__)


def quotas_of(config: QuotasConfig) -> Quotas:
    """Everybody's quota. A group that does not exist has none, and the log says so."""
    groups: dict[int, tuple[str, Quota]] = {}
    for name, quota in config.groups.items():
        gid = _group_id(name)
        if gid is None:
            log.warning("scheduling.quotas: there is no group %s; nobody is limited by it", name)
        else:
            groups[gid] = (name, quota)
    return Quotas(config.default, config.users, groups)


def _group_id(name: str) -> int | None:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
