"""Checks of the container engine. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from runnersd.config import Config
from runnersd.doctor.facts import EngineFacts, EngineInfo, EngineVersion, Unseen
from runnersd.doctor.finding import Finding, failure, ok, warning
from runnersd.doctor.versions import check_version, parse_api

#: The oldest API that has everything a job's container is made with, and the newest one that was tried: the launcher's.
API = ((1, 40), (1, 51))
#: How a CDI device that is an NVIDIA card begins: by its UUID, which is how a job's cards are asked for.
CDI_CARD = "nvidia.com/gpu=GPU-"

_RESTART = "systemctl restart docker"
_INSTALL_TOOLKIT = (
    "apt-get install nvidia-container-toolkit",
    "nvidia-ctk runtime configure --runtime=docker",
    _RESTART,
)
_WRITE_CDI = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


def check_engine(facts: EngineFacts, config: Config, *, cards: bool, linked: bool | None) -> Iterator[Finding]:
    """Everything about the engine; one line alone where it does not answer.

    ``cards``: this machine has some. ``linked``: their device files have links in /dev/char.
    """
    if isinstance(facts.file, Unseen):
        yield warning(
            "engine", f"no container engine at {facts.path}: {facts.file.why}; jobs run on the host only", *_GET
        )
        return
    for answer in (facts.version, facts.info):
        if isinstance(answer, Unseen):
            yield _silent(facts, answer)
            return
    assert isinstance(facts.version, EngineVersion) and isinstance(facts.info, EngineInfo)
    version, info = facts.version, facts.info
    yield _kind(facts, version)
    yield _api(version)
    yield check_version("dockerd", version.version, authorization=bool(info.authorization))
    for name in ("containerd", "runc"):
        if name in version.components:
            yield check_version(name, version.components[name])
    if facts.toolkit is not None:
        yield check_version("nvidia-container-toolkit", facts.toolkit)
    if version.components and "docker-init" not in version.components:
        text = "the engine has no docker-init, the first process of every job's container: no job can start in one"
        yield failure("docker-init", text, "apt-get install tini docker.io")
    yield from _isolation(info)
    if (config.system or config.containers.staging) and not facts.shell:
        text = "no static shell waits at containers' gates: a hostile image's own may run before its turn"
        yield warning("gate-shell", text, "apt-get install busybox-static", "systemctl restart runnersd")
    yield _live_restore(info)
    yield _logging(info)
    yield from _limits(info)
    if cards:
        yield _passing(facts, info)
        if _has_cdi(facts, info) or _has_hook(facts, info):
            yield _reload(facts, info, linked)
    if config.containers.image is not None:
        yield _image(config.containers.image, facts.image)


_GET = ("apt-get install docker.io",)


def _silent(facts: EngineFacts, answer: Unseen) -> Finding:
    if "permission denied" in answer.why:
        text = (
            f"cannot ask the engine at {facts.path}: {answer.why}; jobs of a daemon of this user run on the host only"
        )
        return warning("engine", text)
    text = f"the engine at {facts.path} does not answer: {answer.why}"
    return failure("engine", text, "systemctl status docker", _RESTART)


def _kind(facts: EngineFacts, version: EngineVersion) -> Finding:
    if any("podman" in name.lower() for name in version.components):
        return warning("engine", f"{facts.path} is Podman's, which `runners` was never tried with")
    return ok("engine", f"Docker {version.version} answers at {facts.path}")


def _api(version: EngineVersion) -> Finding:
    oldest, newest = API
    low, high = parse_api(version.oldest_api), parse_api(version.api)
    if high < oldest:
        text = f"speaks API {version.api}; {_dotted(oldest)} (Docker 19.03) is the oldest that `runners` can use"
        return failure("api", text, "apt-get update && apt-get install --only-upgrade docker-ce docker.io")
    if low > newest:
        text = f"speaks API {version.oldest_api} and newer; {_dotted(newest)} is the newest that `runners` knows"
        return failure("api", text, "pip install --upgrade 'runnersd[daemon]'")
    return ok("api", f"{_dotted(min(high, newest))} (the engine speaks {version.oldest_api or '?'} to {version.api})")


def _isolation(info: EngineInfo) -> Iterator[Finding]:
    """What keeps a container in: seccomp, and who can reach the engine."""
    seccomp = next((option for option in info.security if option.startswith("name=seccomp")), None)
    if seccomp is None or "profile=unconfined" in seccomp:
        text = "the engine filters no system calls: containers can try far more of the kernel"
        yield warning("seccomp", text, '# remove "seccomp-profile" from /etc/docker/daemon.json', _RESTART)
    open_ = [one for one in info.warnings if "without encryption" in one or "API is accessible on" in one]
    if open_:
        text = "the engine listens on the network without TLS: whoever reaches that port is root here"
        yield failure("engine-tcp", text, "# remove -H tcp://... from dockerd's command line or daemon.json", _RESTART)
    if info.runtimes and "runc" not in info.runtimes:
        yield failure("runtime", "the engine has no runtime `runc`, which jobs without cards run under", _RESTART)


def _live_restore(info: EngineInfo) -> Finding:
    if info.live_restore:
        return ok("live-restore", "on: containers outlive a restart of dockerd")
    text = "off: a restart or upgrade of dockerd ends every running container; their jobs are then lost"
    if info.swarm:
        return warning("live-restore", text + ". It cannot be turned on beside swarm", "docker swarm leave --force")
    return warning(
        "live-restore", text, '# add "live-restore": true to /etc/docker/daemon.json', "systemctl reload docker"
    )


def _logging(info: EngineInfo) -> Finding:
    if info.logging_drivers and "local" not in info.logging_drivers:
        have = ", ".join(info.logging_drivers[:8])
        return failure("logging", f"jobs' output needs the logging driver `local`; the engine has {have}", _RESTART)
    return ok("logging", f"default `{info.logging}`; jobs' containers bring their own driver, with a limit")


def _limits(info: EngineInfo) -> Iterator[Finding]:
    """Limits that the kernel has to support."""
    missing = [name for name, there in (("memory", info.memory_limit), ("processes", info.pids_limit)) if not there]
    if missing:
        text = f"the kernel cannot limit {' and '.join(missing)} of containers: one job can take the machine's"
        yield warning(
            "limits", text, "# add cgroup_enable=memory to GRUB_CMDLINE_LINUX", "update-grub && systemctl reboot"
        )


def _has_cdi(facts: EngineFacts, info: EngineInfo) -> bool:
    """Whether the engine would find the cards by CDI."""
    if not info.cdi_directories:
        return False
    return bool(facts.cdi_files) or any(device.startswith(CDI_CARD) for device in info.devices)


def _has_hook(facts: EngineFacts, info: EngineInfo) -> bool:
    """Whether the engine passes cards without CDI: by the NVIDIA runtime, or by the hook on its PATH."""
    return "nvidia" in info.runtimes or facts.hook


def _passing(facts: EngineFacts, info: EngineInfo) -> Finding:
    if _has_cdi(facts, info):
        return ok("gpu-path", "CDI: the engine knows the cards by their UUIDs")
    if _has_hook(facts, info):
        return ok("gpu-path", "NVIDIA's hook passes cards to containers")
    if facts.toolkit is not None:
        text = (
            "the NVIDIA Container Toolkit is installed, but the engine does not use it: jobs in containers get no cards"
        )
        return warning("gpu-path", text, *_INSTALL_TOOLKIT[1:])
    text = "the engine cannot pass cards: jobs in containers that ask for one are refused"
    return warning("gpu-path", text, *_INSTALL_TOOLKIT)


def _reload(facts: EngineFacts, info: EngineInfo, linked: bool | None) -> Finding:
    """Docker under systemd's cgroups loses devices that a hook added, whenever systemd reads its units again."""
    name = "gpu-reload"
    if info.cgroup_driver != "systemd":
        return ok(name, f"cgroup driver `{info.cgroup_driver}`: `systemctl daemon-reload` takes no card away")
    if _has_cdi(facts, info):
        return ok(name, "cards come by CDI: `systemctl daemon-reload` does not take them away")
    if linked:
        return ok(name, "the cards have links in /dev/char: `systemctl daemon-reload` does not take them away")
    text = (
        "cgroup driver `systemd`, and cards come by a hook: `systemctl daemon-reload`, which every package upgrade "
        "does, takes them away from running containers"
    )
    return failure(
        name, text, _WRITE_CDI, _RESTART, "# or, without CDI: nvidia-ctk system create-dev-char-symlinks --create-all"
    )


def _image(name: str, there: bool | Unseen | None) -> Finding:
    if isinstance(there, Unseen):
        return warning("image", f"cannot tell whether {name} (containers.image) is there: {there.why}")
    if there:
        return ok("image", f"{name} (containers.image) is there")
    return warning("image", f"{name} (containers.image) is not there; the first job pulls it", f"docker pull {name}")


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
