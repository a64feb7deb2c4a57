"""What a job finds around it: environment, command, and a container's directories. Built, never inherited. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from posixpath import normpath

from runners.spec import JobSpec
from runnersd.model import Gpu, GpuId, Job, Mount

#: What belongs to the daemon's or the submitter's own service, and must not reach a job.
DROPPED = frozenset({"NOTIFY_SOCKET", "INVOCATION_ID", "WATCHDOG_PID", "WATCHDOG_USEC"})
#: The directories a job is told, under the config's name for each.
DIRECTORIES = {
    "data": "DATA_DIRECTORY",
    "cache": "CACHE_DIRECTORY",
    "artifacts": "ARTIFACTS_DIRECTORY",
    "nussl": "NUSSL_DIRECTORY",
}


#: Where a container finds the code, and some directories beside their own places.
CODE = "/workspace"
STORAGE = {
    "DATA_DIRECTORY": "/storage/data",
    "CACHE_DIRECTORY": "/storage/cache",
    "ARTIFACTS_DIRECTORY": "/storage/artifacts",
}
#: Places in a container, and below them, that are the engine's, its init's, NVIDIA's toolkit's or ours.
TAKEN = (
    "/.runners", "/.home", "/proc", "/sys", "/dev", "/sbin/docker-init",
    "/run/nvidia-container-devices", "/var/run/nvidia-container-devices",
)  # fmt: skip
#: Places that hold what the engine puts into every container; a mount there would have it put into the mount.
HOLDING = ("/", "/etc", "/sbin", "/usr", "/usr/sbin", "/run", "/var", "/var/run")
#: Variables of a job's `env` that could ask NVIDIA's toolkit for more, and so do not reach a container.
CLOSED = ("NVIDIA_", "DOCKER_RESOURCE_", "SWARM_RESOURCE_")
#: Groups whose members could have the whole machine.
PRIVILEGED_GROUPS = (
    "root", "docker", "podman", "disk", "sudo", "wheel", "admin", "adm", "shadow", "kmem", "systemd-journal",
    "lxd", "lxc", "incus", "incus-admin", "kvm", "libvirt", "microk8s",
)  # fmt: skip


def host_environment(
    job: Job,
    submitted: Mapping[str, str],
    gpus: Sequence[GpuId],
    inventory: Sequence[Gpu],
    directories: Mapping[str, str | None],
) -> dict[str, str]:
    """The whole environment of a host job: its submitter's own, then the job's `env`, then what `runners` says.

    ``directories`` are the daemon's, for those that the submitter's environment does not set. Cards are named by
    full UUID in PCI order; a job without cards gets an empty list, since an unset one means every card to CUDA.
    """
    env = {name: value for name, value in submitted.items() if name not in DROPPED and not name.startswith("LISTEN_")}
    for key, name in DIRECTORIES.items():
        value = directories.get(key)
        if not env.get(name):
            env.pop(name, None)
            if value:
                env[name] = value
    env.update(job.spec.env or {})
    return env | _ours(job, gpus, inventory)


def container_environment(
    job: Job,
    submitted: Mapping[str, str],
    gpus: Sequence[GpuId],
    inventory: Sequence[Gpu],
    directories: Mapping[str, str],
    home: str,
) -> dict[str, str]:
    """The environment of a container job: what `runners` says, the job's `env`, and nothing else of its submitter's.

    ``directories`` are those that it has, by variable; ``home`` is a private directory in it.
    """
    env = dict(directories)
    if "NUSSL_DIRECTORY" in env:
        env["PYTHONPATH"] = env["NUSSL_DIRECTORY"]
    if submitted.get("COMET_API_KEY"):
        env["COMET_API_KEY"] = submitted["COMET_API_KEY"]
    user = job.pipeline.submitter.user or str(job.pipeline.submitter.uid)
    env.update(HOME=home, USER=user, LOGNAME=user)
    asked = job.spec.env or {}
    env.update({name: value for name, value in asked.items() if not name.startswith(CLOSED)})
    return env | _ours(job, gpus, inventory)


def directories_of(submitted: Mapping[str, str], configured: Mapping[str, str | None]) -> dict[str, str]:
    """`DATA_DIRECTORY` and its sisters as a job's submitter has them, else as the daemon's configuration does."""
    found = {}
    for key, name in DIRECTORIES.items():
        value = submitted.get(name) or configured.get(key)
        if value:
            found[name] = value
    return found


def container_mounts(cwd: str, directories: Mapping[str, str], asked: Sequence[str]) -> tuple[Mount, ...]:
    """What a container sees of the host: the code, the directories at two places, and what its job asks for."""
    mounts = [Mount(cwd, CODE)]
    for name, value in directories.items():
        mounts.append(Mount(value, value))
        if name in STORAGE:
            mounts.append(Mount(value, STORAGE[name]))
    for text in asked:
        source, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        mounts.append(Mount(source, target or source, mode == "ro", asked=True))
    by_target = {_plain(mount.target): mount for mount in mounts}
    return tuple(by_target.values())


def refused_target(target: str) -> str | None:
    """Why nothing is mounted at this place of a container, in a few words; None when something may be."""
    if not target.startswith("/") or ".." in PurePosixPath(target).parts or "\0" in target:
        return "it must be an absolute path in the container, without .."
    place = _plain(target)
    taken = next((one for one in TAKEN if PurePosixPath(place).is_relative_to(one)), None)
    if taken is not None:
        return f"{taken} is taken in a container"
    if place in HOLDING:
        return f"{place} holds what every container needs"
    return None


def _plain(path: str) -> str:
    return "/" + normpath(path).lstrip("/")


def container_home(user: str, uid: int, mounts: Sequence[Mount]) -> str:
    """Where a container has its private HOME: where a home usually is, unless something is mounted there or above."""
    name = user if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*", user, re.ASCII) else str(uid)
    home = PurePosixPath("/home") / name
    covered = any(home.is_relative_to(_plain(mount.target)) for mount in mounts)
    return "/.home" if covered else str(home)


def container_workdir(cwd: str, workdir: str | None) -> str:
    """Where a container job starts: in the code, or where ``workdir`` says, of the code's place if it lies below."""
    if not workdir:
        return CODE
    path = PurePosixPath(normpath(PurePosixPath(cwd) / workdir))
    return str(CODE / path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def supplementary(groups: Sequence[int], gid: int, privileged: Collection[int]) -> tuple[int, ...]:
    """The groups a container keeps of its submitter's: not those that would give it the machine."""
    return tuple(group for group in dict.fromkeys(groups) if group not in privileged and group not in (0, gid))


def experiment_folder(path: str | None) -> str | None:
    """The folder of an experiment's configuration, where that is named in full, as the client does."""
    return str(PurePosixPath(path).parent) if path and path.startswith("/") else None


def _ours(job: Job, gpus: Sequence[GpuId], inventory: Sequence[Gpu]) -> dict[str, str]:
    """What `runners` itself says. Cards by full UUID in PCI order; without cards an empty list."""
    order = {gpu.uuid: gpu.index for gpu in inventory}
    cards = sorted(gpus, key=lambda uuid: order.get(uuid, 1 << 30))
    return {
        "RUNNERS_JOB_ID": str(job.id),
        "RUNNERS_JOB_NAME": job.spec.name,
        "RUNNERS_PIPELINE_ID": f"p{job.pipeline.id}",
        "RUNNERS_ATTEMPT": str(job.attempt),
        "RUNNERS_PREEMPTED": str(job.preempted),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(cards),
        "RUNNERS_GPU_INDICES": ",".join(str(order[uuid]) for uuid in cards if uuid in order),
        "NUM_WORKERS": str(job.spec.num_workers),
    }


def argv_of(spec: JobSpec, shell: str = "/bin/sh") -> tuple[str, ...]:
    """What is exec'ed: a string under `sh -c`, a list as it is. The machine's own shell needs no PATH of the job's."""
    return (shell, "-c", spec.command) if isinstance(spec.command, str) else spec.command
