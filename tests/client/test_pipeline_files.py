"""Pipeline files on disk: the jobs they become, and what is said of those that are wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runners.errors import InvalidPipeline
from runners.pipeline.files import load, to_wire
from runners.pipeline.schema import read_submission
from runners.spec import Barrier, JobSpec, Need, Notify, PipelineSpec

NOW = 1_000_000.0
Files = Callable[..., PipelineSpec]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Writes the files given (`f.yml` first) and loads it, by a relative path as users do."""
    monkeypatch.chdir(tmp_path)

    def make(
        text: str, environment: dict[str, str] | None = None, daemon: dict[str, str] | None = None, **others: str
    ) -> PipelineSpec:
        (tmp_path / "f.yml").write_text(textwrap.dedent(text))
        for name, content in others.items():
            path = tmp_path / f"{name.replace('__', '/')}.yml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(textwrap.dedent(content))
        return load("f.yml", environment=environment or {}, daemon_directories=daemon, now=NOW)

    return make


def names(spec: PipelineSpec) -> list[str]:
    return [job.name for job in spec.jobs]


def needs(spec: PipelineSpec) -> dict[str, list[str]]:
    """By job, `?` behind what need only have finished."""
    return {job.name: [need.job + "?" * (need.on == "finished") for need in job.needs] for job in spec.jobs}


def wrong(made: Files, text: str, **others: Any) -> list[str]:
    with pytest.raises(InvalidPipeline) as caught:
        made(text, **others)
    assert str(caught.value).splitlines()[0] == "cannot use f.yml:"
    return [str(problem) for problem in caught.value.problems]


# -- good files -------------------------------------------------------------------------------------------------------


def test_the_example_of_the_contract(made: Files) -> None:
    spec = made("""
        name: musdb
        num_jobs: 4
        defaults: {run_in: container, image: lab/torch:latest}
        jobs:
          - script: prepare
            config: "-y data_prep/musdb.yml"
            blocking: true
          - name: train
            command: python train.py --lr ${{ matrix.lr }} --fold ${{ matrix.fold }}
            matrix: {lr: [0.001, 0.0001], fold: [0, 1, 2]}
            num_gpus: 2
            gpu_memory: 20GiB
            time_limit: 12h
            retries: 2
          - name: report
            command: python report.py
            needs: [train]
        """)
    where: dict[str, Any] = {"run_in": "container", "image": "lab/torch:latest"}
    how: dict[str, Any] = {"num_gpus": 2, "gpu_memory": 20 << 30, "time_limit": 43200.0, "retries": 2}
    assert spec == PipelineSpec(
        "musdb",
        (
            JobSpec("prepare", ("python", "-m", "scripts.prepare", "-y", "data_prep/musdb.yml"), blocking=True, **where),
            *(
                JobSpec(f"train[lr={lr},fold={fold}]", f"python train.py --lr {lr} --fold {fold}", **where, **how)
                for lr in ("0.001", "0.0001") for fold in (0, 1, 2)
            ),
            JobSpec("report", "python report.py", needs=(Need("train"),), **where),
        ),
        4,
        (Barrier(0, 0),),
    )  # fmt: skip


def test_the_first_librarys_form(made: Files) -> None:
    spec = made("""
        num_jobs: 2
        jobs:
        - script: prepare
          config: -y data_prep/x.yml
          run_in: host
          num_gpus: 0
          blocking: true
        - {script: train, config: '-p "/art/a key/config.yml"', run_in: host, num_gpus: 1, blocking: false}
        - {script: train, config: -y b.yml, run_in: host, num_gpus: 1, blocking: false}
        """)
    assert spec.jobs == (
        JobSpec("prepare", ("python", "-m", "scripts.prepare", "-y", "data_prep/x.yml"), blocking=True),
        JobSpec("train", ("python", "-m", "scripts.train", "-p", "/art/a key/config.yml"), num_gpus=1),
        JobSpec("train-2", ("python", "-m", "scripts.train", "-y", "b.yml"), num_gpus=1),
    )
    assert (spec.name, spec.num_jobs, spec.barriers) == ("f", 2, (Barrier(0, 0),))


@pytest.mark.parametrize(
    ("text", "pipeline", "jobs"),
    [
        ("command: python train.py", "f", ["python"]),
        ("{name: x, command: ls, num_jobs: 3}", "x", ["x"]),
        ("{script: a/b.py, matrix: {k: [1, 2]}}", "f", ["b[k=1]", "b[k=2]"]),
        ("[{command: a}, {command: b}, {command: a}]", "f", ["a", "b", "a-2"]),
        ("- !!python/tuple [x]\n- 1", "", []),
        ("pipeline: g.yml", "f", ["g.ls", "g.ls-2"]),
        ("[{pipeline: g.yml}, {pipeline: g.yml, name: h}, {pipeline: g.yml}]", "f", ["g.ls", "g.ls-2", "h.ls", "h.ls-2", "g-2.ls", "g-2.ls-2"]),
    ],
)  # fmt: skip
def test_forms_of_a_file(made: Files, text: str, pipeline: str, jobs: list[str]) -> None:
    if not jobs:
        assert len(wrong(made, text)) == 2
        return
    spec = made(text, g="[{command: ls}, {command: ls}]")
    assert (spec.name, names(spec)) == (pipeline, jobs)


def test_defaults_lie_under_every_job_and_mappings_merge(made: Files) -> None:
    spec = made("""
        defaults: {num_gpus: 1, env: {A: 1, B: yes}, image: x, priority: -5, script: train}
        jobs:
        - {config: -a, num_gpus: 0}
        - {command: y, env: {B: 010, C: ''}, image: null, gpus: [3, 4]}
        """)
    assert spec.jobs == (
        JobSpec("train", ("python", "-m", "scripts.train", "-a"), image="x", env={"A": "1", "B": "yes"}, priority=-5),
        JobSpec("y", "y", num_gpus=2, gpus=("3", "4"), env={"A": "1", "B": "010", "C": ""}, priority=-5),
    )


def test_a_matrix_lies_over_the_default_one_axis_by_axis(made: Files) -> None:
    spec = made("""
        defaults: {command: 'x ${{ matrix.a }}', matrix: {a: [1, 2], b: [3]}}
        jobs:
        - {name: both, matrix: {b: [4, 5]}}
        - {name: none, command: x, matrix: null}
        - {name: listed, matrix: [{a: 9}]}
        """)
    both = [f"both[a={a},b={b}]" for a in (1, 2) for b in (4, 5)]
    assert names(spec) == [*both, "none", "listed[a=9]"]
    assert spec.jobs[2].command == "x 2"


def test_a_name_that_is_wrong_hides_no_need_that_names_nothing(made: Files) -> None:
    told = wrong(
        made,
        """
        - {name: "a b", command: x}
        - {name: c, command: "x ${{ matrix.lr", needs: ["a b", nobody]}
        """,
    )
    assert [one.split(": ")[1] for one in told] == ["[0].name", "[1].command", "[1].needs[1]"]


def test_a_name_that_is_wrong_in_json_hides_none_either() -> None:
    document = sent(PipelineSpec("x", (JobSpec("a", "x"), JobSpec("c", "x", needs=(Need("a b"), Need("nobody"))))))
    document["jobs"][0]["name"] = "a b"
    with pytest.raises(InvalidPipeline) as caught:
        read_submission(document, now=NOW)
    assert [problem.path for problem in caught.value.problems] == ["jobs[0].name", "jobs[1].needs[1]"]


def test_text_is_as_written_and_numbers_are_yamls(made: Files) -> None:
    (job,) = made("""
        - name: 2026
          command: [echo, 1.50, yes, 0x10]
          workdir: 010
          num_workers: 010
          time_limit: 1:30:00
          gpu_shared: yes
          gpu_memory: 1_000
          gpu_capability: 8.10
          mounts: [/a:/b]
          experiment: 1e3
        """).jobs
    assert job.name == "2026"
    assert job.command == ("echo", "1.50", "yes", "0x10")
    assert (job.workdir, job.experiment) == ("010", "1e3")
    assert job.gpu_capability == "8.10"
    assert (job.num_workers, job.time_limit, job.gpu_shared, job.gpu_memory) == (8, 5400.0, True, 1000)


def test_a_matrix_reaches_every_key(made: Files) -> None:
    spec = made("""
        - name: t
          script: ${{ matrix.s }}
          config: "-k '${{ matrix.text }}'"
          matrix:
          - {s: a/x.py, text: p q, g: 1, l: 30m, on: yes}
          - {s: mod, text: r, g: 2, l: 90, on: no}
          num_gpus: ${{ matrix.g }}
          time_limit: ${{ matrix.l }}
          allow_failure: ${{ matrix.on }}
          workdir: runs/${{ matrix.text }}
          env: {TEXT: "${{ matrix.on }}-${{ matrix.g }}"}
        """)
    assert spec.jobs == (
        JobSpec("t[s=a/x.py,text=p q,g=1,l=30m,on=yes]", ("python", "a/x.py", "-k", "p q"), num_gpus=1, time_limit=1800.0,
                allow_failure=True, workdir="runs/p q", env={"TEXT": "yes-1"}),
        JobSpec("t[s=mod,text=r,g=2,l=90,on=no]", ("python", "-m", "scripts.mod", "-k", "r"), num_gpus=2, time_limit=90.0,
                workdir="runs/r", env={"TEXT": "no-2"}),
    )  # fmt: skip


def test_a_name_with_the_matrix_in_it_stands_as_it_is(made: Files) -> None:
    assert names(made("[{name: 'fold-${{ matrix.f }}', command: x, matrix: {f: [0, 1]}}]")) == ["fold-0", "fold-1"]


def test_a_need_may_follow_the_matrix(made: Files) -> None:
    spec = made("""
        - {name: train, command: x, matrix: &m {lr: [1e-3, 1e-4]}}
        - {name: test, command: y, matrix: *m, needs: ["train[lr=${{ matrix.lr }}]"]}
        """)
    assert needs(spec) == {
        "train[lr=1e-3]": [], "train[lr=1e-4]": [], "test[lr=1e-3]": ["train[lr=1e-3]"], "test[lr=1e-4]": ["train[lr=1e-4]"],
    }  # fmt: skip


def test_the_jobs_of_a_blocking_matrix_do_not_block_one_another(made: Files) -> None:
    spec = made("[{command: x, matrix: {k: [1, 2, 3]}, blocking: true}, {command: y, blocking: true}, {command: z}]")
    assert spec.barriers == (Barrier(0, 2), Barrier(3, 3))


def test_ports_are_read_as_they_are_written(made: Files) -> None:
    """To YAML `8889:8888` without quotes is a number of base sixty."""
    text = "{command: x, run_in: container, image: i, ports: [8888, 8889:8888, '6006']}"
    assert made(text.replace("8889:8888", "8889:80")).jobs[0].ports == ("8888:8888", "8889:80", "6006:6006")
    assert made("{command: x, run_in: container, ports: 6006:60}").jobs[0].ports == ("6006:60",)


def test_begin_is_a_time_from_now(made: Files) -> None:
    spec = made(
        "[{command: a, begin: +2h}, {command: b, begin: 2026-01-31T18:00:00+00:00}, {command: c, begin: 2026-01-31 18:00:00Z}]"
    )
    assert [job.begin for job in spec.jobs] == [NOW + 7200, 1769882400.0, 1769882400.0]


def test_directories_are_the_submitters_then_the_daemons(made: Files) -> None:
    spec = made(
        "# ${NUSSL_DIRECTORY}\n- {command: 'ls ${DATA_DIRECTORY} ${CACHE_DIRECTORY} ${HOME} $X', env: {'${CACHE_DIRECTORY}': 1}}",
        environment={"DATA_DIRECTORY": "/da ta: #", "CACHE_DIRECTORY": "", "HOME": "/h"},
        daemon={"DATA_DIRECTORY": "/no", "CACHE_DIRECTORY": "/cache"},
    )
    assert spec.jobs[0].command == "ls /da ta: # /cache ${HOME} $X"
    assert spec.jobs[0].env == {"/cache": "1"}


# -- nesting ----------------------------------------------------------------------------------------------------------


def test_a_pipeline_of_pipelines_is_one_walk(made: Files) -> None:
    spec = made(
        """
        num_jobs: 3
        defaults: {run_in: host, env: {A: outer, B: outer}, needs: []}
        jobs:
        - {command: first, blocking: true}
        - {pipeline: sub/inner.yml, needs: [first], blocking: true}
        - {name: last, command: last, needs: [inner, inner.b, inner.deep.x]}
        """,
        sub__inner="""
        num_jobs: 9
        defaults: {env: {B: inner}, num_workers: 2}
        jobs:
        - {name: a, command: a, blocking: true}
        - {pipeline: ../deep.yml}
        - {name: b, command: b, needs: [a, deep], env: {A: job}}
        - {command: c, needs: all}
        """,
        deep="- {name: x, command: x, matrix: {k: [1, 2]}}\n- {name: y, command: y, needs: x}\n",
    )
    assert (spec.num_jobs, spec.items) == (3, ("inner", "inner.deep"))
    assert needs(spec) == {
        "first": [],
        "inner.a": ["first"],
        "inner.deep.x[k=1]": ["first"],
        "inner.deep.x[k=2]": ["first"],
        "inner.deep.y": ["first", "inner.deep.x"],
        "inner.b": ["first", "inner.a", "inner.deep"],
        "inner.c": ["first", "inner.a", "inner.deep", "inner.b"],
        "last": ["inner", "inner.b", "inner.deep.x"],
    }
    assert spec.barriers == (Barrier(0, 0), Barrier(1, 1), Barrier(1, 6))
    assert [job.env for job in spec.jobs[1:7:5]] == [{"A": "outer", "B": "inner"}, {"A": "outer", "B": "inner"}]
    assert spec.jobs[5].env == {"A": "job", "B": "inner"}
    assert {job.num_workers for job in spec.jobs} == {1, 2}


def test_an_item_that_may_fail_need_only_finish(made: Files) -> None:
    spec = made(
        """
        - {name: early, command: x, needs: [try]}
        - {pipeline: g.yml, name: try, allow_failure: true, blocking: true}
        - {name: one, command: x, needs: [try.a, {job: try, on: finished}]}
        - {name: two, command: x, needs: all}
        """,
        g="- {name: a, command: x}\n- {name: b, command: x, needs: a}\n",
    )
    assert needs(spec) == {
        "early": ["try?"], "try.a": [], "try.b": ["try.a"], "one": ["try.a", "try?"], "two": ["early", "try?", "one"],
    }  # fmt: skip
    assert spec.barriers == (Barrier(1, 2, "finished"),)
    assert not any(job.allow_failure for job in spec.jobs)


def test_a_failure_allowed_deeper_down_is_allowed_for_who_needs_the_whole(made: Files) -> None:
    spec = made(
        "- {pipeline: g.yml}\n- {name: end, command: x, needs: g}\n",
        g="- {name: a, command: x}\n- {pipeline: h.yml, allow_failure: true}\n- {name: b, command: x, needs: all}\n",
        h="command: x",
    )
    assert needs(spec) == {"g.a": [], "g.h.x": [], "g.b": ["g.a", "g.h?"], "end": ["g.a", "g.h?", "g.b"]}


def test_all_stays_all_in_the_outermost_file(made: Files) -> None:
    assert needs(made("- {command: x}\n- {pipeline: g.yml}\n- {command: z, needs: all}\n", g="command: y"))["z"] == [
        "all"
    ]


def test_all_of_a_matrix_is_what_is_above_the_matrix(made: Files) -> None:
    """Its jobs run side by side: none of them is above another."""
    spec = made("- {command: x}\n- {command: z, needs: all, matrix: {k: [1, 2]}}\n- {command: y, needs: all}\n")
    assert needs(spec) == {"x": [], "z[k=1]": ["x"], "z[k=2]": ["x"], "y": ["all"]}
    assert needs(made("- {command: z, needs: all, matrix: {k: [1, 2]}}\n")) == {"z[k=1]": [], "z[k=2]": []}


def test_all_names_the_jobs_of_a_matrix_that_are_named_whole_by_it(made: Files) -> None:
    whole = "- {command: x, name: '${{ matrix.k }}-x', matrix: {k: [1, 2]}}\n"
    spec = made(whole + "- {command: z, needs: all, matrix: {k: [1, 2]}}\n- {command: y, needs: z}\n")
    assert needs(spec) == {"1-x": [], "2-x": [], "z[k=1]": ["1-x", "2-x"], "z[k=2]": ["1-x", "2-x"], "y": ["z"]}
    item = "- {pipeline: g.yml, needs: all}\n- {pipeline: h.yml}\n- {command: y, needs: h}\n"
    spec = made(whole + item, g=whole, h=whole + "- {pipeline: g.yml, allow_failure: true}\n")
    assert needs(spec)["g.1-x"] == ["1-x", "2-x"]
    assert needs(spec)["y"] == ["h.1-x", "h.2-x", "h.g?"]


def test_needs_of_an_item_on_all_are_what_is_above_it(made: Files) -> None:
    spec = made("- {command: x}\n- {pipeline: g.yml, needs: all}\n", g="- {command: a}\n- {command: b}\n")
    assert needs(spec) == {"x": [], "g.a": ["x"], "g.b": ["x"]}


def test_an_item_is_called_after_the_whole_stem_of_its_file(made: Files) -> None:
    files = {"my prep.v2": "command: ls"}
    assert names(made("- {pipeline: my prep.v2.yml}\n- {pipeline: my prep.v2.yml}\n", **files)) == [
        "my-prep.v2.ls",
        "my-prep.v2-2.ls",
    ]


# -- bad files --------------------------------------------------------------------------------------------------------

BAD = {
    "typo in a file key": ("nam: x\njobs: [{command: x}]", ["f.yml:1: nam: unknown key 'nam'; did you mean `name`?; allowed: name, num_jobs, defaults, jobs"]),
    "typo of the only job's command": ("comand: x\nnum_gpu: 1", [
        "f.yml:1: comand: unknown key 'comand'; did you mean `command`?",
        "f.yml:1: expected exactly one of `command`, `script` and `pipeline`, found none", "f.yml:2: num_gpu: unknown key 'num_gpu'; did you mean `num_gpus`?"]),
    "typo of jobs": ("name: x\njbos: []", ["f.yml:2: jbos: unknown key 'jbos'; did you mean `jobs`?; allowed: name, num_jobs, defaults, jobs"]),
    "a job's key on top": (
        "image: x\njobs: [{command: x}]",
        ["f.yml:1: image: unknown key 'image' here: it is a key of a job; what all jobs share goes into `defaults`; allowed: name, num_jobs, defaults, jobs"],
    ),
    "typo in a job key": ("jobs:\n- command: x\n  num_gpu: 1", ["f.yml:3: jobs[0].num_gpu: unknown key 'num_gpu'; did you mean `num_gpus`?"]),
    "typo in defaults": ("defaults:\n  tiem_limit: 1\njobs: [{command: x}, {command: y}]", ["f.yml:2: defaults.tiem_limit: unknown key 'tiem_limit'; did you mean `time_limit`?"]),
    "name in defaults": ("defaults: {name: x}\njobs: [{command: x}]", ["f.yml:1: defaults.name: `name` cannot be in `defaults`: names are unique"]),
    "no jobs": ("name: x", ["f.yml:1: no `jobs`: expected a list of jobs, or one job with `command`, `script` or `pipeline`"]),
    "no jobs either": ("num_jobs: 2", ["f.yml:1: no `jobs`: expected a list of jobs, or one job with `command`, `script` or `pipeline`"]),
    "null jobs": ("name: x\njobs:", ["f.yml:2: jobs: expected a list of jobs, found nothing (null)"]),
    "empty jobs": ("name: x\njobs: []", ["f.yml:2: jobs: expected at least one job, found an empty list"]),
    "empty list": ("[]", ["f.yml:1: expected at least one job, found an empty list"]),
    "a word": ("hello", ["f.yml:1: expected a mapping with `jobs`, or a list of jobs, found 'hello'"]),
    "a mapping of jobs": ("jobs:\n  a: {command: x}", ["f.yml:1: jobs: expected a list of jobs, found a mapping"]),
    "a word as a job": ("- command: x\n- ls", ["f.yml:2: [1]: expected a mapping of job keys, found 'ls'"]),
    "no work": ("- name: x", ["f.yml:1: [0]: expected exactly one of `command`, `script` and `pipeline`, found none"]),
    "two kinds of work": ("- {command: x, script: y}", ["f.yml:1: [0]: expected exactly one of `command`, `script` and `pipeline`, found both"]),
    "wrong types": (
        "command: x\nnum_gpus: two\nblocking: maybe\nretries: 1.5\ntime_limit: 5 parsecs\nenv: [A]\npriority: 200\n",
        [
            "f.yml:2: num_gpus: expected a whole number from 0 to 1024, found 'two'",
            "f.yml:3: blocking: expected true or false, found 'maybe'",
            "f.yml:4: retries: expected a whole number from 0 to 10000, found 1.5",
            "f.yml:5: time_limit: found '5 parsecs', not a duration: write seconds (90), 90s, 30m, 12h, 2d, 1h30m, 1:30:00 or 2-12:00:00 (days)",
            "f.yml:6: env: expected a mapping of variables to values, found a list",
            "f.yml:7: priority: expected a whole number from -100 to 100, found 200",
        ],
    ),
    "num_jobs": ("num_jobs: many\njobs: [{command: x}]", ["f.yml:1: num_jobs: expected a whole number from 1 to 1000000, found 'many'"]),
    "members": (
        "command: x\nenv:\n  A: 1\n  B:\nmounts:\n- /a:/b\n- /c\nneeds: [{job: all, on: end}]\n",
        [
            "f.yml:4: env.B: has no value; write '' for an empty one",
            "f.yml:7: mounts[1]: expected `host:/container` or `host:/container:ro`, found '/c'",
            "f.yml:8: needs[0].on: expected `success` or `finished`, found 'end'",
        ],
    ),
    "defaults once": ("defaults: {env: {A B: 1}}\njobs: [{command: x}, {command: y}, {command: z, env: {C: 1}}]", [
        "f.yml:1: defaults.env['A B']: expected the name of a variable, without blanks or `=`, found 'A B'"]),
    "a name twice": ("- {name: a, command: x}\n- command: y\n  name: a\n", ["f.yml:3: [1].name: the name 'a' is taken already, in line 1"]),
    "a name of a nested job": ("- {pipeline: g.yml}\n- {name: g.a, command: x}\n", ["f.yml:2: [1].name: the name 'g.a' is that of an earlier job already"]),
    "brackets in a name": ("- {name: 'a[b]', command: x}", ["f.yml:1: [0].name: expected a name of letters, digits, `.`, `_` and `-`, found 'a[b]'"]),
    "matrix": ("- command: ${{ matrix.x }}\n  matrix:\n    lr: 0.1\n    fold: [0, 0]", [
        "f.yml:3: [0].matrix.lr: expected a list of values, found 0.1", "f.yml:4: [0].matrix.fold[1]: the value '0' is there twice"]),
    "beside a wrong matrix": ("- command: a ${{ matrix.x }}\n  matrix: 3\n  num_gpus: two\n  retrys: 1\n  cpus: ${{ matrix.x }}\n  needs: [1: 2]", [
        "f.yml:2: [0].matrix: expected a mapping of lists, or a list of mappings, found 3",
        "f.yml:3: [0].num_gpus: expected a whole number from 0 to 1024, found 'two'", "f.yml:4: [0].retrys: unknown key 'retrys'; did you mean `retries`?",
        "f.yml:6: [0].needs[0].1: unknown key '1'; allowed: job, on", "f.yml:6: [0].needs[0]: says not which `job` is needed"]),
    "matrix key": ("- command: a\n  env:\n    X: ${{ matrix.folds }}\n  matrix: {lr: [1, 2, 3], fold: [0, 1]}", [
        "f.yml:3: [0].env.X: unknown matrix key 'folds': the matrix has lr, fold"]),
    "no matrix": ("- command: ${{ matrix.lr }}", ["f.yml:1: [0].command: unknown matrix key 'lr': the job has no `matrix`"]),
    "matrix value": ("- command: a\n  num_gpus: ${{ matrix.g }}\n  matrix: {g: [1, x, -1]}", [
        "f.yml:2: [0].num_gpus: expected a whole number from 0 to 1024, found 'x'", "f.yml:2: [0].num_gpus: expected a whole number from 0 to 1024, found -1"]),
    "unknown need": ("- {name: train, command: x}\n- command: y\n  needs:\n  - train\n  - trian\n", ["f.yml:5: [1].needs[1]: no job is named 'trian'; did you mean `train`?"]),
    "unknown need inside": ("pipeline: h.yml", ["h.yml:2: [1].needs: no job is named 'h.trian'; did you mean `h.train`?"]),
    "need outside": ("[{name: out, command: x}, {pipeline: i.yml}]", ["i.yml:1: needs: no job is named 'i.out'; did you mean `out`?"]),
    "circle of needs": ("- {name: a, command: x, needs: b}\n- {name: b, command: x, needs: a}", [
        "f.yml:1: [0].needs: a circle, so none of these could ever start: 'a' needs 'b', 'b' needs 'a'"]),
    "below a blocking job": ("- {name: a, command: x}\n- name: b\n  command: x\n  blocking: true\n  needs: [a, c]\n- {name: c, command: x}", [
        "f.yml:5: [1].needs[1]: a circle, so none of these could ever start: 'b' needs 'c', 'c' is below blocking 'b'"]),
    "missing file": ("- pipeline: nix.yml\n- {command: x, needs: nix.a}", ["f.yml:1: [0].pipeline: cannot read 'nix.yml': No such file or directory"]),
    "item keys": ("- pipeline: g.yml\n  num_gpus: 1\n  comand: x\n  command: y", [
        "f.yml:1: [0]: expected exactly one of `command`, `script` and `pipeline`, found `pipeline` and `command`",
        "f.yml:2: [0].num_gpus: unknown key 'num_gpus' here: it is a key of a job; what all jobs share goes into `defaults`; allowed: pipeline, name, needs, blocking, allow_failure",
        "f.yml:3: [0].comand: unknown key 'comand'; allowed: pipeline, name, needs, blocking, allow_failure",
    ]),
    "mistakes below": ("- {pipeline: bad.yml}\n- {pipeline: bad.yml, name: again}\n- {command: x, needs: [nix]}", [
        "f.yml:3: [2].needs[0]: no job is named 'nix'; name a job of this pipeline, or `all`",
        "bad.yml:1: command.a: ${DATA_DIRECTORY} has no value: set DATA_DIRECTORY in your environment, or in the daemon's config",
        "bad.yml:1: command: expected a command, found a mapping",
        "bad.yml:2: retries: expected a whole number from 0 to 10000, found -1",
    ]),
    "circle of files": ("jobs: [{pipeline: c.yml}]", ["c.yml:1: pipeline: a circle of files: f.yml -> c.yml -> f.yml"]),
    "itself": ("pipeline: ./f.yml", ["f.yml:1: pipeline: a circle of files: f.yml -> f.yml"]),
    "a directory": ("pipeline: .", ["f.yml:1: pipeline: cannot read '.': Is a directory"]),
    "no directory": ("a: 1\njobs:\n- command: |\n    ls\n    cd ${DATA_DIRECTORY}\n", [
        "f.yml:1: a: unknown key 'a'; allowed: name, num_jobs, defaults, jobs",
        "f.yml:5: jobs[0].command: ${DATA_DIRECTORY} has no value: set DATA_DIRECTORY in your environment, or in the daemon's config"]),
    "twice": ("command: x\nretries: 1\nretries: 2\ncpus: x", [
        "f.yml:3: retries: the key 'retries' is there twice, first in line 2", "f.yml:4: cpus: expected a number of CPUs above 0, such as 4 or 0.5, found 'x'"]),
}  # fmt: skip
OTHERS = {
    "g": "- {name: a, command: x}", "h": "- {name: train, command: x}\n- {command: y, needs: trian}", "c": "pipeline: f.yml",
    "i": "{command: x, needs: out}", "bad": "command: {a: '${DATA_DIRECTORY}'}\nretries: -1\n",
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_named_with_file_line_and_key(made: Files, case: str) -> None:
    text, messages = BAD[case]
    assert wrong(made, text, **OTHERS) == messages


def test_a_file_that_is_not_there(made: Files) -> None:
    with pytest.raises(InvalidPipeline, match=r"^cannot read nix.yml: No such file or directory$"):
        load("nix.yml", environment={})


def test_a_pipe_may_be_submitted_but_not_named(made: Files, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, b"command: x")
    os.close(write)
    assert names(load(f"/dev/fd/{read}", environment={})) == ["x"]
    os.close(read)
    os.mkfifo(tmp_path / "fifo")
    assert wrong(made, "pipeline: fifo") == ["f.yml:1: pipeline: cannot read 'fifo': Not a regular file"]


def test_pipelines_may_not_multiply_without_end(made: Files, tmp_path: Path) -> None:
    (tmp_path / "0.yml").write_text("command: x")
    for level in range(1, 29):
        (tmp_path / f"{level}.yml").write_text(f"[{{pipeline: {level - 1}.yml}}, {{pipeline: {level - 1}.yml}}]")
    (message,) = wrong(made, "pipeline: 28.yml")[:1]
    assert "too large: its files and needs multiply past all bounds" in message
    assert (
        "files nested more than 30 deep"
        in wrong(made, "pipeline: 29.yml", **{"29": "pipeline: 30.yml", "30": "pipeline: 28.yml"})[0]
    )


def test_a_circle_is_seen_through_links(made: Files, tmp_path: Path) -> None:
    (tmp_path / "g.yml").symlink_to(tmp_path / "f.yml")
    assert "a circle of files: f.yml -> f.yml" in wrong(made, "pipeline: g.yml")[0]


# -- the wire ---------------------------------------------------------------------------------------------------------


def sent(spec: PipelineSpec, **more: Any) -> dict[str, Any]:
    wire = to_wire(spec, cwd="/work", environment={"PATH": "/bin"}, **more)
    copied: dict[str, Any] = json.loads(json.dumps(wire))
    return copied


def test_what_is_sent_is_what_was_read(made: Files) -> None:
    spec = made(
        "[{command: x, matrix: {k: [1, 2]}, blocking: true}, {pipeline: g.yml, blocking: true}, {command: y, needs: all, begin: +1h}]",
        **OTHERS,
    )
    found = read_submission(sent(spec, umask=0o077, after=[3, "p2"], hold=True), now=NOW + 5)
    assert found.pipeline == spec
    assert (found.cwd, found.env, found.umask, found.after, found.hold) == (
        "/work",
        {"PATH": "/bin"},
        0o077,
        (3, "p2"),
        True,
    )
    assert {job.priority for job in read_submission(sent(spec, priority=-3), now=NOW).pipeline.jobs} == {-3}


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    str.strip
)
NOTIFY = st.builds(
    Notify, email=st.none() | st.just("ann@lab"), webhook=st.none() | st.just("https://chat.lab/x"), on=st.none() | st.just(("failure", "idle")),
)  # fmt: skip
JOB = st.builds(
    JobSpec, name=st.just(""), command=TEXT | st.lists(TEXT, min_size=1, max_size=3).map(tuple), run_in=st.sampled_from(["host", "container"]),
    image=st.none() | st.sampled_from(["x", "lab/torch:2.1", "localhost:5000/a/b"]), gpu_memory=st.integers(1, 1 << 50), gpu_shared=st.booleans(), gpu_model=st.none() | TEXT,
    gpu_capability=st.none() | st.builds("{}.{}".format, st.integers(1, 99), st.integers(0, 99)),
    cpus=st.none() | st.floats(0.01, 1000), memory=st.none() | st.integers(1, 1 << 50), shm_size=st.none() | st.integers(1, 1 << 50),
    num_gpus=st.integers(0, 8), num_workers=st.integers(0, 64), time_limit=st.none() | st.floats(0.1, 1e8), grace=st.floats(0, 1e6),
    retries=st.integers(0, 9), retry_delay=st.floats(0, 1e6), blocking=st.booleans(), allow_failure=st.booleans(), priority=st.integers(-100, 100),
    env=st.none() | st.dictionaries(st.from_regex(r"[A-Z_]+", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    workdir=st.none() | TEXT, mounts=st.lists(st.just("/a:/b:ro"), max_size=2).map(tuple), begin=st.none() | st.floats(0, 1e10),
    experiment=st.none() | TEXT, preemptible=st.booleans(), notify=st.none() | NOTIFY, comet_offline=st.booleans(),
)  # fmt: skip


@st.composite
def pipelines(draw: st.DrawFn) -> PipelineSpec:
    """Any pipeline that could have come from a file; needs only point up, so none is a circle."""
    jobs: list[JobSpec] = []
    for position, job in enumerate(draw(st.lists(JOB, min_size=1, max_size=5))):
        above = st.sampled_from(["all", *(f"it.j{at}" for at in range(position))])
        wanted = draw(
            st.lists(st.builds(Need, above, st.sampled_from(["success", "finished"])), max_size=3, unique=True)
        )
        gpus = draw(st.sampled_from([(), tuple(str(at) for at in range(job.num_gpus))]))
        jobs.append(replace(job, name=f"it.j{position}", needs=tuple(wanted), gpus=gpus))
    last = draw(st.integers(0, len(jobs) - 1))
    barriers = {Barrier(at, at) for at, job in enumerate(jobs) if job.blocking} | {Barrier(0, last, "finished")}
    ordered = tuple(sorted(barriers, key=lambda barrier: (barrier.last, -barrier.first, barrier.on)))
    return PipelineSpec(draw(TEXT), tuple(jobs), draw(st.integers(1, 100)), ordered, ("it",))


@given(pipelines())
def test_every_pipeline_survives_the_wire(spec: PipelineSpec) -> None:
    assert read_submission(sent(spec), now=NOW).pipeline == spec
    assert tuple(JobSpec.from_json(json.loads(json.dumps(job.to_json()))) for job in spec.jobs) == spec.jobs


# -- cost -------------------------------------------------------------------------------------------------------------


def test_the_schema_loads_neither_yaml_nor_the_world() -> None:
    code = "import sys, runners.pipeline.schema; print(*sorted(set(sys.modules) & {'yaml', 'asyncio', 'socket', 'logging', 'sqlite3', 'json', 'subprocess'}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        == "\n"
    )
