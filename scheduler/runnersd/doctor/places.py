"""Checks of the machine itself: directories, disks, locks, limits, kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from runners.pipeline.quantities import format_size
from runnersd.config import Config
from runnersd.doctor.facts import Facts, LockFacts, PlaceFacts, Unseen
from runnersd.doctor.finding import Finding, failure, ok, warning
from runnersd.doctor.versions import parse

#: The oldest SQLite whose features the schema uses, and the first without the bug that two connections can meet.
OLDEST_SQLITE = (3, 31, 0)
WAL_RESET_MENDED = (3, 51, 3)
#: Open files of a daemon: so many for itself and its clients, and so many for each running job.
FILES_BASE, FILES_EACH = 1024, 8


def check_daemon(facts: Facts) -> Iterator[Finding]:
    """The configuration, and whether a daemon answers."""
    paths = facts.config.paths
    assert paths is not None, "doctor's configuration has paths"
    if facts.config_problem is not None:
        yield failure("config", facts.config_problem, "runnersd --check-config")
    else:
        yield ok("config", str(paths.file) if facts.config_file else f"no {paths.file}: every key has its default")
    yield from _mail_password(facts)
    if isinstance(facts.daemon, Unseen):
        start = (
            "systemctl enable --now runnersd.socket runnersd.service" if facts.config.system else "runners-client up"
        )
        yield warning("daemon", f"no daemon answers at {paths.socket}: {facts.daemon.why}", start)
    else:
        yield ok("daemon", f"runnersd {facts.daemon.version} answers at {paths.socket} (pid {facts.daemon.pid})")


def _mail_password(facts: Facts) -> Iterator[Finding]:
    """Whether the mail server's password can be read, and by the daemon alone."""
    smtp, mode = facts.config.notify.smtp, facts.mail_password
    if smtp is None or smtp.password_file is None or mode is None or (facts.config.system and not facts.root):
        return
    file = smtp.password_file
    if isinstance(mode, Unseen):
        yield warning("mail-password", f"no mail can be sent: {file} cannot be read ({mode.why})", f"ls -l {file}")
    elif mode & 0o077:
        yield warning(
            "mail-password", f"others may read {file}, which has the mail server's password", f"chmod 600 {file}"
        )


def check_machine(facts: Facts) -> Iterator[Finding]:
    """Everything below the daemon but cards and containers."""
    yield from _state(facts)
    yield from _locks(facts.locks, facts.root)
    for role, place in facts.places.items():
        yield _disk(role, place, facts.config)
    yield _open_files(facts)
    yield _cgroup(facts)
    yield _kernel(facts)
    yield _sqlite(facts.sqlite)


def _state(facts: Facts) -> Iterator[Finding]:
    place = facts.places.get("state", Unseen("not looked at"))
    if isinstance(place, Unseen):
        yield failure("state", f"cannot look at the state directory: {place.why}")
        return
    where = f"on a disk of this machine ({place.file_system})"
    if place.network:
        text = f"{place.path} is on a network file system ({place.file_system}), where a database is not safe"
        yield failure("state", text, "# say --state-dir, or RUNNERS_STATE_DIR, on a disk of this machine")
    elif not place.writable:
        if facts.config.system and not facts.root:
            yield ok("state", f"{place.path} is root's, {where}")
        else:
            yield failure(
                "state", f"cannot write to {place.path}: no permission in {place.there}", f"ls -ld {place.there}"
            )
    elif place.exists:
        yield ok("state", f"{place.path}, {where}")
    else:
        yield ok("state", f"{place.path} will be made, {where}")


def _locks(facts: LockFacts, root: bool) -> Iterator[Finding]:
    """The directory in which daemons of different users lock cards against each other."""
    place = facts.place
    if isinstance(place, Unseen):
        yield failure("locks", f"cannot look at the directory of the cards' locks: {place.why}")
        return
    path = place.path
    mend = (f"install -d -m 1777 -o root -g root {path}",)
    if place.network:
        text = f"{path} is on a network file system ({place.file_system}): cards are locked for one machine alone"
        yield failure("locks", text, "# set RUNNERS_LOCK_DIR to a local directory, for every daemon")
    elif not place.exists:
        if place.writable:
            yield ok("locks", f"{path} will be made with the first card")
        else:
            yield failure("locks", f"cannot make {path} as this user: no permission in {place.there}", *mend)
    elif not place.writable:
        yield failure("locks", f"cannot own cards in {path}: no permission to make files in it", *mend)
    elif facts.mode is not None and facts.mode & 0o1777 != 0o1777:
        text = (
            f"{path} has mode {facts.mode:04o}, not 1777: daemons of other users cannot lock cards, or can remove locks"
        )
        yield warning("locks", text, *mend)
    elif facts.uid:
        yield warning("locks", f"{path} belongs to the user with uid {facts.uid}, who can remove others' locks", *mend)
    else:
        yield ok("locks", f"{path}, for every daemon of this machine")


def _disk(role: str, place: PlaceFacts | Unseen, config: Config) -> Finding:
    check = f"disk-{role}"
    if isinstance(place, Unseen):
        return warning(check, f"cannot look: {place.why}")
    least = config.jobs.min_free_disk
    free = f"{format_size(place.free)} free of {format_size(place.total)} at {place.path}"
    if not place.exists and role in ("data", "cache", "artifacts", "nussl"):
        return warning(check, f"there is no {place.path} (directories.{role})", f"mkdir -p {place.path}")
    if place.total_inodes and place.free_inodes * 100 < place.total_inodes:
        text = f"{place.path} has room for {place.free_inodes} more files only, whatever their size"
        return warning(check, text, f"du --inodes -xd 2 {place.there} | sort -n | tail")
    if place.free < least:
        what = f"{free}; below {format_size(least)}"
        if role == "state":
            text = f"{what} (jobs.min_free_disk) nothing starts"
            return failure(check, text, f"find {place.path}/runs -name '*.out' -mtime +30 -delete")
        mend = "docker system prune" if role == "docker" else f"du -xhd 2 {place.there} | sort -h | tail"
        return warning(check, f"{what} jobs soon fail for want of room", mend)
    if place.free < 2 * least:
        return warning(check, f"{free}: little", f"du -xhd 2 {place.there} | sort -h | tail")
    return ok(check, free)


def _open_files(facts: Facts) -> Finding:
    limit = facts.open_files
    if isinstance(limit, Unseen):
        return warning("open-files", f"cannot tell the limit on open files: {limit.why}")
    whose = "of the daemon" if not isinstance(facts.daemon, Unseen) else "here"
    jobs = facts.config.jobs.max_running
    wanted = FILES_BASE + FILES_EACH * jobs
    if limit >= wanted:
        return ok("open-files", f"{limit} {whose}, enough for {jobs} running jobs")
    fix = "# set LimitNOFILE=65536 in runnersd.service" if facts.config.system else f"ulimit -n {wanted}"
    text = f"at most {limit} open files {whose}; {jobs} running jobs (jobs.max_running) can need {wanted}"
    return warning("open-files", text, fix)


def _cgroup(facts: Facts) -> Finding:
    if isinstance(facts.cgroup, Unseen):
        return warning("cgroup", f"cannot tell the version of control groups: {facts.cgroup.why}")
    if facts.cgroup == "v2":
        return ok("cgroup", "version 2")
    beside = " beside 2" if facts.cgroup == "hybrid" else ""
    text = f"version 1{beside}: works, but what is left of a container is killed process by process"
    fix = "# add systemd.unified_cgroup_hierarchy=1 to GRUB_CMDLINE_LINUX", "update-grub && systemctl reboot"
    return warning("cgroup", text, *fix)


def _kernel(facts: Facts) -> Finding:
    if facts.pidfd:
        return ok("kernel", f"Linux {facts.kernel}")
    text = f"Linux {facts.kernel} has no pidfd_open: 5.3 is the oldest that the daemon can use"
    return failure("kernel", text, "apt-get install linux-image-amd64", "systemctl reboot")


def _sqlite(text: str) -> Finding:
    version = (parse(text) or (0, 0, 0, 0))[:3]
    if version < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return failure("sqlite", f"{text}; {oldest} is the oldest that can be used", "# use a newer Python")
    if version < WAL_RESET_MENDED:
        return ok("sqlite", f"{text}; its WAL-reset bug needs two connections, and the daemon has one")
    return ok("sqlite", text)
