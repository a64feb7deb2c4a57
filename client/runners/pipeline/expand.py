"""Makes one walk of jobs out of a pipeline file: nested files taken in, matrices multiplied, defaults merged under.

What comes out is the document that :mod:`runners.pipeline.schema` reads, and for each of its values the place in the
file it came from, so that the schema's complaints name a line. Reading files is left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from runners.errors import Problem
from runners.pipeline import fields, schema
from runners.pipeline.checking import WRONG, Check, Enough, Path, shown
from runners.pipeline.library import Document, Library, ReadFile
from runners.pipeline.matrix import Combination, combinations, filled, label
from runners.pipeline.needs import Group, Groups
from runners.pipeline.reader import Listing, Node, Scalar, Table
from runners.pipeline.values import Origin, Place, Value, merged, plain, read_values, weight
from runners.spec import Need

#: Files within files within files.
MAX_NESTING: Final = 30
#: Entries walked and needs written out, over all files; a bound on time. Taking in a file counts for ten.
_MAX_WORK: Final = 300_000
#: Characters of all jobs together: the daemon takes no more than this in one request.
_MAX_CHARACTERS: Final = 8 << 20
_WORK: Final = "`command`, `script` and `pipeline`"
#: Keys of `defaults` that are about an item as a whole, and so do not reach into the file it takes in.
_OF_THE_ITEM: Final = ("needs", "blocking", "allow_failure")


@dataclass(slots=True)
class _Scope:
    """One file on the way down: the chain of files to it, the names' prefix, and what holds for all of it."""

    chain: tuple[Document, ...]
    prefix: str
    defaults: dict[str, Value]
    needs: list[tuple[Need, Place]]

    @property
    def document(self) -> Document:
        return self.chain[-1]


class Expansion:
    """The walk through a file and the files it names. :meth:`run` it once; then look at :attr:`document`."""

    def __init__(
        self, read_file: ReadFile, directories: Mapping[str, str], now: float, script_args: Mapping[str, Any]
    ) -> None:
        """``directories`` are the values of `${DATA_DIRECTORY}` and its sisters; ``now`` is Unix seconds. Of what jobs
        with a `script` leave open, and the file's `defaults` too, ``script_args`` say something."""
        self.check = Check(now, self.locate)
        self.library = Library(read_file, directories, self.check.add)
        self.document: dict[str, Any] = {}
        self.missing: list[str] = []  #: full names below which jobs could not be made; an empty one means anywhere
        self.scripts = False  #: whether any job has a `script`
        self.combinations: list[dict[str, Any]] = []  #: of each job's matrix: the values by key
        self._script_args = script_args
        self._jobs: list[dict[str, Any]] = []
        self._origins: list[Origin] = []  #: one a job
        self._entries: list[Origin] = []  #: one an entry
        self._barriers: list[dict[str, Any]] = []
        self._groups = Groups()
        self._items: list[str] = []
        self._entry = Origin(Place("", 1), {})  #: the one being read
        self._work = 0
        self._characters = 0

    def run(self, file: str) -> None:
        """Walk it all.

        Raises:
            OSError: the outermost file cannot be read.
            Enough: there is too much wrong, or too much of it all, to go on.
        """
        root = self.library.open(file)
        keys = self._file(_Scope((root,), "", {}, []), [])
        self._entry = Origin(Place(file, 1), keys)
        self._write_needs()
        name = keys["name"].plain if "name" in keys else None
        self.document = {
            "name": (PurePath(file).stem.strip() or "pipeline") if name is None else name,
            "num_jobs": keys["num_jobs"].plain if "num_jobs" in keys else schema.DEFAULT_NUM_JOBS,
            "jobs": self._jobs,
            "barriers": self._barriers,
            "items": self._items,
        }

    # -- places -------------------------------------------------------------------------------------------------------

    def locate(self, path: Path, message: str) -> Problem:
        """The place in a file of a key path in the document; `entry` stands for the one being read."""
        origin, rest = self._entry, path
        if len(path) > 1 and path[0] == "jobs" and isinstance(path[1], int):
            origin, rest = self._origins[path[1]], path[2:]
            if rest[:1] == ("needs",) and origin.needs:
                return origin.needs[rest[1] if len(rest) > 1 and isinstance(rest[1], int) else 0][1].problem(message)
        elif path[:1] == ("entry",):
            rest = path[1:]
        if rest and isinstance(rest[0], str) and rest[0] in origin.values:
            value = origin.values[rest[0]]
            place = value.member(rest[1]) if len(rest) > 1 else value.place
            return place.problem(message, *rest[2:])
        return origin.place.problem(message, *rest)

    def _wrong(self, place: Place, message: str, scope: _Scope, name: str = "") -> None:
        """A mistake for which the jobs of an entry are missing; without its name, any of the file may be."""
        self.missing.append((scope.prefix + name).rstrip("."))
        self.check.add(place.problem(message))

    def _spend(self, work: int, place: Place) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            self.check.add(place.problem("the pipeline is too large: its files and needs multiply past all bounds"))
            raise Enough

    # -- files --------------------------------------------------------------------------------------------------------

    def _file(self, scope: _Scope, groups: list[Group]) -> dict[str, Value]:
        """Walk one file. Gives the keys of the file itself; ``groups`` gets what it holds."""
        document, root = scope.document, scope.document.root
        if root is None:
            self.missing.append(scope.prefix.rstrip("."))
            return {}
        if isinstance(root, Listing):
            self._walk(scope, root, (), groups)
            return {}
        if not isinstance(root, Table):
            top = Place(document.file, 1)
            self._wrong(top, f"expected a mapping with `jobs`, or a list of jobs, found {shown(plain(root))}", scope)
            return {}
        if self._is_one_job(root):
            keys = {name: entry for name, entry in root.entries.items() if name != "num_jobs"}
            single = Listing(root.line, [Table(root.line, keys)])
            self._walk(scope, single, None, groups)
            return read_values(document.file, root, (), ("name", "num_jobs"))
        return self._pipeline(scope, root, groups)

    def _is_one_job(self, root: Table) -> bool:
        """Whether a file is meant to be a job: it has no `jobs`, but some work to do, perhaps misspelt."""
        if "jobs" in root.entries:
            return False
        unknown = [key for key in root.entries if key not in schema.PIPELINE_KEYS]
        if any(key in schema.WORK_KEYS for key in unknown):
            return True
        near = [self.check.nearest(key, ["jobs", *schema.WORK_KEYS]) for key in unknown]
        return "jobs" not in near and any(near)

    def _pipeline(self, scope: _Scope, root: Table, groups: list[Group]) -> dict[str, Value]:
        """A file with `jobs`."""
        file = scope.document.file
        keys = read_values(file, root, (), ("name", "num_jobs"))
        self._entry = Origin(Place(file, root.line), keys)
        for name, reader in (("name", schema.pipeline_name), ("num_jobs", schema.num_jobs)):
            if name in keys and scope.prefix:  # the outermost file's are checked with the document
                reader(keys[name].plain, self.check, ("entry", name))
        for name, entry in root.entries.items():
            if name not in schema.PIPELINE_KEYS:
                self._unknown_key(name, Place(file, entry.line, (name,)), schema.PIPELINE_KEYS)
        if "defaults" in root.entries:
            line, node = root.entries["defaults"]
            scope.defaults = merged(scope.defaults, self._defaults(Place(file, line, ("defaults",)), node))
        if "jobs" not in root.entries:
            self.missing.append(scope.prefix.rstrip("."))
            unknown = [name for name in root.entries if name not in schema.PIPELINE_KEYS]
            if not any(self.check.nearest(name, ["jobs", *schema.WORK_KEYS]) for name in unknown):
                what = "no `jobs`: expected a list of jobs, or one job with `command`, `script` or `pipeline`"
                self.check.add(Place(file, root.line).problem(what))
            return keys
        line, node = root.entries["jobs"]
        if isinstance(node, Listing):
            self._walk(scope, node, ("jobs",), groups, line)
        else:
            self._wrong(Place(file, line, ("jobs",)), f"expected a list of jobs, found {shown(plain(node))}", scope)
        return keys

    def _unknown_key(self, name: str, place: Place, allowed: Sequence[str]) -> None:
        """A key that is not one of a file, or of an item; most of those belong to a job."""
        if name in schema.JOB_KEYS or name == "matrix":
            hint = "it is a key of a job; what all jobs share goes into `defaults`"
            self.check.add(place.problem(f"unknown key {shown(name)} here: {hint}; allowed: {', '.join(allowed)}"))
            return
        self._entry = Origin(place._replace(path=place.path[:-1]), {})
        self.check.unknown_keys([name], allowed, ())

    def _defaults(self, place: Place, node: Node) -> dict[str, Value]:
        if isinstance(node, Scalar) and node.value is None:
            return {}
        if not isinstance(node, Table):
            self.check.add(place.problem(f"expected a mapping of job keys, found {shown(plain(node))}"))
            return {}
        values = read_values(place.file, node, place.path)
        for name, why in (("name", "names are unique"), ("pipeline", "it would be every job's")):
            if name in values:
                self.check.add(values.pop(name).place.problem(f"`{name}` cannot be in `defaults`: {why}"))
        self._entry = Origin(place, values)
        for name, value in values.items():
            key = schema.JOB_KEYS.get(name)
            if key is None and name != "matrix":
                self.check.unknown_keys([name], [*schema.JOB_KEYS, "matrix"], ("entry",))
            elif key is not None and not value.dynamic and not (value.plain is None and key.nullable):
                key.read(value.plain, self.check, ("entry", name))
        return {name: value for name, value in values.items() if name == "matrix" or name in schema.JOB_KEYS}

    # -- entries ------------------------------------------------------------------------------------------------------

    def _walk(
        self, scope: _Scope, jobs: Listing, path: Path | None, groups: list[Group], line: int | None = None
    ) -> None:
        """The entries of one file, in order. ``path`` is that of the list; None when the file is the only entry."""
        file = scope.document.file
        if not jobs.items:
            self._wrong(
                Place(file, line or jobs.line, path or ()), "expected at least one job, found an empty list", scope
            )
            return
        if len(jobs.items) > schema.MAX_JOBS:
            most = f"{len(jobs.items)} jobs; at most {schema.MAX_JOBS} fit into one pipeline"
            self._wrong(Place(file, line or jobs.line, path or ()), most, scope)
            return
        self._spend(len(jobs.items), Place(file, jobs.line, path or ()))
        entries: list[tuple[Place, dict[str, Value]]] = []
        for position, node in enumerate(jobs.items):
            place = Place(file, node.line, () if path is None else (*path, position))
            if isinstance(node, Table):
                entries.append((place, read_values(file, node, place.path)))
            else:
                self._wrong(place, f"expected a mapping of job keys, found {shown(plain(node))}", scope)
        names = self._names(entries, scope)
        for (place, own), name in zip(entries, names, strict=True):
            if "pipeline" in own:
                groups.append(self._item(scope, place, own, name, groups))
            else:
                self._job(scope, Origin(place, self._with_defaults(scope, place, own)), name, groups)
                groups.append(self._groups.add(scope.prefix + name))

    def _with_defaults(self, scope: _Scope, place: Place, own: dict[str, Value]) -> dict[str, Value]:
        values = merged(scope.defaults, own)
        if "script" not in values:
            return values
        self.scripts = True
        nowhere = Scalar("", None, place.line)
        return merged({key: Value(value, place, nowhere, False) for key, value in self._script_args.items()}, values)

    def _names(self, entries: Sequence[tuple[Place, dict[str, Value]]], scope: _Scope) -> list[str]:
        """A name for each entry of a file, without the prefix of the items around it."""
        given: list[str | None] = []
        derived: list[str] = []
        seen: dict[str, Place] = {}
        for place, own in entries:
            value = own.get("name")
            name = value.plain if value is not None else None
            if value is not None and name is not None and not value.dynamic:
                self._entry = Origin(place, own)
                name = fields.plain_name(name, self.check, ("entry", "name"))
                if name is WRONG:
                    self.missing.append(scope.prefix.rstrip("."))
                    name = None
                elif seen.setdefault(name, value.place) is not value.place:
                    line = seen[name].line
                    self.check.add(value.place.problem(f"the name {shown(name)} is taken already, in line {line}"))
                    name = None
            given.append(name)
            source = own if any(key in own for key in schema.WORK_KEYS) else scope.defaults
            work = next((source[key].plain for key in ("pipeline", "script", "command") if key in source), None)
            if "pipeline" in own and isinstance(work, str):
                work = PurePath(work).stem
            derived.append(schema.derived_name(work))
        return schema.fill_names(given, derived)

    def _item(self, scope: _Scope, place: Place, own: dict[str, Value], name: str, above: Sequence[Group]) -> Group:
        """An entry that takes in another file."""
        outer = {key: value for key, value in scope.defaults.items() if key in _OF_THE_ITEM}
        values = merged(outer, own)
        origin = self._entry = Origin(place, values)
        for key, value in own.items():
            if key in ("command", "script"):
                self.check.add(place.problem(f"expected exactly one of {_WORK}, found `pipeline` and `{key}`"))
            elif key not in schema.ITEM_KEYS:
                self._unknown_key(key, value.place, schema.ITEM_KEYS)
        self._entry = origin
        blocking, tolerant = (
            key in values and schema.JOB_KEYS[key].read(values[key].plain, self.check, ("entry", key)) is True
            for key in ("blocking", "allow_failure")
        )
        self._spend(10, place)
        group = self._groups.add(scope.prefix + name, tolerant)
        self._items.append(group.name)
        needs = [*scope.needs, *self._needs(scope, origin, {}, above, nested=True)]
        inner = self._opened(scope, values["pipeline"], name)
        if inner is not None:
            under = {key: value for key, value in scope.defaults.items() if key not in _OF_THE_ITEM}
            first = len(self._jobs)
            self._file(_Scope((*scope.chain, inner), f"{group.name}.", under, needs), group.members)
            if blocking and len(self._jobs) > first:
                self._barrier(first, "finished" if tolerant else "success")
        return group

    def _opened(self, scope: _Scope, value: Value, name: str) -> Document | None:
        """The file that an item names, relative to the file that names it."""
        path = value.plain
        if not isinstance(path, str) or not path.strip() or not fields.is_text(path):
            self._wrong(value.place, f"expected the path of a pipeline file, found {shown(path)}", scope, name)
            return None
        if len(scope.chain) >= MAX_NESTING:
            self._wrong(value.place, f"files nested more than {MAX_NESTING} deep", scope, name)
            return None
        try:
            document = self.library.open(path, beside=scope.document)
        except OSError as error:
            self._wrong(value.place, f"cannot read {shown(path)}: {error.strerror or error}", scope, name)
            return None
        if any(document.identity == other.identity for other in scope.chain):
            chain = " -> ".join([*(other.file for other in scope.chain), document.file])
            self._wrong(value.place, f"a circle of files: {chain}", scope, name)
            return None
        return document

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def _job(self, scope: _Scope, origin: Origin, name: str, above: Sequence[Group]) -> None:
        """The jobs of one entry: one, or one for each combination of its matrix."""
        self._entry = origin
        found = self._combinations(scope, origin, name)
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
            job["name"] = f"{scope.prefix}{own}"
            self._jobs.append(job)
            self.combinations.append({key: scalar.value for key, scalar in combination.items()})
            wanted = origin.values.get("needs")
            if combination is found[0] or (wanted is not None and wanted.dynamic):
                needs = [*scope.needs, *self._needs(scope, origin, combination, above, nested=bool(scope.prefix))]
                self._spend(len(needs), origin.place)
                origin = Origin(origin.place, origin.values, needs)
                self._entries.append(origin)
            self._origins.append(origin)
            self._characters += same + len(job["name"])
            if len(self._jobs) > schema.MAX_JOBS or self._characters > _MAX_CHARACTERS:
                most = f"{schema.MAX_JOBS} jobs, or {_MAX_CHARACTERS >> 20} MiB of them, are the most that can be sent"
                self.check.add(origin.place.problem(f"the pipeline is too large: {most}"))
                raise Enough
        if blocks:
            self._barrier(first, "success")

    def _combinations(self, scope: _Scope, origin: Origin, name: str) -> list[Combination]:
        """Those of an entry's matrix; a single empty one for an entry without, none when the matrix is wrong."""
        matrix = origin.values.get("matrix")
        if matrix is None or (isinstance(matrix.node, Scalar) and matrix.node.value is None):
            return [{}]
        place = matrix.place

        def wrong(message: str, line: int, rest: Path) -> None:
            self._wrong(Place(place.file, line, (*place.path, *rest)), message, scope, name)

        return combinations(matrix.node, place.line, schema.MAX_JOBS, wrong)

    def _filled(self, key: str, value: Value, combination: Combination) -> Any:
        known = schema.JOB_KEYS.get(key)

        def wrong(message: str, path: Path) -> None:
            place = value.member(path[0]) if path else value.place
            self.check.add(place.problem(message, *path[1:]))

        return filled(value.plain, combination, known is not None and not known.as_written, wrong)

    def _barrier(self, first: int, on: str) -> None:
        self._barriers.append({"first": first, "last": len(self._jobs) - 1, "on": on})

    # -- needs --------------------------------------------------------------------------------------------------------

    def _needs(
        self, scope: _Scope, origin: Origin, combination: Combination, above: Sequence[Group], nested: bool
    ) -> list[tuple[Need, Place]]:
        """What an entry needs, under the full names."""
        value = origin.values.get("needs")
        if value is None or value.plain is None:
            return []
        self._entry = origin
        found = fields.needs(self._filled("needs", value, combination), self.check, ("entry", "needs"))
        if found is WRONG:
            return []
        aligned = isinstance(value.plain, list) and len(value.plain) == len(found)
        out: list[tuple[Need, Place]] = []
        for position, need in enumerate(found):
            place = value.member(position) if aligned else value.place
            written = self._groups.written_out(need, scope.prefix, nested, above)
            self._spend(len(written), place)
            out += [(full, place) for full in written]
        return out

    def _write_needs(self) -> None:
        """Put the needs into the jobs, once all items are known."""
        written: dict[int, list[dict[str, str]]] = {}
        for origin in self._entries:
            origin.needs = self._groups.settled(origin.needs)
            self._spend(len(origin.needs), origin.place)
            written[id(origin)] = [{"job": need.job, "on": need.on} for need, _ in origin.needs]
        for job, origin in zip(self._jobs, self._origins, strict=True):
            if written[id(origin)]:
                job["needs"] = written[id(origin)]
