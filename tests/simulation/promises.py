"""What holds at every moment of a simulation, whatever happens, and what has to be true in the end."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from runners.api import LIVE, SETTLED, Code, JobState
from runners.spec import JobSpec, groups
from runnersd.lifecycle import RETRIED
from runnersd.model import RunName
from simulation.simulation import Simulation

JOBS = "SELECT id, pipeline, position, state, attempt, reason, exit_code, finished_at, spec, original FROM job"
_LIVE = {state.value for state in LIVE}
_SETTLED = {state.value for state in SETTLED}


def check(story: Simulation) -> None:
    """Every promise that holds at every moment."""
    assert not story.wrongs, story.wrongs
    rows = story.disk.rows(JOBS)
    by_id = {row[0]: row for row in rows}
    _nothing_told_is_taken_back(story, by_id)
    _cards_have_one_holder(story, by_id)
    _what_runs_is_live_and_current(story, by_id)
    _the_order_is_kept(story, rows)
    _limits_are_kept(story)
    _everybody_can_be_told_why(story)


def _nothing_told_is_taken_back(story: Simulation, by_id: dict[int, Any]) -> None:
    missing = story.told.jobs.keys() - by_id.keys()
    assert not missing, f"jobs {sorted(missing)} were accepted, and do not exist"
    for id, row in by_id.items():
        if row[3] in _SETTLED:
            kept = story.told.settled.setdefault(id, row[3:8])
            assert kept == row[3:8], f"job {id} was over ({kept}) and is {row[3:8]}"
    for id, attempt in story.told.cancelled.items():
        assert by_id[id][4] == attempt, f"job {id} was cancelled on attempt {attempt} and tried again"


def _cards_have_one_holder(story: Simulation, by_id: dict[int, Any]) -> None:
    held = story.disk.rows("SELECT gpu, job FROM reservation")
    twice = [card for card, count in Counter(card for card, _ in held).items() if count > 1]
    assert not twice, f"{twice} have several holders: {held}"
    holds = Counter(job for _, job in held)
    for id, row in by_id.items():
        wanted = json.loads(row[8]).get("num_gpus", 0) if row[3] in _LIVE else 0
        assert holds[id] == wanted, f"job {id} ({row[3]}) holds {holds[id]} cards, not {wanted}"
    for job in story.store.snapshot.jobs.values():
        assert len(job.gpus) == (job.spec.num_gpus if job.live else 0), job


def _what_runs_is_live_and_current(story: Simulation, by_id: dict[int, Any]) -> None:
    for run, running in story.machine.running.items():
        _, _, _, state, attempt, *_ = by_id[run.job]
        assert state in _LIVE and attempt == run.attempt, f"{run} runs; on disk it is {state} on attempt {attempt}"
        cards = {gpu for (gpu,) in story.disk.rows("SELECT gpu FROM reservation WHERE job = ?", run.job)}
        assert cards == set(running.launch.gpus), f"{run} runs on {running.launch.gpus} and holds {cards}"
    assert max(story.machine.starts.values(), default=0) <= 1


def _the_order_is_kept(story: Simulation, rows: list[Any]) -> None:
    states = {row[0]: (row[3], json.loads(row[8])) for row in rows}
    for pipeline, _, detail in story.disk.rows("SELECT id, size, detail FROM pipeline"):
        what = json.loads(detail)
        mine = sorted((row for row in rows if row[1] == pipeline), key=lambda row: row[2])
        begun = [row for row in mine if row[4] > 0]
        if not begun:
            continue
        named = groups([json.loads(row[9] or row[8])["name"] for row in mine], what.get("items", ()))
        for id in what.get("after", ()):
            assert _good(*states[id], "success"), f"p{pipeline} has begun, after job {id}, which is {states[id][0]}"
        for row in begun:
            for need in json.loads(row[8]).get("needs", ()):
                targets = range(row[2]) if need["job"] == "all" else named.get(need["job"], ())
                for position in targets:
                    other = mine[position][0]
                    assert _good(*states[other], need["on"]), f"job {row[0]} has begun, its need {other} is not met"
            for barrier in what.get("barriers", ()):
                first, last, on = barrier
                if row[2] > last:
                    for position in range(first, last + 1):
                        other = mine[position][0]
                        assert _good(*states[other], on), f"job {row[0]} has begun, below the blocking {other}"


def _good(state: str, spec: dict[str, Any], on: str) -> bool:
    return state in _SETTLED and (on == "finished" or state == "succeeded" or bool(spec.get("allow_failure")))


def _limits_are_kept(story: Simulation) -> None:
    snapshot = story.store.snapshot
    for progress in snapshot.progress.values():
        live = sum(job.live for job in progress.jobs)
        assert live == progress.live <= progress.pipeline.num_jobs
    assert len(snapshot.live) <= story.config.jobs.max_running


def _everybody_can_be_told_why(story: Simulation) -> None:
    for job in story.unsettled():
        reason = story.engine.explain(job)
        assert reason.text, f"nobody knows why job {job.id} is {job.state}"
        assert reason.code is not Code.OK


def check_calm(story: Simulation) -> None:
    """Once everything that was asked for has happened, and the loop has turned."""
    if not story.store.healthy or story.machine.sick:
        return
    for job in story.unsettled():
        reason = story.engine.explain(job)
        assert reason.code is not Code.STARTING_SOON, f"job {job.id} could start, and does not"
        assert job.state is not JobState.STARTING, f"job {job.id} was never launched"
        run = story.engine._attempts.run_name(job)
        if job.live:
            assert run in story.machine.running, f"job {job.id} is {job.state}, and nothing runs"
        if job.state is JobState.STOPPING:
            running = story.machine.running[run]
            assert running.stubborn and running.stopping, f"job {job.id} is stopping, and was not told"
    assert {run.job for run in story.machine.running} == {job.id for job in story.unsettled() if job.live}


def check_end(story: Simulation) -> None:
    """Everything is over: every result is what the machine saw, and every history is complete."""
    for id, _, _, state, attempt, reason, code, _, _, _ in story.disk.rows(JOBS):
        assert state in _SETTLED, f"job {id} is {state} for ever"
        tries = story.disk.rows(
            "SELECT attempt, state, reason, exit_code, finished_at FROM attempt WHERE job = ? ORDER BY attempt", id
        )
        assert [one[0] for one in tries] == list(range(1, attempt + 1)), f"job {id}: attempts {tries}"
        assert all(one[4] is not None for one in tries), f"job {id} has an attempt without an end: {tries}"
        if tries and state not in ("skipped",) and not _between(tries, state):
            assert (tries[-1][1], tries[-1][3]) == (state, code), f"job {id} is {state} {code}, its attempts {tries}"
        _retries_were_due(story, id, tries)
        for number, ended, why, exit_code, _ in tries:
            _is_what_the_machine_saw(story, id, number, ended, Code(json.loads(why)[0]), exit_code)
        if id in story.told.cancelled:
            assert state == "cancelled" or json.loads(reason)[0] == Code.TIME_LIMIT, f"job {id} was cancelled: {state}"
        _history_is_whole(story, id, state, attempt)
    assert not story.disk.rows("SELECT * FROM reservation")


def _between(tries: list[Any], state: str) -> bool:
    """Whether the job was taken out of the queue between two attempts."""
    return state == "cancelled" and json.loads(tries[-1][2])[0] != Code.CANCELLED_BY


def _retries_were_due(story: Simulation, id: int, tries: list[Any]) -> None:
    spec = JobSpec.from_json(json.loads(story.disk.rows("SELECT spec FROM job WHERE id = ?", id)[0][0]))
    assert len(tries) <= spec.retries + 1, f"job {id} has {spec.retries} retries and {len(tries)} attempts"
    for one in tries[:-1]:
        assert Code(json.loads(one[2])[0]) in RETRIED, f"job {id} was tried again after {one}"


def _is_what_the_machine_saw(
    story: Simulation, id: int, number: int, state: str, code: Code, exit_code: int | None
) -> None:
    run = RunName(story.store.database, id, number)
    saw = story.machine.ends.get(run)
    shown = f"{run} is {state} ({code}, {exit_code}); the machine saw {saw}"
    if saw is None:  # it never ran
        never = {Code.CANCELLED_BY, Code.LAUNCH_FAILED, Code.MACHINE_RESTARTED, Code.GPU_LOST}
        assert code in never and exit_code is None, shown
        return
    assert code is not Code.LAUNCH_FAILED, shown
    if saw.failure is not None:
        assert code in (saw.failure.code, Code.CANCELLED_BY, Code.TIME_LIMIT, Code.GPU_LOST), shown
        return
    assert exit_code == saw.exit_code, shown
    if run not in story.machine.stops:  # it ended by itself
        expected = Code.OK if saw.exit_code == 0 else Code.SIGNAL if saw.signal else Code.EXIT_CODE
        accepted = {expected, Code.CANCELLED_BY}
        limit = JobSpec.from_json(json.loads(story.disk.rows("SELECT spec FROM job WHERE id = ?", id)[0][0])).time_limit
        if limit is not None and (story.jumped or _lasted(saw) >= limit or saw.signal):
            accepted.add(Code.TIME_LIMIT)
        if saw.exit_code != 0:
            accepted.add(Code.GPU_LOST)
        assert code in accepted, shown


def _lasted(outcome: Any) -> float:
    return float(outcome.finished_at - outcome.started_at)


def _history_is_whole(story: Simulation, id: int, state: str, attempt: int) -> None:
    types = [type for (type,) in story.disk.rows("SELECT type FROM event WHERE job = ? ORDER BY id", id)]
    assert types[0] in ("job.queued", "job.held") and types[-1] == f"job.{state}", types
    assert types.count("job.starting") >= attempt, types
    ends = [type for type in types if type.removeprefix("job.") in _SETTLED]
    assert len(ends) == 1, types
