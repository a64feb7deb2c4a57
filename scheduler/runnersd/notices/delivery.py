"""A mailbox for each receiver: it gathers, sends, tries again and gives up, and no mailbox waits for another.

Who gives addresses fills their own places only: each user's messages share a few, the administrator's have their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from runnersd.notices.notice import Notice, Receiver, Undelivered
from runnersd.notices.pacing import LONGEST_GATHER, Pace, in_a_row
from runnersd.notices.wording import Message, Words, compose

log = logging.getLogger(__name__)

#: Messages of one user's that are under way at once.
_AT_ONCE = 4
#: Empty mailboxes that are remembered, for what has just been sent to them.
_EMPTY = 1000

#: Sends a message; raises Undelivered.
Send = Callable[[Receiver, Message], Awaitable[None]]


@dataclass(slots=True)
class _Box:
    """What waits for a receiver, and what it got lately."""

    waiting: list[Notice] = field(default_factory=list)
    under_way: list[Notice] = field(default_factory=list)
    more: int = 0
    sent: int = 0  #: messages in a row
    last: float = -math.inf  #: when the last one went, by the loop's clock
    task: asyncio.Task[None] | None = None


class Delivery:
    """Takes notices and sees them through. ``settled`` hears of those that are told or given up."""

    def __init__(
        self,
        send: Send,
        settled: Callable[[Sequence[Notice]], None],
        pace: Callable[[], Pace],
        words: Callable[[], Words],
        name: str,
    ) -> None:
        """``name`` is what messages' keys begin from: two daemons must not have the same."""
        self._send, self._settled, self._pace, self._words, self._name = send, settled, pace, words, name
        self._boxes: dict[Receiver, _Box] = {}
        self._places: defaultdict[int, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))

    def take(self, notices: Sequence[Notice]) -> None:
        """Have these told."""
        for notice in notices:
            box = self._box(notice.receiver)
            box.waiting.append(notice)
            if box.task is None:
                box.task = asyncio.get_running_loop().create_task(self._serve(notice.receiver, box))

    def count(self, receiver: Receiver) -> None:
        """Have the receiver told that there was one more, of which nothing is kept."""
        self._box(receiver).more += 1

    def kept(self) -> Iterator[Notice]:
        """What is neither told nor given up yet."""
        for box in self._boxes.values():
            yield from box.under_way
            yield from box.waiting

    async def close(self) -> None:
        """Send nothing more. What is not told stays where it is kept."""
        tasks = [box.task for box in self._boxes.values() if box.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _box(self, receiver: Receiver) -> _Box:
        box = self._boxes.get(receiver)
        if box is None:
            if len(self._boxes) >= _EMPTY:
                before = asyncio.get_running_loop().time() - LONGEST_GATHER
                self._boxes = {key: one for key, one in self._boxes.items() if one.task or one.last > before}
            box = self._boxes[receiver] = _Box()
        return box

    async def _serve(self, receiver: Receiver, box: _Box) -> None:
        loop = asyncio.get_running_loop()
        try:
            while box.waiting:
                pace = self._pace()
                box.sent = in_a_row(box.sent, loop.time() - box.last, pace)
                await asyncio.sleep(pace.wait(box.sent))
                notices, box.waiting = box.waiting, []
                box.under_way = notices
                more, box.more = box.more, 0
                try:
                    message = compose(self._key(receiver, notices), notices, more, self._words())
                except Exception:  # as below: of what cannot be put into words nobody can be told
                    log.exception("gave up telling %s of %d events", named(receiver), len(notices) + more)
                else:
                    await self._see_through(receiver, message)
                box.last, box.sent = loop.time(), box.sent + 1
                box.under_way = []
                self._settled(notices)
        finally:
            box.task = None

    async def _see_through(self, receiver: Receiver, message: Message) -> None:
        failures = 0
        while True:
            try:
                async with self._place(receiver, message):
                    await self._send(receiver, message)
                return
            except Undelivered as error:
                why, again = str(error), error.again
            except Exception:  # a bug must not stop this receiver's mail for ever
                log.exception("telling %s failed", named(receiver))
                why, again = "see the error above", True
            failures += 1
            delay = self._pace().delay(failures) if again else None
            if delay is None:
                count, tries = len(message.notices) + message.more, "once" if failures == 1 else f"{failures} times"
                log.warning("gave up telling %s of %d events, tried %s: %s", named(receiver), count, tries, why)
                return
            log.debug("telling %s is tried again in %g s: %s", named(receiver), delay, why)
            await asyncio.sleep(delay)

    def _place(self, receiver: Receiver, message: Message) -> asyncio.Semaphore | nullcontext[None]:
        """A place to send from: nobody's own where the administrator gave the address."""
        return self._places[message.notices[0].uid] if receiver.address else nullcontext()

    def _key(self, receiver: Receiver, notices: Sequence[Notice]) -> str:
        """The same for the same notices, so that a receiver can tell one that it has had."""
        said = json.dumps([self._name, receiver, [one.event for one in notices]])
        return hashlib.sha256(said.encode()).hexdigest()[:32]


def named(receiver: Receiver) -> str:
    """A receiver as the log may have it: a hook's path is often a secret."""
    if not receiver.address:
        return f"notify.{receiver.channel}"
    if receiver.channel == "webhook":
        return f"the web hook at {urlsplit(receiver.address).hostname}"
    return receiver.address
