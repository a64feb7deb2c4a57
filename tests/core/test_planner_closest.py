"""Which cards a job gets: close to each other, and such that large holes stay open."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import GIB, Queue, gpu, spec
from core.test_planner import NOW, run_plan, starts
from runnersd.closeness import closeness, neighbours
from runnersd.model import Inventory, Topology
from runnersd.planner import closest as module
from runnersd.planner import plan
from runnersd.planner.closest import Candidate, closest


def topology_of(links: dict[tuple[int, int], int], count: int, nodes: Sequence[int] = ()) -> Topology:
    """Cards with these NVLinks, otherwise on the buses of these NUMA nodes (all of one, if none are said)."""
    places = nodes or [0] * count

    def level(one: int, other: int) -> int:
        return 0 if one == other else 30 if places[one] == places[other] else 50

    return Topology(
        tuple(f"GPU-{card}" for card in range(count)),
        tuple(tuple(links.get((min(a, b), max(a, b)), 0) for b in range(count)) for a in range(count)),
        tuple(tuple(level(a, b) for b in range(count)) for a in range(count)),
    )


def islands(*sizes: int, links: int = 4) -> Topology:
    """Cards in groups, each linked with all of its group."""
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    groups = [range(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    return topology_of({pair: links for group in groups for pair in combinations(group, 2)}, sum(sizes))


#: A DGX-1: two quads, in each of which all are linked, some doubly, and links from each card to one of the other quad.
CUBE = topology_of(
    {(a + q, b + q): n for q in (0, 4) for (a, b), n in {(0, 1): 1, (0, 2): 1, (0, 3): 2, (1, 2): 2, (1, 3): 1,
     (2, 3): 1}.items()} | {(0, 4): 2, (1, 5): 2, (2, 6): 2, (3, 7): 1}, 8, [0, 0, 0, 0, 1, 1, 1, 1],
)  # fmt: skip


def given_to(topology: Topology, *wants: int, held: Sequence[int] = (), **keys: object) -> list[list[int]]:
    """The cards that jobs for so many get, one after the other, while the held ones are others'."""
    queue = Queue()
    count = len(topology.cards)
    inventory = Inventory(tuple(gpu(card) for card in range(count)), topology=topology)
    for card in held:
        queue.add(spec(f"held{card}", num_gpus=1, gpus=(str(card),)), num_jobs=99)
        run_plan(queue, queue.world(inventory))
    found = []
    for want in wants:
        (job,) = queue.add(spec(f"wants{want}", num_gpus=want, **keys), num_jobs=99)
        found.append([int(uuid[4:]) for uuid in starts(run_plan(queue, queue.world(inventory))).get(job, ())])
    return found


@pytest.mark.parametrize(
    ("topology", "held", "want", "cards"),
    [
        (islands(4, 4), (0,), 2, [1, 2]),  # an island that is broken already
        (islands(4, 4), (0,), 4, [4, 5, 6, 7]),
        (islands(4, 4), (0, 5), 3, [1, 2, 3]),
        (islands(4, 4), (0, 4, 5), 2, [6, 7]),  # it fills what is left of one exactly
        (islands(2, 2, 2, 2), (0, 3), 2, [4, 5]),
        (islands(2, 4, 2), (), 2, [0, 1]),
        (islands(4, 4), (0,), 1, [1]),
        (islands(4, 4), (0, 1, 4), 1, [2]),
        (islands(1, 3), (), 1, [0]),
        (CUBE, (), 2, [0, 3]),
        (CUBE, (), 4, [0, 1, 2, 3]),
        (CUBE, (0,), 4, [4, 5, 6, 7]),
        (CUBE, (1, 2, 3, 5, 6, 7), 2, [0, 4]),
        (topology_of({}, 4, [0, 1, 0, 1]), (), 2, [0, 2]),
        (topology_of({}, 4, [0, 1, 0, 1]), (0,), 2, [1, 3]),
        (topology_of({}, 4), (), 2, [0, 1]),
    ],
)
def test_close_cards_are_chosen_and_holes_stay_open(
    topology: Topology, held: Sequence[int], want: int, cards: list[int]
) -> None:
    assert given_to(topology, want, held=held) == [cards]


def test_single_cards_fill_one_island_so_that_the_other_stays_whole() -> None:
    assert given_to(islands(4, 4), 1, 1, 1, 4) == [[0], [1], [2], [4, 5, 6, 7]]


def test_a_reservation_is_of_close_cards_too() -> None:
    queue = Queue()
    inventory = Inventory(tuple(gpu(card) for card in range(4)), topology=islands(2, 2))
    ends = {0: 100.0, 1: 200.0, 2: 100.0, 3: 100.0}
    for card, limit in ends.items():
        queue.add(spec(f"held{card}", num_gpus=1, gpus=(str(card),), time_limit=limit))
    assert len(starts(run_plan(queue, queue.world(inventory)))) == 4
    queue.add(spec("pair", num_gpus=2, time_limit=50.0))
    (made,) = plan(queue.world(inventory), NOW).reservations
    assert (made.at, made.gpus) == (NOW + 100, ("GPU-2", "GPU-3"))


def test_of_unequal_cards_the_smallest_that_do_are_given_and_of_one_model() -> None:
    queue = Queue()
    big, small = {"name": "H100", "memory_total": 80 * GIB}, {"name": "A10", "memory_total": 24 * GIB}
    inventory = Inventory((gpu(0, **big), gpu(1, **small), gpu(2, **big), gpu(3, **small)))
    (one,) = queue.add(spec("one", num_gpus=1, gpu_memory=10 * GIB))
    (whatever,) = queue.add(spec("whatever", num_gpus=1))
    (two,) = queue.add(spec("two", num_gpus=1, gpu_memory=40 * GIB))
    assert starts(run_plan(queue, queue.world(inventory))) == {one: ("GPU-1",), whatever: ("GPU-0",), two: ("GPU-2",)}
    for memory, cards in ((10 * GIB, ("GPU-1", "GPU-3")), (None, ("GPU-0", "GPU-2"))):
        queue = Queue()
        (pair,) = queue.add(spec("pair", num_gpus=2, gpu_memory=memory))
        assert starts(run_plan(queue, queue.world(inventory))) == {pair: cards}


def test_among_equals_a_card_that_is_kept_soon_is_given_before_one_that_is_nobodys() -> None:
    for topology in (Topology(), islands(4)):
        queue = Queue()
        inventory = Inventory(tuple(gpu(card) for card in range(4)), topology=topology)
        queue.add(spec("held", num_gpus=1, gpus=("0",), time_limit=1000.0))
        run_plan(queue, queue.world(inventory))
        queue.add(spec("pair", num_gpus=2, gpus=("0", "3"), time_limit=1000.0))
        (short,) = queue.add(spec("short", num_gpus=1, time_limit=100.0))
        assert starts(run_plan(queue, queue.world(inventory))) == {short: ("GPU-3",)}


@st.composite
def choices(draw: st.DrawFn) -> tuple[list[Candidate], int, Topology]:
    count = draw(st.integers(1, 7))
    pairs = combinations(range(count), 2)
    links = {pair: draw(st.sampled_from([0, 0, 1, 2])) for pair in pairs}
    topology = topology_of(links, count, [draw(st.integers(0, 1)) for _ in range(count)])
    fitting = [
        Candidate(card, draw(st.sampled_from("ab")), draw(st.sampled_from([0, 1])), draw(st.sampled_from([1.0, 2.0])))
        for card in topology.cards
        if draw(st.integers(0, 4))
    ] or [Candidate("GPU-0", "a", 0, 1.0)]
    return fitting, draw(st.integers(1, len(fitting))), topology


@settings(max_examples=300, deadline=None)
@given(choices())
def test_no_other_set_is_better_than_the_one_that_is_chosen(choice: tuple[list[Candidate], int, Topology]) -> None:
    fitting, count, topology = choice
    near = closeness(topology)

    def worth(cards: Sequence[Candidate]) -> tuple[float, ...]:
        ids = {one.uuid for one in cards}
        inner = [near[a][b] for a, b in combinations(sorted(ids), 2)]
        outer = sum(near[a][b] for a in ids for b in topology.cards if b not in ids)
        ways = sorted({one.way for one in fitting})
        return (
            -len({one.kind for one in cards}),
            -sum(one.size for one in cards),
            min(inner, default=0),
            sum(inner),
            -outer,
            -sum(ways.index(one.way) for one in cards),
        )

    chosen = closest(fitting, count, near, topology.cards)
    assert len({one.uuid for one in chosen}) == count
    assert worth(chosen) == max(worth(one) for one in combinations(fitting, count))
    assert closest(fitting, count, near, topology.cards) == chosen


@pytest.mark.parametrize("count", [16, 40])
def test_a_choice_among_many_cards_is_bounded_and_always_the_same(count: int) -> None:
    drawn = random.Random(count)
    pairs = combinations(range(count), 2)
    topology = topology_of({pair: drawn.choice([0, 1, 2, 4]) for pair in pairs}, count, [n % 4 for n in range(count)])
    fitting = [Candidate(card, "a", 0, drawn.random()) for card in topology.cards]
    for want in (2, 4, 8, 12):
        begun = time.process_time()
        chosen = closest(fitting, want, closeness(topology), topology.cards)
        spent = time.process_time() - begun
        assert len(chosen) == want
        assert spent < 2.0, f"{spent:.3f} s for {want} of {count}"
        assert closest(fitting, want, closeness(topology), topology.cards) == chosen


def search(topology: Topology, count: int) -> module._Search:
    """A search that has been made, among cards that are all in the way differently."""
    fitting = [Candidate(card, "a", 0, float(place % 3)) for place, card in enumerate(topology.cards)]
    made = module._Search(fitting, count, closeness(topology), topology.cards, 0)
    made.best()
    return made


def test_the_search_ends_after_so_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(1)
    irregular = topology_of({pair: drawn.choice([1, 2, 4]) for pair in combinations(range(16), 2)}, 16)
    assert search(irregular, 5)._steps > 50
    monkeypatch.setattr(module, "STEPS", 10)
    assert search(irregular, 5)._steps <= 10 + 5


def test_cards_that_are_alike_are_not_tried_one_by_one() -> None:
    assert search(topology_of({}, 16, [0] * 8 + [1] * 8), 8)._steps < 200


def test_among_sets_that_are_equally_close_the_one_is_chosen_that_is_least_in_the_way() -> None:
    topology = topology_of({(0, 3): 1, (1, 2): 1}, 4)
    fitting = [Candidate(card, "a", 0, way) for card, way in zip(topology.cards, (1.0, 1.0, 1.0, 9.0), strict=True)]
    assert [one.uuid for one in closest(fitting, 2, closeness(topology), topology.cards)] == ["GPU-1", "GPU-2"]


def test_what_is_nearest_to_a_card_has_the_names_of_nvidia_smi() -> None:
    found = neighbours(CUBE)
    assert found["GPU-0"] == ("NV2", ("GPU-3", "GPU-4"))
    assert neighbours(topology_of({}, 4, [0, 1, 0, 1]))["GPU-1"] == ("PHB", ("GPU-3",))
    assert neighbours(topology_of({}, 2, [0, 1]))["GPU-1"] == ("SYS", ("GPU-0",))
    assert neighbours(Topology(("GPU-0", "GPU-1"), ((0, 0), (0, 0)), ((0, None), (None, 0)))) == {}
