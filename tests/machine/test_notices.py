"""Messages on their way: real web hooks, mail servers and commands, well, slow, hostile and away."""

from __future__ import annotations

import asyncio
import logging
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest

from core.test_notices import ended, notice
from harness.receivers import Hook, MailServer
from runners.api import JobState
from runnersd.config import SmtpConfig
from runnersd.notices import command, mail, webhook
from runnersd.notices.delivery import Delivery, Send
from runnersd.notices.notice import Notice, Receiver, Undelivered
from runnersd.notices.pacing import Pace
from runnersd.notices.wording import Message, Words, compose

MESSAGE = compose("k3y", [notice(ended())], 0, Words("gpu1"))
HOST = "gpu1"


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        yield server


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer() as one:
        yield one


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(timed())


def post(url: str, guarded: bool = False) -> None:
    asyncio.run(webhook.post(url, MESSAGE, HOST, guarded=guarded))


def refused(url: str, guarded: bool = False) -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        post(url, guarded)
    return caught.value


# -- web hooks -------------------------------------------------------------------------------------------------------


def test_a_hook_gets_a_text_for_a_chat_and_fields_for_programs(hook: Hook) -> None:
    post(hook.url)
    [got] = hook.posted
    assert got.headers["Idempotency-Key"] == "k3y" and got.headers["Content-Type"] == "application/json"
    assert got.json["text"] == "job 17 train-2 failed: exited with code 1 after 2h 3m\nsee runners-client logs 17"
    [event] = got.json["events"]
    assert (event["event"], event["state"], event["exit_code"], event["cards"]) == (
        "failure",
        "failed",
        1,
        [2, "GPU-x"],
    )


@pytest.mark.parametrize(
    ("status", "again"), [(500, True), (503, True), (429, True), (404, False), (400, False), (307, False)]
)
def test_what_a_hook_answers_says_whether_to_try_again(hook: Hook, status: int, again: bool) -> None:
    hook.answers = [status]
    error = refused(hook.url)
    assert error.again is again and "/hook" not in str(error)
    assert hook.tried == 1  # no redirect is followed


def test_a_hook_that_says_nothing_is_left(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WITHIN", 0.2)
    hook.answers = ["hang"]
    assert str(refused(hook.url)) == "127.0.0.1 does not answer in time"


def test_nobody_there_is_told_without_the_path() -> None:
    error = refused("http://127.0.0.1:9/s3cret")
    assert error.again and str(error).startswith("127.0.0.1 cannot be reached (") and "s3cret" not in str(error)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_users_hook_never_reaches_this_machine(hook: Hook, name: str) -> None:
    error = refused(hook.url.replace("127.0.0.1", name), guarded=True)
    assert hook.tried == 0
    if not error.again:  # else the machine has no such address
        assert "is not for a user's web hook: it is of this machine" in str(error) or "is no name" in str(error)
    if name in ("127.0.0.1", "localhost"):
        assert not error.again


# -- mail ------------------------------------------------------------------------------------------------------------


def send(server: MailServer, **keys: object) -> None:
    config = SmtpConfig(f"127.0.0.1:{server.port}", **keys)  # type: ignore[arg-type]
    asyncio.run(mail.send(config, "ann@lab", MESSAGE, HOST))


def test_a_mail_says_what_happened(server: MailServer) -> None:
    send(server, sender="gpu@lab")
    [got] = server.mails
    assert (got.sender, got.to, got.encrypted) == ("gpu@lab", "ann@lab", False)
    assert got.message["Subject"] == MESSAGE.subject and got.message["Message-ID"] == "<k3y@gpu1>"
    assert got.message["Auto-Submitted"] == "auto-generated"
    assert got.message.get_content().splitlines() == MESSAGE.text.splitlines()


@pytest.mark.parametrize(("said", "again"), [("550 no such user", False), ("451 later", True)])
def test_what_a_mail_server_says_tells_whether_to_try_again(server: MailServer, said: str, again: bool) -> None:
    server.refusals = [said]
    with pytest.raises(Undelivered, match=f"refuses ann@lab: {said}") as caught:
        send(server)
    assert caught.value.again is again


def test_a_mail_server_that_says_nothing_is_cut_off(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "WITHIN", 0.2)
    server.silent = True
    with pytest.raises(Undelivered, match="did not take a mail in time"):
        send(server)
    for thread in threading.enumerate():
        if thread.name == "mail":
            thread.join(mail.ANSWERS_WITHIN / 2)
            assert not thread.is_alive(), "it still waits for the server"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, of 127.0.0.1, in one file."""
    file = tmp_path_factory.mktemp("tls") / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "-", "-out", "-"],
        capture_output=True, check=True,
    )  # fmt: skip
    file.write_bytes(made.stdout)
    return file


@pytest.fixture
def secured(certificate: Path) -> Iterator[MailServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with MailServer(context) as one:
        yield one


def test_a_password_goes_to_a_server_with_a_good_certificate_alone(
    secured: MailServer, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    with pytest.raises(Undelivered, match="cannot be reached") as caught:
        send(secured, user="gpu", password_file=str(secret))
    assert secured.logins == [] and "s3cret" not in str(caught.value)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    send(secured, user="gpu", password_file=str(secret))
    monkeypatch.setenv("MAIL_PASSWORD", "oth3r")
    send(secured, user="gpu", password_env="MAIL_PASSWORD")
    assert secured.logins == [("gpu", "s3cret", True), ("gpu", "oth3r", True)]
    assert [one.encrypted for one in secured.mails] == [True, True]


def test_without_a_password_any_encryption_is_taken_and_with_one_none_is_refused(
    secured: MailServer, server: MailServer, tmp_path: Path
) -> None:
    send(secured)
    assert [one.encrypted for one in secured.mails] == [True]
    secret = tmp_path / "password"
    secret.write_text("s3cret")
    with pytest.raises(Undelivered, match="has no TLS or no login"):
        send(server, user="gpu", password_file=str(secret))
    assert server.logins == []
    with pytest.raises(Undelivered, match=r"cannot read the password .* No such file"):
        send(server, user="gpu", password_file=str(tmp_path / "none"))


# -- the command -----------------------------------------------------------------------------------------------------


def test_a_command_gets_the_text_and_variables_and_nothing_of_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    out = tmp_path / "out"
    code = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + repr(dict(os.environ)) + os.getcwd())"
    asyncio.run(command.run([sys.executable, "-c", code], MESSAGE, HOST, None))
    said = out.read_text()
    assert said.startswith(MESSAGE.text) and said.endswith("}/")
    assert "'RUNNERS_JOB_ID': '17'" in said and "'RUNNERS_EVENT': 'failure'" in said
    assert "s3cret" not in said and "HOME" not in said


def test_a_command_that_fails_or_hangs_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(Undelivered, match="exited with 3"):
        asyncio.run(command.run("exit 3", MESSAGE, HOST, None))
    with pytest.raises(Undelivered, match="cannot be run: No such file"):
        asyncio.run(command.run(["/no/such"], MESSAGE, HOST, None))
    monkeypatch.setattr(command, "WITHIN", 0.2)
    pid = tmp_path / "pid"
    with pytest.raises(Undelivered, match="took longer"):
        asyncio.run(command.run(f"sleep 60 & echo $! > {pid}; wait", MESSAGE, HOST, None))
    gone = Path(f"/proc/{pid.read_text().strip()}")
    end = time.monotonic() + 10
    while gone.exists() and "State:\tZ" not in (gone / "status").read_text():
        assert time.monotonic() < end, "what it started lives on"


# -- mailboxes -------------------------------------------------------------------------------------------------------

QUICK = Pace(0.02, 4)


class Post:
    """A delivery with what it settled and what it sent."""

    def __init__(self, send: Send | None = None, pace: Pace = QUICK) -> None:
        self.sent: list[tuple[Receiver, Message]] = []
        self.settled: list[int] = []
        self.news = asyncio.Event()
        self.delivery = Delivery(send or self.send, self.settle, lambda: pace, lambda: Words("gpu1"), "db")

    async def send(self, receiver: Receiver, message: Message) -> None:
        self.sent.append((receiver, message))
        if receiver.channel == "webhook":
            await webhook.post(receiver.address, message, HOST, guarded=receiver.guarded)

    def settle(self, notices: Sequence[Notice]) -> None:
        self.settled += [one.event for one in notices]
        self.news.set()

    async def until(self, *events: int) -> None:
        while not set(events) <= set(self.settled):
            self.news.clear()
            await self.news.wait()


def to(receiver: Receiver, event: int, uid: int = 1000) -> Notice:
    one = notice(ended(JobState.SUCCEEDED, id=event), event=event)
    return Notice(one.event, one.at, one.kind, uid, receiver, one.facts)


def test_what_cannot_be_put_into_words_stops_nothing_after_it(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async def send(receiver: Receiver, message: Message) -> None:
            assert [one.event for one in message.notices] == [2]

        post, there = Post(send), Receiver("email", "ann@lab.example")
        known = to(there, 1)
        post.delivery.take([Notice(known.event, known.at, known.kind, known.uid, there, {})])
        await post.until(1)
        post.delivery.take([to(there, 2)])
        await post.until(1, 2)
        await post.delivery.close()

    asyncio.run(work())
    assert caplog.text.count("gave up telling ann@lab.example of 1 events") == 1


def test_a_hook_that_fails_twice_gets_the_same_message_again(hook: Hook) -> None:
    async def work() -> None:
        post = Post()
        hook.answers = [500, 503]
        post.delivery.take([to(Receiver("webhook", hook.url), 1)])
        await post.until(1)
        assert hook.tried == 3 and len(hook.posted) == 1
        assert {message.key for _, message in post.sent} == {hook.posted[0].json["key"]}
        await post.delivery.close()

    run(work)


def test_one_that_never_takes_it_is_given_up_and_said_once(hook: Hook, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        post = Post()
        hook.answers = [500] * 9
        post.delivery.take([to(Receiver("webhook", hook.url + "/s3cret"), 1)])
        await post.until(1)
        assert hook.tried == QUICK.tries
        assert list(post.delivery.kept()) == []
        await post.delivery.close()

    with caplog.at_level(logging.INFO, "runnersd"):
        run(work)
    [said] = caplog.messages
    assert said == "gave up telling the web hook at 127.0.0.1 of 1 events, tried 4 times: 127.0.0.1 answers 500"


def test_what_comes_together_is_one_message_and_what_comes_later_another(hook: Hook) -> None:
    async def work() -> None:
        post = Post()
        receiver = Receiver("webhook", hook.url)
        post.delivery.take([to(receiver, event) for event in range(1, 601)])
        post.delivery.count(receiver)
        post.delivery.take([to(receiver, event) for event in range(601, 1001)])
        await post.until(*range(1, 1001))
        post.delivery.take([to(receiver, 1001)])
        await post.until(1001)
        first, second = hook.posted
        assert first.json["subject"] == "1,000 jobs ended: 1,000 succeeded; 1 events more on gpu1"
        assert second.jobs == [1001] and first.json["key"] != second.json["key"]
        await post.delivery.close()

    run(work)


def test_a_dead_receiver_and_a_users_many_slow_ones_delay_nobody_else() -> None:
    async def work() -> None:
        stuck = asyncio.Event()
        told: list[Receiver] = []

        async def send(receiver: Receiver, message: Message) -> None:
            if receiver.address.startswith("slow"):
                told.append(receiver)
                await stuck.wait()
            if receiver.address == "broken":
                raise RuntimeError("a bug")

        post = Post(send)
        post.delivery.take([to(Receiver("webhook", f"slow{n}"), n) for n in range(1, 41)])
        post.delivery.take([to(Receiver("webhook"), 100), to(Receiver("mail", "bob@lab"), 101, uid=1001)])
        await post.until(100, 101)
        assert post.settled == [100, 101] and len(told) == 4  # so many of one user's are under way at once
        stuck.set()
        await post.until(*range(1, 41))
        await post.delivery.close()

    run(work)


def test_what_is_not_told_when_it_closes_is_not_settled() -> None:
    async def work() -> None:
        post = Post(pace=Pace(60.0, 1))
        post.delivery.take([to(Receiver("webhook"), 1)])
        await asyncio.sleep(0)
        await post.delivery.close()
        assert post.settled == [] and [one.event for one in post.delivery.kept()] == [1]

    run(work)
