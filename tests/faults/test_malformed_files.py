"""Broken and hostile pipeline files: each is valid, or refused with the file, a line and a sentence; within two seconds."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from runners.errors import InvalidPipeline
from runners.pipeline.files import load, to_wire
from runners.pipeline.schema import read_submission

GOOD = {
    "contract": """\
name: musdb
num_jobs: 4
defaults: {run_in: container, image: lab/torch:latest, env: {A: "1", B: yes}}
jobs:
  - script: prepare
    config: "-y data_prep/musdb.yml --to '${DATA_DIRECTORY}/x y'"
    blocking: true           # everything below waits
  - name: train
    command: python train.py --lr ${{ matrix.lr }} --fold ${{ matrix.fold }}
    matrix: {lr: [0.001, 1e-4], fold: [0, 1, 2]}
    num_gpus: 2
    gpu_memory: 20GiB
    time_limit: 12h
    retries: 2
    mounts: ["/a:/b", "/c:/d:ro"]
  - pipeline: inner.yml
    needs: [train]
    allow_failure: true
  - name: report
    command: [python, report.py, "a b"]
    needs: [train, {job: inner, on: finished}, all]
    begin: +2h
""",
    "first": """\
num_jobs: 2
jobs:
- script: prepare
  config: -y data_prep/x.yml
  run_in: host
  num_gpus: 0
  blocking: true
- {script: train, config: '-p "/art/key/config.yml"', run_in: host, num_gpus: 1, blocking: false}
""",
    "merged": """\
base: &base {num_gpus: 1, env: &env {LR: 0.1, "MODE": fast}}
""".replace("base: ", "# base: ")
    + """\
defaults: &defaults
  cpus: 1.5
  env: &env {LR: 0.1, "MODE": 'fast'}
jobs:
- &one
  name: one
  command: |
    set -e
    python a.py \\
      --b
- <<: *one
  name: two
  env: {<<: *env, C: ''}
  gpus: !!python/tuple [0, GPU-1f]
- command: >-
    folded
    text
  matrix: [{a: 1, b: x}, {a: 2, b: "y z"}]
""",
    "one": "script: dir/x.py\nconfig: [-a, 'b c']\ntime_limit: 1:30:00\nmatrix: {k: [010, 0x1F, ~]}\n",
    "list": "- command: ls\n- command: ls\n  needs: ls\n- {name: z, command: z, needs: [ls, ls-2], priority: -5}\n",
}
INNER = (
    "defaults: {num_workers: 2}\njobs:\n- {name: a, command: a, blocking: true}\n- {name: b, command: b, needs: [a]}\n"
)

NASTY = [
    "", "~", "[]", "{}", "[[", "}", ": :", "- -", "? ?", "&a", "*a", "*env", "!!python/object:os.system x", "!!binary aGk=", "!x", "%TAG ! x", "---", "...",
    "'", '"', "\\", "\t", "\t\t- x", "#", "|", ">", "@", "`", "<<: *one", "<<: [1]", "${DATA_DIRECTORY}", "${CACHE_DIRECTORY}", "${{ matrix.lr }}", "${{ }}", "${{",
    "yes", "null", "0x", "1e400", "-1", ".inf", ".nan", "9" * 400, "1:99:99", "2026-13-45", "+", "+9d", "99999999d", "-0", "1_0", "0o7", "all", "train", "one", "inner.yml",
    "fuzz.yml", "/dev/null", ".", "/", "../../..", "a" * 70_000, "é\u2028\u0085", "\ufeff", "\x00", "\x1b[31m", "\ud7ff", "\U0001f600", "{a: &b [*b]}",
]  # fmt: skip
KEYS = [
    "jobs",
    "name",
    "command",
    "script",
    "config",
    "pipeline",
    "needs",
    "matrix",
    "defaults",
    "num_gpus",
    "env",
    "comand",
    "on",
    "<<",
    "gpus",
    "time_limit",
    "begin",
]


def mutated(text: str, choose: random.Random) -> bytes:
    """The text with one to four things done to it that editors, people or enemies do."""
    data = text
    for _ in range(choose.randint(1, 4)):
        lines = data.split("\n")
        at = choose.randrange(len(lines))
        place = choose.randrange(len(data) + 1)
        line = lines[at]
        match choose.randrange(13):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, line)
            case 2:
                other = choose.randrange(len(lines))
                lines[at], lines[other] = lines[other], line
            case 3:
                lines[at] = " " * choose.randrange(4) + line
            case 4:
                lines[at] = line[choose.randrange(3) :]
            case 5:
                lines[at] = line.partition(":")[0] + ": " + choose.choice(NASTY)
            case 6:
                lines[at] = line.replace(choose.choice(KEYS), choose.choice(KEYS), 1)
            case 7:
                lines.insert(at, " " * choose.randrange(6) + choose.choice(KEYS) + ": " + choose.choice(NASTY))
            case 8:
                lines = [*lines, *choose.choice(list(GOOD.values())).split("\n")]
            case 9:
                data = data[:place] + choose.choice(NASTY) + data[place:]
                continue
            case 10:
                data = data[:place] + data[place + choose.randrange(1, 9) :]
                continue
            case 11:
                data = data[:place]
                continue
            case 12:
                data = (
                    data[:place]
                    + chr(choose.choice([0, 9, 10, 13, 32, 34, 39, 58, 91, 93, 123, 125, 0x7F, 0xD800, 0x2028]))
                    + data[place:]
                )
                continue
        data = "\n".join(lines)
    raw = data.encode("utf-8", "surrogatepass")
    if choose.random() < 0.1:
        position = choose.randrange(len(raw) + 1)
        raw = raw[:position] + bytes([choose.randrange(256)]) + raw[position:]
    return raw


def check(path: Path) -> bool:
    """Whether the file is valid. It may be refused, but only as promised."""
    for last in (False, False, True):  # a busy machine makes every run longer
        started = time.process_time()
        try:
            spec = load(path, environment={"DATA_DIRECTORY": "/data: [a", "HOME": "/h"}, now=1e9)
        except InvalidPipeline as error:
            spec, refused = None, error
        took = time.process_time() - started
        if took < 2:
            break
        assert not last, f"took {took:.1f} s"
    if spec is None:
        check_refusal(refused)
        return False
    wire = json.loads(json.dumps(to_wire(spec, cwd="/work", environment={})))
    assert read_submission(wire, now=1e9).pipeline == spec, "the daemon agrees with the client on what is valid"
    return True


def check_refusal(error: InvalidPipeline) -> None:
    """Every problem has a file, a line that it has, and one printable sentence."""
    assert error.problems, str(error)
    for problem in error.problems:
        lines = len(Path(problem.file).read_bytes().splitlines())
        assert 1 <= problem.line <= lines + 1
        sentence = str(problem)
        assert problem.message
        assert not any(ord(letter) < 32 or ord(letter) == 127 for letter in sentence), repr(sentence)
        assert len(sentence) < 1500
        sentence.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inner.yml").write_text(INNER)
    return tmp_path


@pytest.mark.parametrize("name", GOOD)
def test_the_files_to_be_broken_are_good(folder: Path, name: str) -> None:
    (folder / "fuzz.yml").write_text(GOOD[name])
    assert check(folder / "fuzz.yml")


@pytest.mark.parametrize("seed", range(5))
def test_mutations_of_good_files(folder: Path, seed: int) -> None:
    choose = random.Random(seed)
    valid = 0
    for number in range(120):
        text = choose.choice(list(GOOD.values()))
        inside = choose.random() < 0.2  # the mistake is in the file that another takes in
        (folder / "inner.yml").write_bytes(mutated(INNER, choose) if inside else INNER.encode())
        data = GOOD["contract"].encode() if inside else mutated(text, choose)
        (folder / "fuzz.yml").write_bytes(data)
        try:
            valid += check(folder / "fuzz.yml")
        except BaseException as error:
            error.add_note(f"seed {seed}, file {number}: {data[:2000]!r}")
            raise
    assert 2 <= valid <= 90, "the mutations break too much or too little to show anything"


def jobs(count: int, more: str = "") -> str:
    return "jobs:\n" + "".join(f"- {{name: j{at}, command: x{more}}}\n" for at in range(count))


MiB = 1 << 20
HOSTILE: dict[str, bytes | str] = {
    "50,000 brackets": "[" * 50_000, "50,000 braces": "{a: " * 50_000, "50,000 dashes": "- " * 50_000, "4 MiB of brackets": "[" * (4 * MiB),
    "10 MB of text": "a: " + "x" * (10 * MiB), "10 MB of brackets": "[" * (10 * MiB), "10 MB of jobs": jobs(400_000), "10 MB of zeros": b"\0" * (10 * MiB),
    "binary": bytes(range(256)) * 4000, "random": random.Random(1).randbytes(MiB), "gzip": b"\x1f\x8b\x08\x00" * 1000, "utf-16": "jobs: []".encode("utf-16"),
    "aliases by two": "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
    "aliases by nine": "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "a chain of merges": "- &a0 {k0: 1}\n" + "".join(f"- &a{n} {{<<: *a{n - 1}, k{n}: 1}}\n" for n in range(1, 4000)),
    "merging a thousand times": "- &a {" + ",".join(f"k{n}: 1" for n in range(1000)) + "}\n- {<<: [" + "*a," * 1000 + "]}\n",
    "itself": "&a [*a]", "its own merge": "&a {<<: *a}", "jobs that are their own": "jobs: &a [{command: x, env: *a}]",
    "a huge matrix": "command: x\nmatrix: {" + ",".join(f"k{n}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for n in range(2000)) + "}\n",
    "a wide matrix": "command: x ${{ matrix.a }}\nmatrix: {a: [" + ",".join(map(str, range(40_000))) + "]}\n",
    "placeholders": "command: '" + "${{ matrix.a }}" * 8000 + "'\nmatrix: {a: [" + ",".join(f"{'x' * 10_000}{n}" for n in range(300)) + "]}\n",
    "open placeholders": "command: '" + "${{ " * 800_000 + "'", "directories": "command: '" + "${DATA_DIRECTORY}" * 240_000 + "'",
    "directories without a value": "command: '" + "${CACHE_DIRECTORY}\n\n" * 100_000 + "'",
    "a circle of 15,000": "jobs:\n" + "".join(f"- {{name: j{n}, command: x, needs: j{(n + 1) % 15_000}}}\n" for n in range(15_000)),
    "all needs all": jobs(15_000, ", needs: all, blocking: true"), "15,000 mistakes": jobs(15_000, ", retries: x"), "15,000 typos": jobs(15_000, ", retrys: 1"),
    "needs of nothing": "command: x\nneeds: [" + ",".join(f"j{n}" for n in range(9_000)) + "]\n", "too many needs": "command: x\nneeds: [" + "j," * 200_000 + "]\n",
    "keys": "".join(f"key{n}: 1\n" for n in range(120_000)), "variables": "command: x\nenv:\n" + "".join(f"  a b{n}: 1\n" for n in range(120_000)),
    "a large env for all": "defaults: {env: {" + ",".join(f"K{n}: 1" for n in range(20_000)) + "}}\n" + jobs(5_000, ", env: {A: 1}"),
    "digits": "command: x\nretries: " + "9" * (3 * MiB), "sixties": "[" + "1:1:1," * 600_000 + "]", "comments": "#\n" * (2 * MiB - 9) + "a: 1",
    "no end of a quote": "a: '" + "x\n" * MiB, "tags": "- !!x a\n" * 200_000, "documents": "--- {command: x}\n" * 200_000, "itself again": "- pipeline: fuzz.yml\n" * 2000,
    "devices": "- pipeline: /dev/zero\n- pipeline: /dev/null\n- pipeline: /proc/self/mem\n- pipeline: /\n- pipeline: 'a\0b'\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files(folder: Path, kind: str) -> None:
    content = HOSTILE[kind]
    path = folder / "fuzz.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    valid = check(path)
    assert valid == (kind in ("a wide matrix", "all needs all"))


def test_files_that_multiply(folder: Path) -> None:
    """Thirty files, each taking in the next twice: a thousand million jobs, if anyone counted."""
    for level in range(1, 28):
        (folder / f"{level}.yml").write_text(
            f"[{{pipeline: {level - 1}.yml, needs: all}}, {{pipeline: {level - 1}.yml, blocking: true}}]"
        )
    (folder / "0.yml").write_text("command: x")
    (folder / "fuzz.yml").write_text("pipeline: 27.yml")
    assert not check(folder / "fuzz.yml")
    (folder / "0.yml").write_text("{")
    assert not check(folder / "fuzz.yml")
