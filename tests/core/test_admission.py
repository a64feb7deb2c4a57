"""What is refused at submit because it could never run, and what the daemon's defaults add."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.builders import GIB, cards, spec
from runners.errors import InvalidPipeline, NotAllowed, QuotaExceeded, TooLarge
from runners.spec import JobSpec, PipelineSpec, Submission
from runnersd.admission import Limits, admit
from runnersd.model import EngineState, Inventory

LIMITS = Limits(cpus=8.0, memory=64 * GIB, max_queued=10, max_per_pipeline=5, margin=GIB)


def submission(*specs: JobSpec) -> Submission:
    return Submission(PipelineSpec("p", specs), "/work", {})


def admitted(*specs: JobSpec, inventory: Inventory | None = None, limits: Limits = LIMITS, **who: Any) -> Submission:
    given = {"queued": 0, "operator": False, **who}
    return admit([submission(*specs)], cards(2) if inventory is None else inventory, limits, **given)[0]


@pytest.mark.parametrize(
    ("keys", "path", "words"),
    [
        ({"num_gpus": 3}, "jobs[0].num_gpus", "asks for 3 cards, this machine has 2"),
        (
            {"num_gpus": 1, "gpus": ("5",)},
            "jobs[0].gpus",
            "asks for card 5; this machine has none such among its 2 cards: 2 of ",
        ),
        (
            {"num_gpus": 1, "gpu_model": "*A100*"},
            "jobs[0].gpu_model",
            "asks for 1 card named like *A100*; this machine has none such",
        ),
        (
            {"num_gpus": 1, "gpu_model": "*H100*", "gpu_capability": "10.0"},
            "jobs[0].gpu_capability",
            "asks for 1 card named like *H100* of compute capability 10.0 or more; this machine has none such among its "
            "2 cards: 2 of NVIDIA H100 80GB HBM3 with 80GiB (9.0)",
        ),
        (
            {"num_gpus": 1, "gpus": ("1",), "gpu_memory": 100 * GIB},
            "jobs[0].gpu_memory",
            "asks for card 1 with 100GiB; this machine has none such",
        ),
        (
            {"num_gpus": 1, "gpu_memory": 100 * GIB},
            "jobs[0].gpu_memory",
            "asks for 1 card with 100GiB; this machine has none such among its 2 cards: 2 of ",
        ),
        (
            {"num_gpus": 1, "gpu_memory": 80 * GIB, "gpu_shared": True},
            "jobs[0].gpu_memory",
            "asks for 1 card with 80GiB beside the 1GiB that stay free (gpus.margin); this machine has none such",
        ),
        ({"cpus": 9.0}, "jobs[0].cpus", "asks for 9 CPUs, this machine has 8"),
        ({"memory": 65 * GIB}, "jobs[0].memory", "this machine has 64"),
        ({"run_in": "container"}, "jobs[0].run_in", "run_in: host"),
    ],
)
def test_what_could_never_run_is_refused_with_its_path(keys: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidPipeline) as refused:
        admitted(spec(**keys))
    (problem,) = refused.value.problems
    assert problem.path == path
    assert words in problem.message


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(InvalidPipeline) as refused:
        admitted(spec("a", num_gpus=3), spec("b", cpus=99.0), spec("c"))
    assert [problem.path for problem in refused.value.problems] == ["jobs[0].num_gpus", "jobs[1].cpus"]


def test_among_several_pipelines_a_problem_says_which() -> None:
    with pytest.raises(InvalidPipeline) as refused:
        admit(
            [submission(spec("a")), submission(spec("b"), spec("c", cpus=99.0))], cards(2), LIMITS, queued=0,
            operator=False,
        )  # fmt: skip
    assert [problem.path for problem in refused.value.problems] == ["pipelines[1].jobs[1].cpus"]


def test_no_driver_is_named_where_there_are_no_cards() -> None:
    with pytest.raises(InvalidPipeline, match="no NVIDIA driver"):
        admitted(spec(num_gpus=1), inventory=Inventory(problem="no NVIDIA driver"))


def test_cards_that_the_driver_has_not_told_of_yet_are_no_reason_to_refuse() -> None:
    hangs = Inventory(stale=True, problem="the NVIDIA driver has not answered for 5 s")
    admitted(spec(num_gpus=8, gpu_memory=1 << 40, gpu_model="H100*", gpus=["3"]), inventory=hangs)


WITH_ENGINE = replace(LIMITS, engine=EngineState(cards="nvidia", seen=True))


@pytest.mark.parametrize(
    ("named", "environment", "configured", "found"),
    [
        ("own", {"DOCKER_IMAGE_NAME": "mine"}, "ours", "own"),
        (None, {"DOCKER_IMAGE_NAME": "mine"}, "ours", "mine"),
        (None, {"DOCKER_IMAGE_NAME": ""}, "ours", "ours"),
        (None, {}, "ours", "ours"),
    ],
)
def test_an_image_is_the_jobs_else_its_submitters_else_the_daemons(
    named: str | None, environment: dict[str, str], configured: str, found: str
) -> None:
    asked = Submission(PipelineSpec("p", (spec("c", run_in="container", image=named), spec("h"))), "/work", environment)
    (made,) = admit([asked], cards(2), replace(WITH_ENGINE, image=configured), queued=0, operator=False)
    assert [job.image for job in made.pipeline.jobs] == [found, None]


@pytest.mark.parametrize(
    ("keys", "limits", "path", "words"),
    [
        ({}, WITH_ENGINE, "image", "DOCKER_IMAGE_NAME"),
        ({"image": "i"}, replace(WITH_ENGINE, engine=EngineState()), "run_in", "install docker.io"),
        ({"image": "i"}, replace(WITH_ENGINE, root_refused=True), "run_in", "containers.allow_root"),
        ({"image": "i", "num_gpus": 1}, replace(WITH_ENGINE, engine=EngineState(no_cards="install it", seen=True)),
         "num_gpus", "install it"),
        ({"image": "i", "mounts": ("/data:/in",)}, WITH_ENGINE, "mounts", "this daemon allows nothing"),
        ({"image": "i", "mounts": ("/data/../etc:/in",)}, replace(WITH_ENGINE, allowed_mounts=("/data",)),
         "mounts", "cannot mount /etc"),
        ({"image": "i", "mounts": ("/database:/in",)}, replace(WITH_ENGINE, allowed_mounts=("/data",)),
         "mounts", "this daemon allows /data"),
    ],
)  # fmt: skip
def test_a_container_that_could_never_run_is_refused(
    keys: dict[str, Any], limits: Limits, path: str, words: str
) -> None:
    with pytest.raises(InvalidPipeline) as refused:
        admitted(spec(run_in="container", **keys), limits=limits)
    (problem,) = refused.value.problems
    assert (problem.path, words in problem.message) == (f"jobs[0].{path}", True), problem


def test_a_mount_below_what_is_allowed_is_taken() -> None:
    wanted = spec(run_in="container", image="i", mounts=("/data:/in", "/data/deep/er:/out:ro"))
    assert admitted(wanted, limits=replace(WITH_ENGINE, allowed_mounts=("/srv", "/data")))


def test_an_engine_that_is_away_now_refuses_nothing() -> None:
    """Whether it passes cards on is not known then: the job waits, and is told."""
    away = replace(WITH_ENGINE, engine=EngineState("it was not reached yet", seen=True))
    assert admitted(spec(run_in="container", image="i", num_gpus=1), limits=away)


def test_ports_need_a_network() -> None:
    wanted = spec(run_in="container", image="i", ports=("8888:8888",))
    limits = Limits(8.0, 64 * GIB, engine=EngineState(seen=True))
    assert admitted(wanted, limits=limits)
    with pytest.raises(InvalidPipeline, match=r"containers\.network"):
        admitted(wanted, limits=replace(limits, network="none"))


def test_a_priority_above_zero_needs_an_operator() -> None:
    with pytest.raises(NotAllowed):
        admitted(spec(priority=1))
    assert admitted(spec(priority=1), operator=True)
    assert admitted(spec(priority=-5))


def test_the_queue_and_a_pipeline_have_limits() -> None:
    with pytest.raises(QuotaExceeded, match="8 wait"):
        admitted(spec("a"), spec("b"), spec("c"), queued=8)
    with pytest.raises(TooLarge, match="a pipeline may have 5"):
        admitted(*[spec(f"j{n}") for n in range(6)])


def test_time_limits_default_to_the_daemons_and_may_not_pass_its_longest() -> None:
    limits = Limits(8.0, 64 * GIB, time_limit=60.0, max_time_limit=3600.0)
    assert admitted(spec(), limits=limits).pipeline.jobs[0].time_limit == 60.0
    assert admitted(spec(time_limit=90.0), limits=limits).pipeline.jobs[0].time_limit == 90.0
    with pytest.raises(InvalidPipeline, match="at most 1h"):
        admitted(spec(time_limit=7200.0), limits=limits)
    only_longest = Limits(8.0, 64 * GIB, max_time_limit=3600.0)
    assert admitted(spec(), limits=only_longest).pipeline.jobs[0].time_limit == 3600.0


def test_needs_that_would_stall_the_daemon_are_refused() -> None:
    many = [spec(f"j{n}", needs=["all"]) for n in range(2100)]
    with pytest.raises(TooLarge, match="blocking: true"):
        admitted(*many, limits=Limits(8.0, 64 * GIB))
