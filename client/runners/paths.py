"""Where the socket, the configuration and the state are: the table of the contract, for root and for everyone else.

Standard library's `os` alone, because every start of the client pays for what this imports. Nothing is created here.
"""

from __future__ import annotations

import os

#: The daemon that systemd runs as root.
SYSTEM_SOCKET = "/run/runners/runnersd.sock"
SYSTEM_CONFIG = "/etc/runners/runnersd.yml"
SYSTEM_STATE = "/var/lib/runners"
#: Where daemons lock cards against each other, unless ``$RUNNERS_LOCK_DIR`` says otherwise.
LOCK_DIR = "/run/lock/runners"


def config_file() -> str:
    """The configuration file of a daemon started by this user: ``$RUNNERS_CONFIG``, else by the table."""
    chosen = os.environ.get("RUNNERS_CONFIG")
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return SYSTEM_CONFIG
    return os.path.join(_xdg("XDG_CONFIG_HOME", ".config"), "runners", "runnersd.yml")


def state_dir() -> str:
    """The state directory of a daemon started by this user: ``$RUNNERS_STATE_DIR``, else by the table."""
    chosen = os.environ.get("RUNNERS_STATE_DIR")
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return SYSTEM_STATE
    return os.path.join(_xdg("XDG_STATE_HOME", ".local/state"), "runners")


def own_socket() -> str:
    """Where a daemon started by this user listens, flags and ``$RUNNERS_SOCKET`` apart."""
    return own_sockets()[0]


def own_sockets() -> tuple[str, ...]:
    """Where a daemon of this user may listen, likeliest first.

    A daemon started where ``$XDG_RUNTIME_DIR`` is unset (cron, a container) is in the state directory, and must still
    be found from a login that has the variable.
    """
    if os.geteuid() == 0:
        return (SYSTEM_SOCKET,)
    in_state = os.path.join(state_dir(), "runnersd.sock")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        return (os.path.join(runtime, "runners", "runnersd.sock"), in_state)
    return (in_state,)


def candidate_sockets(chosen: str | None = None) -> tuple[str, ...]:
    """The sockets a client tries in turn: ``chosen``, else ``$RUNNERS_SOCKET``, else own, then the system's."""
    chosen = chosen or os.environ.get("RUNNERS_SOCKET")
    if chosen:
        return (chosen,)
    own = own_sockets()
    return own if SYSTEM_SOCKET in own else (*own, SYSTEM_SOCKET)


def lock_dir() -> str:
    """Where the locks of cards are: ``$RUNNERS_LOCK_DIR``, else the system's."""
    return os.environ.get("RUNNERS_LOCK_DIR") or LOCK_DIR


def _xdg(variable: str, under_home: str) -> str:
    """An XDG base directory; a relative value is ignored, as its specification asks."""
    value = os.environ.get(variable, "")
    return value if os.path.isabs(value) else os.path.join(os.path.expanduser("~"), under_home)
