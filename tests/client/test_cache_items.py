"""Items: written in batches, read one by one and in batches, also by a loader's workers."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from runners.cache import CacheError, Items, open_cache, write_items
from runners.cache.progress import Progress
from runners.errors import InvalidRequest

from .conftest import ROOT

COUNT = 103


def items(count: int = COUNT) -> list[dict[str, Any]]:
    return [{"x": np.full((3, 5), n, np.float32), "label": n % 7, "weight": n / 2} for n in range(count)]


def group_of(things: Any, **options: Any) -> zarr.Group:
    group = zarr.create_group({})
    write_items(group, things, title="", **options)
    return group


@pytest.fixture
def cached(tmp_path: Path) -> zarr.Group:
    return open_cache("items", {}, lambda group: write_items(group, items(), batch=16, title=""), directory=tmp_path)


@pytest.mark.parametrize(("batch", "chunk"), [(1, None), (10, 3), (64, None), (50, 50), (7, 1), (500, 20), (4, 9)])
def test_what_was_written_is_read(batch: int, chunk: int | None) -> None:
    group = group_of(iter(items()), batch=batch, chunk=chunk)
    read = Items(group)
    assert len(read) == COUNT and read.names == ("label", "weight", "x")
    for n in (0, 1, 55, COUNT - 1, -1):
        one = read[n]
        assert (one["label"], one["weight"]) == (n % COUNT % 7, n % COUNT / 2)
        np.testing.assert_array_equal(one["x"], np.full((3, 5), n % COUNT))
    assert group["x"].dtype == np.float32  # type: ignore[union-attr]
    if chunk is not None:
        assert group["x"].chunks[0] == chunk  # type: ignore[union-attr]


def test_a_batch_is_written_in_whole_chunks_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    store = zarr.storage.MemoryStore()
    real = store.set

    async def counted(key: str, value: Any, **options: Any) -> None:
        written.append(key)
        await real(key, value, **options)

    monkeypatch.setattr(store, "set", counted)
    write_items(zarr.create_group(store), iter(items()), batch=10, chunk=4, title="")
    chunks = [key for key in written if "/c/" in key]
    assert sorted(chunks) == sorted(set(chunks)) and len(chunks) == 3 * 26


def test_chunks_are_of_about_256_kibibytes() -> None:
    big = [{"x": np.zeros((256, 1024), np.float32)}] * 3
    assert group_of(big)["x"].chunks == (1, 256, 1024)  # type: ignore[union-attr]
    assert group_of([{"x": np.zeros(1024, np.float32)}] * 3, batch=1000)["x"].chunks == (64, 1024)  # type: ignore[union-attr]


def test_no_items_are_items_too() -> None:
    read = Items(group_of([]))
    assert len(read) == 0 and list(read.batches(4)) == []
    with pytest.raises(IndexError):
        read[0]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"x": np.zeros((3, 4)), "label": 1, "weight": 0.0}, "item 1: 'x' has the shape (3, 4), and those before it (3, 5)"),
        ({"x": np.zeros((3, 5)), "label": 1}, "item 1: it has ['label', 'x']"),
        ({"x": np.zeros((3, 5)), "label": 1.5, "weight": 0.0}, "item 1: 'label' is float64"),
        ({"x": np.zeros((3, 5)), "label": "one", "weight": 0.0}, "item 1: 'label' is <U3"),
    ],
)  # fmt: skip
def test_an_item_unlike_the_first_is_refused(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        group_of([*items(1), bad])
    assert said in str(error.value)


@pytest.mark.parametrize("bad", [{"x": "text"}, {"x": None}, {}, {"a/b": 1}, {"": 1}, {".x": 1}])
def test_a_first_item_that_cannot_be_one_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot write items"):
        group_of([bad])


def test_items_are_written_once() -> None:
    group = group_of(items(3))
    with pytest.raises(InvalidRequest, match="it has 3 already"):
        write_items(group, items(3), title="")


def test_a_group_without_items_says_which_have_some(tmp_path: Path) -> None:
    def build(group: zarr.Group) -> None:
        write_items(group.create_group("train"), items(5), title="")
        write_items(group.create_group("test"), items(2), title="")

    group = open_cache("parts", {}, build, directory=tmp_path)
    with pytest.raises(CacheError, match="it has the groups test, train"):
        Items(group)
    assert len(Items(group["train"])) == 5  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="cannot read 'y'"):
        Items(group["test"], ["y"])  # type: ignore[arg-type]
    assert list(Items(group["test"], ["label"])[1]) == ["label"]  # type: ignore[arg-type]


def test_batches_hold_every_item_once(cached: zarr.Group) -> None:
    read = Items(cached)
    assert [len(batch["x"]) for batch in read.batches(25)] == [25, 25, 25, 25, 3]
    assert [len(batch["x"]) for batch in read.batches(25, drop_last=True)] == [25] * 4
    in_order = np.concatenate([batch["x"][:, 0, 0] for batch in read.batches(10)])
    np.testing.assert_array_equal(in_order, np.arange(COUNT))
    shuffled = [np.concatenate([b["x"][:, 0, 0] for b in read.batches(10, shuffle=True, seed=s)]) for s in (1, 1, 2)]
    np.testing.assert_array_equal(shuffled[0], shuffled[1])
    assert not np.array_equal(shuffled[0], shuffled[2]) and not np.array_equal(shuffled[0], in_order)
    assert sorted(shuffled[0]) == list(range(COUNT))
    for batch in read.batches(10, shuffle=True):
        np.testing.assert_array_equal(batch["x"][:, 0, 0] / 2, batch["weight"])


def test_several_are_taken_in_the_order_asked_for(cached: zarr.Group) -> None:
    read = Items(cached)
    wanted = [40, 3, 102, 3, -1, 17]
    assert [int(one["weight"] * 2) for one in read.__getitems__(wanted)] == [40, 3, 102, 3, 102, 17]
    np.testing.assert_array_equal(read.take(wanted)["x"][:, 2, 4], [40, 3, 102, 3, 102, 17])
    assert [int(one["weight"] * 2) for one in read[10:16:2]] == [10, 12, 14]
    assert read.take([])["x"].shape == (0, 3, 5)
    with pytest.raises(IndexError):
        read.take([COUNT])


def test_a_pickle_of_items_reads_on(cached: zarr.Group) -> None:
    read = pickle.loads(pickle.dumps(Items(cached, ["x"])))
    assert read.names == ("x",) and read[9]["x"][0, 0] == 9


WORKERS = """
import multiprocessing, os, sys
from runners.cache import Items, open_cache

def work(read, places, out):
    out.put((os.getpid(), [float(read[place]["weight"]) for place in places], read._group.store.lease.fd))

if __name__ == "__main__":
    method, directory = sys.argv[1:]
    context = multiprocessing.get_context(method)
    read = Items(open_cache("items", {}, directory=directory))
    assert read[1]["weight"] == 0.5  # this process has used zarr before it forks
    out = context.Queue()
    workers = [context.Process(target=work, args=(read, range(n, len(read), 4), out)) for n in range(4)]
    for worker in workers:
        worker.start()
    found = [out.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    if method == "fork":  # what it was given is closed there, and a lease of its own taken
        assert read._group.store.lease.fd not in {lease for _, _, lease in found}
    assert len({pid for pid, _, _ in found} | {os.getpid()}) == 5
    assert sorted(value for _, values, _ in found for value in values) == [n / 2 for n in range(len(read))]
    print("read")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_open_the_cache_for_themselves(cached: zarr.Group, tmp_path: Path, method: str) -> None:
    assert method in multiprocessing.get_all_start_methods()
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(script), method, str(cached.store.directory)],  # type: ignore[attr-defined]
        env={"PYTHONPATH": str(ROOT / "client")}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "read\n"), done.stderr


# -- how far it is -----------------------------------------------------------------------------------------------------


class Screen(io.StringIO):
    """A terminal that keeps what is written to it."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO, total: int | None = 200) -> str:
    progress = Progress("train", total, stream, now=100.0)
    for second in range(1, 21):
        progress.at(second * 10, now=100.0 + second)
    progress.end(now=120.0)
    return stream.getvalue()


def test_a_pipe_gets_a_line_now_and_then() -> None:
    assert drawn(io.StringIO()).splitlines() == [
        "train: 100/200 items, 10/s, 10s left",
        "train: 200/200 items, 10/s, 0s left",
        "train: 200 items in 20s",
    ]
    assert drawn(io.StringIO(), None).splitlines()[0] == "train: 100 items, 10/s"


def test_a_terminal_gets_a_bar_in_one_line() -> None:
    shown = drawn(Screen())
    assert shown.count("\n") == 1 and shown.count("\r\x1b[K") == 21
    assert f"train  {'━' * 15}{'─' * 15}  100/200  10/s, 10s left" in shown
    assert shown.endswith("\r\x1b[Ktrain: 200 items in 20s\n")


@pytest.mark.parametrize(
    ("given", "total"), [(items(4), 4), (iter(items(4)), None)], ids=["a list has a length", "a generator has none"]
)
def test_the_bar_knows_how_many_there_will_be(
    given: Any, total: int | None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []
    real: Callable[..., None] = Progress.__init__

    def noted(self: Progress, title: str, total: int | None, *rest: Any) -> None:
        seen.append(total)
        real(self, title, total, *rest)

    monkeypatch.setattr(Progress, "__init__", noted)
    write_items(zarr.create_group({}), given, title="train")
    assert seen == [total]
    assert capsys.readouterr().err == "train: 4 items in 0s\n"
