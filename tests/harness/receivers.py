"""Those who are told: a web server and a mail server, real ones, on ports of their own in a thread."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import email
import email.policy
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from email.message import EmailMessage
from types import TracebackType
from typing import Any

from aiohttp import web


class Thread:
    """An event loop in a thread, while a test runs."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do it there; returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


@dataclass
class Posted:
    """What a web hook got."""

    path: str
    headers: dict[str, str]
    json: dict[str, Any]

    @property
    def jobs(self) -> list[int]:
        return [event["job"] for event in self.json["events"]]


class Hook:
    """A web server. ``answers`` are the next statuses it gives, "hang" for none before `let_go`; then 200."""

    def __init__(self) -> None:
        self.posted: list[Posted] = []  #: what it has taken
        self.tried = 0
        self.answers: list[int | str] = []
        self.url = ""
        self._thread = Thread()
        self._go = asyncio.Event()

    def let_go(self) -> None:
        """Answer 503 to those that hang, now and from now on."""
        self._thread.loop.call_soon_threadsafe(self._go.set)

    async def _post(self, request: web.Request) -> web.Response:
        self.tried += 1
        answer = self.answers.pop(0) if self.answers else 200
        if answer == "hang":
            await self._go.wait()
            answer = 503
        body = Posted(request.path, dict(request.headers), await request.json())
        if answer == 200:
            self.posted.append(body)
        location = {"Location": "/elsewhere"} if answer == 307 else {}
        return web.Response(status=int(answer), headers=location)

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._post)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"

    def __enter__(self) -> Hook:
        self._thread.start()
        self._thread.do(self._serve())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.do(self._runner.cleanup())
        self._thread.stop()


@dataclass
class Mail:
    """What a mail server got."""

    sender: str
    to: str
    message: EmailMessage
    encrypted: bool


@dataclass
class MailServer:
    """A mail server, with STARTTLS where it has a ``context``. ``refusals`` are what it says next to a recipient."""

    context: ssl.SSLContext | None = None
    refusals: list[str] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    logins: list[tuple[str, str, bool]] = field(default_factory=list)  #: user, password, whether encrypted
    silent: bool = False  #: it greets, and says nothing more
    port: int = 0

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 here\r\n")
            await (reader.read() if self.silent else self._serve_client(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            return  # whoever called has gone, or the test is over
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _serve_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        encrypted, sender, to = False, "", ""

        def say(text: str) -> None:
            writer.write(text.replace("\n", "\r\n").encode() + b"\r\n")

        while line := (await reader.readline()).decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    tls = "250-STARTTLS\n" if self.context and not encrypted else ""
                    say(f"250-here\n{tls}250 AUTH PLAIN")
                case "STARTTLS" if self.context is not None:
                    say("220 go on")
                    await writer.drain()
                    try:
                        await writer.start_tls(self.context)
                    except ssl.SSLError:
                        return
                    encrypted = True
                case "AUTH":
                    _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                    self.logins.append((user, password, encrypted))
                    say("235 welcome")
                case "MAIL":
                    sender = rest.partition("<")[2].partition(">")[0]
                    say("250 ok")
                case "RCPT":
                    to = rest.partition("<")[2].partition(">")[0]
                    say(self.refusals.pop(0) if self.refusals else "250 ok")
                case "DATA":
                    say("354 go on")
                    body = (await reader.readuntil(b"\r\n.\r\n"))[:-5]
                    message = email.message_from_bytes(body, policy=email.policy.default)
                    assert isinstance(message, EmailMessage)
                    self.mails.append(Mail(sender, to, message, encrypted))
                    say("250 ok")
                case "QUIT":
                    say("221 bye")
                    return
                case _:
                    say("250 ok")

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> MailServer:
        self._thread = Thread()
        self._thread.start()
        self._thread.do(self._serve())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.do(self._end())
        self._thread.stop()
