"""What a queued job costs in memory."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import pytest

from core.builders import ANN
from runners.spec import JobSpec, PipelineSpec, Submission
from simulation.storing import opened, run

#: Bytes a queued job may take, its pipeline's share and every index included.
MOST = 4096


def parsed(first: int, count: int) -> Submission:
    """A submission as it comes from JSON: no value in it is shared with another's."""
    keys = {"num_gpus": 1, "workdir": "/home/ann/project", "env": {"SEED": "1", "MODE": "fast"}, "gpus": ["0", "1"]}
    jobs = [
        JobSpec.from_json(json.loads(json.dumps({"name": f"job-{n}", "command": f"python train.py --lr {n}", **keys})))
        for n in range(first, first + count)
    ]
    environment = {f"VARIABLE_{n}": "x" * 60 for n in range(50)}
    return Submission(PipelineSpec(f"demo-{first}", tuple(jobs)), f"{keys['workdir']}", environment)


@pytest.mark.parametrize(("pipelines", "jobs"), [(1, 2000), (400, 1)], ids=["one pipeline", "a pipeline each"])
def test_a_queued_job_costs_little_memory(tmp_path: Path, pipelines: int, jobs: int) -> None:
    async def work() -> None:
        store = await opened(tmp_path)
        for number in range(100):  # fills what is kept for the latest few
            await store.submit([parsed(number, 1)], ANN, None, 1.0)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for number in range(pipelines):
                await store.submit([parsed(number, jobs)], ANN, f"key{number}", 1.0)
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        each = (after - before) / (pipelines * jobs)
        assert each <= MOST, f"{each:.0f} bytes a job"
        await store.close()

    run(work)
