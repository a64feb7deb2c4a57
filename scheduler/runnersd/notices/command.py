"""The administrator's command: run with the message's text on its stdin, as the daemon's user.

Its environment is its own: what the daemon was started with may hold secrets, and what jobs have is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from runnersd.notices.notice import Undelivered
from runnersd.notices.wording import Message, variables

#: Seconds that the command may take.
WITHIN = 30.0
_BASE = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
#: What a user's own daemon passes on, so that the command finds the user's desktop.
_OWN = ("HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY")


async def run(command: str | Sequence[str], message: Message, host: str, own: Mapping[str, str] | None) -> None:
    """Run the command: text under `sh -c`, a list as it is. ``own``: the environment of the user whose daemon this is.

    Raises:
        Undelivered: it could not be started, took too long, or did not exit with 0.
    """
    words = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
    theirs = {name: own[name] for name in _OWN if name in own} if own is not None else {}
    try:
        process = await asyncio.create_subprocess_exec(
            *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            env={**_BASE, **theirs, **variables(message, host)}, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise Undelivered(f"notify.command cannot be run: {error.strerror or error}") from None
    try:
        async with asyncio.timeout(WITHIN):
            await process.communicate(message.text.encode("utf-8", "replace"))
    except TimeoutError:
        raise Undelivered(f"notify.command took longer than {WITHIN:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode:
        raise Undelivered(f"notify.command exited with {process.returncode}")
