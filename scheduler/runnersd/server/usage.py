"""What has run: added up, and job by job. Everybody may look."""

from __future__ import annotations

from aiohttp import web

from runners.api import HistoryView, UsageRow, UsageSums, UsageView
from runnersd.past.accounts import Account
from runnersd.server.call import Call, reply
from runnersd.store.usage import Owner, Period


async def usage(call: Call) -> web.StreamResponse:
    """Attempts of a period added up, those first who have had the cards longest."""
    engine, by, since = call.engine, call.query["by"], call.query["since"]
    until = engine.clock()
    period = Period(float(since or 0), until, float(engine.store.snapshot.measures.card_memory))
    found = await engine.store.archive.usage(by, period)
    total = Account()
    for account in found.values():
        total.add(account)
    ordered = sorted(found.items(), key=lambda one: (-one[1].card_seconds, -one[1].jobs, _place(one[0])))
    shown = ordered[: call.query["limit"]]
    view: UsageView = {
        "by": by,
        "since": since,
        "until": until,
        "rows": [_row(owner, account) for owner, account in shown],
        "total": _sums(total),
        "left_out": len(ordered) - len(shown),
    }
    await call.saved()
    return reply(view)


async def history(call: Call) -> web.StreamResponse:
    """Jobs that wanted cards since a time, with their attempts; on the first page what became of the cards too."""
    store, query = call.engine.store, call.query
    since = float(query["since"] or 0)
    jobs, follows = await store.archive.history(since, query["after"] or 0, query["limit"])
    view: HistoryView = {
        "jobs": jobs,
        "changes": await store.archive.card_changes(since) if not query["after"] else [],
        "next": follows,
    }
    await call.saved()
    return reply(view)


def _place(owner: Owner) -> tuple[str, int, str]:
    return owner.user or "", owner.pipeline or 0, owner.script or ""


def _row(owner: Owner, account: Account) -> UsageRow:
    return {
        "user": owner.user,
        "uid": owner.uid,
        "pipeline": None if owner.pipeline is None else f"p{owner.pipeline}",
        "pipeline_name": owner.name,
        "script": owner.script,
        **_sums(account),
    }


def _sums(account: Account) -> UsageSums:
    return {
        "jobs": account.jobs,
        "attempts": account.attempts,
        "card_seconds": account.card_seconds,
        "wait_mean": account.mean_wait,
        "wait_median": account.median_wait,
        "efficiency": account.efficiency,
        "idle_card_seconds": account.idle,
        "energy": account.energy,
        "failures": account.failed,
        "failure_share": account.failure_share,
        "contaminated": account.contaminated,
        "preempted": account.preempted,
    }
