"""Jobs and their telemetry as the daemon tells them, made up: to draw, and to look at what is drawn."""

from __future__ import annotations

import math
import random
from typing import Any

from .conftest import job_view

GIB = 1 << 30
#: When everything here was submitted (Unix seconds).
SUBMITTED = 1_769_871_600.0


def job(id: int, name: str, *, waited: float = 0.0, lasted: float | None = 600.0, attempt: int = 1, **keys: Any) -> Any:
    """Everything known of a job; without ``lasted`` it still runs."""
    start = SUBMITTED + waited
    state = "running" if lasted is None else keys.pop("state", "succeeded")
    one = {"attempt": attempt, "state": state, "reason": {"code": "ok", "text": ""}, "exit_code": 0, "gpus": [],
           "started_at": start, "finished_at": None if lasted is None else start + lasted, "peak_memory": None}  # fmt: skip
    return {**job_view(id, state, name=name, submitted_at=SUBMITTED, started_at=start), "attempt": attempt,
            "spec": {}, "attempts": [one], "events": [], **keys}  # fmt: skip


def telemetry(
    id: int, cards: int, *, waited: float = 0.0, lasted: float = 600.0, samples: int = 300, seed: int = 1,
    power: float = 600.0, total: int | None = 80 * GIB, part: float = 0.7, attempt: int = 1, over: bool = True,
    verdict: list[str] | None = None,
) -> Any:  # fmt: skip
    """A training on so many cards: it loads, trains epoch by epoch, and loses its last card a while before its end."""
    rng = random.Random(seed)
    start = SUBMITTED + waited
    at = [start + (n + 0.5) * lasted / samples for n in range(samples)]

    def busy(card: int, n: int) -> float:
        share = n / samples
        if share < 0.06 or (cards > 1 and card == cards - 1 and share > 0.7):
            return 0.0
        dip = 25.0 if math.sin(share * 60 + card / 4) > 0.97 else 94.0
        return max(0.0, min(100.0, dip - 6 * rng.random() - card))

    gpus = []
    for card in range(cards):
        shares = [busy(card, n) for n in range(samples)]
        memory = [round((total or 80 * GIB) * part * min(1.0, 0.1 + n / samples * 12) * 0.99) for n in range(samples)]
        gpus.append(
            {
                "uuid": f"GPU-{card}",
                "index": card,
                "name": "NVIDIA H100 80GB HBM3",
                "memory_total": total,
                "utilization": shares,
                "memory_used": memory,
                "power": [70 + share / 100 * power + 12 * rng.random() for share in shares],
                "temperature": [35.0 + share / 4 for share in shares],
            }
        )
    process = {
        "memory": [round(GIB * (2 + 9 * min(1, n / samples * 6))) for n in range(samples)],
        "cpu": [None, *[6 + 2 * rng.random() for _ in range(samples - 1)]],
    }
    return {
        "job": id, "attempt": attempt, "every": 1.0, "submitted_at": SUBMITTED, "started_at": start,
        "finished_at": start + lasted if over else None, "at": at, "gpus": gpus, "process": process,
        "summary": None if verdict is None else {"verdict": verdict},
    }  # fmt: skip


def history(cards: int, users: int, days: float, until: float, *, seed: int = 1) -> Any:
    """A machine's days: jobs of many users on its cards, one after the other, some of them on several or shared."""
    rng = random.Random(seed)
    names = ("train", "sweep[lr=0.1]", "evaluate", "pretrain", "finetune-large", "ablation[fold=3]")
    free = [until - days * 86_400] * cards
    jobs = []
    while min(free) < until:
        wide = rng.choice((1, 1, 1, 1, 2, 2, 4)) if cards >= 4 else 1
        its = sorted(range(cards), key=lambda card: free[card])[:wide]
        start = max(free[card] for card in its) + rng.expovariate(1 / 900)
        end = start + rng.lognormvariate(9.3, 1.1)
        if start >= until:
            break
        for card in its:
            free[card] = end
        over = end <= until
        user = min(int(rng.expovariate(4 / users)), users - 1)
        jobs.append(
            {
                "id": len(jobs) + 1,
                "name": rng.choice(names),
                "pipeline": f"p{len(jobs) + 1}",
                "user": f"user{user:02d}",
                "uid": 1000 + user,
                "state": "succeeded" if over else "running",
                "num_gpus": wide,
                "submitted_at": start - rng.expovariate(1 / 5000),
                "finished_at": end if over else None,
                "attempts": [
                    {
                        "attempt": 1,
                        "state": "succeeded" if over else "running",
                        "gpus": [f"GPU-{card}" for card in its],
                        "reserved_at": start,
                        "finished_at": end if over else None,
                        "intruders": [],
                    }
                ],
            }
        )
    return {"jobs": jobs, "changes": [], "next": None}
