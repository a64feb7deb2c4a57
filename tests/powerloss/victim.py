"""A daemon's worth of writing on a recorded disk. Every line that it writes to MARKS is a promise, or says what it is at.

python -m powerloss.victim FOLDER MARKS SEED ROUNDS CHECKPOINT RESERVE [PRAGMA...]
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from core.builders import ANN, spec
from runners.api import SETTLED, Code
from runnersd import lifecycle
from runnersd.model import Booking, Drain, Reason
from runnersd.store import Store, opening
from runnersd.telemetry.summary import Summary
from simulation.storing import OK, Asking, opened, submission

CARDS = tuple(f"GPU-{number}" for number in range(8))
BAD = Reason(Code.EXIT_CODE, "exited with code 1")
WHY = Reason(Code.CANCELLED_BY, "cancelled by ann")
SUMMARY = Summary().to_json()
#: Of all times that jobs have here the last. What ended before is pruned.
LATEST = 1_000.0


class Victim:
    """One life of a store."""

    def __init__(self, store: Store, marks: int, dice: random.Random) -> None:
        self._store, self._marks, self._dice = store, marks, dice
        self._busy = True

    def tell(self, *words: object) -> None:
        """One line in one write: the recorder sees it between the steps of the disk."""
        os.write(self._marks, (" ".join(map(str, words)) + "\n").encode())

    async def live(self, rounds: int) -> None:
        """So many rounds of work beside submissions."""
        self.tell("open", self._store.database)
        found = await self._store.jobs(limit=100_000)
        self.tell("found", *(f"{job.id}:{job.attempt}:{job.state.value}" for job in found))
        submitting = asyncio.gather(self._submit(), self._submit())
        for number in range(rounds):
            await self._work()
            if number % 5 == 2:
                await self._operate(number)
            if number % 12 == 11:
                await self._prune()
        self._busy = False
        await submitting
        await self._store.close()
        self.tell("closed")

    async def _submit(self) -> None:
        dice = self._dice
        while self._busy:
            key = f"{dice.getrandbits(64):x}"
            jobs = [spec(f"j{n}", num_gpus=n % 2, retries=1) for n in range(dice.choice([1, 2, 5, 30]))]
            more = [submission(*jobs)] + [submission(spec("second"))] * dice.randrange(2)
            accepted = await self._store.submit(more, ANN, key, 1.0)
            self.tell("submitted", key, *(id for _, queued in accepted for id, _ in queued))
            while self._busy and len(self._store.snapshot.waiting) > 60:
                await asyncio.sleep(0.001)

    async def _work(self) -> None:
        """Some jobs one step on each: starts, ends, retries, cancels."""
        store, dice = self._store, self._dice
        free = [card for card in CARDS if card not in store.snapshot.holders]
        store.snapshot.advance(1e12)
        ready = [job for job in store.snapshot.in_order() if store.snapshot.ready(job)]
        moved = []
        for job in [*ready[: dice.randrange(6)], *store.snapshot.live.values()]:
            event: lifecycle.Event
            if not job.live and dice.random() < 0.1:
                event = lifecycle.Cancelled(job.id, job.attempt, WHY, None, 3.0)
            elif not job.live:
                if job.spec.num_gpus and not free:
                    continue
                event = lifecycle.Reserved(job.id, job.attempt + 1, (free.pop(),) if job.spec.num_gpus else ())
            elif job.started_at is None:
                event = lifecycle.Started(job.id, job.attempt, 2.0)
            elif dice.random() < 0.2 and job.failures < 1:
                event = lifecycle.Requeued(job.id, job.attempt, BAD, 1, 3.0, None)
            elif dice.random() < 0.2:
                event = lifecycle.Failed(job.id, job.attempt, BAD, 1, 3.0)
            else:
                store.summarize(job.id, job.attempt, SUMMARY)
                event = lifecycle.Succeeded(job.id, job.attempt, OK, 0, 3.0)
            moved.append(store.record(event, 2.0))
        await store.committed()
        for job in moved:
            self.tell("job", job.id, job.attempt, job.state.value)

    async def _operate(self, number: int) -> None:
        """What an operator does."""
        store = self._store
        store.pause(f"pause {number}")
        store.drain(CARDS[7], Drain("fan") if number % 2 else None)
        store.book(Booking(0, 1000, "ann", CARDS[:2], LATEST + number, LATEST + number + 1.0, 5.0, "demo"))
        await store.committed()
        self.tell("paused", number)

    async def _prune(self) -> None:
        """Forget every pipeline that is over."""
        store = self._store
        over = [job.id for job in await store.jobs(states=SETTLED, limit=100_000)]
        self.tell("pruning", *over)
        gone = await store.prune(LATEST)
        self.tell("pruned", *sorted({job for job, _ in gone}))


async def main() -> None:
    """Open, and work."""
    folder, marks, seed, rounds, checkpoint, room = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
    # The same code, with checkpoints and with the end of the reserve sooner than after thousands of changes.
    opening.PRAGMAS = (*opening.PRAGMAS, f"PRAGMA wal_autocheckpoint = {checkpoint}", *sys.argv[7:])
    opening.RESERVE = room << 10
    number = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    store = await opened(folder, boot="boot-1")
    store.events.outbox = Asking("job.succeeded")
    await Victim(store, number, random.Random(seed)).live(rounds)


if __name__ == "__main__":
    asyncio.run(main())
