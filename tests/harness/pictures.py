"""The pictures in docs/client.md: a job on a fake driver that plays a script, and a machine's made-up week.

`PYTHONPATH=client:scheduler:tests .venv/bin/python -m harness.pictures` draws them into docs/pictures. It takes a minute.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from fake_nvml import FakeDriver, build
from harness.daemon import ROOT, Daemon, eventually
from runners.api import Code
from runners.spec import JobSpec, PipelineSpec, Submission
from runnersd import lifecycle
from runnersd.model import Drain, Reason, Submitter
from runnersd.store import Store

GIB = 1 << 30
WEEK = 7 * 86_400.0
#: The largest a picture in the documentation may be, in bytes.
LARGEST = 100_000
#: Seconds between two looks at the cards, and moments of the script.
EVERY, MOMENT = 0.2, 0.25
#: What the job of the first picture runs: it takes memory step by step, and computes.
_WORK = """
import pathlib, time
held = []
while not pathlib.Path("done").exists():
    if len(held) < 12:
        held.append(bytearray(40 << 20))
    until = time.monotonic() + 0.2
    while time.monotonic() < until - 0.08:
        sum(range(1000))
    time.sleep(0.08)
"""
PEOPLE = ("ann", "bob", "chen", "dora", "emil", "fay", "gus")
NAMES = ("train[lr=0.1]", "train[lr=0.01]", "pretrain", "finetune", "evaluate", "ablation", "distill")


def script(moment: int, card: int, chance: random.Random) -> tuple[int, float, float]:
    """What a card does then: utilisation, memory in GiB, watts. It loads, trains for some epochs, and the second card
    has nothing to do from some time on."""
    if moment < 14:
        return 0, 1.0 + 0.6 * moment, 72.0
    if card == 1 and moment > 110:
        return 0, 61.0, 78.0
    validates = (moment - 14) % 32 > 26
    busy = chance.randint(20, 34) if validates else chance.randint(88, 99)
    memory = min(12.0 + 5.0 * (moment - 14), 61.0) + (0.0 if validates else 6.0)
    return busy, memory, 90.0 + 5.4 * busy + chance.uniform(-12, 12)


def draw_job(library: Path, folder: Path, picture: Path, moments: int) -> None:
    """A job on two cards that play the script, drawn by the client."""
    driver = FakeDriver(library, folder).add_cards(2)
    config = {"gpus": {"poll": EVERY}, "telemetry": {"every": EVERY}}
    chance = random.Random(5)
    with Daemon(folder / "d", config=config, env=driver.environment({})) as daemon:
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 2)
        (daemon.folder / "work.py").write_text(_WORK)
        command = f"{sys.executable} work.py"
        daemon.client().pause("the first one waits a little")
        (id,) = daemon.submit({"name": "train[lr=0.1]", "command": command, "num_gpus": 2}, name="study")
        time.sleep(4)
        daemon.client().resume()
        eventually("it runs", lambda: daemon.job(id)["state"] == "running")
        for moment in range(moments):
            for card, one in enumerate(driver.cards):
                one.utilization, memory, one.power = script(moment, card, chance)
                one.used = round(memory * GIB)
            driver.write()
            time.sleep(MOMENT)
        (daemon.folder / "done").touch()
        daemon.wait(id)
        done = daemon.run("plot", str(id), "-o", str(picture))
        assert done.returncode == 0, done.stderr


async def _live_a_week(state: Path, cards: list[str], until: float) -> None:
    """A week of made-up jobs, written as the daemon writes them."""
    chance = random.Random(11)
    now = until - WEEK
    store = await Store.open(state / "runnersd.db", clock=lambda: now)
    free = dict.fromkeys(cards, until - WEEK - 3600.0)
    ends = {cards[5]: until - 30 * 3600}  # before it is drained
    while True:
        wide = chance.choice((1, 1, 1, 2, 2, 4))
        chosen = sorted(cards, key=lambda card: free[card] if free[card] < ends.get(card, until) else until)[:wide]
        start = max(max(free[card] for card in chosen) + chance.expovariate(1 / 1800), until - WEEK + 60)
        if _night(start):
            start += chance.expovariate(1 / 9000)
        if start > until - 2 * 3600:
            break
        end = min(start + min(chance.lognormvariate(9.8, 0.9), 40 * 3600.0), until - chance.uniform(60, 3600))
        who = min(int(chance.expovariate(1 / 2.2)), len(PEOPLE) - 1)
        submitted = start - chance.expovariate(1 / 6000)
        spec = JobSpec(name=chance.choice(NAMES), command="true", num_gpus=wide)
        one = Submission(PipelineSpec("study", (spec,)), "/", {})
        user = Submitter(61000 + who, 61000 + who, (), PEOPLE[who])
        [(_, [(id, _)])] = await store.submit([one], user, None, submitted)
        store.record(lifecycle.Reserved(id, 1, tuple(chosen)), start)
        store.record(lifecycle.Started(id, 1, start), start)
        if chance.random() < 0.12:
            store.record(lifecycle.Failed(id, 1, Reason(Code.EXIT_CODE, "exited with code 1"), 1, end), end)
        else:
            store.record(lifecycle.Succeeded(id, 1, Reason(Code.OK, "ended well"), 0, end), end)
        free.update(dict.fromkeys(chosen, end))
    store.drain(cards[5], Drain("fan is loud", "root", until - 20 * 3600))
    await store.committed()
    await store.close()


def _night(at: float) -> bool:
    return time.localtime(at).tm_hour < 8


def draw_machine(library: Path, folder: Path, picture: Path) -> None:
    """A week of eight cards, drawn by the client."""
    driver = FakeDriver(library, folder).add_cards(8)
    daemon = Daemon(folder / "d", config={"gpus": {"poll": 0.1}}, env=driver.environment({}))
    daemon.state.mkdir(mode=0o700, parents=True)
    asyncio.run(_live_a_week(daemon.state, [card.uuid for card in driver.cards], time.time()))
    with daemon:
        eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 8)
        done = daemon.run("plot", "--machine", "--since", "7d", "-o", str(picture))
        assert done.returncode == 0, done.stderr


def main() -> None:
    """Draw both."""
    library = build(ROOT / ".cache" / "fake_nvml")
    pictures = ROOT / "docs" / "pictures"
    pictures.mkdir(exist_ok=True)
    for name in ("job", "machine"):
        with tempfile.TemporaryDirectory() as folder:
            picture = pictures / f"{name}.png"
            if name == "job":
                draw_job(library, Path(folder), picture, moments=160)
            else:
                draw_machine(library, Path(folder), picture)
            size = picture.stat().st_size
            print(f"{picture}: {size} bytes")
            assert size < LARGEST


if __name__ == "__main__":
    main()
