"""Mail by SMTP. The library blocks, so each mail has a thread of its own, and a deadline after which it is cut off."""

from __future__ import annotations

import asyncio
import os
import smtplib
import socket
import ssl
import threading
from concurrent.futures import Future
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path

from runnersd.config import SmtpConfig
from runnersd.notices.notice import Undelivered
from runnersd.notices.wording import Message

#: Seconds for a whole mail, and for each answer of the server.
WITHIN, ANSWERS_WITHIN = 30.0, 10.0
#: Ports where none is said: of mail servers, of those that take mail from users, and of those within TLS.
_RELAY, _SUBMISSION, _TLS = 25, 587, 465


async def send(config: SmtpConfig, to: str, message: Message, host: str) -> None:
    """Send the message to one address.

    Raises:
        Undelivered: the server did not take it, or could not be asked.
    """
    mail = written(config, to, message, host)
    line = _Line()
    done: Future[None] = Future()
    threading.Thread(target=_run, args=(config, to, mail, line, done), name="mail", daemon=True).start()
    try:
        async with asyncio.timeout(WITHIN):
            await asyncio.wrap_future(done)
    except TimeoutError:
        line.cut()
        raise Undelivered(f"the mail server {config.host} did not take a mail in time") from None


def written(config: SmtpConfig, to: str, message: Message, host: str) -> EmailMessage:
    """The mail. Its id is that of the message, so that one sent twice can be told."""
    mail = EmailMessage()
    mail["From"] = config.sender or f"runners@{host}"
    mail["To"] = to
    mail["Subject"] = message.subject
    mail["Date"] = formatdate()
    mail["Message-ID"] = f"<{message.key}@{host or 'runners'}>"
    mail["Auto-Submitted"] = "auto-generated"  # no out-of-office answers
    mail.set_content(message.text)
    return mail


class _Line:
    """A connection that another thread may cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def have(self, connection: socket.socket | None) -> None:
        """The connection is this one from now on."""
        with self._lock:
            self._socket = connection
            cut = self._cut
        if cut:
            self.cut()

    def cut(self) -> None:
        """End whatever waits for the server."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    return  # it has ended by itself


def _run(config: SmtpConfig, to: str, mail: EmailMessage, line: _Line, done: Future[None]) -> None:
    done.set_running_or_notify_cancel()  # whoever gives up waiting must not take the result's place away
    try:
        _deliver(config, to, mail, line)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever waits
        done.set_exception(_told(error, config, to))
    else:
        done.set_result(None)


def _deliver(config: SmtpConfig, to: str, mail: EmailMessage, line: _Line) -> None:
    server, port = address(config)
    password = None if config.user is None else _password(config)
    verified = ssl.create_default_context()
    if config.tls == "tls":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL(server, port, timeout=ANSWERS_WITHIN, context=verified)
    else:
        smtp = smtplib.SMTP(server, port, timeout=ANSWERS_WITHIN)
    with smtp:
        line.have(smtp.sock)
        smtp.ehlo()
        needs_tls = config.tls == "starttls" or (config.tls == "auto" and password is not None)
        if config.tls in ("auto", "starttls") and (needs_tls or smtp.has_extn("starttls")):
            # Without a password to lose, any encryption is better than none, as between mail servers.
            smtp.starttls(context=verified if needs_tls else _unverified())
            line.have(smtp.sock)
            smtp.ehlo()
        if config.user is not None and password is not None:
            smtp.login(config.user, password)
        smtp.send_message(mail, from_addr=mail["From"], to_addrs=[to])


def address(config: SmtpConfig) -> tuple[str, int]:
    """The server's name and port."""
    name, _, port = config.host.rpartition(":") if not config.host.endswith("]") else (config.host, "", "")
    if not name:
        name, port = config.host, ""
    usual = _TLS if config.tls == "tls" else _SUBMISSION if config.user is not None else _RELAY
    return name.strip("[]"), config.port or int(port or usual)


def _password(config: SmtpConfig) -> str:
    if config.password_env is not None:
        password = os.environ.get(config.password_env)
        if not password:
            raise Undelivered(f"the variable {config.password_env} has no password for the mail server")
        return password
    assert config.password_file is not None, "the configuration was checked"
    try:
        return Path(config.password_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Undelivered(f"cannot read the password of the mail server in {config.password_file}: {why}") from None


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _told(error: BaseException, config: SmtpConfig, to: str) -> Undelivered:
    """What went wrong, in words that hold no secret."""
    if isinstance(error, Undelivered):
        return error
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
        return Undelivered(f"the mail server refuses {to}: {code} {_printable(said)}", again=code < 500)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Undelivered(f"the mail server {config.host} does not take the password of {config.user}")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Undelivered(f"the mail server {config.host} has no TLS or no login, which notify.smtp asks for")
    if isinstance(error, smtplib.SMTPResponseException):
        answer = _printable(error.smtp_error)
        again = error.smtp_code < 500
        return Undelivered(f"the mail server {config.host} says {error.smtp_code} {answer}", again=again)
    if isinstance(error, OSError):  # smtplib's own are OSErrors too
        return Undelivered(
            f"the mail server {config.host} cannot be reached ({error.strerror or type(error).__name__})"
        )
    return Undelivered(f"the mail could not be sent ({type(error).__name__})")


def _printable(said: bytes | str) -> str:
    text = said.decode("ascii", "replace") if isinstance(said, bytes) else said
    return " ".join(text.split())[:200]
