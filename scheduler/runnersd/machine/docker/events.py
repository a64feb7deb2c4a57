"""The engine's news: only a wake-up. What has really happened is found out by looking.

aiodocker's own reader loses its stream for good when that breaks, so this one reads the raw stream. A record that is
too long, or is not JSON, is left out: any user of the engine can make one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

from runnersd.machine.docker.body import DATABASE
from runnersd.machine.docker.connection import Connection

log = logging.getLogger(__name__)

#: Bytes of one record; a longer one is left out.
LONGEST = 1 << 18


async def news(connection: Connection, database: str) -> AsyncIterator[tuple[str, str]]:
    """What the engine says of this database's containers: each id, with `die` or `oom`. The first is empty: the engine
    is listening. Ends when the stream does.

    Raises:
        EngineError: it broke off.
    """
    filters = {"type": ["container"], "event": ["die", "oom"], "label": [f"{DATABASE}={database}"]}
    async with connection.stream("events", {"filters": json.dumps(filters)}, "listen to the engine") as chunks:
        yield "", ""
        async for line in lines(chunks):
            try:
                said = json.loads(line)
                container, what = said["Actor"]["ID"], said["Action"]
            except (ValueError, KeyError, TypeError, RecursionError):
                log.warning("the engine sent something that is not an event: %r", line[:80])
                continue
            if isinstance(container, str) and isinstance(what, str):
                yield container, what


async def lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream, without those that are longer than `LONGEST`."""
    buffer = b""
    skipping = False
    async for chunk in chunks:
        *whole, rest = (buffer + chunk).split(b"\n")
        for line in whole:
            if skipping:
                skipping = False
            elif line.strip() and len(line) <= LONGEST:
                yield line
        if len(rest) > LONGEST:
            skipping, rest = True, b""
        buffer = rest
