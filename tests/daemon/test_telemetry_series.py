"""What was sampled of a job comes back from the socket, also over kills of the daemon and of the process that writes."""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_nvml import FakeDriver
from harness.daemon import Daemon, eventually
from runners.api import TelemetryView
from runners.errors import InvalidRequest, NotFound
from runnersd.telemetry.recorder import SeriesRecorder
from runnersd.telemetry.sample import ProcessSample, Sample
from serving import served, submission

GIB = 1 << 30
#: Seconds between two samples here, and how late one may be on a busy machine.
EVERY, LATE = 0.1, 1.0


class Lab:
    """A daemon on one card whose doings a test writes down."""

    def __init__(self, daemon: Daemon, driver: FakeDriver) -> None:
        self.daemon, self.driver = daemon, driver
        self.done = daemon.folder / "done"
        self.script: list[tuple[float, int]] = []  # when the card began to be so busy

    def begin(self) -> int:
        """A job on the card that runs until `end`."""
        self.done.unlink(missing_ok=True)
        command = f"while ! [ -e '{self.done}' ]; do sleep 0.1; done"
        (id,) = self.daemon.submit({"name": "job", "command": command, "num_gpus": 1})
        return id

    def end(self, id: int) -> TelemetryView:
        """Its series once it is over."""
        self.done.touch()
        self.daemon.wait(id)
        return self.daemon.client().telemetry(id)

    def play(self, busy: int) -> None:
        """Let the card be so busy from now on; its memory and power follow from that."""
        card = self.driver.cards[0]
        card.utilization, card.used, card.power = busy, busy * GIB // 2, 100.0 + busy
        self.script.append((time.time(), busy))
        self.driver.write()

    def writers(self) -> list[int]:
        """The processes that write series, or read them."""
        folder = os.fsencode(self.daemon.state / "telemetry")
        found = []
        for entry in Path("/proc").iterdir():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            except OSError:
                continue
            if b"runnersd.telemetry.child" in arguments and folder in arguments:
                found.append(int(entry.name))
        return found

    def is_the_script(self, series: TelemetryView) -> bool:
        """Each number is what the script said then, or a moment before; and all of a row belong together."""
        (card,) = series["gpus"]
        begins = [at for at, _ in self.script]
        for place, at in enumerate(series["at"]):
            busy = card["utilization"][place]
            now = bisect.bisect(begins, at) - 1
            recent = {said for begin, said in self.script[: now + 1] if begin > at - LATE} | {self.script[now][1]}
            before = bisect.bisect(begins, at - LATE) - 1
            recent |= {self.script[before][1]} if before >= 0 else set()
            if busy not in recent:
                return False
            if (card["memory_used"][place], card["power"][place]) != (busy * GIB // 2, 100.0 + busy):
                return False
        return True


@pytest.fixture(scope="module")
def lab(fake_nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for the module: a card that is looked at ten times a second."""
    folder = tmp_path_factory.mktemp("series")
    driver = FakeDriver(fake_nvml_library, folder).add_cards(1)
    config = {"gpus": {"poll": EVERY}, "telemetry": {"every": EVERY}}
    with Daemon(folder / "d", env=driver.environment({}), config=config) as daemon:
        yield Lab(daemon, driver)


def samples(lab: Lab, id: int, more_than: int, busy: int | None = None) -> TelemetryView:
    """Its series once it has so many rows, or so many in which the card was so busy."""

    def enough() -> Any:
        series = lab.daemon.client().telemetry(id)
        rows = [one for card in series["gpus"] for one in card["utilization"] if busy in (None, one)]
        return len(rows) > more_than and series

    found: TelemetryView = eventually("it is sampled", enough)
    return found


def test_the_series_is_the_cards_script_within_a_sample(lab: Lab) -> None:
    lab.play(10)
    id = lab.begin()
    seen = samples(lab, id, 5)
    for busy in (90, 40, 60):
        lab.play(busy)
        seen = samples(lab, id, 5, busy)
    assert lab.is_the_script(seen)
    found = lab.end(id)
    assert lab.is_the_script(found)
    assert {*found["gpus"][0]["utilization"]} == {10, 90, 40, 60}
    assert found["at"][: len(seen["at"])] == seen["at"]
    job = lab.daemon.job(id)
    assert (found["job"], found["attempt"], found["every"]) == (id, 1, EVERY)
    assert (found["started_at"], found["finished_at"]) == (job["started_at"], job["finished_at"])
    assert found["summary"] == job["attempts"][0]["telemetry"]
    gaps = [after - before for before, after in zip(found["at"], found["at"][1:], strict=False)]
    assert sorted(gaps)[len(gaps) // 2] == pytest.approx(EVERY, abs=EVERY / 2)
    card = found["gpus"][0]
    assert (card["index"], card["memory_total"], card["uuid"]) == (0, 80 * GIB, lab.daemon.client().gpus()[0]["uuid"])
    few = lab.daemon.client().telemetry(id, attempt=1, points=4)
    assert len(few["at"]) == 4
    assert sum(found["process"]["memory"][-1:], 0) > 0, "its shell holds something"


def test_what_is_not_there_is_said(lab: Lab) -> None:
    (id,) = lab.daemon.submit({"name": "late", "command": "true", "num_gpus": 1}, hold=True)
    found = lab.daemon.client().telemetry(id)
    assert (found["at"], found["gpus"], found["started_at"], found["summary"]) == ([], [], None, None)
    lab.daemon.client().cancel(id)
    with pytest.raises(NotFound, match="attempt 2"):
        lab.daemon.client().telemetry(id, attempt=2)
    with pytest.raises(InvalidRequest, match="points: must be a whole number"):
        lab.daemon.client().telemetry(id, points=0)


def test_a_series_goes_on_over_kills_of_the_daemon_and_of_its_process(lab: Lab) -> None:
    lab.play(20)
    id = lab.begin()
    first = samples(lab, id, 10)
    lab.daemon.kill()
    lab.play(30)
    lab.daemon.start()
    second = samples(lab, id, len(first["at"]) + 5)
    assert second["at"][: len(first["at"])] == first["at"], "a killed daemon loses nothing that it had seen"
    for pid in lab.writers():
        os.kill(pid, signal.SIGKILL)
    third = samples(lab, id, len(second["at"]) + 5)
    assert third["at"][: len(second["at"])] == second["at"], "what was read was on disk"
    lab.daemon.kill()
    for pid in lab.writers():
        os.kill(pid, signal.SIGKILL)
    lab.daemon.start()
    found = lab.end(id)
    assert found["at"][: len(third["at"])] == third["at"]
    assert lab.is_the_script(found)


@pytest.mark.slow
def test_a_series_survives_kills_at_random(lab: Lab) -> None:
    chance = random.Random(int(os.environ.get("SEED", "1")))
    lab.play(50)
    id = lab.begin()
    seen: list[float] = samples(lab, id, 3)["at"]
    until = time.monotonic() + 40
    while time.monotonic() < until:
        time.sleep(chance.uniform(0, 1.5))  # a moment that nobody has chosen
        lab.play(chance.randrange(101))
        what = chance.choice(["daemon", "processes", "both"])
        if what != "processes":
            lab.daemon.kill()
        if what != "daemon":
            for pid in lab.writers():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if what != "processes":
            lab.daemon.start()
        series = samples(lab, id, len(seen))
        assert series["at"][: len(seen)] == seen, "what was on disk stays, whatever is killed"
        assert lab.is_the_script(series), "rows are whole"
        assert {len(column) for column in (*series["process"].values(), series["gpus"][0]["power"])} == {
            len(series["at"])
        }
        seen = series["at"]
    assert lab.end(id)["at"][: len(seen)] == seen


def test_a_series_goes_with_its_job(tmp_path: Path) -> None:
    async def scenario() -> None:
        kept = SeriesRecorder(tmp_path, 1.0)
        try:
            async with served(tmp_path, recorder=kept) as daemon:
                await daemon.ask("POST", "/v1/pipelines", submission("true"))
                await daemon.until_state(1, "succeeded")
                for job in (1, 2):
                    kept.began(job, 1, 0.0, [])
                    for second in range(5):
                        kept.add(job, 1, Sample(float(second), (), ProcessSample(second)))
                    kept.ended(job, 1)
                series = (await daemon.ask("GET", "/v1/jobs/1/telemetry")).json
                assert (series["at"], series["process"]["memory"]) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
                assert await daemon.engine.prune(time.time() + 1) == 1
                assert await kept.read(1, 1, 10) == b"{}"
                assert json.loads(await kept.read(2, 1, 10))["at"] == [0, 1, 2, 3, 4]
        finally:
            await kept.close()

    asyncio.run(scenario())


def test_the_daemon_itself_loads_neither_zarr_nor_numpy(lab: Lab) -> None:
    assert lab.daemon.process is not None
    loaded = Path(f"/proc/{lab.daemon.process.pid}/maps").read_text()
    assert "runnersd" in Path(f"/proc/{lab.daemon.process.pid}/cmdline").read_text()
    assert "numpy" not in loaded and "numcodecs" not in loaded
