"""The gate: a container's payload starts only when the daemon says so, after it has looked at everything.

A gated container's first act is a few lines of shell that read one word from a FIFO and then become the payload. The
FIFO is in a folder of the daemon's, which the container has read-only, and so is the shell where the host has a static
one: an image's own is whatever its maker likes. What that gives:

- **Looked at before it runs.** Cards and mounts are compared with what was asked for while the payload waits.
- **Started once.** Whoever starts the container again, by hand or after the engine lost its memory, starts something
  that waits for a word that is never said again.
- **Staged early.** A container may wait at its gate before its cards are free.

The word is written before anyone reads it and stays while the daemon keeps the FIFO open; it is read by one reader.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from runnersd.environment import CODE
from runnersd.machine.docker.errors import EngineError
from runnersd.model import Launch

#: Where a container finds its gate.
INSIDE = "/.runners"
#: What a gated container runs in place of its command. The directory to start in, and the command, follow as arguments.
#: It enters the directory itself, since an engine would make a missing one, as root. 127 is a shell's own code for a
#: program that is not there; the gate has not been opened then.
_SCRIPT = """\
umask {umask:04o}
[ "$1" = {code} ] || cd -- "$1" 2>/dev/null || {{ echo "cannot run in $1: it cannot be entered" >&2; exit 126; }}
shift
command -v "$1" >/dev/null 2>&1 || {{ echo "cannot run $1: no such program in the image" >&2; exit 127; }}
read -r runners_word </.runners/go || exit 125
unset runners_word OLDPWD TINI_KILL_PROCESS_GROUP
exec "$@"
"""
#: The same by our own shell. It finds the program itself, as it would take its own commands for the image's.
_OUR_SCRIPT = """\
umask {umask:04o}
[ "$1" = {code} ] || cd -- "$1" 2>/dev/null || {{ echo "cannot run in $1: it cannot be entered" >&2; exit 126; }}
runners_name=$2
shift 2
case $runners_name in
*/*) runners_program=$runners_name ;;
*)
    runners_program=
    IFS=:
    set -f
    for runners_word in $PATH; do
        runners_program=${{runners_word:-.}}/$runners_name
        if [ -f "$runners_program" ] && [ -x "$runners_program" ]; then break; fi
    done
    unset IFS
    ;;
esac
[ -f "$runners_program" ] && [ -x "$runners_program" ] ||
    {{ echo "cannot run $runners_name: no such program in the image" >&2; exit 127; }}
read -r runners_word </.runners/go || exit 125
unset OLDPWD TINI_KILL_PROCESS_GROUP
exec -a "$runners_name" "$runners_program" "$@"
"""
_WORD = b"go\n"


def first_act(launch: Launch, *, ours: bool) -> list[str]:
    """The program that a gated container starts with, and its arguments; ``ours``: a shell of ours lies at the gate."""
    shell, script = (f"{INSIDE}/sh", _OUR_SCRIPT) if ours else ("/bin/sh", _SCRIPT)
    return [shell, "-c", script.format(umask=launch.umask, code=CODE), "runners", launch.cwd, *launch.argv]


class Gate:
    """One container's gate, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shell = folder / "sh"  #: where our own shell lies, if it is what waits
        self._fifo = folder / "go"

    def build(self) -> None:
        """Make it; nothing happens where it stands.

        Raises:
            OSError: the disk did not take it.
        """
        self.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # the daemon's umask is private, and the payload's user must get in
        try:
            os.mkfifo(self._fifo, 0o644)
        except FileExistsError:
            return
        self._fifo.chmod(0o644)

    def furnish(self, shell: Path) -> None:
        """Put our own shell beside it; nothing happens where there is one.

        Raises:
            OSError: the disk did not take it.
        """
        try:
            self.shell.hardlink_to(shell)
        except FileExistsError:
            return
        except OSError:  # a file system without links, or too many of them
            shutil.copyfile(shell, self.shell)
            self.shell.chmod(0o755)

    async def open(self, waits: Callable[[], bool]) -> bool:
        """Say the word, and wait until it is read; whether it was. It is taken back once nobody ``waits`` for it.

        May be repeated by another daemon that does not know whether it was said: who has passed does not read again.

        Raises:
            EngineError: the gate is gone.
        """
        try:
            fd = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise EngineError(f"cannot open the gate {self._fifo}: it is gone") from error
        try:
            if not _unread(fd):
                os.write(fd, _WORD)
            pause = 0.0005
            while _unread(fd):
                if not waits():
                    return not _drain(fd)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.02)
            return True
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Take it down; nobody passes it any more."""
        for path in (self._fifo, self.shell):
            path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            self.folder.rmdir()


def _unread(fd: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]
    return count


def _drain(fd: int) -> bool:
    """Take back what was said; False when it has just been read after all."""
    try:
        return bool(os.read(fd, 64))
    except BlockingIOError:
        return False
