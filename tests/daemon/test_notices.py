"""People are told of their jobs, by a real daemon: what happened, once, over kills, and whoever else does not listen."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from daemon.somebody import Refused, Somebody
from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from harness.receivers import Hook, MailServer, Posted

ADA = 61_004
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's daemon serves several users")


@dataclass
class Place:
    """A daemon that tells, those it tells, and the cards it sees."""

    daemon: Daemon
    hook: Hook
    mails: MailServer
    driver: FakeDriver
    config: dict[str, Any]

    def told(self, id: int, event: str) -> Posted:
        """What the administrator's hook got of the job's event."""

        def found() -> Posted | None:
            for got in self.hook.posted:
                if any((one["job"], one["event"]) == (id, event) for one in got.json["events"]):
                    return got
            return None

        got: Posted = eventually(f"job {id} {event} is told", found)
        return got

    def configure(self, **telemetry: Any) -> None:
        """Have the daemon watch for idle cards so."""
        self.daemon.configure({**self.config, "telemetry": telemetry})
        self.daemon.reload()

    def use(self, *percent: int) -> None:
        """Have the cards so busy."""
        for card, value in zip(self.driver.cards, percent, strict=True):
            card.utilization = value
        self.driver.write()


@pytest.fixture(scope="module")
def place(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("told")
    driver = FakeDriver(fake_nvml_library, folder).add_cards(2)
    with Hook() as hook, MailServer() as mails:
        record = f"import os, sys; open({str(folder / 'command')!r}, 'a').write(os.environ['RUNNERS_SUBJECT'] + '\\n')"
        config = {
            "gpus": {"poll": 0.05},
            "notify": {
                "webhook": hook.url,
                "smtp": {"host": f"127.0.0.1:{mails.port}", "from": "gpu@lab"},
                "command": {"run": [sys.executable, "-c", record], "on": "failure"},
                "gather": 0.1,
            },
        }
        with Daemon(folder / "d", config=config, env=driver.environment({})) as daemon:
            eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 2)
            yield Place(daemon, hook, mails, driver, config)


def test_a_failure_is_told_on_every_channel_and_not_before_it_is_final(place: Place) -> None:
    job = {"name": "train", "command": "echo s3cret; exit 3", "retries": 1, "retry_delay": 0.1, "notify": "ada@lab"}
    [id] = place.daemon.submit(job)
    place.daemon.wait(id)
    got = place.told(id, "failure")
    assert got.json["text"].startswith(f"job {id} train failed: exited with code 3 after ")
    [mail] = eventually("a mail", lambda: [one for one in place.mails.mails if f"job {id} " in one.message["Subject"]])
    assert mail.to == "ada@lab"
    said = eventually(
        "the command ran", lambda: (file := place.daemon.folder.parent / "command").exists() and file.read_text()
    )
    assert said.splitlines() == [mail.message["Subject"]]
    assert sum(got.jobs.count(id) for got in place.hook.posted) == 1
    assert "s3cret" not in json.dumps(got.json) + mail.message.as_string()


def test_a_hook_that_fails_twice_is_tried_again_and_nothing_waits_for_it(place: Place) -> None:
    place.hook.answers = [500, 503]
    [first] = place.daemon.submit({"name": "a", "command": "true"})
    place.daemon.wait(first)
    place.told(first, "end")
    place.hook.answers = ["hang"]
    [second] = place.daemon.submit({"name": "b", "command": "true"})
    place.daemon.wait(second)
    eventually("the hook hangs", lambda: not place.hook.answers)
    ids = place.daemon.submit({"name": "c", "command": "exit 1", "notify": "ada@lab"}, {"name": "d", "command": "true"})
    place.daemon.wait(*ids)
    eventually("a mail", lambda: any(f"job {ids[0]} " in one.message["Subject"] for one in place.mails.mails))
    assert not any(second in got.jobs for got in place.hook.posted)  # which still has its ten seconds
    place.hook.let_go()
    for id in (second, ids[1]):
        place.told(id, "end")


def test_a_daemon_killed_between_the_end_and_the_telling_leaves_it_to_the_next(place: Place) -> None:
    place.daemon.configure({**place.config, "notify": {**place.config["notify"], "gather": "1h"}})
    place.daemon.reload()
    ids = place.daemon.submit(*({"name": f"j{n}", "command": "true", "notify": "ada@lab"} for n in range(20)))
    place.daemon.wait(*ids)
    place.daemon.kill()
    assert not any(set(got.jobs) & set(ids) for got in place.hook.posted)
    place.daemon.configure(place.config)
    place.daemon.start()
    got = place.told(ids[-1], "end")
    assert sorted(got.jobs) == ids and got.json["subject"].startswith("20 jobs ended: 20 succeeded")
    mail = eventually(
        "one mail", lambda: next((one for one in place.mails.mails if "20 jobs" in one.message["Subject"]), None)
    )
    assert mail.message.get_content().count("succeeded after") == 20
    place.daemon.kill(15)
    place.daemon.start()
    [last] = place.daemon.submit({"name": "last", "command": "true"})
    place.told(last, "end")
    assert sum(got.jobs.count(ids[0]) for got in place.hook.posted) == 1  # what is told is not told again


def test_a_sweep_that_ends_at_once_is_a_handful_of_messages(place: Place) -> None:
    sweep = [{"name": f"j{n}", "command": "true", "begin": "+1h", "notify": "sweep@lab"} for n in range(1000)]
    ids = set(place.daemon.submit(*sweep, name="sweep"))
    pipeline = place.daemon.job(min(ids))["pipeline"]
    assert place.daemon.run("cancel", pipeline).returncode == 0

    def posts() -> list[Posted]:
        return [one for one in place.hook.posted if ids & set(one.jobs)]

    def subjects() -> list[str]:
        return [one.message["Subject"] for one in place.mails.mails if one.to == "sweep@lab"]

    def counted() -> int:
        """Of a single one the subject says no number."""
        return sum(
            int(found[1].replace(",", "")) if (found := re.match("([0-9,]+) jobs", one)) else 1 for one in subjects()
        )

    eventually("all of it is posted", lambda: sum(len(one.jobs) + one.json["more"] for one in posts()) == 1000)
    eventually("all of it is mailed", lambda: counted() == 1000)
    assert len(posts()) <= 8 and len(subjects()) <= 8


@needs_root
def test_a_users_own_hook_reaches_nothing_of_this_machine_and_stays_theirs(place: Place) -> None:
    own = place.hook.url.replace("/hook", "/s3cret")
    place.daemon.socket.chmod(0o666)
    place.daemon.socket.parent.chmod(0o711)
    for folder in (place.daemon.folder, *place.daemon.folder.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with Somebody(place.daemon, ADA) as ada:
        [id] = ada.submit({"name": "mine", "command": "exit 1", "notify": own}, cwd="/tmp")
        place.daemon.wait(id)
        place.told(id, "failure")
        eventually(
            "it is given up", lambda: "gave up telling the web hook at 127.0.0.1" in place.daemon.log.read_text()
        )
        assert not any(got.path == "/s3cret" for got in place.hook.posted)
        assert ada.call("job", id)["spec"]["notify"] == {"webhook": own}
        assert "s3cret" not in place.daemon.log.read_text()
        [mine] = place.daemon.submit({"name": "roots", "command": "exit 1", "notify": own})
        eventually(
            "root's own is told", lambda: any(got.path == "/s3cret" and mine in got.jobs for got in place.hook.posted)
        )
        assert "notify" not in ada.call("job", mine)["spec"]
        place.daemon.configure({**place.config, "notify": {"webhook": place.hook.url}})
        place.daemon.reload()
        with pytest.raises(Refused, match="this daemon sends none"):
            ada.submit({"name": "mail", "command": "true", "notify": "ada@lab"}, cwd="/tmp")


def test_idle_cards_are_shown_told_and_stopped_where_that_is_wanted(place: Place) -> None:
    place.configure(idle_after="1s")
    place.use(0, 90)
    [id] = place.daemon.submit({"name": "think", "command": ["sleep", "300"], "num_gpus": 2, "retries": 2})
    eventually("it runs", lambda: place.daemon.job(id)["state"] == "running")
    assert place.daemon.job(id)["reason"]["code"] == "running"
    place.use(3, 0)
    job = eventually("it is idle", lambda: (one := place.daemon.job(id))["reason"]["code"] == "idle" and one)
    assert job["state"] == "running" and job["idle_since"] - job["started_at"] > 0
    assert place.told(id, "idle").json["events"][0]["cards"] == [0, 1]
    assert b"its 2 cards have done nothing for" in place.daemon.run("status").stdout
    place.use(3, 60)
    eventually("it is busy", lambda: "idle_since" not in place.daemon.job(id))
    types = [event["type"] for event in place.daemon.job(id)["events"]]
    assert types[-2:] == ["job.idle", "job.busy"]
    place.configure(idle_after="1s", idle_action="stop")
    place.use(0, 0)
    [ended] = place.daemon.wait(id)
    assert (ended["state"], ended["reason"]["code"], ended["attempt"]) == ("cancelled", "idle", 1)
    told = place.told(id, "failure").json
    assert "was cancelled after" in told["text"]
    assert next(one for one in told["events"] if one["event"] == "failure")["cards"] == [0, 1]
