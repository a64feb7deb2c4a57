"""What a machine must have before an engine can be started on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: A command, and Debian's package that has it.
TOOLS = {
    "dockerd": "docker.io",
    "containerd": "containerd",
    "runc": "runc",
    "docker": "docker.io",
    "iptables": "iptables",
    "busybox": "busybox-static",
    "gcc": "gcc",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}


class Unavailable(Exception):
    """This machine cannot run an engine of the tests' own. The message says what it lacks."""


def require_tools() -> None:
    """Check, at no cost, what an engine needs.

    Raises:
        Unavailable: what is missing, and how to get it.
    """
    if os.geteuid() != 0:
        raise Unavailable("an engine of the tests' own needs root: run the tests as root, or in CI")
    missing = sorted({package for tool, package in TOOLS.items() if shutil.which(tool, path=search_path()) is None})
    if missing:
        raise Unavailable(f"an engine needs {', '.join(missing)}: run tests/install-packages.sh as root")


def cards_are_isolated() -> bool:
    """The GPU hook can grant a container one card and not another: the kernel has the devices controller of old."""
    return Path("/sys/fs/cgroup/devices/cgroup.procs").exists()


def search_path() -> str:
    """PATH with the administrator's folders, which a user's may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
