"""Container jobs before they hold anything: their image, and the engine that has to have it."""

from __future__ import annotations

import pytest

from core.builders import Queue, spec
from runners.api import Code, JobState
from runnersd import lifecycle
from runnersd.explain import explain
from runnersd.model import EngineState, Image, ImageState, Reason
from runnersd.planner import Fail, Plan, Resolve, Start, World, plan
from runnersd.planner.images import IMAGE_OLD, IMAGE_STALE

NOW = 1_000_000.0
ENGINE = EngineState(cards="nvidia", seen=True)
HAVE = ImageState(NOW, Image("sha256:1", "lab/x"))
CONTAINER = {"run_in": "container", "image": "lab/x"}


def starts(made: Plan) -> list[int]:
    return [one.job.id for one in made.decisions if isinstance(one, Start)]


def resolves(made: Plan) -> list[str]:
    return [one.image for one in made.decisions if isinstance(one, Resolve)]


def world_of(queue: Queue, cards: int = 2, **facts: object) -> World:
    return queue.world(cards, **{"engine": ENGINE, "images": {"lab/x": HAVE}, **facts})


def why(queue: Queue, id: int, world: World, now: float = NOW) -> Reason:
    return explain(queue.snapshot.jobs[id], world, plan(world, now), now)


def test_an_image_that_nobody_looked_for_is_looked_for_once_and_nothing_starts() -> None:
    queue = Queue()
    ids = queue.add(*(spec(f"j{n}", **CONTAINER, num_gpus=n % 2) for n in range(4)))
    world = world_of(queue, images={})
    made = plan(world, NOW)
    assert (starts(made), resolves(made)) == ([], ["lab/x"])
    assert {why(queue, id, world) for id in ids} == {Reason(Code.PULLING_IMAGE, "looking for the image lab/x")}


def test_a_pull_claims_nothing_and_tells_how_far_it_is() -> None:
    """The first in line waits for its image; the others have the cards, the cores and the memory."""
    queue = Queue()
    first, host, other = (
        queue.add(spec("a", **CONTAINER, num_gpus=2, cpus=64.0, memory=1 << 40))[0],
        queue.add(spec("b", num_gpus=2, cpus=60.0, memory=1 << 30))[0],
        queue.add(spec("c", run_in="container", image="lab/y"))[0],
    )
    pulling = ImageState(NOW, progress="pulling the image lab/x: 1GiB of 2GiB")
    world = world_of(queue, images={"lab/x": pulling, "lab/y": HAVE}, memory=1 << 40)
    made = plan(world, NOW)
    assert (starts(made), resolves(made)) == ([host, other], [])
    assert why(queue, first, world) == Reason(Code.PULLING_IMAGE, "pulling the image lab/x: 1GiB of 2GiB")


def test_the_registrys_no_fails_the_job_and_dooms_what_needs_it() -> None:
    queue = Queue()
    asks, needs, stands, alone = queue.add(
        spec("asks", **CONTAINER), spec("needs", needs=["asks"]), spec("stands"), spec("alone", **CONTAINER)
    )
    no = ImageState(NOW, failure="cannot have the image lab/x: access denied")
    world = world_of(queue, images={"lab/x": no})
    made = plan(world, NOW)
    failed = [one for one in made.decisions if isinstance(one, Fail)]
    assert [one.job.id for one in failed] == [asks, alone]
    assert {one.reason for one in failed} == {Reason(Code.LAUNCH_FAILED, no.failure or "")}
    assert starts(made) == [stands]
    for one in failed:
        queue.take(lifecycle.Failed(one.job.id, 0, one.reason, None, NOW))
    assert queue.snapshot.jobs[asks].state is JobState.FAILED
    assert queue.snapshot.doomed == {needs}
    assert why(queue, needs, world).code is Code.NEED_FAILED


def test_a_no_holds_for_jobs_from_before_it_and_later_ones_ask_again() -> None:
    queue = Queue()
    before, after = queue.add(spec("a", **CONTAINER), at=NOW - 1)[0], queue.add(spec("b", **CONTAINER), at=NOW + 1)[0]
    made = plan(world_of(queue, images={"lab/x": ImageState(NOW, failure="no")}), NOW + 2)
    assert [one.job.id for one in made.decisions if isinstance(one, Fail)] == [before]
    assert resolves(made) == ["lab/x"]
    assert starts(made) == []
    assert queue.snapshot.jobs[after].state is JobState.QUEUED


@pytest.mark.parametrize(
    ("age", "runs", "asks"),
    [(0.0, True, False), (IMAGE_STALE, True, False), (IMAGE_STALE + 1, True, True), (IMAGE_OLD + 1, False, True)],
)
def test_what_is_known_of_an_image_ages(age: float, runs: bool, asks: bool) -> None:
    """A tag may mean another image tomorrow: good enough for a while, asked about again, then not good enough."""
    queue = Queue()
    (id,) = queue.add(spec("a", **CONTAINER))
    made = plan(world_of(queue), NOW + age)
    assert (starts(made), resolves(made)) == ([id] if runs else [], ["lab/x"] if asks else [])


def test_an_engine_that_is_away_holds_back_containers_alone() -> None:
    queue = Queue()
    contained, host = queue.add(spec("a", **CONTAINER, num_gpus=1), spec("b", num_gpus=2))
    world = world_of(queue, engine=EngineState("no answer in 10 s", "nvidia", seen=True))
    made = plan(world, NOW)
    assert (starts(made), resolves(made)) == ([host], [])
    assert why(queue, contained, world) == Reason(
        Code.ENGINE_UNAVAILABLE, "the container engine does not answer: no answer in 10 s"
    )


def test_an_engine_that_has_lost_its_way_to_pass_cards_holds_back_jobs_with_cards_alone() -> None:
    queue = Queue()
    with_card, without = queue.add(spec("a", **CONTAINER, num_gpus=1), spec("b", **CONTAINER))
    world = world_of(queue, engine=EngineState(None, None, "install nvidia-container-toolkit", seen=True))
    assert starts(plan(world, NOW)) == [without]
    assert why(queue, with_card, world) == Reason(Code.ENGINE_UNAVAILABLE, "install nvidia-container-toolkit")


def test_jobs_of_other_images_do_not_wait_for_this_one() -> None:
    queue = Queue()
    ids = queue.add(*(spec(f"j{n}", run_in="container", image=f"lab/{n}", num_gpus=1) for n in range(3)))
    images = {"lab/0": ImageState(NOW, progress="pulling"), "lab/1": HAVE, "lab/2": HAVE}
    assert starts(plan(world_of(queue, images=images), NOW)) == ids[1:]


def test_containers_and_host_jobs_compete_for_cards_alike() -> None:
    queue = Queue()
    big, small = queue.add(spec("a", **CONTAINER, num_gpus=2), spec("b", num_gpus=1))
    (holder,) = queue.add(spec("c", num_gpus=1, priority=5))
    world = world_of(queue)
    assert starts(plan(world, NOW)) == [holder]
    queue.take(lifecycle.Reserved(holder, 1, ("GPU-0",)))
    assert why(queue, small, world).code is Code.BEHIND_RESERVATION
    queue.take(lifecycle.Succeeded(holder, 1, Reason(Code.OK, ""), 0, NOW))
    assert starts(plan(world, NOW)) == [big]


def test_on_an_engine_without_room_jobs_in_containers_wait_and_the_others_start() -> None:
    queue = Queue()
    container, host = queue.add(spec("a", **CONTAINER), spec("b"))
    world = world_of(queue, engine_low_disk="1 MiB left")
    assert starts(plan(world, NOW)) == [host]
    assert why(queue, container, world) == Reason(Code.LOW_DISK, "1 MiB left")
