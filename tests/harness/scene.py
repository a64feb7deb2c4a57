"""A machine in the middle of its day: two users, a shared card, a foreign process, a drained card, bookings, and more
jobs than fit. For the screens in docs/status.md and README.md.

`PYTHONPATH=client:scheduler:tests .venv/bin/python -m harness.scene` as root prints them; `--write` puts them into the pages;
`--bash` leaves you in a shell whose `runners-client status` shows it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from daemon.somebody import Somebody
from fake_nvml import FakeDriver, Process, build
from harness.daemon import ROOT, Daemon, eventually

ANN, BOB = 61001, 61002
GIB = 1 << 30
#: Columns and rows of the screens in the documentation.
SIZES = ((120, 40), (80, 24))

#: What a time, a duration or a pid looks like; they differ each time.
_CLOCK = re.compile(r"\b(?:[A-Z][a-z]{2} )?(?:\d\d [A-Z][a-z]{2} |[-\d]{10} )?\d\d:\d\d(?::\d\d)?\b")
_LASTED = re.compile(r"\b(?:\d+[dhm] )?\d+[smhd]\b")
_PID = re.compile(r"\bpid \d+")
#: A screen in the documentation.
_BLOCK = re.compile(r"```text\n.*?```", re.DOTALL)
#: The one in README.md, and the columns and rows of it.
_FIRST = re.compile(r"(?<=```console\n\$ runners-client status\n).*?(?=```)", re.DOTALL)
_FIRST_SIZE = (100, 40)


@contextmanager
def scene(folder: Path, driver: FakeDriver) -> Iterator[Daemon]:
    """The machine, with a daemon that everybody may ask. Takes root. ``driver`` has eight cards."""
    daemon = Daemon(folder, config={"gpus": {"poll": 0.1}}, env={**driver.environment({}), "TZ": "UTC"})
    daemon.program = [str(Path(__file__).with_name("named.py"))]
    foreign = subprocess.Popen(["sleep", "1000"])
    try:
        with daemon:
            eventually("the cards are seen", lambda: len(daemon.client().gpus()) == 8)
            daemon.socket.chmod(0o666)
            daemon.socket.parent.chmod(0o711)
            with Somebody(daemon, ANN) as ann, Somebody(daemon, BOB) as bob:
                _finish(daemon, ann, bob)
                _run(daemon, ann, bob)
                _use(driver, foreign.pid)
                eventually("the foreign process is seen", lambda: daemon.client().gpus()[4]["state"] == "foreign")
                daemon.client().drain("5", "fan is loud")
                bob.call("book", {"cards": ["6", "7"], "for": "3h", "at": time.time() + 5 * 3600, "reason": "demo"})
                _queue(daemon, ann, bob)
            yield daemon
    finally:
        foreign.kill()
        foreign.wait()


def screen(daemon: Daemon, columns: int, rows: int, *words: str, colour: bool = False) -> str:
    """What the client shows on a terminal of that size: `status`, or other words."""
    ours, its = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {name: value for name, value in daemon.env.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    env |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **({} if colour else {"NO_COLOR": "1"})}
    command = [sys.executable, "-m", "runners.cli", *(words or ("status",))]
    child = subprocess.Popen(command, env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the terminal's other end is closed
            break
    os.close(ours)
    assert child.wait() == 0, shown
    return shown.decode().replace("\r\n", "\n")


def settled(text: str) -> list[str]:
    """The words of a screen, with what differs each time made alike."""
    text = " ".join(text.split())  # a sentence may be broken anywhere
    for pattern in (_CLOCK, _LASTED, _PID):
        text = pattern.sub("~", text)
    return text.split()


def _job(name: str, command: str = "sleep 1000", **keys: object) -> dict[str, object]:
    return {"name": name, "command": command, **keys}


def _until(daemon: Daemon, state: str, *ids: int) -> None:
    for id in ids:
        eventually(f"{id} is {state}", lambda id=id: daemon.job(id)["state"] == state)  # type: ignore[misc]


def _finish(daemon: Daemon, ann: Somebody, bob: Somebody) -> None:
    """Jobs that are over."""
    for who, name, command, limit in (
        (ann, "prepare", "true", None),
        (bob, "preprocess", "exit 1", None),
        (ann, "tokenize", "sleep 1000", 1),
    ):
        daemon.wait(*who.submit(_job(name, command, time_limit=limit), cwd="/", name=name))


def _run(daemon: Daemon, ann: Somebody, bob: Somebody) -> None:
    """Jobs that run, on the first seven cards; the eighth is kept free by what waits."""
    wanted = [
        (ann, _job("pretrain", num_gpus=2, gpus=["0", "1"], time_limit="6h")),
        (ann, _job("notebook", num_gpus=1, gpus=["2"], gpu_shared=True, gpu_memory="20GiB", time_limit="8h")),
        (bob, _job("jupyter", num_gpus=1, gpus=["2"], gpu_shared=True, gpu_memory="30GiB", time_limit="8h")),
        (bob, _job("finetune", num_gpus=1, gpus=["3"], time_limit="90m")),
        (ann, _job("evaluate", num_gpus=1, gpus=["6"], time_limit="45m")),
    ]
    for who, job in wanted:
        _until(daemon, "running", *who.submit(job, cwd="/", name=str(job["name"])))


def _use(driver: FakeDriver, foreign: int) -> None:
    """What the cards look like while all of that runs, and somebody's program on one of them."""
    used = (71, 70, 46, 38, 12, 0, 22, 0)
    busy = (97, 96, 31, 88, 64, 0, 74, 0)
    for card, memory, share in zip(driver.cards, used, busy, strict=True):
        card.used, card.utilization = memory * GIB, share
        card.temperature, card.power = 33 + share * 38 // 100, 70.0 + share * 5.5
    driver.processes = [Process(foreign, 4, 12 * GIB)]
    driver.write()


def _queue(daemon: Daemon, ann: Somebody, bob: Somebody) -> None:
    """Ten jobs that wait, each for another reason."""
    ids = [
        *bob.submit(_job("wide", num_gpus=4, gpus=["0", "1", "3", "7"], time_limit="12h"), cwd="/", name="wide"),
        *ann.submit(
            *[_job(f"sweep-{n}", num_gpus=1, gpus=["3"], time_limit="2h") for n in range(3)], cwd="/", name="sweep"
        ),
        *ann.submit(_job("night", num_gpus=1, gpus=["7"], time_limit="8h"), cwd="/", name="night"),
        *ann.submit(_job("fan-test", num_gpus=1, gpus=["5"]), cwd="/", name="fan-test"),
        *bob.submit(_job("render", num_gpus=1, gpus=["4"]), cwd="/", name="render"),
        *bob.submit(_job("report", begin="+3h"), cwd="/", name="report"),
        *ann.submit(_job("draft"), cwd="/", name="draft", hold=True),
        *ann.submit(_job("upload", needs=[]), cwd="/", name="upload", after=["p4"]),
    ]
    assert len(ids) == 10
    for id in ids:
        eventually(f"{id} is told why", lambda id=id: daemon.job(id)["reason"]["code"] != "starting_soon")  # type: ignore[misc]


def main() -> None:
    """Print the screens, or leave a shell in the scene."""
    library = build(ROOT / ".cache" / "fake_nvml")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with scene(Path(folder) / "d", FakeDriver(library, Path(folder)).add_cards(8)) as daemon:
            if "--bash" in sys.argv:
                client = f'runners-client() {{ {sys.executable} -m runners.cli "$@"; }}; export -f runners-client'
                subprocess.run(["bash", "-c", f"{client}; exec bash"], env={**daemon.env, "TERM": "xterm-256color"},
                               check=False)  # fmt: skip
                return
            screens = [screen(daemon, columns, rows) for columns, rows in SIZES]
            if "--write" in sys.argv:
                page = ROOT / "docs" / "status.md"
                left = iter(screens)
                text = _BLOCK.sub(lambda _: f"```text\n{next(left)}```", page.read_text(encoding="utf-8"))
                page.write_text(text, encoding="utf-8")
                first, page = screen(daemon, *_FIRST_SIZE), ROOT / "README.md"
                text = _FIRST.sub(lambda _: first, page.read_text(encoding="utf-8"), count=1)
                page.write_text(text, encoding="utf-8")
            else:
                sys.stdout.write("\n".join(screens))


if __name__ == "__main__":
    main()
