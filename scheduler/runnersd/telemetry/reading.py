"""Reads a series back: whole, or as means over equal spans of time. It needs zarr: only the child imports it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from zarr.errors import BaseZarrError

from runnersd.telemetry.layout import AT, OF_CARDS, VERSION, Attempt
from runnersd.telemetry.series import Column, quantities
from runnersd.telemetry.storage import Folder

#: Tries at a series that is replaced or taken away while it is read.
TRIES = 3
#: What zarr and its codecs raise for a chunk that is not whole.
_BROKEN = (RuntimeError, ValueError, OSError)


class Unreadable(Exception):
    """The group is not one of ours, or broken; the message says which."""


@dataclass(frozen=True, slots=True)
class Series:
    """What is kept of an attempt: what its group says of itself, and its columns, all of the same length."""

    about: dict[str, Any]
    columns: dict[str, Column]

    @property
    def cards(self) -> list[dict[str, Any]]:
        """The attempt's cards, in the order of the columns."""
        return cast("list[dict[str, Any]]", self.about["cards"])


def load(root: Path, attempt: Attempt) -> Series | None:
    """The series of an attempt; None where there is none, or none yet.

    Raises:
        Unreadable: there is something else.
    """
    path = attempt.path(root)
    for _ in range(TRIES):
        about = _about(path)
        if about is None or about["rows"] == 0:
            return None
        try:
            columns = dict(_columns(path, about))
        except (KeyError, FileNotFoundError, BaseZarrError) as error:
            if _holds(_about(path), about):
                raise Unreadable(f"{path}: {error}") from error
            continue
        # Files that are taken away meanwhile look like rows of which nothing is known.
        if _holds(_about(path), about):
            return Series(about, columns)
    raise Unreadable(f"{path}: it is replaced again and again")


def _holds(now: dict[str, Any] | None, about: dict[str, Any]) -> bool:
    return now is not None and now["held_in"] == about["held_in"]


def _about(path: Path) -> dict[str, Any] | None:
    """What a group says of itself."""
    try:
        text = (path / "zarr.json").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        about = json.loads(text)["attributes"]
        if about == {}:
            return None  # it is just being made
        if about["version"] != VERSION:
            raise Unreadable(f"{path}: its version is {about['version']}, and this one knows {VERSION}")
        return {**about, "rows": int(about["rows"]), "cards": list(about["cards"]), "held_in": str(about["held_in"])}
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(f"{path}: it is no series of telemetry ({error!r})") from error


def _columns(path: Path, about: dict[str, Any]) -> Iterator[tuple[str, Column]]:
    rows = about["rows"]
    held = cast("zarr.Group", zarr.open_group(Folder(path, read_only=True), mode="r")[about["held_in"]])
    for one in quantities(len(about["cards"])):
        yield one.name, _column(cast("zarr.Array[Any]", held[one.name]), rows)


def _column(array: zarr.Array[Any], rows: int) -> Column:
    try:
        return np.asarray(array[:rows])
    except _BROKEN:
        pass  # some chunk is not whole; the others are
    found = np.full((rows, *array.shape[1:]), np.nan, array.dtype)
    for start in range(0, rows, array.chunks[0]):
        end = min(start + array.chunks[0], rows)
        try:
            found[start:end] = array[start:end]
        except _BROKEN:
            continue  # the machine lost its power while this was written
    return found


def thinned(series: Series, points: int) -> dict[str, Column]:
    """Its columns, of at most so many rows: means of what is known over equal spans of time. `at` is a span's middle.

    Spans without a sample are left out.
    """
    at = series.columns[AT.name]
    timed = np.isfinite(at)
    columns = {name: column[timed] for name, column in series.columns.items()}
    at = columns[AT.name]
    if len(at) <= points:
        return columns
    first, last = at.min(), at.max()
    width = (last - first) / points or 1.0
    place = np.clip(((at - first) / width).astype(np.int64), 0, points - 1)
    used, place = np.unique(place, return_inverse=True)
    found = {name: means(column, place, len(used)) for name, column in columns.items() if name != AT.name}
    return {AT.name: first + (used + 0.5) * width, **found}


def means(column: Column, place: np.ndarray[Any, np.dtype[np.int64]], spans: int) -> Column:
    """The mean of the known numbers of each span; ``place`` says which span a row is in."""
    flat = column.reshape(len(column), -1).astype("f8")
    known = np.isfinite(flat)
    found = np.full((spans, flat.shape[1]), np.nan)
    for card in range(flat.shape[1]):
        here = known[:, card]
        count = np.bincount(place[here], minlength=spans)
        total = np.bincount(place[here], weights=flat[here, card], minlength=spans)
        np.divide(total, count, out=found[:, card], where=count > 0)
    return found.reshape(spans, *column.shape[1:])


def answer(root: Path, attempt: Attempt, points: int) -> bytes:
    """What `GET /v1/jobs/ID/telemetry` says of an attempt's series, as JSON: `every`, `at`, `gpus`, `process`.

    Raises:
        Unreadable: as `load`.
    """
    series = load(root, attempt)
    if series is None:
        return b"{}"
    columns = thinned(series, points)
    gpus = [
        {**card, **{one.name: _told(columns[one.name][:, place]) for one in OF_CARDS}}
        for place, card in enumerate(series.cards)
    ]
    process = {"memory": _told(columns["process_memory"]), "cpu": _told(columns["process_cpu"])}
    found = {"every": series.about["every"], "at": _told(columns[AT.name]), "gpus": gpus, "process": process}
    return json.dumps(found, separators=(",", ":"), allow_nan=False).encode()


def _told(column: Column) -> list[float | None]:
    rounded = np.round(column.astype("f8"), 3)
    return [number if number == number else None for number in rounded.tolist()]
