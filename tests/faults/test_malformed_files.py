"""Two hundred malformed pipeline files through the real client, some of them into a real daemon.

Each is either valid or refused with exit 2 and a message that names the file and a line; never a traceback, never
more than two seconds, and the daemon never notices.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.daemon import Daemon

GOOD = [
    """name: musdb
num_jobs: 4
defaults: {env: {A: "1"}, time_limit: 12h}
jobs:
  - script: prepare
    config: "-y data_prep/musdb.yml"
    blocking: true
  - name: train
    command: python train.py --lr ${{ matrix.lr }} --fold ${{ matrix.fold }}
    matrix: {lr: [0.001, 1e-4], fold: [0, 1, 2]}
    gpu_memory: 20GiB
    retries: 2
    env: {B: "2"}
  - name: report
    command: [python, report.py]
    needs: [train, {job: prepare, on: finished}]
    begin: +2h
""",
    "- command: echo one\n  blocking: true\n- {command: echo two, needs: all, priority: -5}\n",
    "command: echo ${HOME}\nmounts: [/a:/b:ro]\ncpus: 0.5\n",
]
PIECES = [
    "[", "]", "{", "}", ":", "- ", "\t", "&a ", "*a", "<<: *a", "!!python/object:os.system ", "!!binary ", "|", ">", "'",
    '"', "---\n", "...\n", "%YAML 9\n", "\x00", "\ufeff", "\u2028", "é", "null", "~", "yes", "0o17", "1e999", ".nan",
    "-1", "99999999999999999999", "${{ matrix.zz }}", "${{", "${DATA_DIRECTORY}", "jobs:", "needs: [train]", "x" * 5000,
]  # fmt: skip


def mutated(text: str, dice: random.Random) -> bytes:
    """The text with a few random injuries."""
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(text) + 1)
        match dice.randrange(5):
            case 0:
                text = text[:at] + dice.choice(PIECES) + text[at:]
            case 1:
                text = text[:at] + text[at + dice.randint(1, 12) :]
            case 2:
                lines = text.splitlines(keepends=True) or [""]
                lines.insert(dice.randrange(len(lines) + 1), dice.choice(lines))
                text = "".join(lines)
            case 3:
                text = text[:at]
            case 4:
                word = dice.choice(re.findall(r"\w+", text) or ["x"])
                text = text.replace(word, dice.choice([*PIECES, word[::-1]]), 1)
    return text.encode("utf-8", "surrogatepass")


def bombs() -> list[bytes]:
    """Files made to hurt."""
    aliases = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
    )
    merges = "m0: &m0 {k: v}\n" + "".join(f"m{n}: &m{n} {{<<: [{f'*m{n - 1},' * 10}]}}\n" for n in range(1, 9))
    return [
        b"[" * 50_000, b"{" * 50_000, b"- " * 50_000, b"[" * 5_000_000, b"a: " * 30_000, b"&a " * 20_000,
        aliases.encode(), merges.encode(), b"x" * 10_000_000, os.urandom(200_000), bytes(range(256)) * 100,
        "\n".join(f"- {n}" for n in range(500_000)).encode(), b"#" * 4_000_000, b"a: 'b" + b"c" * 1_000_000,
        b"? " * 20_000, b"!" * 100_000, b"- [\n" * 5_000, b'"\\u' * 10_000, b"\xff\xfe" + b"a\x00" * 1000, b"",
        b"\n" * 3_000_000, b" " * 3_000_000 + b"a: b", b"command: x\nenv: {" + b"A: b, " * 100_000 + b"}",
        b"jobs:\n" + b"- {command: x}\n" * 60_000, b"command: x\nmatrix: {a: [" + b"1," * 3000 + b"], b: [" + b"1," * 3000 + b"]}",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_malformed_files_are_refused_with_a_line_or_valid(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED", "1"))
    dice = random.Random(seed)
    files = [mutated(dice.choice(GOOD), dice) for _ in range(200)] + bombs()
    refused = 0
    with Daemon(tmp_path / "d") as daemon:
        daemon.client().pause("nothing of this is to run")
        # What a start of the client costs on this machine is not the file's fault.
        start = time.monotonic()
        daemon.run("validate", "--help")
        idle = time.monotonic() - start
        for number, data in enumerate(files):
            file = tmp_path / f"f{number}.yml"
            file.write_bytes(data)
            verb = "submit" if number % 2 else "validate"
            start = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "runners.cli", verb, str(file)],
                env=daemon.env, capture_output=True, timeout=30, check=False, cwd=tmp_path,
            )  # fmt: skip
            took = time.monotonic() - start - idle
            text = done.stderr.decode(errors="replace")
            what = f"seed {seed}, file {number}: {data[:200]!r}\n{text[-1500:]}"
            assert done.returncode in (0, 2), what
            assert "Traceback" not in text, what
            assert took < 2, f"took {took:.1f} s; {what}"
            if done.returncode == 2:
                refused += 1
                assert re.search(rf"{re.escape(file.name)}:\d+: ", text), what
        assert daemon.client().health()["status"] == "ok"
        log = daemon.log.read_text()
        assert "Traceback" not in log and "ERROR" not in log, log[-2000:]
    assert refused > 150
