"""The jobs of a document in the making: an entry of a file becomes one, or one for each combination of its matrix.

Names get the prefix of the items around them, and needs are written out under such names once all items are known. How
much may be made at all is counted here too. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from runners.pipeline import fields, schema
from runners.pipeline.checking import WRONG, Check, Enough, Path
from runners.pipeline.matrix import Combination, combinations, filled, label
from runners.pipeline.needs import Group, Groups
from runners.pipeline.reader import Scalar
from runners.pipeline.values import Origin, Place, SourceMap, Value, weight
from runners.spec import Need

#: Entries walked and needs written out, over all files; a bound on time. Taking in a file counts for ten.
_MAX_WORK: Final = 300_000
#: Characters of all jobs together: the daemon takes no more than this in one request.
_MAX_CHARACTERS: Final = 8 << 20


class Jobs:
    """What the walk has made so far, in the order of the files."""

    def __init__(self, check: Check, source: SourceMap) -> None:
        """``check`` is told of mistakes, and ``source`` where each job comes from."""
        self.combinations: list[dict[str, Any]] = []  #: of each job's matrix: the values by key
        self.missing: list[str] = []  #: full names below which jobs could not be made; an empty one means anywhere
        self._check = check
        self._source = source
        self._jobs: list[dict[str, Any]] = []
        self._entries: list[Origin] = []  #: one an entry, or a job where its needs are its own
        self._barriers: list[dict[str, Any]] = []
        self._groups = Groups()
        self._items: list[str] = []
        self._work = 0
        self._characters = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def document(self) -> dict[str, Any]:
        """The part of the document that is about jobs, when all have been made."""
        self._write_needs()
        return {"jobs": self._jobs, "barriers": self._barriers, "items": self._items}

    # -- what is too much, or not to be had --------------------------------------------------------------------------

    def spend(self, work: int, place: Place) -> None:
        """Count work; raises :class:`Enough` when it is too much."""
        self._work += work
        if self._work > _MAX_WORK:
            self._check.add(place.problem("the pipeline is too large: its files and needs multiply past all bounds"))
            raise Enough

    def lack(self, name: str) -> None:
        """The jobs of that full name cannot be made. The prefix of an item, or nothing, is for any within it."""
        self.missing.append(name.rstrip("."))

    def wrong(self, place: Place, message: str, name: str) -> None:
        """Note a mistake for which the jobs of that full name cannot be made, as :meth:`lack` has it."""
        self.lack(name)
        self._check.add(place.problem(message))

    # -- entries ------------------------------------------------------------------------------------------------------

    def item(self, name: str, tolerant: bool) -> Group:
        """Make the full name of an item known to needs; ``tolerant`` when it has `allow_failure`."""
        self._items.append(name)
        return self._groups.add(name, tolerant)

    def barrier(self, first: int, on: str) -> None:
        """Let whatever comes next wait for the jobs from position ``first`` to the last one made."""
        self._barriers.append({"first": first, "last": len(self._jobs) - 1, "on": on})

    def add(
        self, origin: Origin, name: str, prefix: str, outer: Sequence[tuple[Need, Place]], above: Sequence[Group]
    ) -> Group:
        """The jobs of one entry: one, or one for each combination of its matrix. They are known to needs from then on.

        ``prefix`` and ``outer`` are the name and the needs of the items around it, and ``above`` the entries before it
        in its file.
        """
        self._source.entry = origin
        found = self._combinations(origin, prefix + name)
        if not found:
            self._read_all_the_same(origin)
        values = {key: value for key, value in origin.values.items() if key not in ("matrix", "needs")}
        static = {key: value.plain for key, value in values.items() if not value.dynamic}
        dynamic = [(key, value) for key, value in values.items() if value.dynamic]
        blocks = len(found) > 1 and static.get("blocking") is True
        if blocks:
            del static["blocking"]  # its jobs do not wait for one another: one barrier stands after them all
        same = weight(static)
        first = len(self._jobs)
        for combination in found:
            job = dict(static)
            for key, value in dynamic:
                job[key] = self._filled(key, value, combination)
                self._characters += weight(job[key])
            own = job["name"] if "name" in values and values["name"].dynamic else name + label(combination)
            job["name"] = f"{prefix}{own}"
            self._jobs.append(job)
            self.combinations.append({key: scalar.value for key, scalar in combination.items()})
            wanted = origin.values.get("needs")
            if combination is found[0] or (wanted is not None and wanted.dynamic):
                named = bool(prefix) or len(found) > 1  # jobs of one matrix are not above each other
                needs = [*outer, *self.needs(origin, combination, prefix, above, named)]
                self.spend(len(needs), origin.place)
                origin = Origin(origin.place, origin.values, needs)
                self._entries.append(origin)
            self._source.origins.append(origin)
            self._characters += same + len(job["name"])
            if len(self._jobs) > schema.MAX_JOBS or self._characters > _MAX_CHARACTERS:
                most = f"{schema.MAX_JOBS} jobs, or {_MAX_CHARACTERS >> 20} MiB of them, are the most that can be sent"
                self._check.add(origin.place.problem(f"the pipeline is too large: {most}"))
                raise Enough
        if blocks:
            self.barrier(first, "success")
        whole = "name" in values and values["name"].dynamic
        return self._groups.add(prefix + name, jobs=[job["name"] for job in self._jobs[first:]] if whole else ())

    def _combinations(self, origin: Origin, name: str) -> list[Combination]:
        """Those of an entry's matrix; a single empty one for an entry without, none when the matrix is wrong."""
        matrix = origin.values.get("matrix")
        if matrix is None or (isinstance(matrix.node, Scalar) and matrix.node.value is None):
            return [{}]
        place = matrix.place

        def wrong(message: str, line: int, rest: Path) -> None:
            self.wrong(Place(place.file, line, (*place.path, *rest)), message, name)

        return combinations(matrix.node, place.line, schema.MAX_JOBS, wrong)

    def _read_all_the_same(self, origin: Origin) -> None:
        """Look for mistakes in an entry whose matrix is wrong, of which no job can be made."""
        plain = {key: value.plain for key, value in origin.values.items() if key not in ("matrix", "name")}
        dynamic = {key for key, value in origin.values.items() if value.dynamic}
        schema.read_keys(plain, self._check, ("entry",), dynamic)

    def _filled(self, key: str, value: Value, combination: Combination) -> Any:
        known = schema.JOB_KEYS.get(key)

        def wrong(message: str, path: Path) -> None:
            place = value.member(path[0]) if path else value.place
            self._check.add(place.problem(message, *path[1:]))

        return filled(value.plain, combination, known is not None and not known.as_written, wrong)

    # -- needs --------------------------------------------------------------------------------------------------------

    def needs(
        self, origin: Origin, combination: Combination, prefix: str, above: Sequence[Group], named: bool
    ) -> list[tuple[Need, Place]]:
        """What an entry needs, under the full names. ``named``: `all` is each of the entries above, by its name."""
        value = origin.values.get("needs")
        if value is None or value.plain is None:
            return []
        self._source.entry = origin
        found = fields.needs(self._filled("needs", value, combination), self._check, ("entry", "needs"))
        if found is WRONG:
            return []
        aligned = isinstance(value.plain, list) and len(value.plain) == len(found)
        out: list[tuple[Need, Place]] = []
        for position, need in enumerate(found):
            place = value.member(position) if aligned else value.place
            written = self._groups.written_out(need, prefix, named, above)
            self.spend(len(written), place)
            out += [(full, place) for full in written]
        return out

    def _write_needs(self) -> None:
        """Put the needs into the jobs, once all items are known."""
        written: dict[int, list[dict[str, str]]] = {}
        for origin in self._entries:
            origin.needs = self._groups.settled(origin.needs)
            self.spend(len(origin.needs), origin.place)
            written[id(origin)] = [{"job": need.job, "on": need.on} for need, _ in origin.needs]
        for job, origin in zip(self._jobs, self._source.origins, strict=True):
            if written[id(origin)]:
                job["needs"] = written[id(origin)]
