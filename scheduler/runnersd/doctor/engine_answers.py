"""Asks a container engine by plain HTTP over its socket, and makes values of its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from runners import transport
from runnersd.doctor.facts import EngineInfo, EngineVersion

#: Bytes of an answer that are read at most; `/info` has some ten thousand.
_MOST = 4 << 20


class NotAnEngine(OSError):
    """What answers is no container engine, or does not answer as one."""


def ask(path: str, target: str, seconds: float) -> Any:
    """The JSON at ``target`` from the engine at the socket ``path``. None for a 404.

    Raises:
        OSError: it does not answer, not within ``seconds`` between two pieces of its answer, or not as an engine would.
    """
    body = bytearray()
    try:
        with transport.exchange(transport.connect(path, seconds), "GET", target) as answer:
            for piece in answer:
                body += piece
                if len(body) > _MOST:
                    raise NotAnEngine(f"its answer to {target} has no end")
    except TimeoutError:
        raise NotAnEngine(f"nothing came for {seconds:g} s") from None
    except (ConnectionAbortedError, ConnectionResetError, BrokenPipeError):
        raise NotAnEngine("it hung up in the middle of its answer") from None
    if answer.status == 404:
        return None
    if answer.status != 200:
        raise NotAnEngine(f"it answers {answer.status} to {target}")
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise NotAnEngine(f"its answer to {target} is not JSON") from None


def version(said: Any) -> EngineVersion:
    """The values in an answer to `/version`; raises :class:`NotAnEngine`."""
    if not isinstance(said, dict) or not isinstance(said.get("ApiVersion"), str):
        raise NotAnEngine("it does not say its version: is it a container engine?")
    components = {
        str(one["Name"]).lower(): str(one.get("Version", ""))
        for one in said.get("Components") or ()
        if isinstance(one, dict) and "Name" in one
    }
    return EngineVersion(
        str(said.get("Version", "")), said["ApiVersion"], str(said.get("MinAPIVersion", "")), components
    )


def info(said: Any) -> EngineInfo:
    """The values in an answer to `/info`; raises :class:`NotAnEngine`."""
    if not isinstance(said, dict):
        raise NotAnEngine("it does not describe itself: is it a container engine?")
    plugins = _mapping(said.get("Plugins"))
    return EngineInfo(
        cgroup_driver=str(said.get("CgroupDriver", "")),
        live_restore=said.get("LiveRestoreEnabled") is True,
        logging=str(said.get("LoggingDriver", "")),
        logging_drivers=_texts(plugins.get("Log")),
        runtimes=tuple(map(str, _mapping(said.get("Runtimes")))),
        default_runtime=str(said.get("DefaultRuntime", "")),
        cdi_directories=_texts(said.get("CDISpecDirs")),
        devices=tuple(str(_mapping(one).get("ID", "")) for one in _list(said.get("DiscoveredDevices"))),
        security=_texts(said.get("SecurityOptions")),
        authorization=_texts(plugins.get("Authorization")),
        warnings=_texts(said.get("Warnings")),
        root=str(said.get("DockerRootDir", "")),
        memory_limit=said.get("MemoryLimit") is not False,
        pids_limit=said.get("PidsLimit") is not False,
        swarm=_mapping(said.get("Swarm")).get("LocalNodeState") not in (None, "", "inactive"),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, _list(value)))
