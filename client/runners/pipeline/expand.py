"""Walks through a pipeline file: nested files taken in, entries named, defaults merged under; jobs are made of each.

What comes out is the document that :mod:`runners.pipeline.schema` reads, and for each of its values the place in the
file it came from, so that the schema's complaints name a line. Reading files is left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from runners.pipeline import fields, schema
from runners.pipeline.checking import WRONG, Check, Path, shown
from runners.pipeline.jobs import Jobs
from runners.pipeline.library import Document, Library, ReadFile
from runners.pipeline.needs import Group
from runners.pipeline.reader import Listing, Node, Scalar, Table
from runners.pipeline.values import Origin, Place, SourceMap, Value, merged, plain, read_values
from runners.spec import Need

#: Files within files within files.
MAX_NESTING: Final = 30
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
        self.source = SourceMap()
        self.check = Check(now, self.source.locate)
        self.library = Library(read_file, directories, self.check.add)
        self.jobs = Jobs(self.check, self.source)
        self.document: dict[str, Any] = {}
        self.scripts = False  #: whether any job has a `script`
        self._script_args = script_args

    def run(self, file: str) -> None:
        """Walk it all.

        Raises:
            OSError: the outermost file cannot be read.
            Enough: there is too much wrong, or too much of it all, to go on.
        """
        root = self.library.open(file)
        keys = self._file(_Scope((root,), "", {}, []), [])
        self.source.entry = Origin(Place(file, 1), keys)
        made = self.jobs.document()
        name = keys["name"].plain if "name" in keys else None
        self.document = {
            "name": (PurePath(file).stem.strip() or "pipeline") if name is None else name,
            "num_jobs": keys["num_jobs"].plain if "num_jobs" in keys else schema.DEFAULT_NUM_JOBS,
            **made,
        }

    # -- files --------------------------------------------------------------------------------------------------------

    def _file(self, scope: _Scope, groups: list[Group]) -> dict[str, Value]:
        """Walk one file. Gives the keys of the file itself; ``groups`` gets what it holds."""
        document, root = scope.document, scope.document.root
        if root is None:
            self.jobs.lack(scope.prefix)
            return {}
        if isinstance(root, Listing):
            self._walk(scope, root, (), groups)
            return {}
        if not isinstance(root, Table):
            top = Place(document.file, 1)
            self.jobs.wrong(
                top, f"expected a mapping with `jobs`, or a list of jobs, found {shown(plain(root))}", scope.prefix
            )
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
        self.source.entry = Origin(Place(file, root.line), keys)
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
            self.jobs.lack(scope.prefix)
            unknown = [name for name in root.entries if name not in schema.PIPELINE_KEYS]
            if not any(self.check.nearest(name, ["jobs", *schema.WORK_KEYS]) for name in unknown):
                what = "no `jobs`: expected a list of jobs, or one job with `command`, `script` or `pipeline`"
                self.check.add(Place(file, root.line).problem(what))
            return keys
        line, node = root.entries["jobs"]
        if isinstance(node, Listing):
            self._walk(scope, node, ("jobs",), groups, line)
        else:
            self.jobs.wrong(
                Place(file, line, ("jobs",)), f"expected a list of jobs, found {shown(plain(node))}", scope.prefix
            )
        return keys

    def _unknown_key(self, name: str, place: Place, allowed: Sequence[str]) -> None:
        """A key that is not one of a file, or of an item; most of those belong to a job."""
        if name in schema.JOB_KEYS or name == "matrix":
            hint = "it is a key of a job; what all jobs share goes into `defaults`"
            self.check.add(place.problem(f"unknown key {shown(name)} here: {hint}; allowed: {', '.join(allowed)}"))
            return
        self.source.entry = Origin(place._replace(path=place.path[:-1]), {})
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
        self.source.entry = Origin(place, values)
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
            self.jobs.wrong(
                Place(file, line or jobs.line, path or ()),
                "expected at least one job, found an empty list",
                scope.prefix,
            )
            return
        if len(jobs.items) > schema.MAX_JOBS:
            most = f"{len(jobs.items)} jobs; at most {schema.MAX_JOBS} fit into one pipeline"
            self.jobs.wrong(Place(file, line or jobs.line, path or ()), most, scope.prefix)
            return
        self.jobs.spend(len(jobs.items), Place(file, jobs.line, path or ()))
        entries: list[tuple[Place, dict[str, Value]]] = []
        for position, node in enumerate(jobs.items):
            place = Place(file, node.line, () if path is None else (*path, position))
            if isinstance(node, Table):
                entries.append((place, read_values(file, node, place.path)))
            else:
                self.jobs.wrong(place, f"expected a mapping of job keys, found {shown(plain(node))}", scope.prefix)
        names = self._names(entries, scope)
        for (place, own), name in zip(entries, names, strict=True):
            if "pipeline" in own:
                groups.append(self._item(scope, place, own, name, groups))
            else:
                origin = Origin(place, self._with_defaults(scope, place, own))
                groups.append(self.jobs.add(origin, name, scope.prefix, scope.needs, groups))

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
                self.source.entry = Origin(place, own)
                name = fields.plain_name(name, self.check, ("entry", "name"))
                if name is WRONG:  # needs may mean it by that name all the same
                    self.jobs.lack(scope.prefix + (value.plain if isinstance(value.plain, str) else ""))
                    name = None
                elif seen.setdefault(name, value.place) is not value.place:
                    line = seen[name].line
                    self.check.add(value.place.problem(f"the name {shown(name)} is taken already, in line {line}"))
                    name = None
            given.append(name)
            source = own if any(key in own for key in schema.WORK_KEYS) else scope.defaults
            work = next((source[key].plain for key in ("pipeline", "script", "command") if key in source), None)
            if "pipeline" in own and isinstance(work, str):
                work = "-".join(PurePath(work).stem.split())
            derived.append(schema.derived_name(work))
        return schema.fill_names(given, derived)

    def _item(self, scope: _Scope, place: Place, own: dict[str, Value], name: str, above: Sequence[Group]) -> Group:
        """An entry that takes in another file."""
        outer = {key: value for key, value in scope.defaults.items() if key in _OF_THE_ITEM}
        values = merged(outer, own)
        origin = self.source.entry = Origin(place, values)
        for key, value in own.items():
            if key in ("command", "script"):
                self.check.add(place.problem(f"expected exactly one of {_WORK}, found `pipeline` and `{key}`"))
            elif key not in schema.ITEM_KEYS:
                self._unknown_key(key, value.place, schema.ITEM_KEYS)
        self.source.entry = origin
        blocking, tolerant = (
            key in values and schema.JOB_KEYS[key].read(values[key].plain, self.check, ("entry", key)) is True
            for key in ("blocking", "allow_failure")
        )
        self.jobs.spend(10, place)
        group = self.jobs.item(scope.prefix + name, tolerant)
        needs = [*scope.needs, *self.jobs.needs(origin, {}, scope.prefix, above, named=True)]
        inner = self._opened(scope, values["pipeline"], name)
        if inner is not None:
            under = {key: value for key, value in scope.defaults.items() if key not in _OF_THE_ITEM}
            first = len(self.jobs)
            self._file(_Scope((*scope.chain, inner), f"{group.name}.", under, needs), group.members)
            if blocking and len(self.jobs) > first:
                self.jobs.barrier(first, "finished" if tolerant else "success")
        return group

    def _opened(self, scope: _Scope, value: Value, name: str) -> Document | None:
        """The file that an item names, relative to the file that names it."""
        path = value.plain
        if not isinstance(path, str) or not path.strip() or not fields.is_text(path):
            self.jobs.wrong(
                value.place, f"expected the path of a pipeline file, found {shown(path)}", scope.prefix + name
            )
            return None
        if len(scope.chain) >= MAX_NESTING:
            self.jobs.wrong(value.place, f"files nested more than {MAX_NESTING} deep", scope.prefix + name)
            return None
        try:
            document = self.library.open(path, beside=scope.document)
        except OSError as error:
            self.jobs.wrong(value.place, f"cannot read {shown(path)}: {error.strerror or error}", scope.prefix + name)
            return None
        if any(document.identity == other.identity for other in scope.chain):
            chain = " -> ".join([*(other.file for other in scope.chain), document.file])
            self.jobs.wrong(value.place, f"a circle of files: {chain}", scope.prefix + name)
            return None
        return document
