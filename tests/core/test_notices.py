"""Who is told of what, in which words, when, and what a user's web hook may not reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.builders import ANN, spec
from runners.api import Code, JobState
from runners.spec import Notify
from runnersd.config import CommandConfig, HookConfig, NotifyConfig, SmtpConfig, UserNotifyConfig
from runnersd.model import Intrusion, Job, Pipeline, Reason
from runnersd.notices.facts import facts_of, reason_at
from runnersd.notices.interest import kind_of, receivers
from runnersd.notices.notice import NAMES, Notice, Receiver
from runnersd.notices.pacing import LONGEST_GATHER, Pace, in_a_row
from runnersd.notices.reach import refusal
from runnersd.notices.wording import LISTED, Words, compose, payload, variables

PIPELINE = Pipeline(3, "musdb", ANN, "/work", 0o022, 10, 0.0, 1)
FAILED = Reason(Code.EXIT_CODE, "exited with code 1")
HOST = "gpu1"


def ended(state: JobState = JobState.FAILED, reason: Reason = FAILED, id: int = 17, **keys: Any) -> Job:
    """A job of ann's that ran for 2 h 3 min."""
    return Job(
        id, PIPELINE, 0, spec(keys.pop("name", "train-2"), **keys), state, attempt=1, reason=reason, exit_code=1,
        started_at=1000.0, finished_at=8380.0,
    )  # fmt: skip


def notice(job: Job, type: str = "", event: int = 5, at: float = 8380.0, by: Intrusion | None = None) -> Notice:
    """What is to be told of the job."""
    type = type or f"job.{job.state.value}"
    kind = kind_of(type, job)
    assert kind is not None
    facts = facts_of(job, reason_at(type, job, at, by), job.gpus or ("GPU-b", "GPU-x"), {"GPU-b": 2}, at)
    return Notice(event, at, kind, ANN.uid, Receiver("webhook"), facts)


def told(job: Job, type: str = "", **more: Any) -> str:
    return compose("k", [notice(job, type, **more)], 0, Words(HOST)).subject


# -- who -------------------------------------------------------------------------------------------------------------

SMTP = SmtpConfig("mail.lab", to="${user}@lab")
ALL = NotifyConfig(webhook=HookConfig("https://chat.lab/x"), smtp=SMTP, command=CommandConfig("tell"))


def who(kind: str, config: NotifyConfig, said: Notify | None = None, trusted: bool = False) -> list[Receiver]:
    return receivers(kind, ended(notify=said), config, trusted=trusted)


def test_nobody_is_told_unless_somebody_asked() -> None:
    assert who("failure", NotifyConfig()) == []
    assert who("failure", NotifyConfig(), Notify("ann@lab")) == []  # there is no mail server


def test_the_administrators_channels_hear_of_everybodys_jobs_and_users_by_their_names() -> None:
    assert who("end", ALL) == [Receiver("webhook"), Receiver("command"), Receiver("mail", "ann@lab")]
    only = replace(ALL, webhook=HookConfig("https://chat.lab/x", on=("failure",)), on=("idle",))
    assert who("end", only) == []
    assert who("failure", only) == [Receiver("webhook")]
    assert who("idle", only) == [Receiver("command"), Receiver("mail", "ann@lab")]


def test_a_failure_is_an_end_too_and_an_end_is_no_failure() -> None:
    config = NotifyConfig(smtp=replace(SMTP, on=("end",)))
    assert who("failure", config) == who("end", config) == [Receiver("mail", "ann@lab")]
    assert who("end", NotifyConfig(smtp=replace(SMTP, on=("failure",)))) == []


def test_a_jobs_own_word_counts_before_its_users_and_that_before_the_rest() -> None:
    users = {"ann": UserNotifyConfig("ann@home", "https://ann.lab/", ("failure",))}
    config = NotifyConfig(smtp=SMTP, users=users)
    assert who("failure", config) == [Receiver("mail", "ann@home"), Receiver("webhook", "https://ann.lab/")]
    assert who("end", config) == []
    assert who("end", config, Notify(on=("end",))) == who("failure", config)
    assert who("failure", config, Notify("else@lab", "https://else.lab/")) == [
        Receiver("mail", "else@lab"), Receiver("webhook", "https://else.lab/", guarded=True),
    ]  # fmt: skip
    assert who("failure", config, Notify(on=())) == []


def test_a_users_hook_is_guarded_unless_the_user_could_do_it_all_anyway() -> None:
    [hook] = who("end", NotifyConfig(), Notify(webhook="http://127.0.0.1/"))
    assert hook.guarded
    [hook] = who("end", NotifyConfig(), Notify(webhook="http://127.0.0.1/"), trusted=True)
    assert not hook.guarded


def test_a_name_that_makes_no_address_is_mailed_nothing() -> None:
    odd = replace(PIPELINE, submitter=replace(ANN, user="ann,bob@lab\nBcc: x"))
    assert receivers("end", replace(ended(), pipeline=odd), NotifyConfig(smtp=SMTP), trusted=False) == []


def test_what_is_told_and_as_what() -> None:
    running = replace(ended(), state=JobState.RUNNING, reason=None, finished_at=None)
    assert kind_of("job.running", running) is None and kind_of("job.busy", running) is None
    assert kind_of("job.idle", running) == "idle" and kind_of("job.contaminated", running) == "contaminated"
    bad = {state for state in JobState if ended(state).settled and kind_of("", ended(state)) == "failure"}
    assert bad == {JobState.FAILED, JobState.TIMED_OUT}
    stopped = ended(JobState.CANCELLED, Reason(Code.IDLE, "its card has done nothing for 30m"))
    assert kind_of("job.cancelled", stopped) == "failure"


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "code", "why", "line"),
    [
        ("succeeded", "ok", "ended well", "job 17 train-2 succeeded after 2h 3m"),
        ("failed", "exit_code", "exited with code 1", "job 17 train-2 failed: exited with code 1 after 2h 3m"),
        ("cancelled", "cancelled_by", "cancelled by root", "job 17 train-2 was cancelled by root after 2h 3m"),
        ("cancelled", "idle", "its card has done nothing", "job 17 train-2 was cancelled after 2h 3m: its card has done nothing"),
        ("timed_out", "time_limit", "over its time limit of 60 s", "job 17 train-2 timed out: over its time limit of 60 s"),
        ("skipped", "need_failed", "a (job 1) ended as failed", "job 17 train-2 was skipped: a (job 1) ended as failed"),
    ],
)  # fmt: skip
def test_an_end_in_a_line(state: str, code: str, why: str, line: str) -> None:
    assert told(ended(JobState(state), Reason(Code(code), why))) == line


def test_idle_cards_and_strangers_in_a_line() -> None:
    job = replace(ended(), state=JobState.RUNNING, finished_at=None, gpus=("GPU-b", "GPU-x"), idle_since=8200.0)
    assert (
        told(job, "job.idle", at=10_000.0)
        == "job 17 train-2 leaves its cards idle: its 2 cards have done nothing for 30m"
    )
    by = Intrusion(17, 1, "GPU-b", 42, 1.0, 1.0, 1001, "bob", "python")
    assert told(job, "job.contaminated", by=by) == "job 17 train-2 is not alone on its cards: python (pid 42, bob)"


def test_the_text_says_what_happened_and_how_to_see_more() -> None:
    text = compose("k", [notice(ended())], 0, Words(HOST)).text.splitlines()
    assert text[0] == "job 17 train-2 failed: exited with code 1 after 2h 3m"
    assert "cards      2, GPU-x" in text and "pipeline   p3 musdb" in text and "machine    gpu1" in text
    assert text[-1] == "see runners-client logs 17"


def test_templates_say_it_otherwise() -> None:
    names = " ".join(f"${name}" for name in NAMES)
    message = compose("k", [notice(ended())], 0, Words(HOST, subject="[$host] ${name}: $state", text=names))
    assert message.subject == "[gpu1] train-2: failed"
    assert message.text.split()[:2] == ["failure", "[gpu1]"] and "$" not in message.text
    assert message.chat == message.text


def test_a_name_breaks_no_line_and_calls_no_channel() -> None:
    message = compose("k", [notice(ended(name="x[a=<!channel> @all\nBcc: b]"))], 0, Words(HOST))
    assert "\n" not in message.subject
    text = payload(message, HOST)["text"]
    assert "<!" not in text and "@all" not in text and "&lt;!channel&gt;" in text


def test_a_thousand_ends_are_one_message() -> None:
    jobs = [ended(JobState.SUCCEEDED if id % 100 else JobState.FAILED, id=id) for id in range(1, 1001)]
    message = compose("k", [notice(job, event=job.id) for job in jobs], 200, Words(HOST))
    assert message.subject == "1,000 jobs ended: 990 succeeded, 10 failed; 200 events more on gpu1"
    lines = message.text.splitlines()
    assert len(lines) == LISTED + 5
    assert lines[2] == "job 1 train-2 succeeded after 2h 3m" and lines[-3] == f"... and {1200 - LISTED} more"
    body = payload(message, HOST)
    assert len(body["events"]) == LISTED and body["more"] == 1200 - LISTED
    assert body["events"][0]["id"] == 1 and body["events"][0]["state"] == "succeeded"
    assert len(message.text) < 5000


def test_a_command_gets_of_many_what_they_have_in_common() -> None:
    many = compose("k", [notice(ended(id=1), event=1), notice(ended(id=2), event=2)], 0, Words(HOST))
    found = variables(many, HOST)
    assert found["RUNNERS_USER"] == "ann" and found["RUNNERS_STATE"] == "failed" and found["RUNNERS_COUNT"] == "2"
    assert "RUNNERS_JOB_ID" not in found
    assert variables(compose("k", [notice(ended())], 0, Words(HOST)), HOST)["RUNNERS_JOB_ID"] == "17"


# -- when ------------------------------------------------------------------------------------------------------------


def test_more_of_them_are_gathered_for_longer_and_quiet_forgets_that() -> None:
    pace = Pace(10.0)
    assert in_a_row(3, pace.wait(3) - 1.0, pace) == 3
    assert in_a_row(3, pace.wait(3) + 1.0, pace) == 0


@given(st.floats(0.01, 1e6), st.integers(1, 200), st.integers(1, 300))
def test_delays_grow_to_a_limit_and_end(gather: float, tries: int, failures: int) -> None:
    pace = Pace(gather, tries)
    delay, earlier = pace.delay(failures), pace.delay(max(failures - 1, 1))
    assert (delay is None) == (failures >= tries)
    assert delay is None or (earlier is not None and gather <= earlier <= delay <= max(3600.0, gather))
    assert gather <= pace.wait(failures) <= max(LONGEST_GATHER, gather)


# -- where to --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255", "::1", "::",
        "fe80::1", "fe80::1%eth0", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1",
        "2002:7f00:1::", "ff02::1", "fd00:ec2::254", "100.100.100.200", "nonsense",
    ],
)  # fmt: skip
def test_a_users_hook_reaches_neither_this_machine_nor_a_clouds_own(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "192.168.1.9", "172.16.0.1", "8.8.8.8", "2001:4860:4860::8888", "fd12::1"]
)
def test_a_users_hook_reaches_the_laboratory_and_the_world(address: str) -> None:
    assert refusal(address) is None
