"""Web hooks: a message as JSON, posted. No redirect is followed, no answer is read, and nothing is waited for long."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

import runners
from runnersd.notices.notice import Undelivered
from runnersd.notices.reach import refusal
from runnersd.notices.wording import Message, payload

#: Seconds that a hook has for everything, and for being reached.
WITHIN, REACHED_WITHIN = 10.0, 5.0
#: Answers, besides those from 500 on, after which another try may get through.
_LATER = frozenset({408, 425, 429})


async def post(url: str, message: Message, host: str, *, guarded: bool) -> None:
    """Post the message. ``guarded``: only to addresses that are not this machine's own affair.

    Raises:
        Undelivered: it did not arrive, or was not taken.
    """
    server = urlsplit(url).hostname or ""
    body = json.dumps(payload(message, host)).encode()
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": message.key,
        "User-Agent": f"runnersd/{runners.__version__}",
    }
    timeout = aiohttp.ClientTimeout(total=WITHIN, connect=REACHED_WITHIN)
    resolver = _Resolver(guarded=guarded)
    connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True)
    try:
        if guarded:
            _refuse_literal(server)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.post(url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            status = answer.status
            answer.close()
    except aiohttp.InvalidURL:
        raise Undelivered(f"{server} is no name of a host", again=False) from None
    except TimeoutError:
        raise Undelivered(f"{server} does not answer in time") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(_cause(error), _Refused):
            raise Undelivered(str(_cause(error)), again=False) from None
        # What aiohttp raises may have the URL in its text, and that is often a secret.
        raise Undelivered(f"{server} cannot be reached ({_why(error)})") from None
    finally:
        await connector.close()
    if 300 <= status < 400:
        raise Undelivered(f"{server} answers with a redirect ({status}); say the URL that it leads to", again=False)
    if not 200 <= status < 300:
        raise Undelivered(f"{server} answers {status}", again=status >= 500 or status in _LATER)


class _Refused(OSError):
    """An address that a user's hook may not be at."""


class _Resolver(AbstractResolver):
    """Looks a name up; what is found is what is connected to, so a name cannot mean another address a moment later."""

    def __init__(self, *, guarded: bool) -> None:
        self._guarded = guarded

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a name, all of them allowed."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        if self._guarded:
            for *_, address in found:
                _refuse(host, str(address[0]))
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def _refuse_literal(host: str) -> None:
    """Refuse an address in place of a name, which no resolver is asked for."""
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host.partition("%")[0])
    except OSError:
        return
    _refuse(host, host)


def _refuse(host: str, address: str) -> None:
    why = refusal(address)
    if why is not None:
        raise _Refused(f"{host} is not for a user's web hook: {why}")


def _cause(error: BaseException) -> BaseException:
    """What the system said, where aiohttp only passes that on."""
    found: BaseException = getattr(error, "os_error", error)
    return found


def _why(error: BaseException) -> str:
    return getattr(_cause(error), "strerror", None) or type(error).__name__
