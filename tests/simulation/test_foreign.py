"""Whose processes are on a card, while one supervisor has one attempt after another."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from runnersd.config import Config
from runnersd.model import GpuProcess, Inventory
from serving import Served, served_test, submission

GIB = 1 << 30
SHARING = replace(Config(), gpus=replace(Config().gpus, poll=0.05, margin=GIB, foreign="share"))
RARELY = replace(Config(), gpus=replace(Config().gpus, poll=3600.0))


class Observer:
    """Sees the cards as they are when it is asked, and tells when it is let."""

    def __init__(self, daemon: Served) -> None:
        self.machine = daemon.machine
        self.asked = asyncio.Event()
        self.tell = asyncio.Event()

    async def observe(self) -> Inventory:
        seen = Inventory(self.machine.cards())
        self.asked.set()
        await self.tell.wait()
        return seen

    async def close(self) -> None:
        """It holds nothing."""


async def state_of_its_card(daemon: Served) -> str:
    (card,) = (await daemon.ask("GET", "/v1/gpus")).json["gpus"]
    return str(card["state"])


async def begin(daemon: Served) -> tuple[int, int]:
    """A job on the card; its id, and its supervisor's pid."""
    (job,) = await daemon.submit("serve", job={"num_gpus": 1})
    await daemon.until_state(job, "running")
    return job, daemon.machine.running[daemon.run(job)].pid


async def end(daemon: Served, job: int) -> None:
    daemon.machine.finish(daemon.run(job))
    await daemon.until_state(job, "succeeded")


@served_test(RARELY, gpus=1)
async def test_a_card_is_free_when_two_jobs_of_one_supervisor_ended_around_a_look(daemon: Served) -> None:
    loop = daemon.engine._loop
    first, above = await begin(daemon)
    await end(daemon, first)
    second, above_it_too = await begin(daemon)
    assert above == above_it_too
    observer = loop.sight._gpus = Observer(daemon)
    look = asyncio.ensure_future(loop.look())
    await observer.asked.wait()  # it has seen the second job's process
    await end(daemon, second)
    observer.tell.set()
    await look
    assert await state_of_its_card(daemon) == "free"
    await loop.look()
    assert await state_of_its_card(daemon) == "free"
    assert not daemon.engine._attempts.ended


@served_test(RARELY, gpus=2)
async def test_what_a_supervisor_s_next_job_has_on_the_earlier_card_is_foreign(daemon: Served) -> None:
    loop = daemon.engine._loop
    first, above = await begin(daemon)
    (uuid,) = daemon.machine.running[daemon.run(first)].launch.gpus
    await end(daemon, first)
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], lost=True)
    await loop.look()
    second, above_it_too = await begin(daemon)
    assert above == above_it_too
    intruder = daemon.machine.cards()[1].processes
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], lost=False, processes=intruder)
    await loop.look()
    states = {card["uuid"]: card["state"] for card in (await daemon.ask("GET", "/v1/gpus")).json["gpus"]}
    assert states == {uuid: "foreign", daemon.machine.cards()[1].uuid: "reserved"}
    await end(daemon, second)


@served_test(SHARING, gpus=1)
async def test_shared_jobs_join_a_foreign_card_by_policy_and_the_reason_names_who_is_there(daemon: Served) -> None:
    (uuid,) = daemon.machine.gpus
    stranger = GpuProcess(4242, "compute", 50 * GIB, "python", 0)
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], memory_used=50 * GIB, processes=(stranger,))
    share = {"num_gpus": 1, "gpu_shared": True, "gpu_memory": 20 * GIB}
    (alone,) = await daemon.submit("serve", job={"num_gpus": 1})
    first, second = await daemon.submit("serve", "serve", job=share)
    await daemon.until_state(first, "running")
    card = (await daemon.ask("GET", "/v1/gpus")).json["gpus"][0]
    assert (card["state"], card["jobs"], card["foreign_pids"]) == ("shared", [first], [4242])
    assert card["reason"] == "used by python (pid 4242, root)"
    reason = (await daemon.ask("GET", f"/v1/jobs/{second}")).json["reason"]
    assert reason["text"].startswith("needs 20GiB of a card's memory: at most 9GiB left, 1 held by"), reason
    reason = (await daemon.ask("GET", f"/v1/jobs/{alone}")).json["reason"]
    assert reason["text"] == "needs 1 card, 0 can be had: card 0 is used by python (pid 4242, root)"
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], memory_used=0, processes=())
    await daemon.until_state(second, "running")
    assert (await daemon.ask("GET", f"/v1/jobs/{alone}")).json["state"] == "queued"


@served_test(SHARING, gpus=1)
async def test_a_share_that_leaves_no_margin_on_any_card_is_refused(daemon: Served) -> None:
    job = {"num_gpus": 1, "gpu_shared": True, "gpu_memory": 80 * GIB}
    answer = await daemon.ask("POST", "/v1/pipelines", submission("true", job=job))
    assert answer.status == 422 and b"gpus.margin" in answer.body, answer.body
