"""A table of speeds, each a ratio to a floor measured in the same run, since machines differ and are noisy.

    python -m benchmarks.bench [--only a,b,...] [--json FILE]

Every figure is a median of several rounds in which ours and the floor take turns. Nothing here is a test: it fails
only when something breaks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import caches, containers, planning, series, supervisor_floor, telemetry
from benchmarks.table import Row, printed
from engine import Unavailable
from fake_nvml import CannotBuild, FakeDriver, build
from harness.daemon import ROOT, Daemon


@contextmanager
def daemon(cards: int = 0, **config: Any) -> Iterator[Daemon]:
    """A daemon of the benchmark's own, with so many fake cards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        env = {}
        if cards:
            driver = FakeDriver(build(ROOT / ".cache" / "fake_nvml"), Path(folder)).add_cards(cards)
            env = driver.environment({})
        with Daemon(Path(folder) / "d", env=env, config=config) as running:
            yield running


def timed(command: list[str], **given: Any) -> float:
    """Seconds a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **given)
    return time.perf_counter() - start


def throughput(jobs: int = 1000, rounds: int = 3) -> list[Row]:
    """(a) No-op host jobs of one pipeline, eight at a time."""
    ours, floor, bare = [], [], []
    for _ in range(rounds):
        with daemon() as running:
            start = time.perf_counter()
            running.submit(*[{"name": f"j{number}", "command": ["true"]} for number in range(jobs)], num_jobs=8)
            running.client().wait("p1")
            ours.append(jobs / (time.perf_counter() - start))
            states = running.client().status(limit=1)["counts"]
            assert states.get("succeeded") == jobs, states
        floor.append(float(run_floor("noop", str(jobs), "8")["per_second"]))
        numbers = "\n".join(map(str, range(jobs)))
        bare.append(jobs / timed(["xargs", "-P", "8", "-I{}", "true"], input=numbers.encode()))
    rate, by_hand, xargs = map(statistics.median, (ours, floor, bare))
    return [
        Row("a", f"{jobs} no-op jobs, 8 at once", f"{rate:.0f}/s", f"{by_hand:.0f}/s its supervisors by hand",
            f"{rate / by_hand:.2f}", ">= 0.5, aim 0.75"),
        Row("a", "", f"{rate:.0f}/s", f"{xargs:.0f}/s xargs -P 8 true", f"{rate / xargs:.2f}", ">= 0.20, aim 0.35"),
    ]  # fmt: skip


def hand_off(jobs: int = 60, rounds: int = 3) -> list[Row]:
    """(b) From one job's instruction to the next job's on the same card: each says the time, and that is all it does."""
    ours, floor = [], []
    for _ in range(rounds):
        with daemon(cards=1) as running:
            job = {"command": ["date", "+%s%N"], "num_gpus": 1}
            ids = running.submit(*[{"name": f"j{number}", **job} for number in range(jobs)])
            running.client().wait(*ids)
            logs = [Path(running.job(id)["logs"]["stdout"]) for id in ids]
            times = [int(log.read_text()) for log in logs]
        ours += [(after - before) / 1e6 for before, after in itertools.pairwise(times)]
        floor.append(run_floor("handoff", str(jobs))["median_ms"])
    mine, by_hand = statistics.median(ours), statistics.median(floor)
    return [
        Row("b", "a card's hand-off from job to job, median", f"{mine:.2f} ms", f"{by_hand:.2f} ms its supervisor by hand",
            f"+{mine - by_hand:.2f} ms", "<= +5 ms"),
    ]  # fmt: skip


def submission(rounds: int = 40) -> list[Row]:
    """(c) Submitting one job beside more and more queued ones; (e) the memory they take."""
    medians: dict[int, float] = {}
    with daemon() as running:
        client = running.client()
        client.pause("benchmark")
        assert running.process is not None, "it runs"
        before, queued = 0, 0
        for beside in (10, 1_000, 10_000):
            if beside == 10_000:
                before = resident(running.process.pid)
            while queued < beside:
                step = min(1000, beside - queued)
                running.submit(*[long_job(queued + n) for n in range(step)], num_jobs=8)
                queued += step
            if beside == 10_000:
                per_job = (resident(running.process.pid) - before) / 9_000
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                (id,) = running.submit({"name": "one", "command": ["true"]})
                times.append(time.perf_counter() - start)
                client.cancel(id)
            medians[beside] = statistics.median(times)
        status = status_cost(running)
    few, many = medians[10] * 1e3, medians[10_000] * 1e3
    return [
        Row("c", "submit one job beside 10 000 queued", f"{many:.2f} ms",
            f"{few:.2f} ms beside 10 ({medians[1000] * 1e3:.2f} beside 1 000)", f"{many / few:.2f}", "<= 1.3"),
        status,
        Row("e", "daemon's memory per queued job", f"{per_job / 1024:.2f} KiB", "-", "-", "<= 4 KiB"),
    ]  # fmt: skip


def long_job(number: int) -> dict[str, Any]:
    """A job as people write them."""
    command = f"python train.py --config configs/experiments/run-{number}.yml --seed {number} --epochs 100"
    return {
        "name": f"train-{number}",
        "command": command,
        "time_limit": "12h",
        "retries": 1,
        "env": {"SEED": str(number)},
    }


def status_cost(running: Daemon, rounds: int = 15) -> Row:
    """(d) `runners-client status` in a pipe, of the first 50 of 10 000 queued, as whole processes."""
    client = Path(sys.executable).with_name("runners-client")
    ours, floor = [], []
    for _ in range(rounds):
        ours.append(timed([str(client), "status"], env=running.env))
        floor.append(timed([sys.executable, "-c", "pass"], env=running.env))
    mine, bare = statistics.median(ours) * 1e3, statistics.median(floor) * 1e3
    return Row("d", "status of the first 50 of 10 000 queued", f"{mine:.1f} ms", f"{bare:.1f} ms python -c pass",
               f"{mine / bare:.2f}", "<= 5, aim 3")  # fmt: skip


def idle(seconds: float = 20.0) -> list[Row]:
    """(f) CPU of the daemon and its helpers while nothing happens, with eight cards."""
    with daemon(cards=8) as running:
        time.sleep(3)
        assert running.process is not None, "it runs"
        family = [running.process.pid, *helpers(running)]
        start, began = sum(map(cpu, family)), time.perf_counter()
        time.sleep(seconds)
        used = (sum(map(cpu, family)) - start) / (time.perf_counter() - began)
    return [Row("f", "CPU when idle with 8 cards", f"{used:.2%} of a core", "-", "-", "< 1 %")]


def helpers(running: Daemon) -> list[int]:
    """The daemon's own helper processes, in its tree or out of it: they share its state directory's files."""
    assert running.process is not None, "it runs"
    out = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != running.process.pid:
            try:
                text = (entry / "environ").read_bytes()
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            mine = f"RUNNERS_SOCKET={running.socket}".encode() in text
            if (mine or str(running.state).encode() in arguments) and b"benchmarks" not in arguments:
                out.append(int(entry.name))
    return out


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of memory a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_floor(*words: str) -> dict[str, float]:
    """What the same supervisor does without a daemon."""
    with tempfile.TemporaryDirectory(prefix="floor-") as folder:
        return supervisor_floor.floor(folder, *words)


PARTS: dict[str, Callable[[], list[Row]]] = {
    "a": throughput,
    "b": hand_off,
    "c": submission,
    "f": idle,
    "g": containers.throughput,
    "h": containers.hand_off,
    "j": caches.reading,
    "p": planning.cost,
    "s": series.keeping,
    "t": telemetry.cost,
}


def main() -> None:
    """Run the parts asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default="a,b,c,f,g,h,j,p,s,t", help="which parts; c measures d and e too, h measures i, j measures k"
    )
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    flags = parser.parse_args()
    rows: list[Row] = []
    for key in flags.only.split(","):
        try:
            rows += PARTS[key]()
        except (CannotBuild, Unavailable) as missing:
            rows.append(Row(key, f"not measured: {missing}", "-", "-", "-", "-"))
    print(printed(rows))
    if flags.json:
        flags.json.write_text(json.dumps([row._asdict() for row in rows], indent=2))


if __name__ == "__main__":
    main()
