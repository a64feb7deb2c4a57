"""A job that leaves evidence: one line when it starts and one when it ends, each on disk before it goes on.

    python payload.py ORACLE SECONDS [EXIT CODE]

Lines: `start|end <job> <attempt> <pid> <monotonic ns> <uuid,uuid,...>`. The monotonic clock is the machine's, so lines
of different processes compare.
"""

import os
import sys
import time


def say(oracle: int, word: str) -> None:
    job, attempt = os.environ["RUNNERS_JOB_ID"], os.environ["RUNNERS_ATTEMPT"]
    cards = os.environ["CUDA_VISIBLE_DEVICES"] or "-"
    os.write(oracle, f"{word} {job} {attempt} {os.getpid()} {time.monotonic_ns()} {cards}\n".encode())
    os.fsync(oracle)


def main() -> None:
    oracle = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    say(oracle, "start")
    time.sleep(float(sys.argv[2]))
    say(oracle, "end")
    sys.exit(int(sys.argv[3]) if len(sys.argv) > 3 else 0)


main()
