"""A small Debian with systemd to boot in tests: made once by debootstrap, kept in a cache, never written to again."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

#: Where the trees are kept; a CI that caches a directory names it here.
CACHE_VARIABLE = "RUNNERS_TEST_CACHE"
SUITE = "bookworm"
PACKAGES = ("systemd", "systemd-sysv", "dbus", "libpam-systemd", "procps", "python3")
#: The Python of that suite; the compiled packages of the tests' own environment are used under it.
PYTHON = (3, 11)
TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


class Unavailable(Exception):
    """This machine cannot boot a systemd of its own. The message says what it lacks."""


def require_tools() -> None:
    """Check, at no cost, what a boot needs.

    Raises:
        Unavailable: what is missing, and how to get it.
    """
    if os.geteuid() != 0:
        raise Unavailable("booting systemd needs root: run the tests as root, or in CI")
    if sys.version_info[:2] != PYTHON:
        wanted = ".".join(map(str, PYTHON))
        raise Unavailable(f"booting {SUITE} with these packages needs Python {wanted}, the one that it ships")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool) is None})
    if missing:
        raise Unavailable(f"booting systemd needs {', '.join(missing)}: run tests/install-packages.sh as root")


def rootfs() -> Path:
    """The tree, made first if this machine has none yet (about a minute, 300 MB, from the distribution's mirror).

    Raises:
        Unavailable: debootstrap failed, as on a machine without network; its last lines are in the message.
    """
    recipe = hashlib.sha256(" ".join((SUITE, *PACKAGES)).encode()).hexdigest()[:12]
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    tree = cache / f"{SUITE}-{recipe}"
    with (cache / f"{tree.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs at once make it once
        if not tree.is_dir():
            partial = cache / f"{tree.name}.partial"
            if partial.exists():
                shutil.rmtree(partial)
            made = subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(partial)],
                capture_output=True,
                text=True,
                check=False,
            )
            if made.returncode != 0:
                end = "\n".join((made.stdout + made.stderr).splitlines()[-5:])
                raise Unavailable(f"cannot make {tree}: debootstrap exited {made.returncode}:\n{end}")
            partial.rename(tree)
    return tree


def _cache() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "runners-tests"
