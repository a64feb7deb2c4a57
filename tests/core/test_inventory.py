"""What the inventory means."""

from __future__ import annotations

import pytest

from runners.errors import NoSuchCard
from runners.spec import JobSpec
from runnersd.inventory import CardState, card_state, find_gpu, foreign_processes, matches_capability, matches_model
from runnersd.model import CardOwner, ForeignPolicy, Gpu, GpuProcess, Inventory, Job, Pipeline, Submitter

GIB = 1 << 30
POLICY = ForeignPolicy(min_graphics_memory=GIB, ignore=frozenset({"Xorg", "nvidia-cuda-mps-server"}))
SUPERVISOR = 100


def job(*, shared: bool = False) -> Job:
    pipeline = Pipeline(1, "p", Submitter(1000, 1000), "/", 0o022, 10, 0.0, 1)
    return Job(1, pipeline, 0, JobSpec("job", "true", num_gpus=1, gpu_shared=shared))


@pytest.mark.parametrize(
    ("process", "foreign"),
    [
        (GpuProcess(500, "compute", None), True),
        (GpuProcess(500, "compute", 1, ancestors=(1,)), True),
        (GpuProcess(500, "compute", GIB, ancestors=(400, SUPERVISOR, 1)), False),
        (GpuProcess(500, "compute", GIB, ancestors=(SUPERVISOR,)), False),
        (GpuProcess(SUPERVISOR, "compute", GIB, ancestors=(1,)), False),
        (GpuProcess(500, "compute", GIB, ancestors=(200, 1)), True),  # 200 supervises a job on another card
        (GpuProcess(500, "graphics", GIB - 1), False),
        (GpuProcess(500, "graphics", None), False),
        (GpuProcess(500, "graphics", GIB), True),
        (GpuProcess(500, "graphics", GIB, ancestors=(SUPERVISOR,)), False),
        (GpuProcess(500, "graphics", GIB, name="Xorg"), False),
        (GpuProcess(500, "compute", GIB, name="nvidia-cuda-mps-server"), False),
        (GpuProcess(500, "compute", GIB, name="xorg"), True),
    ],
)
def test_foreign_is_what_no_job_of_the_card_started_and_nobody_ignores(process: GpuProcess, foreign: bool) -> None:
    gpu = Gpu("GPU-a", 0, processes=(process,))
    assert foreign_processes(gpu, {SUPERVISOR, 101}, POLICY) == ((process,) if foreign else ())


def test_foreign_processes_are_all_named_in_their_order() -> None:
    ours, one, other = (
        GpuProcess(1, "compute", 1, ancestors=(SUPERVISOR,)),
        *(GpuProcess(pid, "compute", 1) for pid in (7, 3)),
    )
    assert foreign_processes(Gpu("GPU-a", 0, processes=(one, ours, other)), {SUPERVISOR}, POLICY) == (one, other)
    assert foreign_processes(Gpu("GPU-a", 0, processes=(one, ours)), set(), POLICY) == (one, ours)


OWNED = CardOwner("ann", 4711)


@pytest.mark.parametrize(
    ("lost", "drained", "holders", "foreign", "owner", "state"),
    [
        (True, True, [job()], True, OWNED, "lost"),
        (False, True, [job()], True, OWNED, "drained"),
        (False, False, [job()], True, OWNED, "reserved"),
        (False, False, [job(shared=True)], True, None, "shared"),
        (False, False, [job(shared=True), job(shared=True)], False, None, "shared"),
        (False, False, [job(shared=True), job()], False, None, "reserved"),
        (False, False, [], True, None, "foreign"),
        (False, False, [], False, OWNED, "foreign"),
        (False, False, [], False, CardOwner(None, None), "foreign"),
        (False, False, [], False, None, "free"),
    ],
)
def test_a_cards_state_is_the_first_that_applies(
    lost: bool, drained: bool, holders: list[Job], foreign: bool, owner: CardOwner | None, state: CardState
) -> None:
    gpu = Gpu("GPU-a", 0, lost=lost, owner=owner)
    assert card_state(gpu, holders, drained=drained, foreign=foreign) == state


THREE = Inventory((Gpu("GPU-aa11", 0), Gpu("GPU-aa22", 1), Gpu("MIG-bb33", 2)))


@pytest.mark.parametrize(
    ("text", "uuid"),
    [("0", "GPU-aa11"), ("2", "MIG-bb33"), ("GPU-aa22", "GPU-aa22"), ("GPU-aa2", "GPU-aa22"), ("mig", "MIG-bb33")],
)
def test_a_card_is_found_by_index_uuid_or_a_beginning_of_its_own(text: str, uuid: str) -> None:
    assert find_gpu(THREE, text).uuid == uuid


def test_a_whole_uuid_is_never_ambiguous() -> None:
    inventory = Inventory((Gpu("GPU-1", 0), Gpu("GPU-11", 1)))
    assert find_gpu(inventory, "GPU-1").index == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("3", "'3': this machine has cards 0, 1, 2; the nearest is 2"),
        ("GPU-ab22", "cards 0, 1, 2; did you mean 1 (GPU-aa22)?"),
        ("GPU-aa", "GPU-aa11, GPU-aa22"),
        ("", "cards 0, 1, 2"),
        ("²", "cards 0, 1, 2"),
        ("9" * 5000, "the nearest is 2"),
    ],
)
def test_a_card_that_is_not_there_or_not_one_is_an_error_that_lists_them(text: str, says: str) -> None:
    with pytest.raises(NoSuchCard) as caught:
        find_gpu(THREE, text)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_machine_without_cards_says_so() -> None:
    with pytest.raises(NoSuchCard, match="this machine has none"):
        find_gpu(Inventory(), "0")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [("NVIDIA H100*", True), ("*h100*", True), ("*A100*", False), ("H100", False), ("NVIDIA H?00 80GB HBM3", True)],
)
def test_a_model_is_a_glob_on_the_whole_name(pattern: str, matches: bool) -> None:
    assert matches_model(Gpu("GPU-a", 0, name="NVIDIA H100 80GB HBM3"), pattern) is matches


@pytest.mark.parametrize(
    ("has", "least", "matches"),
    [
        ("9.0", "9.0", True),
        ("9.0", "8.9", True),
        ("8.9", "9.0", False),
        ("10.0", "9.0", True),
        ("9.0", "10.0", False),
        ("8.10", "8.9", True),
        (None, "1.0", False),
    ],
)
def test_a_compute_capability_is_compared_as_numbers(has: str | None, least: str, matches: bool) -> None:
    assert matches_capability(Gpu("GPU-a", 0, compute_capability=has), least) is matches
