"""Caches: what names them, and which of them a prune may take. No cache is made here."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.cache.naming import ID, canonical, check_name, digest_of, id_of
from runners.cache.upkeep import Entry, to_prune
from runners.errors import InvalidRequest

DAY = 86400.0


def digest(params: Any, name: str = "musdb", source: str | None = None) -> str:
    return digest_of(name, canonical(params), source)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        ({"hops": (128, 256)}, {"hops": [128, 256]}),
        ({"kinds": {"b", "a", "c"}}, {"kinds": frozenset("cab")}),
        ({"path": PurePosixPath("/data/x")}, {"path": "/data/x"}),
        ({"rate": np.float64(0.5), "n": np.int32(3), "on": np.True_}, {"rate": 0.5, "n": 3, "on": True}),
        ({"deep": {"b": {"y": 1, "x": 2}}}, {"deep": {"b": {"x": 2, "y": 1}}}),
    ],
)
def test_the_same_parameters_give_the_same_name(one: Any, other: Any) -> None:
    assert digest(one) == digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": "1"}),
        ({"a": None}, {}),
        ({"a": []}, {"a": {}}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": {"b": 1}}, {"a.b": 1}),
        ({"a": "é"}, {"a": "e\u0301"}),
    ],
)
def test_other_parameters_give_another_name(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_the_name_and_the_source_count() -> None:
    assert len({digest({}), digest({}, "fma"), digest({}, source="00"), digest({}, source="01")}) == 4


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), _values, max_size=4), st.randoms())
def test_the_order_of_keys_never_counts(params: dict[str, Any], chance: Any) -> None:
    keys = list(params)
    chance.shuffle(keys)
    assert digest({key: params[key] for key in keys}) == digest(params)
    assert canonical(canonical(params)) == canonical(params)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"a": np.zeros(3)}, "params.a is a ndarray"),
        ({"a": [1, {"b": print}]}, "params.a[1].b is a builtin_function_or_method"),
        ({"a": math.nan}, "params.a is nan"),
        ({"a": {1: 2}}, "params.a has the key 1"),
        ({"a": b"x"}, "params.a is a bytes"),
        ([1], "not a list"),
    ],
)
def test_what_cannot_name_a_cache_is_refused_by_its_path(params: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        canonical(params)
    assert said in str(error.value)


def test_a_circle_is_refused() -> None:
    round: dict[str, Any] = {}
    round["a"] = round
    with pytest.raises(InvalidRequest, match="more than 32 deep"):
        canonical(round)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "é", "a\n", "-x", "x" * 101, "a\0"])
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot name a cache"):
        check_name(name)
    assert not ID.fullmatch(id_of(name, "0" * 64))


# -- pruning -----------------------------------------------------------------------------------------------------------


def entry(id: str, used: float, size: int = 100, uid: int = 1000, leased: bool = False) -> Entry:
    return Entry(id, id, uid, {"bytes": size}, 100 * DAY - used * DAY, leased)


def pruned(*found: Entry, needed: set[str] = frozenset(), uid: int = 1000, **limits: Any) -> list[str]:  # type: ignore[assignment]
    limits = {"keep": None, "unused": None, **limits}
    return [one.id for one in to_prune(found, 100 * DAY, needed=needed, uid=uid, **limits)]


A, B, C = entry("a", 50), entry("b", 20), entry("c", 1)


def test_without_a_limit_nothing_goes() -> None:
    assert pruned(A, B, C) == []


def test_those_used_longest_ago_go_until_the_rest_fits() -> None:
    assert pruned(C, A, B, keep=300) == []
    assert pruned(C, A, B, keep=299) == ["a"]
    assert pruned(C, A, B, keep=100) == ["a", "b"]
    assert pruned(C, A, B, keep=0) == ["a", "b", "c"]


def test_those_not_used_for_so_long_go() -> None:
    assert pruned(A, B, C, unused=20 * DAY) == ["a", "b"]
    assert pruned(A, B, C, unused=21 * DAY) == ["a"]
    assert pruned(A, B, C, unused=21 * DAY, keep=100) == ["a", "b"]


def test_what_is_in_use_or_waited_for_never_goes() -> None:
    assert pruned(entry("a", 50, leased=True), B, C, keep=0, unused=0.0) == ["b", "c"]
    assert pruned(A, B, C, needed={"b"}, keep=0, unused=0.0) == ["a", "c"]
    # It takes its room all the same.
    assert pruned(entry("a", 50, leased=True), B, C, keep=200) == ["b"]


def test_another_users_are_neither_removed_nor_counted_unless_by_root() -> None:
    theirs = entry("a", 50, uid=1001)
    assert pruned(theirs, B, C, keep=200) == []
    assert pruned(theirs, B, C, keep=0) == ["b", "c"]
    assert pruned(theirs, B, C, keep=200, uid=0) == ["a"]
