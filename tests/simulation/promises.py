"""What holds at every moment of a simulation, whatever happens, and what has to be true in the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runners.api import LIVE, SETTLED, Code
from runners.spec import JobSpec, groups
from runnersd.model import Outcome, RunName
from simulation.simulation import Simulation

_LIVE = {state.value for state in LIVE}
_SETTLED = {state.value for state in SETTLED}
#: The ends after which there is another attempt, as the contract has them.
_RETRIED = {Code.EXIT_CODE, Code.SIGNAL, Code.GPU_LOST, Code.MACHINE_RESTARTED, Code.SUPERVISOR_LOST}


@dataclass
class Row:
    """A job as the disk has it."""

    id: int
    pipeline: int
    position: int
    state: str
    attempt: int
    reason: str | None
    exit_code: int | None
    finished_at: float | None
    keys: str
    original: str | None

    @cached_property
    def spec(self) -> JobSpec:
        """What is asked for now."""
        return JobSpec.from_json(json.loads(self.keys))

    @property
    def settled(self) -> bool:
        return self.state in _SETTLED

    @property
    def live(self) -> bool:
        return self.state in _LIVE

    @property
    def code(self) -> Code | None:
        return Code(json.loads(self.reason)[0]) if self.reason else None

    def end(self) -> tuple[Any, ...]:
        """What may never change once it is over."""
        return self.state, self.attempt, self.reason, self.exit_code, self.finished_at

    def lets_through(self, on: str) -> bool:
        """Whether what waits for it may begin."""
        return self.settled and (on == "finished" or self.state == "succeeded" or self.spec.allow_failure)


def rows_of(story: Simulation) -> dict[int, Row]:
    """Every job on the disk."""
    query = "SELECT id, pipeline, position, state, attempt, reason, exit_code, finished_at, spec, original FROM job"
    return {row[0]: Row(*row) for row in story.disk.rows(f"{query} ORDER BY id")}


def waits_for(story: Simulation, rows: dict[int, Row]) -> dict[int, list[tuple[Row, str]]]:
    """What each job waits for by its file: jobs, and whether they have to succeed. Made of the rows alone."""
    found: dict[int, list[tuple[Row, str]]] = {id: [] for id in rows}
    by_pipeline: dict[int, list[Row]] = {}
    for row in rows.values():
        by_pipeline.setdefault(row.pipeline, []).append(row)
    for pipeline, detail in story.disk.rows("SELECT id, detail FROM pipeline"):
        what = json.loads(detail)
        mine = sorted(by_pipeline[pipeline], key=lambda row: row.position)
        named = groups([json.loads(row.original or row.keys)["name"] for row in mine], what.get("items", ()))
        for row in mine:
            waits = found[row.id]
            waits += [(rows[id], "success") for id in what.get("after", ())]
            for need in row.spec.needs:
                targets: Sequence[int] = range(row.position) if need.job == "all" else named.get(need.job, ())
                waits += [(mine[position], need.on) for position in targets]
            for first, last, on in what.get("barriers", ()):
                if row.position > last:
                    waits += [(mine[position], on) for position in range(first, last + 1)]
    return found


# -- at every moment ---------------------------------------------------------------------------------------------------


def check(story: Simulation) -> None:
    """Every promise that holds at every moment."""
    assert not story.wrongs, story.wrongs
    rows = rows_of(story)
    _nothing_told_is_taken_back(story, rows)
    _cards_have_one_holder(story, rows)
    _what_runs_is_live_and_current(story, rows)
    _the_order_is_kept(story, rows)
    _limits_are_kept(story)
    _everybody_can_be_told_why(story)


def _nothing_told_is_taken_back(story: Simulation, rows: dict[int, Row]) -> None:
    missing = story.told.jobs.keys() - rows.keys()
    assert not missing, f"jobs {sorted(missing)} were accepted, and do not exist"
    for id, row in rows.items():
        if row.settled:
            kept = story.told.settled.setdefault(id, row.end())
            assert kept == row.end(), f"job {id} was over ({kept}) and is {row.end()}"
    for id, attempt in story.told.cancelled.items():
        assert rows[id].attempt == attempt, f"job {id} was cancelled on attempt {attempt} and tried again"


def _cards_have_one_holder(story: Simulation, rows: dict[int, Row]) -> None:
    held = story.disk.rows("SELECT gpu, job FROM reservation")
    twice = [card for card, count in Counter(card for card, _ in held).items() if count > 1]
    assert not twice, f"{twice} have several holders: {held}"
    holds = Counter(job for _, job in held)
    for id, row in rows.items():
        wanted = row.spec.num_gpus if row.live else 0
        assert holds[id] == wanted, f"job {id} ({row.state}) holds {holds[id]} cards, not {wanted}"
    for job in story.store.snapshot.jobs.values():
        assert len(job.gpus) == (job.spec.num_gpus if job.live else 0), job


def _what_runs_is_live_and_current(story: Simulation, rows: dict[int, Row]) -> None:
    for run, running in story.machine.running.items():
        row = rows[run.job]
        assert row.live and row.attempt == run.attempt, f"{run} runs; on disk it is {row.state}, attempt {row.attempt}"
        cards = {gpu for (gpu,) in story.disk.rows("SELECT gpu FROM reservation WHERE job = ?", run.job)}
        assert cards == set(running.launch.gpus), f"{run} runs on {running.launch.gpus} and holds {cards}"


def _the_order_is_kept(story: Simulation, rows: dict[int, Row]) -> None:
    for id, waits in waits_for(story, rows).items():
        if rows[id].attempt:
            for other, on in waits:
                assert other.lets_through(on), f"job {id} has begun; job {other.id} before it is {other.state}"


def _limits_are_kept(story: Simulation) -> None:
    snapshot = story.store.snapshot
    for progress in snapshot.progress.values():
        live = sum(job.live for job in progress.jobs)
        assert live == progress.live <= progress.pipeline.num_jobs
    # A limit that is lowered ends nothing that runs.
    assert len(snapshot.live) <= story.highest_limit


def _everybody_can_be_told_why(story: Simulation) -> None:
    for job in story.unsettled():
        reason = story.engine.explain(job)
        assert reason.text and reason.code is not Code.OK, f"nobody knows why job {job.id} is {job.state}"


# -- when the dust has settled -----------------------------------------------------------------------------------------


def check_calm(story: Simulation) -> None:
    """What is under way goes on until it is done, and nothing waits that could run."""
    story.calm()
    happened, since = len(story.machine.trace), story.clock()
    while story.store.healthy and not story.machine.sick and (left := unrest(story)):
        # On a slow machine one attempt after another may take its time: but never long without anything that happens.
        assert story.clock() < since + 20, f"the dust does not settle: {left}"
        story.pass_time(0.2)
        if len(story.machine.trace) > happened:
            happened, since = len(story.machine.trace), story.clock()


def unrest(story: Simulation) -> list[str]:
    """What is under way, or should be: jobs that are about to move, and jobs that should."""
    found: list[str] = []
    rows, now = rows_of(story), story.clock()
    running = {(run.job, run.attempt): running for run, running in story.machine.running.items()}
    for id, row in rows.items():
        job = story.store.snapshot.jobs.get(id)
        attempt = running.get((id, row.attempt))
        if job is None:
            if not row.settled:
                found.append(f"job {id} is {row.state} and nobody knows of it")
            continue
        if job.state != row.state:
            found.append(f"job {id} is {job.state} in memory and {row.state} on disk")
        if row.live and attempt is None:
            found.append(f"job {id} is {row.state}, and nothing runs")
        if row.state == "starting":
            found.append(f"job {id} is still being launched")
        if row.state == "stopping" and attempt is not None:
            since = now - (job.stopping_at or now)
            if not (attempt.stubborn and attempt.stopping):
                found.append(f"job {id} is stopping, and was not told")
            elif since > row.spec.grace + 20 and not story.jumped:
                found.append(f"job {id} has been stopping for {since} s")
        limit = row.spec.time_limit
        if row.state == "running" and limit is not None and job.started_at is not None:
            late = now - job.started_at - limit
            if late > 0 and not story.jumped:
                found.append(f"job {id} is {late} s over its time limit")
        if job.state == "queued" and story.engine.explain(job).code is Code.STARTING_SOON:
            found.append(f"job {id} is said to start soon")
    return [*found, *_waiting_in_vain(story, rows)]


def _waiting_in_vain(story: Simulation, rows: dict[int, Row]) -> list[str]:
    """Jobs that wait and could run, or wait and never can, as the rows and the machine have it."""
    found: list[str] = []
    waits = waits_for(story, rows)
    ready: list[Row] = []
    live = [row for row in rows.values() if row.live]
    in_pipeline = Counter(row.pipeline for row in live)
    for id, row in rows.items():
        job = story.store.snapshot.jobs.get(id)
        if row.settled or row.live or job is None:
            continue
        if any(other.settled and not other.lets_through(on) for other, on in waits[id]):
            found.append(f"job {id} waits for what has failed")
        elif all(other.lets_through(on) for other, on in waits[id]) and row.state == "queued":
            begun = job.not_before is None or job.not_before <= story.clock()
            if begun and in_pipeline[row.pipeline] < job.pipeline.num_jobs:
                ready.append(row)
    if story.store.paused is not None or story.free_disk < story.config.jobs.min_free_disk:
        return found
    if len(live) >= story.config.jobs.max_running:
        return found
    cards = _free_cards(story)
    cpus = story.engine._loop.machine.cpus - sum(row.spec.cpus_wanted for row in live)
    fits = [row.spec.num_gpus <= len(cards) and (row.spec.cpus or 0) <= cpus for row in ready]
    kept_for = [row.spec.priority for row, fitting in zip(ready, fits, strict=True) if not fitting]
    for row, fitting in zip(ready, fits, strict=True):
        # Only for one that lacks something is anything kept, from those of its priority and below who need such things.
        held_back = (row.spec.num_gpus or row.spec.cpus) and max(kept_for, default=-1000) >= row.spec.priority
        if fitting and not held_back:
            found.append(f"job {row.id} could run, and waits: {cards} are free")
    return found


def _free_cards(story: Simulation) -> list[str]:
    """The cards that a job could have: seen, listed, well, ours, and not held, drained or used by others."""
    if story.machine.stale:
        return []
    held = {gpu for (gpu,) in story.disk.rows("SELECT gpu FROM reservation")}
    drained = {gpu for (gpu,) in story.disk.rows("SELECT uuid FROM gpu")}
    return [
        uuid
        for uuid, gpu in story.machine.gpus.items()
        if not gpu.lost
        and not gpu.processes
        and str(gpu.index) not in story.config.gpus.exclude
        and story.machine.owners.get(uuid, "us") == "us"
        and uuid not in held | drained
    ]


# -- in the end --------------------------------------------------------------------------------------------------------


def check_end(story: Simulation) -> None:
    """Everything is over: every result is what the machine saw, and every history is complete."""
    for id, row in rows_of(story).items():
        assert row.settled, f"job {id} is {row.state} for ever"
        tries = story.disk.rows(
            "SELECT attempt, state, reason, exit_code, finished_at FROM attempt WHERE job = ? ORDER BY attempt", id
        )
        assert [one[0] for one in tries] == list(range(1, row.attempt + 1)), f"job {id}: attempts {tries}"
        assert all(one[4] is not None for one in tries), f"job {id} has an attempt without an end: {tries}"
        if tries and not _taken_from_the_queue(row, tries):
            assert (tries[-1][1], tries[-1][3]) == (row.state, row.exit_code), (
                f"job {id} is {row}, its attempts {tries}"
            )
        _retries_were_due(row, [Code(json.loads(one[2])[0]) for one in tries])
        for number, state, why, exit_code, _ in tries:
            _is_what_the_machine_saw(story, row, number, state, Code(json.loads(why)[0]), exit_code)
        if id in story.told.cancelled:
            assert row.state == "cancelled", f"job {id} was cancelled: {row.state}"
        _history_is_whole(story, row)
    assert not story.disk.rows("SELECT * FROM reservation")


def _retries_were_due(row: Row, ends: list[Code]) -> None:
    shown = f"job {row.id} is {row.state}, has {row.spec.retries} retries, and its attempts ended {ends}"
    assert row.spec.preemptible or Code.PREEMPTED not in ends, shown
    ends = [end for end in ends if end is not Code.PREEMPTED]  # that counts for nothing
    if not ends:
        return
    assert len(ends) <= row.spec.retries + 1, shown
    assert all(end in _RETRIED for end in ends[:-1]), shown
    if row.state == "failed" and ends[-1] in _RETRIED:
        assert len(ends) == row.spec.retries + 1, shown


def _taken_from_the_queue(row: Row, tries: list[Any]) -> bool:
    """Whether the job was taken out of the queue between two attempts."""
    return row.state in ("cancelled", "skipped") and json.loads(tries[-1][2])[0] != Code.CANCELLED_BY


def _is_what_the_machine_saw(
    story: Simulation, row: Row, number: int, state: str, code: Code, exit_code: int | None
) -> None:
    run = RunName(story.database, row.id, number)
    saw = story.machine.ends.get(run)
    shown = f"{run} is {state} ({code}, {exit_code}); the machine saw {saw}"
    restarted = {Code.MACHINE_RESTARTED} if (row.id, number) in story.machine.cut else set()
    if saw is None:  # it never ran
        assert code in {Code.CANCELLED_BY, Code.LAUNCH_FAILED, Code.GPU_LOST} | restarted, shown
        assert exit_code is None, shown
        return
    assert code in _true_codes(saw) | (restarted if saw.failure is not None else set()), shown
    assert saw.failure is not None or exit_code == saw.exit_code, shown


def _true_codes(saw: Outcome) -> set[Code]:
    """How an attempt may be said to have ended that ended so."""
    if saw.failure is not None:  # nobody saw it: whatever it was being stopped for is as true
        return {saw.failure.code, Code.CANCELLED_BY, Code.TIME_LIMIT, Code.GPU_LOST, Code.PREEMPTED}
    if saw.stopped:
        return {Code.CANCELLED_BY, Code.TIME_LIMIT, Code.GPU_LOST, Code.PREEMPTED}
    # Who is told that it is cancelled may rely on that. No time limit explains the end of what nobody stopped.
    if saw.exit_code == 0:
        return {Code.OK, Code.CANCELLED_BY}
    return {Code.SIGNAL if saw.signal else Code.EXIT_CODE, Code.CANCELLED_BY, Code.GPU_LOST}


def _history_is_whole(story: Simulation, row: Row) -> None:
    types = [type for (type,) in story.disk.rows("SELECT type FROM event WHERE job = ? ORDER BY id", row.id)]
    assert types[0] in ("job.queued", "job.held") and types[-1] == f"job.{row.state}", types
    assert types.count("job.starting") >= row.attempt, types
    ends = [type for type in types if type.removeprefix("job.") in _SETTLED]
    assert len(ends) == 1, types
