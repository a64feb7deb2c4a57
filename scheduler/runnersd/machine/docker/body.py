"""What a container is made of, and whether the engine made it so. Pure.

An allow-list: every field is set here from typed values, and nothing a user writes is passed through. What is not set
must be empty afterwards, whatever the engine, its defaults or a plugin made of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from runnersd.environment import CODE
from runnersd.machine.docker import gate
from runnersd.model import Launch, RunName

#: Every label of ours begins so; an image has none of these.
OURS = "runners."
#: Labels that say whose a container is. The database's id is what a daemon looks for.
DATABASE, JOB, ATTEMPT, SPEC, STAGED, PROBE = (
    "runners.database", "runners.job", "runners.attempt", "runners.spec", "runners.staged", "runners.probe",
)  # fmt: skip
#: Variables of an image through which it could ask for cards or open doors of NVIDIA's toolkit.
DOORS = ("NVIDIA_", "DOCKER_RESOURCE_", "CUDA_VISIBLE_DEVICES", "NV_LIBCUDA_", "SWARM_RESOURCE_")
#: Of these, what only says what an image needs, and opens nothing.
HARMLESS = ("NVIDIA_REQUIRE_", "NVIDIA_PRODUCT_", "NVIDIA_DISABLE_REQUIRE")
#: Has the engine's init, tini, pass signals to the payload's whole process group, as host jobs get them.
GROUP = "TINI_KILL_PROCESS_GROUP"
#: Fields of HostConfig that may come back with a value that nobody asked for, and which.
DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "ConsoleSize": ([0, 0],),
    "Isolation": ("default",),
    "MemorySwappiness": (-1,),
    "Runtime": ("runc", "io.containerd.runc.v2"),
    "VolumeDriver": ("local",),
}
#: Fields of HostConfig that are left to the engine's administrator: `default-ulimits`, as for memory that is locked.
ADMINISTRATORS = ("Ulimits",)

#: No command of an image's is run beside the job's.
HEALTHCHECK = {"Test": ["NONE"]}
#: Fields of Config that must come back as they were asked for; the others are the image's to say.
CHECKED = (
    "User", "Entrypoint", "Cmd", "WorkingDir", "StopSignal", "StopTimeout",
    "Tty", "OpenStdin", "AttachStdin", "AttachStdout", "AttachStderr",
)  # fmt: skip

How = Literal["cdi", "nvidia"]
Entry = Literal["plain", "shell", "static"]


def body(
    launch: Launch, *, how: How | None, runc: bool, entry: Entry, gate_folder: str = "", staged: bool = False
) -> dict[str, Any]:
    """What the engine is asked to create; ``staged``: before the job has its turn.

    ``how`` is the engine's way to pass cards, ``runc`` whether it has a runtime of that name, ``entry`` what runs
    first: the payload, or the gate in ``gate_folder`` by a static shell that lies there or by the image's own.
    """
    spec = launch.container
    assert spec is not None, "a container's launch has a container"
    gated = entry != "plain"
    words = gate.first_act(launch, ours=entry == "static") if gated else launch.argv
    inside = launch.cwd if not gated or launch.cwd == CODE else "/"  # what is not there would be made, as root
    made: dict[str, Any] = {
        "Image": spec.image.id,
        "User": f"{spec.uid}:{spec.gid}",
        "Env": environment(launch),
        "Entrypoint": [words[0]],
        "Cmd": list(words[1:]),
        "WorkingDir": inside,
        "Labels": {
            DATABASE: launch.run.database,
            JOB: str(launch.run.job),
            ATTEMPT: str(launch.run.attempt),
            **({STAGED: "yes"} if staged else {}),
        },
        "Healthcheck": HEALTHCHECK,  # an image's own would run its command before the gate opens
        "StopSignal": "SIGTERM",
        "StopTimeout": max(1, math.ceil(launch.grace)),
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "NetworkDisabled": False,
        "ExposedPorts": {f"{inside}/tcp": {} for _, inside in _ports(spec.ports)},
        "HostConfig": {
            "AutoRemove": False,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "Init": True,
            "Privileged": False,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "IpcMode": "private",
            "CgroupnsMode": "private",
            "PidMode": "",
            "UTSMode": "",
            "UsernsMode": "host",
            "NetworkMode": spec.network,
            "GroupAdd": [str(group) for group in spec.groups],
            "PidsLimit": spec.pids,
            "ShmSize": spec.shm_size,
            "Memory": spec.memory or 0,
            "MemorySwap": spec.memory or 0,
            "NanoCpus": round((spec.cpus or 0) * 1e9),
            "LogConfig": {
                "Type": "local",
                "Config": {"max-size": str(max(spec.log_max // 2, 1 << 16)), "max-file": "2", "compress": "false"},
            },
            "Tmpfs": {
                spec.home: f"rw,exec,nosuid,nodev,mode=0700,uid={spec.uid},gid={spec.gid}",
                **dict.fromkeys(spec.masked, "ro,noexec,nosuid,nodev,mode=0000,size=4k"),
            },
            "Mounts": _mounts(launch, gate_folder if gated else ""),
            "DeviceRequests": _requests(launch.gpus, how),
            "PortBindings": {
                f"{inside}/tcp": [{"HostIp": "127.0.0.1", "HostPort": outside}]
                for outside, inside in _ports(spec.ports)
            },
            "Runtime": "runc" if runc else "",
        },
    }
    made["Labels"][SPEC] = digest(made)
    return made


def name_of(run: RunName) -> str:
    """What an attempt's container is called."""
    return str(run)


def is_that(seen: Mapping[str, Any], run: RunName, made: Mapping[str, Any] | None = None) -> bool:
    """Whether a container that the engine has under our name is this attempt's, by its labels; ``made`` as asked."""
    labels = (seen.get("Config") or {}).get("Labels") or {}
    ours = {DATABASE: run.database, JOB: str(run.job), ATTEMPT: str(run.attempt)}
    if made is not None:
        ours[SPEC] = made["Labels"][SPEC]
    return all(labels.get(name) == value for name, value in ours.items())


def digest(made: Mapping[str, Any]) -> str:
    """Tells one body from another."""
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:32]


def environment(launch: Launch) -> list[str]:
    """The container's variables: the launch's, and every door that its image leaves open shut."""
    spec = launch.container
    assert spec is not None
    env = dict(launch.environment)
    for name, _ in spec.image.environment:
        if _is_door(name) and name not in env:
            env[name] = ""
    env["NVIDIA_VISIBLE_DEVICES"] = ",".join(launch.gpus) or "void"
    env["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility" if launch.gpus else ""
    env[GROUP] = "1"
    return [f"{name}={value}" for name, value in sorted(env.items())]


def differences(asked: Mapping[str, Any], seen: Mapping[str, Any]) -> list[str]:
    """What the engine made otherwise than asked: one sentence a field; empty when it is the same.

    ``asked`` is :func:`body`'s, ``seen`` what inspect says of the container.
    """
    found: list[str] = []

    def compare(where: str, wanted: Any, got: Any) -> None:
        if not _same(wanted, got):
            found.append(f"{where} is {_short(got)}, asked was {_short(wanted)}")

    config, host = seen.get("Config") or {}, seen.get("HostConfig") or {}
    compare("Image", asked["Image"], seen.get("Image"))
    for name in CHECKED:
        compare(f"Config.{name}", asked[name], config.get(name))
    # When it would be checked may still be the image's to say.
    compare("Config.Healthcheck", HEALTHCHECK["Test"], (config.get("Healthcheck") or {}).get("Test"))
    labels = config.get("Labels") or {}
    for name in sorted(asked["Labels"].keys() | {name for name in labels if name.startswith(OURS)}):
        compare(f"Config.Labels.{name}", asked["Labels"].get(name), labels.get(name))
    found += _environment_differs(asked["Env"], config.get("Env") or ())
    wanted_host: Mapping[str, Any] = asked["HostConfig"]
    for name in sorted(wanted_host.keys() | host.keys()):
        if name == "Mounts":
            found += _mounts_differ(wanted_host["Mounts"], seen.get("Mounts") or ())
        elif name == "MaskedPaths" or name == "ReadonlyPaths":
            if name in host and not host[name]:
                found.append(f"HostConfig.{name} is empty: /proc would lie open")
        elif name == "DeviceRequests":
            compare(f"HostConfig.{name}", [_request(one) for one in wanted_host[name]],
                    [_request(one) for one in host.get(name) or ()])  # fmt: skip
        elif name in wanted_host and (wanted_host[name] or not host.get(name)):
            compare(f"HostConfig.{name}", wanted_host[name], host.get(name))
        elif not (_empty(host.get(name)) or name in ADMINISTRATORS or host[name] in DEFAULTS.get(name, ())):
            found.append(f"HostConfig.{name} is {_short(host[name])}, asked was nothing")
    if str(seen.get("AppArmorProfile") or "") == "unconfined":
        found.append("AppArmorProfile is unconfined")
    return found


def _environment_differs(asked: Sequence[str], seen: Sequence[str]) -> list[str]:
    """Which variables are missing, said twice, or doors that the image opens. Names alone: values may be secrets."""
    wanted = dict(one.split("=", 1) for one in asked)
    pairs = [(name, value) for name, _, value in (one.partition("=") for one in seen)]
    lacking = [name for name, value in wanted.items() if (name, value) not in pairs]
    more = [name for name, value in pairs if name in wanted and value != wanted[name]]
    open_doors = [name for name, value in pairs if name not in wanted and value and _is_door(name)]
    found = [f"Config.Env lacks {', '.join(sorted(lacking))}"] if lacking else []
    if more or open_doors:
        found.append(f"Config.Env has {', '.join(sorted({*more, *open_doors}))}, asked was otherwise")
    return found


def _is_door(name: str) -> bool:
    return name.startswith(DOORS) and not name.startswith(HARMLESS)


def _ports(ports: Sequence[str]) -> list[tuple[str, str]]:
    """Each as (of the host, of the container)."""
    pairs = []
    for port in ports:
        outside, _, inside = port.partition(":")
        pairs.append((outside, inside or outside))
    return pairs


def _mounts(launch: Launch, gate_folder: str) -> list[dict[str, Any]]:
    spec = launch.container
    assert spec is not None
    bound = [(one.source, one.target, one.read_only) for one in spec.mounts]
    if gate_folder:
        bound.append((gate_folder, gate.INSIDE, True))
    return [
        {
            "Type": "bind",
            "Source": source,
            "Target": target,
            "ReadOnly": read_only,
            "BindOptions": {"Propagation": "rprivate"},
        }
        for source, target, read_only in bound
    ]


def _requests(gpus: Sequence[str], how: How | None) -> list[dict[str, Any]]:
    if not gpus:
        return []
    if how == "cdi":
        return [{"Driver": "cdi", "Count": 0, "DeviceIDs": [f"nvidia.com/gpu={uuid}" for uuid in gpus],
                 "Capabilities": None, "Options": {}}]  # fmt: skip
    return [{"Driver": "nvidia", "Count": 0, "DeviceIDs": list(gpus),
             "Capabilities": [["gpu", "compute", "utility"]], "Options": {}}]  # fmt: skip


def _request(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in request.items() if not _empty(value)}


def _mounts_differ(asked: Sequence[Mapping[str, Any]], seen: Sequence[Mapping[str, Any]]) -> list[str]:
    wanted = {one["Target"]: (one["Source"], not one["ReadOnly"]) for one in asked}
    got = {
        str(one.get("Destination")): (one.get("Source"), bool(one.get("RW")))
        for one in seen
        if one.get("Type") == "bind"
    }
    found = [f"the mount {target} is missing or another" for target in wanted if got.get(target) != wanted[target]]
    found += [f"{target} is mounted, asked was nothing" for target in got if target not in wanted]
    # An image's own VOLUMEs are anonymous volumes of the engine's: empty, and removed with the container.
    odd = {str(one.get("Type")) for one in seen} - {"bind", "volume", "tmpfs"}
    return [*found, *(f"a mount of type {kind} was not asked for" for kind in sorted(odd))]


def _same(wanted: Any, got: Any) -> bool:
    if _empty(wanted) and _empty(got):
        return True
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        return all(_same(wanted.get(name), got.get(name)) for name in wanted.keys() | got.keys())
    if isinstance(wanted, list) and isinstance(got, list):
        return len(wanted) == len(got) and all(map(_same, wanted, got))
    return bool(wanted == got)


def _empty(value: Any) -> bool:
    return value is None or value is False or value == 0 or value == "" or value == [] or value == {}


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 120 else f"{text[:117]}..."
