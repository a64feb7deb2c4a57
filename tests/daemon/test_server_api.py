"""What each route does, over a real engine and store; only the machine is simulated."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

import runnersd.engine.engine
import runnersd.server.jobs
from runners.api import AttemptView
from runnersd.config import Config, JobsConfig
from serving import Served, served_test, submission

STATUS_KEYS = [
    "id",
    "name",
    "pipeline",
    "user",
    "uid",
    "state",
    "reason",
    "priority",
    "run_in",
    "num_gpus",
    "gpus",
    "attempt",
    "exit_code",
    "submitted_at",
    "started_at",
    "finished_at",
    "expected_start",
]


# -- submitting --------------------------------------------------------------------------------------------------------


@served_test()
async def test_a_pipeline_is_queued_and_runs(daemon: Served) -> None:
    answer = await daemon.ask("POST", "/v1/pipelines", submission("true", "exit 3"))
    assert answer.status == 201
    assert answer.json == {"pipeline": "p1", "jobs": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}
    await daemon.until_state(1, "succeeded")
    await daemon.until_state(2, "failed")
    job = (await daemon.ask("GET", "/v1/jobs/2")).json
    assert [name for name in job if name in STATUS_KEYS] == STATUS_KEYS
    assert (job["exit_code"], job["reason"]["code"], job["attempt"]) == (3, "exit_code", 1)


@served_test()
async def test_several_pipelines_are_queued_all_or_none(daemon: Served) -> None:
    good, bad = submission("true"), submission("true", job={"num_gpus": -1})
    refused = await daemon.ask("POST", "/v1/pipelines", {"pipelines": [good, bad]})
    assert refused.status == 422
    assert refused.headers["Content-Type"].startswith("application/problem+json")
    assert [problem["path"] for problem in refused.json["problems"]] == ["pipelines[1].jobs[0].num_gpus"]
    assert "\n" not in refused.json["detail"]
    assert (await daemon.ask("GET", "/v1/jobs")).json["jobs"] == []
    taken = await daemon.ask("POST", "/v1/pipelines", {"pipelines": [good, good]})
    assert [one["pipeline"] for one in taken.json["pipelines"]] == ["p1", "p2"]


@served_test()
async def test_a_dry_run_checks_and_queues_nothing(daemon: Served) -> None:
    answer = await daemon.ask("POST", "/v1/pipelines", {**submission("true"), "dry_run": True})
    assert answer.status == 200
    [job] = answer.json["jobs"]
    assert (answer.json["pipeline"], job["id"], job["name"], job["starts_now"]) == (None, None, "a", True)
    too_many = {**submission("true", job={"num_gpus": 3}), "dry_run": True}
    assert (await daemon.ask("POST", "/v1/pipelines", too_many)).status == 422
    assert (await daemon.ask("GET", "/v1/status")).json["jobs"] == []


@served_test()
async def test_the_same_idempotency_key_queues_once_also_at_once(daemon: Served) -> None:
    headers = {"Idempotency-Key": "one and the same"}
    asked = [daemon.ask("POST", "/v1/pipelines", submission("true"), headers=headers) for _ in range(8)]
    answers = [answer.json for answer in await asyncio.gather(*asked)]
    again = await daemon.ask("POST", "/v1/pipelines", submission("true"), headers=headers)
    assert all(answer == again.json for answer in answers)
    assert len((await daemon.ask("GET", "/v1/jobs")).json["jobs"]) == 1
    for key in ("", "x" * 256):
        refused = await daemon.ask("POST", "/v1/pipelines", submission("true"), headers={"Idempotency-Key": key})
        assert refused.status == 400


@served_test()
async def test_after_takes_jobs_and_pipelines(daemon: Served) -> None:
    await daemon.submit("forever", "forever")
    [waits] = await daemon.submit("true", after=["p1"])
    job = (await daemon.ask("GET", f"/v1/jobs/{waits}")).json
    assert (job["state"], job["reason"]["code"]) == ("queued", "needs_jobs")
    for id in (1, 2):
        await daemon.until_state(id, "running")
        daemon.machine.finish(daemon.run(id))
    await daemon.until_state(waits, "succeeded")
    for missing in ([99], ["p99"]):
        assert (await daemon.ask("POST", "/v1/pipelines", submission("true", after=missing))).status == 404


@served_test(Config(jobs=JobsConfig(max_queued=3, max_per_pipeline=2)))
async def test_limits_have_their_own_errors(daemon: Served) -> None:
    too_large = await daemon.ask("POST", "/v1/pipelines", submission("true", "true", "true"))
    assert (too_large.status, too_large.json["code"]) == (413, "too-large")
    await daemon.submit("true", "true", hold=True)
    full = await daemon.ask("POST", "/v1/pipelines", submission("true", "true"))
    assert (full.status, full.json["code"]) == (429, "quota-exceeded")


# -- looking -----------------------------------------------------------------------------------------------------------


@served_test()
async def test_status_has_live_then_queued_then_finished_jobs(daemon: Served) -> None:
    ended = await daemon.submit(*["true"] * 12)
    for id in ended:
        await daemon.until_state(id, "succeeded")
    await daemon.submit("runs", job={"num_gpus": 2})
    await daemon.until_state(13, "running")
    await daemon.submit("later", job={"num_gpus": 2, "priority": -5})
    await daemon.submit("sooner", job={"num_gpus": 2})
    answer = (await daemon.ask("GET", "/v1/status")).json
    assert sorted(answer) == ["bookings", "counts", "daemon", "gpus", "jobs"]
    assert answer["daemon"]["engine"] == "local"
    assert [gpu["state"] for gpu in answer["gpus"]] == ["reserved", "reserved"]
    shown = [(job["id"], job["state"]) for job in answer["jobs"]]
    assert shown[:3] == [(13, "running"), (15, "queued"), (14, "queued")]
    assert len(shown) == 13 and all(state == "succeeded" for _, state in shown[3:])
    assert answer["counts"]["succeeded"] == 12 and answer["counts"]["queued"] == 2
    everything = (await daemon.ask("GET", "/v1/status?all=1")).json["jobs"]
    assert [job["id"] for job in everything] == [13, 15, 14, *range(12, 0, -1)]
    assert len((await daemon.ask("GET", "/v1/status?all=1&limit=5")).json["jobs"]) == 5


@served_test(gpus=0)
async def test_a_limited_status_of_a_long_queue_keeps_room_for_what_has_just_ended(daemon: Served) -> None:
    [first] = await daemon.submit("true")
    await daemon.until_state(first, "succeeded")
    await daemon.submit(*["true"] * 60, hold=True)
    jobs = (await daemon.ask("GET", "/v1/status?limit=50")).json["jobs"]
    assert [job["id"] for job in jobs] == [*range(2, 51), 1]


@served_test()
async def test_status_of_named_jobs(daemon: Served) -> None:
    await daemon.submit("true", "true", hold=True)
    await daemon.submit("true", hold=True)
    jobs = (await daemon.ask("GET", "/v1/status?ids=3,p1,1")).json["jobs"]
    assert [job["id"] for job in jobs] == [3, 1, 2]
    assert (await daemon.ask("GET", "/v1/status?ids=9")).status == 404
    assert (await daemon.ask("GET", "/v1/status?ids=x")).status == 400
    assert len((await daemon.ask("GET", "/v1/status?mine=1")).json["jobs"]) == 3


@served_test()
async def test_jobs_are_listed_a_page_at_a_time(daemon: Served) -> None:
    await daemon.submit(*["true"] * 5, hold=True)
    await daemon.submit("true", "true", hold=True)
    seen: list[int] = []
    after = ""
    while True:
        page = (await daemon.ask("GET", f"/v1/jobs?limit=3{after}")).json
        seen += [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == [1, 2, 3, 4, 5, 6, 7]

    async def found(query: str) -> list[int]:
        return [job["id"] for job in (await daemon.ask("GET", f"/v1/jobs?{query}")).json["jobs"]]

    assert await found("newest=1&limit=2") == [7, 6]
    assert await found("pipeline=p2") == [6, 7]
    assert await found("name=b") == [2, 7]
    assert await found("state=running,succeeded") == []
    assert await found("state=held&pipeline=p1") == [1, 2, 3, 4, 5]
    assert await found("user=nobody-such") == []


@served_test()
async def test_details_of_a_job_and_of_a_pipeline(daemon: Served) -> None:
    [id] = await daemon.submit(
        "false", env={"SECRET": "s3cret"}, job={"env": {"A": "1"}, "retries": 1, "retry_delay": 0}
    )
    await daemon.until_state(id, "failed")
    answer = await daemon.ask("GET", f"/v1/jobs/{id}")
    job = answer.json
    assert [attempt["attempt"] for attempt in job["attempts"]] == [1, 2]
    assert [attempt["exit_code"] for attempt in job["attempts"]] == [1, 1]
    assert job["events"][0]["type"] == "job.queued" and job["events"][-1]["type"] == "job.failed"
    assert job["spec"]["env"] == {"A": "1"}
    assert job["logs"]["stdout"].endswith("1.2.out")
    assert "s3cret" not in answer.body.decode()
    assert [one["id"] for one in (await daemon.ask("GET", "/v1/jobs/p1")).json["jobs"]] == [id]


@served_test()
async def test_jobs_that_end_while_an_answer_is_made_are_shown_as_they_ended(daemon: Served) -> None:
    await daemon.submit("true", "exit 3", hold=True)
    held = list(daemon.store.snapshot.jobs.values())
    await daemon.ask("PATCH", "/v1/jobs/p1", {"held": False})
    await daemon.until(lambda: not daemon.store.snapshot.jobs)
    assert [job.state.value for job in held] == ["held", "held"], "what a handler holds that waited meanwhile"
    views = json.loads(b"[" + await runnersd.server.jobs._encoded(daemon.engine, held) + b"]")
    assert [(view["state"], view["exit_code"]) for view in views] == [("succeeded", 0), ("failed", 3)]


@served_test()
async def test_a_job_and_its_attempts_are_shown_as_of_one_moment(daemon: Served) -> None:
    [id] = await daemon.submit("true", hold=True)
    read = daemon.store.archive.attempts

    async def read_and_let_it_run(job: int) -> list[AttemptView]:
        found = await read(job)
        if not found:
            await daemon.ask("PATCH", f"/v1/jobs/{job}", {"held": False})
            await daemon.until(lambda: not daemon.store.snapshot.jobs)
        return found

    daemon.store.archive.attempts = read_and_let_it_run  # type: ignore[method-assign]
    job = (await daemon.ask("GET", f"/v1/jobs/{id}")).json
    assert (job["state"], [attempt["state"] for attempt in job["attempts"]]) == ("succeeded", ["succeeded"])
    assert job["events"][-1]["type"] == "job.succeeded"


# -- changing ----------------------------------------------------------------------------------------------------------


@served_test()
async def test_holding_releasing_and_changing_jobs(daemon: Served) -> None:
    await daemon.submit("true", "true", hold=True)
    changed = await daemon.ask("PATCH", "/v1/jobs/1", {"priority": 7, "time_limit": "2h"})
    assert (changed.status, changed.json["priority"]) == (200, 7)
    assert (await daemon.ask("GET", "/v1/jobs/1")).json["spec"]["time_limit"] == 7200.0
    for env, left in (({"A": "1", "B": "2"}, {"A": "1", "B": "2"}), ({"A": None, "C": "3"}, {"B": "2", "C": "3"})):
        assert (await daemon.ask("PATCH", "/v1/jobs/1", {"env": env})).status == 200
        assert (await daemon.ask("GET", "/v1/jobs/1")).json["spec"]["env"] == left
    released = await daemon.ask("PATCH", "/v1/jobs/p1", {"held": False})
    assert [job["id"] for job in released.json["jobs"]] == [1, 2]
    await daemon.until_state(2, "succeeded")
    await daemon.until_state(1, "succeeded")
    assert (await daemon.ask("PATCH", "/v1/jobs/1", {"priority": 1})).status == 409
    assert (await daemon.ask("PATCH", "/v1/jobs/p1", {"held": True})).status == 409
    wrongs: list[Any] = [{}, {"held": 1}, [], {"prioriti": 3}]
    for wrong in wrongs:
        answer = await daemon.ask("PATCH", "/v1/jobs/1", wrong)
        assert 400 <= answer.status < 500, wrong


@served_test()
async def test_cancelling_a_pipeline_passes_over_what_is_over(daemon: Served) -> None:
    await daemon.submit("true", "forever", "forever", job={"num_gpus": 1})
    await daemon.until_state(1, "succeeded")
    await daemon.until_state(3, "running")
    answer = await daemon.ask("POST", "/v1/jobs/p1/cancel")
    assert [job["id"] for job in answer.json["jobs"]] == [2, 3]
    await daemon.until_state(2, "cancelled")
    await daemon.until_state(3, "cancelled")
    for over in ("p1", "1"):
        again = await daemon.ask("POST", f"/v1/jobs/{over}/cancel")
        assert (again.status, again.json["code"]) == (409, "illegal-transition")


@served_test()
async def test_cancelling_a_pipeline_starts_none_of_its_jobs(daemon: Served) -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(runnersd.server.jobs, "TOGETHER", 1)
    try:
        await daemon.submit(*["forever"] * 40, job={"num_gpus": 2})
        await daemon.until_state(1, "running")
        await daemon.ask("POST", "/v1/jobs/p1/cancel", {"now": True})
        for id in range(1, 41):
            await daemon.until_state(id, "cancelled")
        assert sum(daemon.machine.starts.values()) == 1
    finally:
        patch.undo()


@served_test()
async def test_signals_reach_live_jobs(daemon: Served) -> None:
    await daemon.submit("forever", "forever")
    await daemon.until_state(1, "running")
    assert (await daemon.ask("POST", "/v1/jobs/1/signal", {"signal": "SIGINT"})).status == 200
    await daemon.until_state(1, "failed")
    assert (await daemon.ask("GET", "/v1/jobs/1")).json["exit_code"] == 130
    assert (await daemon.ask("POST", "/v1/jobs/2/signal", {})).status == 400
    for number in (0, 65, -1, "SIGNONE", True, 2.5, None, [2]):
        assert (await daemon.ask("POST", "/v1/jobs/2/signal", {"signal": number})).status == 400, number


@served_test()
async def test_retrying_makes_a_pipeline_of_what_ended_badly(daemon: Served) -> None:
    await daemon.submit("true", "false", "exit 2")
    for id in (1, 2, 3):
        await daemon.until_state(id, "succeeded", "failed")
    answer = await daemon.ask("POST", "/v1/jobs/p1/retry")
    assert answer.status == 201
    assert answer.json == {"pipeline": "p2", "jobs": [{"id": 4, "name": "b"}, {"id": 5, "name": "c"}]}
    assert [job["name"] for job in (await daemon.ask("POST", "/v1/jobs/3/retry")).json["jobs"]] == ["c"]
    assert (await daemon.ask("POST", "/v1/jobs/1/retry")).status == 409
    chosen = await daemon.ask("POST", "/v1/jobs/p1/retry", {"jobs": "3,2"})
    assert [job["name"] for job in chosen.json["jobs"]] == ["b", "c"]
    assert (await daemon.ask("POST", "/v1/jobs/p1/retry", {"jobs": "1,2"})).status == 409
    for path, jobs in (("p1", "4"), ("p1", "p1"), ("p1", ""), ("p1", [2]), ("2", "2")):
        assert (await daemon.ask("POST", f"/v1/jobs/{path}/retry", {"jobs": jobs})).status == 400, (path, jobs)


# -- cards and the daemon ----------------------------------------------------------------------------------------------


@served_test()
async def test_draining_and_undraining_cards(daemon: Served) -> None:
    answer = await daemon.ask("POST", "/v1/gpus/1/drain", {"reason": "new fan"})
    assert answer.json["state"] == "drained"
    assert [gpu["state"] for gpu in (await daemon.ask("GET", "/v1/gpus")).json["gpus"]] == ["free", "drained"]
    assert (await daemon.ask("POST", "/v1/gpus/GPU-1/undrain")).json["state"] == "free"
    for none in ("7", "GPU-x", "GPU-", "%2F"):
        assert 400 <= (await daemon.ask("POST", f"/v1/gpus/{none}/drain")).status < 500


@served_test()
async def test_pausing_and_resuming(daemon: Served) -> None:
    assert "new disk" in (await daemon.ask("POST", "/v1/daemon/pause", {"reason": "new disk"})).json["paused"]
    [id] = await daemon.submit("true")
    assert (await daemon.ask("GET", f"/v1/jobs/{id}")).json["reason"]["code"] == "paused"
    assert "new disk" in (await daemon.ask("GET", "/v1/status")).json["daemon"]["paused"]
    assert (await daemon.ask("POST", "/v1/daemon/resume")).json == {"paused": None}
    await daemon.until_state(id, "succeeded")


@served_test()
async def test_a_busy_daemon_stops_only_with_its_jobs_or_when_idle(daemon: Served) -> None:
    await daemon.submit("forever")
    await daemon.until_state(1, "running")
    refused = await daemon.ask("POST", "/v1/daemon/shutdown")
    assert refused.status == 409 and "1 running" in refused.json["detail"]
    assert not daemon.engine.stopping.is_set()
    later = await daemon.ask("POST", "/v1/daemon/shutdown", {"when_idle": True})
    assert (later.status, later.json) == (202, {"status": "stopping", "jobs": 1})
    daemon.machine.finish(daemon.run(1))
    await daemon.until(daemon.engine.stopping.is_set)


@served_test()
async def test_shutdown_now_ends_the_jobs_first(daemon: Served) -> None:
    await daemon.submit("forever", "forever")
    await daemon.until_state(2, "running")
    assert (await daemon.ask("POST", "/v1/daemon/shutdown", {"now": True})).json["jobs"] == 2
    await daemon.until(daemon.engine.stopping.is_set)
    assert (await daemon.ask("GET", "/v1/jobs/2")).json["state"] == "cancelled"


@served_test()
async def test_an_idle_daemon_stops_at_once(daemon: Served) -> None:
    assert (await daemon.ask("POST", "/v1/daemon/shutdown", {})).status == 202
    assert daemon.engine.stopping.is_set()


@served_test()
async def test_metrics_are_prometheus_text(daemon: Served) -> None:
    await daemon.submit("true", hold=True)
    answer = await daemon.ask("GET", "/v1/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4"
    lines = answer.body.decode().splitlines()
    assert 'runners_jobs{state="held"} 1' in lines
    assert 'runners_gpus{state="free"} 2' in lines
    assert any(line.startswith('runners_waiting_jobs{user="') and line.endswith("} 1") for line in lines)
    assert 'runners_gpu_memory_total_bytes{gpu="0",uuid="GPU-0",name=""} 85899345920' in lines
    assert not any(line.startswith("runners_gpu_power_watts{") for line in lines), "an unknown number is left out"
    assert all(line.startswith("#") or float(line.rpartition(" ")[2]) >= 0 for line in lines)


# -- requests that fit nothing -----------------------------------------------------------------------------------------


@served_test()
async def test_unknown_paths_methods_and_ids(daemon: Served) -> None:
    for method, path, status, code in [
        ("GET", "/", 404, "not-found"),
        ("GET", "/v1/nothing", 404, "not-found"),
        ("GET", "/v1/jobs/", 404, "not-found"),
        ("GET", "/v1/jobs/1/nothing", 404, "not-found"),
        ("GET", "/v1/jobs/1", 404, "not-found"),
        ("GET", "/v1/jobs/p1", 404, "not-found"),
        ("GET", "/v1/jobs/0", 404, "not-found"),
        ("GET", "/v1/jobs/-1", 404, "not-found"),
        ("GET", "/v1/jobs/%D9%A1", 404, "not-found"),
        ("GET", f"/v1/jobs/{'9' * 400}", 404, "not-found"),
        ("DELETE", "/v1/jobs/1", 405, "method-not-allowed"),
        ("PUT", "/v1/pipelines", 405, "method-not-allowed"),
        ("GET", "/v1/status?limit=0", 400, "invalid-request"),
        ("GET", "/v1/status?limit=x", 400, "invalid-request"),
        ("GET", "/v1/status?limt=3", 400, "invalid-request"),
        ("GET", "/v1/status?limit=1&limit=2", 400, "invalid-request"),
        ("GET", "/v1/jobs?state=sleeping", 400, "invalid-request"),
        ("GET", "/v1/jobs?user=%00", 400, "invalid-request"),
    ]:
        answer = await daemon.ask(method, path)
        assert (answer.status, answer.json["code"]) == (status, code), path
        assert answer.json["status"] == status
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert "Retry-After" not in answer.headers
    assert (await daemon.ask("DELETE", "/v1/jobs/1")).headers["Allow"] == "GET, PATCH"


@served_test()
async def test_bodies_that_are_no_json_object(daemon: Served) -> None:
    for body in (b"{", b"nothing", b'{"now": NaN}', b'{"now": 1e999}', b"\xff", b"[" * 200_000, b'"x"', b"[1]", b"7"):
        answer = await daemon.ask("POST", "/v1/jobs/1/cancel", body)
        assert answer.status == 404, "there is no such job, whatever is to be done to it"
        answer = await daemon.ask("POST", "/v1/daemon/shutdown", body)
        assert (answer.status, answer.json["code"]) == (400, "invalid-request"), body[:20]
        assert (await daemon.ask("POST", "/v1/pipelines", body)).status == 400, body[:20]
    assert (await daemon.ask("POST", "/v1/pipelines", b"")).status == 422


@served_test()
async def test_a_failure_of_ours_is_a_500_without_its_cause(daemon: Served) -> None:
    def broken() -> list[object]:
        raise RuntimeError("the secret of the cards")

    daemon.engine.gpus = broken  # type: ignore[method-assign,assignment]  # the one fault that no request can cause
    answer = await daemon.ask("GET", "/v1/gpus")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert "secret" not in json.dumps(answer.json)
    assert (await daemon.ask("GET", "/v1/health")).status == 200


@served_test()
async def test_a_database_that_hangs_is_not_called_healthy(daemon: Served) -> None:
    disk = threading.Event()
    reading = asyncio.ensure_future(daemon.store._journal.read(lambda _: disk.wait()))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runnersd.engine.engine, "STALLED", 0.01)
            await daemon.until(lambda: not daemon.engine.heartbeat())
            answer = await daemon.ask("GET", "/v1/health")
            metrics = (await daemon.ask("GET", "/v1/metrics")).body.decode()
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert "disk may hang" in answer.json["detail"]
        assert "\nrunners_healthy 0\n" in metrics
    finally:
        disk.set()
    await reading
    assert (await daemon.ask("GET", "/v1/health")).status == 200
