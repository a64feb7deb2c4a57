"""Where requests go: finds the daemon's socket, sends each over a connection of its own, waits out a restart.

Imports here are few: every start of `runners-client` pays for them. What fails is worded in :mod:`runners.refusals`.
"""

from __future__ import annotations

import json
import time

from . import paths, transport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from socket import socket
    from typing import Any

    from .errors import RunnersError

#: Seconds without a word after which a request is given up, and one of somebody who only looks.
TIMEOUT, LOOKING = 60.0, 10.0
#: Seconds in which a request that may be repeated looks for a daemon that hung up on it: a restart takes about one.
RESTART = 2.0
#: The largest body the daemon takes.
MAX_BODY = 8 * 1024 * 1024


class Endpoint:
    """A daemon to send requests to: the one at ``path``, else at the first of the usual sockets that answers.

    Its methods raise errors of :mod:`runners.errors`. ``timeout`` is in seconds.
    """

    def __init__(self, path: str | None = None, *, timeout: float = TIMEOUT) -> None:
        self.candidates = paths.candidate_sockets(path)
        self.timeout = timeout
        #: The socket that answered last.
        self.path: str | None = None

    def get(self, target: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON at ``target``. Asked again when a restarting daemon breaks the connection."""
        return self.call("GET", target + transport.query(query or {}), repeatable=True)

    def call(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> Any:
        """One request, its JSON answer. ``repeatable``: sent again, for two seconds, when the connection breaks."""
        with self.open(method, target, body, headers=headers, repeatable=repeatable) as answer:
            try:
                text = answer.read()
            except OSError as error:
                raise self._broken(error) from None
        try:
            return json.loads(text) if text else {}
        except ValueError:
            from . import refusals

            raise refusals.not_json(self.path) from None

    def open(
        self,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = False,
    ) -> transport.Answer:
        """One request whose answer is read by the caller. Errors of the daemon are raised here."""
        data = None if body is None else json.dumps(body).encode()
        if data is not None and len(data) > MAX_BODY:
            from . import refusals

            raise refusals.too_large(len(data))
        until = 0.0
        while True:
            try:
                answer = transport.exchange(self.connect(until), method, target, data, headers)
                break
            except TimeoutError as error:
                raise self._broken(error) from None
            except OSError as error:
                until = until or time.monotonic() + RESTART
                if not repeatable or time.monotonic() >= until:
                    raise self._broken(error) from None
                time.sleep(0.05)
        if answer.status < 400:
            return answer
        with answer:
            from . import refusals

            raise refusals.told(answer)

    def connect(self, until: float = 0.0) -> socket:
        """A connection to the daemon. Up to ``until`` (monotonic) a daemon that answered before is waited for."""
        from_before = (self.path,) if self.path and until else None
        while True:
            refused: str | None = None
            for path in from_before or self.candidates:
                try:
                    sock = transport.connect(path, self.timeout)
                except PermissionError:
                    refused = refused or path
                except TimeoutError as error:
                    self.path = path
                    raise self._broken(error) from None
                except OSError:
                    continue
                else:
                    self.path = path
                    return sock
            if time.monotonic() >= until:
                from . import refusals

                raise refusals.not_permitted(refused) if refused else refusals.unreachable(self.candidates)
            time.sleep(0.05)

    def _broken(self, error: OSError) -> RunnersError:
        from . import refusals

        if isinstance(error, TimeoutError):
            return refusals.timed_out(self.path, self.timeout)
        return refusals.hung_up(self.path)
