"""Who needs whom across files: full names for what an entry needs, and failures that are allowed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from runners.spec import Need

T = TypeVar("T")


@dataclass(slots=True)
class Group:
    """A full name that a need may use: an entry's, and for a nested item what is within it."""

    name: str
    tolerant: bool = False  #: an item with `allow_failure`
    members: list[Group] = field(default_factory=list)
    jobs: Sequence[str] = ()  #: the full names of an entry's jobs, where the matrix says them whole

    @property
    def names(self) -> Sequence[str]:
        """What needs call all that is in it."""
        return self.jobs or (self.name,)

    def tolerates(self) -> bool:
        """Whether a failure of something within is allowed."""
        return self.tolerant or any(member.tolerates() for member in self.members)


class Groups:
    """The groups of a whole pipeline, as the walk comes to them."""

    def __init__(self) -> None:
        self._known: dict[str, Group] = {}
        self._tolerant = False

    def add(self, name: str, tolerant: bool = False, jobs: Sequence[str] = ()) -> Group:
        """Make one known. The first of two with one name counts; the schema refuses the other."""
        group = Group(name, tolerant, jobs=jobs)
        self._known.setdefault(name, group)
        self._tolerant = self._tolerant or tolerant
        return group

    def written_out(self, need: Need, prefix: str, named: bool, above: Sequence[Group]) -> list[Need]:
        """A need as it travels, from one as an entry has it: under full names.

        With ``named``, `all` is every entry ``above`` in its own file, each by its name. So it is where a failure above
        is allowed, since `all` cannot say so.
        """
        if need.job != "all":
            return [Need(prefix + need.job, need.on)]
        if named or (self._tolerant and any(group.tolerates() for group in above)):
            return [Need(name, need.on) for group in above for name in group.names]
        return [need]

    def settled(self, needs: Sequence[tuple[Need, T]]) -> list[tuple[Need, T]]:
        """The needs of an entry when all groups are known, each once, with what came with it (its place)."""
        once: dict[Need, T] = {}
        for wanted, place in needs:
            for need in self._tolerated([wanted]):
                once.setdefault(need, place)
        return list(once.items())

    def _tolerated(self, needs: Iterable[Need]) -> list[Need]:
        """The needs, where one on an item that may fail asks only that its jobs have finished."""
        out: list[Need] = []
        for need in needs:
            group = self._known.get(need.job) if self._tolerant and need.on == "success" else None
            if group is None or not group.tolerates():
                out.append(need)
            elif group.tolerant:
                out.append(Need(need.job, "finished"))
            else:
                out += self._tolerated(Need(name) for member in group.members for name in member.names)
        return out
