"""The socket the daemon listens on: systemd's, or its own with the right owner and mode from its first moment."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from runners.errors import InvalidConfig, Unavailable
from runnersd.config import Config
from runnersd.server.peer import group_id

log = logging.getLogger(__name__)

#: How many clients may wait to be accepted; the kernel caps it at net.core.somaxconn.
BACKLOG = 1024
#: The longest path of a Unix socket on Linux, in bytes (sun_path, less its NUL).
LONGEST_PATH = 107
#: How long an answer to "is anybody there?" is waited for, in seconds.
PROBE_TIMEOUT = 2.0


class Listener:
    """A listening socket, and the file in the file system that is ours to take away again (none of systemd's)."""

    def __init__(self, sock: socket.socket, path: Path | None) -> None:
        self.sock = sock
        self._path = path
        self._identity = _identity(path) if path is not None else None

    def remove(self) -> None:
        """Take the socket's file away, unless another daemon's stands there by now."""
        if self._path is not None and self._identity is not None and _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)


def listeners(config: Config, passed: Mapping[str, int]) -> list[Listener]:
    """The sockets to serve: those that systemd passed, by name and descriptor, else one at the configured path.

    Call it with the state directory locked: a socket file that nobody answers on is replaced.

    Raises:
        InvalidConfig: no socket can be there, or systemd passed one of the wrong kind.
        Unavailable: another daemon answers there.
    """
    if passed:
        return [Listener(_adopt(name, descriptor), None) for name, descriptor in passed.items()]
    if config.paths is None:
        raise InvalidConfig("cannot listen: no socket path was settled on")
    group = None
    if config.system and config.socket.group is not None:
        group = group_id(config.socket.group)
        if group is None:
            log.warning(
                "there is no group %s: only root can connect; create it (groupadd --system %s) and restart",
                config.socket.group,
                config.socket.group,
            )
    return [_bind(config.paths.socket, system=config.system, group=group)]


def _adopt(name: str, descriptor: int) -> socket.socket:
    sock = socket.socket(fileno=descriptor)
    listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM or not listening:
        sock.detach()
        raise InvalidConfig(f"cannot listen on systemd's socket {name}: it must be a ListenStream= with a path")
    sock.setblocking(False)
    return sock


def _bind(path: Path, *, system: bool, group: int | None) -> Listener:
    """A new listening socket at ``path``: root's with mode 0660 for its group, a user's with 0600."""
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise InvalidConfig(
            f"cannot listen on {path}: its {length} bytes are more than the {LONGEST_PATH} that Linux takes; "
            "name a shorter path with --socket, $RUNNERS_SOCKET or socket.path"
        )
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        _make_folder(path.parent, 0o755 if system else 0o700)
        _check_vacant(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind_aside(sock, path, mode=0o660 if group is not None else 0o600, group=group)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise InvalidConfig(f"cannot listen on {path}: {error.strerror or error}") from error
    sock.setblocking(False)
    return Listener(sock, path)


def _make_folder(folder: Path, mode: int) -> None:
    """A new folder has exactly this mode, whatever the umask; one that exists stays as it is."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(mode)


def _bind_aside(sock: socket.socket, path: Path, *, mode: int, group: int | None) -> None:
    """Bind under a name of our own, give it its owner and mode, listen, and only then put it in place.

    So nobody can connect before the mode is right, and at no moment is there no socket. The file is made with 0600
    whatever the umask is: Linux takes a new socket file's mode from the socket itself.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    aside = f".{path.name}.{os.getpid()}"
    try:
        os.fchmod(sock.fileno(), 0o600)
        _unlink(aside, folder)
        # Through /proc the name stays short, however long the path is.
        sock.bind(f"/proc/self/fd/{folder}/{aside}")
        try:
            if group is not None:
                os.chown(aside, -1, group, dir_fd=folder, follow_symlinks=False)
            os.chmod(aside, mode, dir_fd=folder)
            sock.listen(BACKLOG)
            os.rename(aside, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            _unlink(aside, folder)
            raise
    finally:
        os.close(folder)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


def _check_vacant(path: Path) -> None:
    """Nobody answers at ``path``, and nothing but a dead socket stands there."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidConfig(f"cannot listen on {path}: something that is no socket is there; move it, or use --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_TIMEOUT)
        # Whoever does not answer in time listens, and is busy.
        with contextlib.suppress(TimeoutError, BlockingIOError):
            try:
                probe.connect(str(path))
            except (ConnectionRefusedError, FileNotFoundError):
                return
    raise Unavailable(f"cannot listen on {path}: another daemon answers there; stop it, or use --socket")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
