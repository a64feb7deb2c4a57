"""Whose processes are on a card, while one supervisor has one attempt after another."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

import pytest

from runnersd.config import Config
from runnersd.engine.leftovers import Leftovers
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


def left_by(daemon: Served, run: str, pid: int = 4242) -> GpuProcess:
    """A process that says it is of that attempt."""
    return GpuProcess(pid, "compute", GIB, "python", 0, run=run)


def put_on_the_card(daemon: Served, *processes: GpuProcess) -> None:
    (uuid,) = daemon.machine.gpus
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], processes=processes)


@pytest.mark.parametrize("inside", [False, True], ids=["host", "container"])
def test_a_process_that_outlives_its_job_is_reported_once_and_its_card_is_held(
    inside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    @served_test(SHARING, gpus=1)
    async def story(daemon: Served) -> None:
        loop = daemon.engine._loop
        first, _ = await begin(daemon)
        put_on_the_card(daemon, left_by(daemon, f"{first}.1" if inside else str(daemon.run(first))))
        await loop.look()
        assert not loop.world().leftovers
        daemon.machine.finish(daemon.run(first))
        await daemon.until(lambda: first not in daemon.store.snapshot.live)
        assert loop.world().leftovers == {4242: first}  # from the very moment of its end
        (second,) = await daemon.submit("serve", job={"num_gpus": 1, "gpu_shared": True, "gpu_memory": GIB})
        for _ in range(3):
            await loop.look()
        card = (await daemon.ask("GET", "/v1/gpus")).json["gpus"][0]
        assert (card["state"], card["jobs"]) == ("foreign", [])
        assert card["reason"] == f"used by python (pid 4242, root), which job {first} has left behind"
        (process,) = card["foreign"]
        assert process == {
            "pid": 4242, "user": "root", "uid": 0, "program": "python", "memory": GIB, "job": first,
            "left_behind": True,
        }  # fmt: skip
        reason = (await daemon.ask("GET", f"/v1/jobs/{second}")).json["reason"]
        assert reason["text"].endswith(f"card 0 is used by python (pid 4242, root), which job {first} has left behind")
        put_on_the_card(daemon)
        await daemon.until_state(second, "running")

    story()
    warnings = [record.getMessage() for record in caplog.records if "stays held" in record.getMessage()]
    assert warnings == [
        "python (pid 4242, root) is on card 0, and its job 1 is over: the card stays held until it is gone"
    ]


@served_test(SHARING, gpus=1)
async def test_a_process_that_only_says_it_was_ours_is_a_stranger(daemon: Served) -> None:
    loop = daemon.engine._loop
    (plain,) = await daemon.submit("true")
    await daemon.until_state(plain, "succeeded")
    claims = ["1.2", f"{plain}.1", "7.1", "runners-000000000000-1-1", f"{daemon.run(7)}", "nonsense", "."]
    put_on_the_card(daemon, *(left_by(daemon, claim, 4242 + place) for place, claim in enumerate(claims)))
    await loop.look()
    assert not loop.world().leftovers
    assert all(process["job"] is None for process in (await daemon.ask("GET", "/v1/gpus")).json["gpus"][0]["foreign"])


@served_test(SHARING, gpus=2)
async def test_a_process_of_a_live_job_on_another_card_is_named_as_that_jobs(daemon: Served) -> None:
    first, above = await begin(daemon)
    uuid = daemon.machine.cards()[1].uuid
    astray = GpuProcess(4242, "compute", GIB, "python", 0, (above,))
    daemon.machine.gpus[uuid] = replace(daemon.machine.gpus[uuid], processes=(astray,))
    await daemon.engine._loop.look()
    card = (await daemon.ask("GET", "/v1/gpus")).json["gpus"][1]
    assert card["reason"] == f"used by python (pid 4242, root) of job {first}"
    assert (card["foreign"][0]["job"], card["foreign"][0]["left_behind"]) == (first, False)


@pytest.mark.parametrize("uid", [os.getuid(), 12345, None])
def test_where_jobs_run_as_their_submitters_so_do_their_processes(uid: int | None) -> None:
    @served_test(RARELY, gpus=1)
    async def story(daemon: Served) -> None:
        job, _ = await begin(daemon)
        await end(daemon, job)
        put_on_the_card(daemon, replace(left_by(daemon, str(daemon.run(job))), uid=uid))
        await daemon.engine._loop.look()
        leftovers = Leftovers(daemon.store, change_user=True)
        await leftovers.look(daemon.engine._loop.world())
        assert leftovers.found == ({} if uid == 12345 else {4242: job})

    story()
