"""An attempt's container, made from its launch and compared with it: as the engine says, and as the kernel shows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from runnersd.environment import CODE
from runnersd.machine import LaunchFailed
from runnersd.machine.docker import body, devices, gate, kernel, nesting, paths, rights
from runnersd.machine.docker.aside import aside
from runnersd.machine.docker.asuser import as_user
from runnersd.machine.docker.errors import Conflict, NotFound, Refused
from runnersd.machine.docker.gate import Gate
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.model import ContainerSpec, Launch, RunName


class Making:
    """Makes the container of one launch."""

    def __init__(
        self, run: RunName, launch: Launch, around: Surroundings, gate: Gate, staged_as: str | None = None
    ) -> None:
        """``staged_as`` is its name where it is made early."""
        self._run, self._launch, self._around, self._gate = run, launch, around, gate
        self._staged_as = staged_as
        self.surely_waits = False  #: at its gate, whatever its image holds; known once it has been made
        self._found: list[paths.Found] = []
        self._places: Mapping[str, str] = {}  #: where in its image its mounts lie
        self._completed: Launch | None = None
        self._body: dict[str, Any] | None = None
        self._verified: str | None = None
        self._made: str | None = None

    async def create(self) -> tuple[str, bool]:
        """Have the engine make it: its id, and whether it waits at a gate.

        Raises:
            LaunchFailed: it cannot be made: a mount is refused, the image is gone, the name taken.
            EngineError: the engine did not answer.
        """
        launch, spec = await self._complete()
        try:
            entry = await self._around.entry(spec.image)
            if entry == "plain" and launch.submitter is not None and launch.cwd != CODE:
                raise LaunchFailed(f"cannot run in {launch.cwd}: that takes a shell, which the image does not have")
            self.surely_waits = entry == "static"
            return await self._ask(launch, entry), entry != "plain"
        except (Refused, NotFound) as error:
            raise LaunchFailed(str(error)) from error

    async def verify(self, container: str) -> bool:
        """Compare what the engine says that it made with what it was asked for. False when that was another daemon's
        making: then it can be thrown away, and made anew.

        Raises:
            LaunchFailed: they differ.
            EngineError: the engine did not answer.
        """
        if self._body is None:
            return False
        if self._verified != container:
            seen = await self._around.connection.inspect(container)
            if container != self._made and not body.is_that(seen, self._run, self._body):
                return False  # what was there when that one was asked for may have been otherwise
            wrong = body.differences(self._body, seen)
            if wrong:
                raise LaunchFailed(f"the engine made its container otherwise than asked: {'; '.join(wrong[:5])}")
            self._verified = container
        return True

    async def difference(self, pid: int) -> str | None:
        """What the container whose first process is ``pid`` has otherwise than asked, in a sentence; None if nothing.

        Raises:
            LaunchFailed: a mount cannot be had any more.
        """
        _, spec = await self._complete()
        rootless, found, places = self._around.rootless, self._found, self._places

        def look() -> str | None:
            wrong = None if rootless else rights.difference(pid, spec.uid, spec.gid, spec.groups)
            return wrong or devices.difference(pid, spec.minors) or paths.mismatch(pid, found, places)

        try:
            return await aside("its file system", look)
        except PermissionError as error:
            # Another user's process: only root may look into it.
            return f"it cannot be looked into: {error.strerror}" if os.geteuid() == 0 else None
        except (TimeoutError, OSError) as error:
            if kernel.is_leaving(pid):
                return None  # it has ended meanwhile, which the next look shows
            return f"it cannot be looked into: {error}"

    async def _complete(self) -> tuple[Launch, ContainerSpec]:
        """The launch with its mounts looked up and its groups sifted."""
        if self._completed is None:
            spec = self._launch.container
            assert spec is not None, "a container's launch has a container"
            self._found = await self._resolve(spec)
            gid, groups = await self._sifted(spec)
            if self._around.gated:
                await self._look_into(spec, groups)
            spec = replace(
                spec,
                mounts=tuple(found.mount for found in self._found),
                masked=tuple(f"{found.mount.target}/{path}" for found in self._found for path in found.masked),
                gid=gid,
                groups=groups,
            )
            if self._around.rootless:
                if self._launch.submitter is not None:
                    raise LaunchFailed(
                        "the container engine runs as a user, and so cannot run jobs as who submits them"
                    )
                spec = replace(spec, uid=0, gid=0, groups=())  # the engine's root is its user
            self._completed = replace(self._launch, container=spec)
        assert self._completed.container is not None
        return self._completed, self._completed.container

    async def _sifted(self, spec: ContainerSpec) -> tuple[int, tuple[int, ...]]:
        """The groups that it keeps of its submitter's."""
        if self._launch.submitter is None:
            return spec.gid, ()
        try:
            return await aside("the group database", partial(rights.sifted, spec.uid, spec.gid, spec.groups))
        except TimeoutError as error:
            raise LaunchFailed(f"cannot look up its groups: {error}") from error

    async def _look_into(self, spec: ContainerSpec, groups: Sequence[int]) -> None:
        """Make sure that nothing in the image leads its mounts astray, or makes other groups of its numbers."""
        what = f"cannot use the image {spec.image.name}"
        interiors, targets = self._around.interiors, [found.mount.target for found in self._found]
        try:
            leads = await interiors.places(
                spec.image, [gate.INSIDE, nesting.INIT, spec.home, *targets, *spec.image.volumes]
            )
            names = await interiors.groups(spec.image) if groups else frozenset()
        except (Refused, NotFound) as error:
            raise LaunchFailed(f"{what}: {error}") from error
        wrong = nesting.astray(leads, targets, spec.home, spec.image.volumes)
        if wrong is not None:
            raise LaunchFailed(f"{what}: {wrong}")
        confused = sorted({str(group) for group in groups} & names)
        if confused:
            raise LaunchFailed(f"{what}: its /etc/group has the name {confused[0]}, which is taken for a number")
        self._places = nesting.landed(leads, [*targets, spec.home])

    async def _resolve(self, spec: ContainerSpec) -> list[paths.Found]:
        """Look its mounts up, with the rights of its submitter."""
        who = self._launch.submitter
        allowed, private = spec.allowed, self._around.private

        def look() -> list[paths.Found]:
            return nesting.arranged(paths.resolve(spec.mounts, allowed=allowed, private=private))

        uid, groups = (spec.uid, who.groups) if who is not None else (None, ())
        try:
            return await aside("the file system of its directories", partial(as_user, look, uid, spec.gid, groups))
        except TimeoutError as error:
            raise LaunchFailed(f"cannot look up its mounts: {error}") from error

    async def _ask(self, launch: Launch, entry: body.Entry) -> str:
        assert launch.container is not None
        around, connection = self._around, self._around.connection
        if entry != "plain":
            self._gate.build()
            await around.furnish(self._gate, entry)
        self._body = body.body(launch, how=around.state.cards, runc=around.runc, entry=entry,
                               gate_folder=str(self._gate.folder), staged=self._staged_as is not None)  # fmt: skip
        name = self._staged_as or body.name_of(self._run)
        try:
            self._made = await connection.create(name, self._body)
            return self._made
        except (Conflict, Refused, NotFound) as error:
            # Made by an earlier call that was not answered, or by this one, whatever was answered. One that is this
            # attempt's and yet otherwise than asked now does not pass `verify`.
            try:
                seen = await connection.inspect(name)
            except NotFound:
                raise error from None
            if body.is_that(seen, self._run):
                return str(seen["Id"])
            raise LaunchFailed(f"cannot make its container: the name {name} belongs to another one") from None
