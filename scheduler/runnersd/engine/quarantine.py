"""Takes cards out of use after Xids that say that they need a reset, as an operator's `drain` would."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from runners.errors import Unavailable
from runnersd.config import XidConfig
from runnersd.model import Drain, Gpu, Inventory, Xid
from runnersd.store import Store
from runnersd.xids import action, xid_text

log = logging.getLogger(__name__)

#: Who drains a card when nobody does.
BY = "runnersd"
#: Seconds in which the log does not say again that the same harmless error came from the same card.
QUIET = 3600.0


class Quarantine:
    """What the driver has reported, until it is dealt with: once, and on disk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reported: list[tuple[float, Xid]] = []
        self._said: dict[Xid, float] = {}

    async def see(self, inventory: Inventory, config: XidConfig, now: float) -> bool:
        """Deal with what has been reported up to this look (Unix seconds). Returns whether a card was taken out.

        What cannot be made durable now waits for the next look.
        """
        self._reported += [(now, xid) for xid in inventory.xids]
        if not self._reported or not self._store.healthy:
            return False
        lines: list[tuple[int, str, Gpu]] = []
        try:
            for at, xid in self._reported:
                lines += self._deal_with(xid, _parts(inventory, xid), config, at)
            await self._store.committed()
        except Unavailable:
            return False  # memory goes back to the rows, in which none of it is
        self._reported.clear()
        for level, text, gpu in lines:
            log.log(level, "%s", text, extra={"gpu": gpu.uuid})
        return any(level == logging.WARNING for level, _, _ in lines)

    def _deal_with(self, xid: Xid, parts: Sequence[Gpu], config: XidConfig, at: float) -> list[tuple[int, str, Gpu]]:
        """Record what it means for the card, or for all parts of one that is divided. Returns what to log."""
        what = xid_text(xid.number)
        if action(xid.number, config) == "ignore":
            if not parts or 0 <= at - self._said.get(xid, -QUIET) < QUIET:
                return []
            self._said[xid] = at
            return [(logging.INFO, f"card {parts[0].index} had {what}: it stays in use", parts[0])]
        reason = f"{what} at {datetime.fromtimestamp(at, UTC).astimezone():%H:%M}"
        lines = []
        for gpu in parts:
            if gpu.uuid in self._store.drained:
                continue  # an earlier error is nearer to the cause, and an operator's own words stay
            self._store.drain(gpu.uuid, Drain(reason, BY, at))
            text = f"card {gpu.index} is drained after {what}: reset it, then `runners-client undrain {gpu.index}`"
            lines.append((logging.WARNING, text, gpu))
        return lines


def _parts(inventory: Inventory, xid: Xid) -> list[Gpu]:
    """What jobs can have of the card: itself, or the MIG devices that it is divided into."""
    return [gpu for gpu in inventory.gpus if xid.gpu in (gpu.uuid, gpu.parent)]
