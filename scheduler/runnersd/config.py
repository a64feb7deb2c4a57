"""The daemon's settings: every key of its file with its default, and what is wrong with a file. Pure.

One line a key: its default, and the kind of value it takes (`runnersd.config_values`). How a mapping becomes these
is in `runnersd.config_sections`, reading files, flags and variables in `runnersd.config_load`. Durations are seconds,
sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from runners.errors import Problem
from runners.spec import ON
from runnersd.config_sections import Where, key, read_section, section, short
from runnersd.config_values import (
    absolute_path,
    address,
    choice,
    command,
    duration,
    events,
    flag,
    group_name,
    hook,
    integer,
    listing,
    mail_template,
    maybe,
    server,
    size,
    template,
    text,
    variable,
)

GIB = 1 << 30
MIB = 1 << 20
DAY = 86_400.0


# ruff: noqa: RUF009  (`section` makes a dataclass field; nothing is shared between instances)
@dataclass(frozen=True, slots=True)
class SocketConfig:
    """Where the daemon listens. ``group`` counts only when it runs as root."""

    path: str | None = key(None, maybe(absolute_path))
    group: str | None = key("runners", maybe(group_name))


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The daemon's own log."""

    level: str = key("info", choice("debug", "info", "warning", "error"))
    format: str = key("auto", choice("auto", "text", "json"))


@dataclass(frozen=True, slots=True)
class XidConfig:
    """What is done about errors that the driver reports, by their numbers, where it differs from NVIDIA's catalog.

    ``unknown`` is for those of which neither says anything.
    """

    quarantine: tuple[int, ...] = key((), listing(integer(at_least=1)))
    ignore: tuple[int, ...] = key((), listing(integer(at_least=1)))
    unknown: str = key("ignore", choice("ignore", "quarantine"))


@dataclass(frozen=True, slots=True)
class GpusConfig:
    """Which cards are used, how they are watched, and what counts as somebody else's use of one."""

    only: tuple[str, ...] = key((), listing(text))
    exclude: tuple[str, ...] = key((), listing(text))
    poll: float = key(1.0, duration(at_least=0.05))
    timeout: float = key(5.0, duration(at_least=0.05))
    margin: int = key(512 * MIB, size())
    foreign: str = key("exclude", choice("exclude", "share"))
    foreign_min_memory: int = key(GIB, size())
    foreign_ignore: tuple[str, ...] = key(("Xorg", "Xwayland", "gnome-shell", "nvidia-cuda-mps-server"), listing(text))
    confine: bool = key(True, flag)
    xid: XidConfig = section(XidConfig)


@dataclass(frozen=True, slots=True)
class JobsConfig:
    """Limits on the queue, and what is kept of a job."""

    max_running: int = key(64, integer(at_least=1))
    max_queued: int = key(100_000, integer(at_least=1))
    max_per_pipeline: int = key(20_000, integer(at_least=1))
    time_limit: float | None = key(None, maybe(duration(at_least=1)))
    max_time_limit: float | None = key(None, maybe(duration(at_least=1)))
    log_max: int = key(GIB, size(at_least=1))
    min_free_disk: int = key(2 * GIB, size())
    keep: float = key(365 * DAY, duration())


@dataclass(frozen=True, slots=True)
class ContainersConfig:
    """The container engine, and what jobs may ask of it."""

    socket: str = key("/var/run/docker.sock", absolute_path)
    image: str | None = key(None, maybe(text))
    shm_size: int = key(8 * GIB, size(at_least=1))
    pids: int = key(4096, integer(at_least=1))
    network: str = key("bridge", choice("bridge", "none"))
    log_max: int = key(50 * MIB, size(at_least=1))
    allow_root: bool = key(True, flag)
    allowed_mounts: tuple[str, ...] = key((), listing(absolute_path))
    staging: bool = key(False, flag)


@dataclass(frozen=True, slots=True)
class DirectoriesConfig:
    """Directories of jobs whose submitter's environment names none."""

    data: str | None = key(None, maybe(absolute_path))
    cache: str | None = key(None, maybe(absolute_path))
    artifacts: str | None = key(None, maybe(absolute_path))
    nussl: str | None = key(None, maybe(absolute_path))


@dataclass(frozen=True, slots=True)
class ScriptConfig:
    """What a `script:` job is when its file says nothing else."""

    blocking: bool = key(False, flag)
    num_gpus: int = key(0, integer())
    num_workers: int = key(1, integer(at_least=1))
    run_in: str = key("host", choice("host", "container"))


@dataclass(frozen=True, slots=True)
class Quota:
    """The most a user, or all members of a group, may have: cards held, jobs running and queued. None is no limit."""

    gpus: int | None = key(None, maybe(integer()))
    running: int | None = key(None, maybe(integer()))
    queued: int | None = key(None, maybe(integer()))


@dataclass(frozen=True, slots=True)
class QuotasConfig:
    """The quota of every user, of those that have their own in its place, and of groups."""

    default: Quota = section(Quota)
    users: Mapping[str, Quota] = field(default_factory=dict, metadata={"table": Quota})
    groups: Mapping[str, Quota] = field(default_factory=dict, metadata={"table": Quota})


@dataclass(frozen=True, slots=True)
class SchedulingConfig:
    """How the queue is ordered."""

    max_reservation_delay: float = key(12 * 3600.0, duration())
    half_life: float = key(7 * DAY, duration(at_least=1))
    min_run: float = key(1800.0, duration())
    preemption: bool = key(False, flag)
    quotas: QuotasConfig = section(QuotasConfig)


@dataclass(frozen=True, slots=True)
class TelemetryConfig:
    """What is measured of running jobs."""

    every: float = key(1.0, duration(at_least=0.1))
    keep: float = key(365 * DAY, duration())
    idle_after: float | None = key(None, maybe(duration(at_least=1)))
    idle_action: str = key("notify", choice("notify", "stop"))


@dataclass(frozen=True, slots=True)
class CometConfig:
    """How experiments reach Comet."""

    offline: bool = key(False, flag)
    workspace: str | None = key(None, maybe(text))


@dataclass(frozen=True, slots=True)
class HookConfig:
    """A web hook that is told of everybody's jobs. ``on``: of what, where it differs from the rest."""

    url: str = key("", hook, secret=True)
    on: tuple[str, ...] | None = key(None, maybe(events))


@dataclass(frozen=True, slots=True)
class SmtpConfig:
    """How mails are sent, and to whom where neither a job nor `users` says that."""

    host: str = key("", server, secret=True)
    port: int | None = key(None, maybe(integer(at_least=1)))
    sender: str | None = key(None, maybe(address), called="from")
    to: str | None = key(None, maybe(mail_template))
    user: str | None = key(None, maybe(text))
    password_file: str | None = key(None, maybe(absolute_path))
    password_env: str | None = key(None, maybe(variable))
    tls: str = key("auto", choice("auto", "starttls", "tls", "none"))
    on: tuple[str, ...] | None = key(None, maybe(events))


@dataclass(frozen=True, slots=True)
class CommandConfig:
    """A command of the administrator's that is told of everybody's jobs."""

    run: str | tuple[str, ...] = key("", command)
    on: tuple[str, ...] | None = key(None, maybe(events))


@dataclass(frozen=True, slots=True)
class UserNotifyConfig:
    """Where a user is told of all jobs of theirs that say nothing else."""

    email: str | None = key(None, maybe(address))
    webhook: str | None = key(None, maybe(hook), secret=True)
    on: tuple[str, ...] | None = key(None, maybe(events))


@dataclass(frozen=True, slots=True)
class NotifyConfig:
    """Who is told of jobs, of what and in which words."""

    webhook: HookConfig | None = short(HookConfig, "url")
    smtp: SmtpConfig | None = short(SmtpConfig, "host")
    command: CommandConfig | None = short(CommandConfig, "run")
    on: tuple[str, ...] = key(ON, events)
    users: Mapping[str, UserNotifyConfig] = field(default_factory=dict, metadata={"table": UserNotifyConfig})
    gather: float = key(10.0, duration(at_least=0.01))
    tries: int = key(10, integer(at_least=1))
    subject: str | None = key(None, maybe(template))
    text: str | None = key(None, maybe(template))


@dataclass(frozen=True, slots=True)
class Paths:
    """Where this daemon is, once flags, variables, file and defaults have had their say. ``file`` may not exist."""

    file: Path
    socket: Path
    state: Path
    locks: Path


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the file may say, and beside it where this daemon lives and whether it serves the whole machine."""

    engine: str = key("local", choice("local"))
    socket: SocketConfig = section(SocketConfig)
    operators: str | None = key("runners-operators", maybe(group_name))
    log: LogConfig = section(LogConfig)
    gpus: GpusConfig = section(GpusConfig)
    jobs: JobsConfig = section(JobsConfig)
    containers: ContainersConfig = section(ContainersConfig)
    directories: DirectoriesConfig = section(DirectoriesConfig)
    default_script_args: ScriptConfig = section(ScriptConfig)
    scheduling: SchedulingConfig = section(SchedulingConfig)
    telemetry: TelemetryConfig = section(TelemetryConfig)
    comet: CometConfig = section(CometConfig)
    notify: NotifyConfig = section(NotifyConfig)
    #: True for root's daemon, which runs jobs as their submitters. Not a key of the file.
    system: bool = False
    #: Not a key of the file; None only in a config that no daemon was started with.
    paths: Paths | None = None


def build(data: Any, where: Where, file: str = "") -> tuple[Config, list[Problem]]:
    """The settings that a file's data (plain mappings, lists and scalars) says, and everything wrong with it.

    A key with a problem keeps its default. ``where`` gives the line of a key path.
    """
    problems: list[Problem] = []
    config = read_section(Config, data, (), problems, where, file)
    if config.jobs.time_limit and config.jobs.max_time_limit and config.jobs.time_limit > config.jobs.max_time_limit:
        path = ("jobs", "time_limit")
        problems.append(Problem(".".join(path), "is more than jobs.max_time_limit", file, where(path)))
    both = sorted(set(config.gpus.only) & set(config.gpus.exclude))
    if both:
        message = f"{', '.join(both)} is in gpus.only too: a card is either used or not"
        problems.append(Problem("gpus.exclude", message, file, where(("gpus", "exclude"))))
    for xid in sorted(set(config.gpus.xid.quarantine) & set(config.gpus.xid.ignore)):
        message = f"{xid} is in gpus.xid.quarantine too"
        problems.append(Problem("gpus.xid.ignore", message, file, where(("gpus", "xid", "ignore"))))
    smtp, path = config.notify.smtp, ("notify", "smtp")
    if smtp is not None and smtp.user is not None and (smtp.password_file is None) is (smtp.password_env is None):
        message = "has a user: say where the password is, by either password_file or password_env"
        problems.append(Problem(".".join(path), message, file, where(path)))
    return config, problems


#: What SIGHUP cannot change: running jobs and connected clients depend on them.
FIXED = ("engine", "socket")


def needs_restart(old: Config, new: Config) -> list[str]:
    """The keys that differ and that a running daemon cannot change, in the file's words."""
    changed = []
    for name in FIXED:
        before, after = getattr(old, name), getattr(new, name)
        if is_dataclass(before):
            changed += [f"{name}.{f.name}" for f in fields(before) if getattr(before, f.name) != getattr(after, f.name)]
        elif before != after:
            changed.append(name)
    return changed


def reloaded(old: Config, new: Config) -> Config:
    """``new``, as far as a daemon that started with ``old`` can take it on."""
    return replace(new, engine=old.engine, socket=old.socket, paths=old.paths, system=old.system)
