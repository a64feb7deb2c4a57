"""Real daemons of three state directories fight over two cards, and are killed at random times."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CARDS = ("GPU-0", "GPU-1")
STATES = ("a", "b", "c")

#: A daemon: claims when told to ("c"), starts a supervisor for a card of its own ("s CARD"), and answers.
DAEMON = """
import subprocess, sys
from pathlib import Path
from runnersd.machine.cards import CardLocks
locks = CardLocks(Path(sys.argv[1]), sys.argv[2])
for line in sys.stdin:
    word, *cards = line.split()
    if word == "c":
        print(*(card for card, owner in locks.claim(cards).items() if owner is None), flush=True)
    else:
        job = subprocess.Popen(["sleep", "600"], pass_fds=locks.descriptors(cards), stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL)
        print(job.pid, flush=True)
"""

#: Claims, marks the card as its own in a way that two cannot, lets go, as fast as it can until told to stop.
HASTY = """
import os, sys, time
from pathlib import Path
from runnersd.machine.cards import CardLocks
folder, state, until, mark = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])
owned = 0
while time.monotonic() < until:
    locks = CardLocks(folder, state)
    if locks.claim(["GPU-0"])["GPU-0"] is None:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
        owned += 1
        os.unlink(mark)
    locks.close()
print(owned)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-S", "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class Fight:
    """What is alive, and whose every card is: by what the daemons said, and by which supervisors run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[str]] = {}
        self.owned: dict[str, set[str]] = {state: set() for state in STATES}
        self.supervisors: dict[int, tuple[str, str]] = {}  # pid: state, card
        self.handed_over = 0

    def say(self, state: str, *words: str) -> None:
        pipe = self.daemons[state].stdin
        assert pipe is not None
        print(*words, file=pipe, flush=True)

    def answer(self, state: str) -> list[str]:
        pipe = self.daemons[state].stdout
        assert pipe is not None
        return pipe.readline().split()

    def claim(self, states: list[str]) -> None:
        """Daemons claim all the cards at the same time."""
        before = {state: set(self.owned[state]) for state in states}
        for state in states:
            self.say(state, "c", *CARDS)
        for state in states:
            self.owned[state] = set(self.answer(state))
            assert before[state] <= self.owned[state], "an owner lost its card"
            in_use = {card for owner, card in self.supervisors.values() if owner == state}
            self.handed_over += len(in_use - before[state])

    def owners(self, card: str) -> set[str]:
        living = {state for state in self.daemons if card in self.owned[state]}
        return living | {state for state, held in self.supervisors.values() if held == card}

    def kill_daemon(self, state: str) -> None:
        daemon = self.daemons.pop(state)
        daemon.kill()
        daemon.communicate()
        self.owned[state] = set()

    def kill_supervisor(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        while is_running(pid):
            time.sleep(0.001)
        del self.supervisors[pid]

    def end(self) -> None:
        for state in [*self.daemons]:
            self.kill_daemon(state)
        for pid in self.supervisors:
            os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("seed", range(2))
def test_two_hundred_rounds_and_never_two_owners(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    fight = Fight(tmp_path)
    had_owner = 0
    try:
        for _ in range(100):
            act = chance.random()
            if act < 0.25 or not fight.daemons:
                for state in STATES:
                    if state not in fight.daemons:
                        fight.daemons[state] = start(DAEMON, tmp_path, state)
            elif act < 0.45:
                fight.kill_daemon(chance.choice([*fight.daemons]))
            elif act < 0.6 and fight.supervisors:
                fight.kill_supervisor(chance.choice([*fight.supervisors]))
            elif act < 0.85:
                state = chance.choice([*fight.daemons])
                for card in fight.owned[state]:
                    fight.say(state, "s", card)
                    fight.supervisors[int(fight.answer(state)[0])] = (state, card)
            claiming = chance.sample([*fight.daemons], chance.randint(0, len(fight.daemons)))
            fight.claim(claiming)
            for card in CARDS:
                owners = fight.owners(card)
                assert len(owners) <= 1, f"{card} belongs to {owners}"
                had_owner += len(owners)
    finally:
        fight.end()
    assert had_owner > 100, "the rounds were no fight"
    assert fight.handed_over > 0, "no daemon ever took a card over from its predecessor"


def test_claims_as_fast_as_they_go_never_overlap(tmp_path: Path) -> None:
    until = time.monotonic() + 2
    hasty = [start(HASTY, tmp_path / "locks", state, until, tmp_path / "mark") for state in STATES]
    owned = [int(process.communicate()[0] or -1) for process in hasty]
    assert [process.returncode for process in hasty] == [0, 0, 0]
    assert min(owned) > 0
    print(f"owned {sum(owned)} times")
