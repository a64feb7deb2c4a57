"""What `runnersd doctor` has seen of a machine: values alone. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runnersd.config import Config


@dataclass(frozen=True, slots=True)
class Unseen:
    """Stands for what could not be seen, and says why."""

    why: str


@dataclass(frozen=True, slots=True)
class Card:
    """A whole card. ``persistent`` is whether the driver keeps it initialised; None where it does not say."""

    name: str
    persistent: bool | None = None


@dataclass(frozen=True, slots=True)
class Driver:
    """What NVML said: either ``absent`` (why there is no driver), or ``error`` (why it does not say), or the rest.

    ``mismatch``: the error is that the kernel's driver and the library are of different versions.
    """

    version: str = ""
    cards: tuple[Card, ...] = ()
    absent: str | None = None
    error: str | None = None
    mismatch: bool = False


@dataclass(frozen=True, slots=True)
class CardFacts:
    """The NVIDIA driver. ``linked``: the device files have links in /dev/char; None without device files."""

    module: str | None = None  #: version of the loaded kernel module
    on_bus: int = 0  #: NVIDIA cards that the PCI bus has, driver or not
    nvml: Driver | Unseen = Unseen("not asked")
    linked: bool | None = None


@dataclass(frozen=True, slots=True)
class EngineVersion:
    """What `GET /version` says. ``components`` are versions by name: `containerd`, `runc`, ..."""

    version: str
    api: str
    oldest_api: str
    components: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """The part of `GET /info` that matters. ``devices`` are CDI's; an engine before 28.2 does not tell them."""

    cgroup_driver: str = ""
    live_restore: bool = False
    logging: str = ""
    logging_drivers: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    default_runtime: str = ""
    cdi_directories: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    security: tuple[str, ...] = ()
    authorization: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    root: str = ""
    memory_limit: bool = True
    pids_limit: bool = True
    swarm: bool = False


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A socket in the file system: who owns it, and the permission bits."""

    uid: int
    gid: int
    mode: int
    group: str  #: the group's name, or its number


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The container engine at ``path``.

    ``cdi_files`` are specifications that name NVIDIA cards by UUID; ``hook`` is whether the engine has NVIDIA's hook on
    its PATH. ``image`` is whether the configured default image is there; None when none is configured. ``shell`` is
    whether this machine has a static shell.
    """

    path: str
    file: SocketFile | Unseen
    version: EngineVersion | Unseen
    info: EngineInfo | Unseen
    cdi_files: tuple[str, ...] = ()
    hook: bool = False
    toolkit: str | None = None  #: version of the NVIDIA Container Toolkit
    image: bool | Unseen | None = None
    shell: bool = True


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """The runnersd that answers on our socket."""

    version: str
    pid: int


@dataclass(frozen=True, slots=True)
class PeopleFacts:
    """Groups. ``groups`` are the configured ones with whether they exist; ``docker`` who is in the engine's group."""

    groups: Mapping[str, bool] | Unseen = field(default_factory=dict)
    docker: tuple[str, ...] | Unseen = ()
    me: str = ""


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """A path that is written to. ``there`` is it, or the nearest directory above it that exists."""

    path: str
    there: str
    file_system: str
    writable: bool
    free: int
    total: int
    network: bool = False  #: on a file system that may be another machine's
    free_inodes: int = 1 << 30
    total_inodes: int = 1 << 30

    @property
    def exists(self) -> bool:
        """Whether the path itself is there."""
        return self.path == self.there


@dataclass(frozen=True, slots=True)
class LockFacts:
    """The directory of the cards' locks, beside what it is as a place. None for one that does not exist."""

    place: PlaceFacts | Unseen
    mode: int | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it. ``config_problem`` is set when the file is wrong; ``config`` then has the defaults."""

    config: Config
    config_file: bool  #: whether there is one
    config_problem: str | None
    root: bool
    cards: CardFacts
    engine: EngineFacts
    daemon: DaemonFacts | Unseen
    daemon_socket: SocketFile | Unseen
    people: PeopleFacts
    locks: LockFacts
    places: Mapping[str, PlaceFacts | Unseen]  #: by what they are for: `state`, `docker`, `data`, ...
    cgroup: str | Unseen  #: `v2`, `v1` or `hybrid`
    sqlite: str
    open_files: int | Unseen  #: the soft limit of the daemon, or ours where none answers
    kernel: str = ""
    pidfd: bool = True
    mail_password: int | Unseen | None = None  #: the permission bits of its file; None where none is configured
