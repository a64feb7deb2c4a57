"""A daemon's worth of writing, until it is killed: run by test_store_kills.py. Every line it prints is a promise kept.

python -m simulation.store_victim FOLDER SEED
"""

from __future__ import annotations

import asyncio
import random
import sys
from pathlib import Path

from core.builders import ANN, spec
from runners.api import Code
from runnersd import lifecycle
from runnersd.model import Reason
from runnersd.store import Store
from simulation.storing import OK, opened, submission

CARDS = tuple(f"GPU-{number}" for number in range(8))


def promise(*words: object) -> None:
    print(*words, flush=True)


async def submit(store: Store, chance: random.Random) -> None:
    """Queue pipelines of a few jobs for ever; each promise names the key and the jobs."""
    while True:
        key = f"{chance.getrandbits(64):x}"
        count = chance.choice([1, 2, 5, 60])
        jobs = [spec(f"j{n}", num_gpus=n % 2, retries=1) for n in range(count)]
        accepted = await store.submit([submission(*jobs)], ANN, key, 1.0)
        promise("submitted", key, *(id for _, queued in accepted for id, _ in queued))
        while len(store.snapshot.waiting) > 300:
            await asyncio.sleep(0.002)


async def work(store: Store, chance: random.Random) -> None:
    """Start and end jobs for ever; each promise names a job, its attempt and its state."""
    while True:
        await asyncio.sleep(0)
        moved = []
        free = [card for card in CARDS if card not in store.snapshot.holders]
        store.snapshot.advance(1e12)
        ready = [job for job in store.snapshot.in_order() if store.snapshot.ready(job)]
        for job in [*ready[: chance.randrange(4)], *store.snapshot.live.values()]:
            if not job.live:
                if job.spec.num_gpus and not free:
                    continue
                cards = (free.pop(),) if job.spec.num_gpus else ()
                event: lifecycle.Event = lifecycle.Reserved(job.id, job.attempt + 1, cards)
            elif job.started_at is None:
                event = lifecycle.Started(job.id, job.attempt, 2.0)
            elif chance.random() < 0.3 and job.failures < 1:
                bad = Reason(Code.EXIT_CODE, "exited with code 1")
                event = lifecycle.Requeued(job.id, job.attempt, bad, 1, 3.0, chance.choice([None, 4.0]))
            else:
                event = lifecycle.Succeeded(job.id, job.attempt, OK, 0, 3.0)
            moved.append(store.record(event, 2.0))
        await store.committed()
        for job in moved:
            promise("job", job.id, job.attempt, job.state.value)


async def main() -> None:
    """Do both at once."""
    store = await opened(Path(sys.argv[1]))
    chance = random.Random(int(sys.argv[2]))
    promise("open")
    await asyncio.gather(submit(store, chance), submit(store, chance), work(store, chance))


if __name__ == "__main__":
    asyncio.run(main())
