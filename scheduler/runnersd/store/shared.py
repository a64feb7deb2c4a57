"""Equal values kept once: a queue of thousands of alike jobs holds one environment, one user, one image name."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from runners.spec import JobSpec

T = TypeVar("T", bound=Hashable)

#: Past this many it starts afresh, so that it cannot grow for ever; values in use stay where they are.
_MOST = 20_000
#: A job's keys whose values tend to be alike, and are worth a look.
_ALIKE = ("image", "gpu_model", "gpu_capability", "workdir", "experiment", "notify", "gpus", "mounts", "needs")


class Shared:
    """Gives one object for all equal ones. Not for use by two threads at once."""

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}

    def value(self, value: T) -> T:
        """The first of all values equal to this one."""
        if len(self._values) >= _MOST:
            self._values.clear()
        found: T = self._values.setdefault((type(value), value), value)
        return found

    def mapping(self, mapping: Mapping[str, str]) -> Mapping[str, str]:
        """The first of all mappings equal to this one. Nobody may change it."""
        if len(self._values) >= _MOST:
            self._values.clear()
        found: Mapping[str, str] = self._values.setdefault(("mapping", tuple(sorted(mapping.items()))), mapping)
        return found

    def spec(self, spec: JobSpec) -> JobSpec:
        """The same job with its alike values shared."""
        changes: dict[str, Any] = {}
        for name in _ALIKE:
            value = getattr(spec, name)
            if value:
                shared = self.value(value)
                if shared is not value:
                    changes[name] = shared
        if spec.env:
            environment = self.mapping(spec.env)
            if environment is not spec.env:
                changes["env"] = environment
        return replace(spec, **changes) if changes else spec
