"""What the daemon makes of the JSON it is sent: a submission, or every mistake in it; never anything else."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runners.errors import InvalidPipeline
from runners.pipeline.checking import MEANT
from runners.pipeline.schema import JOB_KEYS, MAX_JOBS, derived_name, fill_names, read_submission
from runners.spec import Barrier, JobSpec, Need, Notify, Submission

NOW = 1_000_000.0


def submission(*jobs: Any, **more: Any) -> Submission:
    return read_submission({"cwd": "/work", "jobs": list(jobs), **more}, now=NOW)


def job(**keys: Any) -> JobSpec:
    """The only job of a submission with these keys."""
    return submission({"command": "true", **keys}).pipeline.jobs[0]


def mistakes(document: Any) -> list[str]:
    with pytest.raises(InvalidPipeline) as caught:
        read_submission(document, now=NOW)
    assert all(problem.line == 0 and problem.file == "" for problem in caught.value.problems)
    return [str(problem) for problem in caught.value.problems]


def mistakes_of(*jobs: Any, **more: Any) -> list[str]:
    return mistakes({"cwd": "/work", "jobs": list(jobs), **more})


def test_words_of_others_lead_to_keys_that_there_are() -> None:
    ours = {*JOB_KEYS, "matrix", "num_jobs"}
    assert set(MEANT.values()) <= ours and not set(MEANT) & {*ours, "pipeline", "name", "jobs", "defaults"}


def test_the_least_there_is() -> None:
    found = submission({"command": "echo hello"})
    assert found == Submission(found.pipeline, "/work", {}, 0o022, (), False)
    assert (found.pipeline.name, found.pipeline.num_jobs) == ("pipeline", 10)
    assert found.pipeline.jobs == (JobSpec("echo", "echo hello"),)
    assert found.pipeline.barriers == found.pipeline.items == ()


def test_all_there_is() -> None:
    keys = {
        "name": "sub.train[lr=0.1]", "command": ["python", "train.py", ""], "run_in": "container", "image": "lab/torch", "num_gpus": 2,
        "gpu_memory": "20GiB", "gpu_shared": True, "gpu_model": "*A100*", "gpu_capability": "8.0", "gpus": [0, "GPU-1f"], "cpus": 1.5, "memory": 1024,
        "shm_size": "1GB", "num_workers": 0, "time_limit": "12h", "grace": "1m", "retries": 3, "retry_delay": 1, "blocking": True,
        "needs": [], "allow_failure": True, "priority": -100, "env": {"A": "", "B": "b"}, "workdir": "sub", "mounts": ["/a:/b", "/c:/d:ro"], "ports": [8888, "6007:6006"],
        "begin": "+2h", "experiment": "e.yml", "preemptible": True, "notify": "me@lab", "comet_offline": True,
    }  # fmt: skip
    assert set(keys) == set(JOB_KEYS) - {"script", "config"}
    found = submission(
        keys, name="a name", num_jobs=3, env={"PATH": "/bin"}, umask=0o077, after=[7, "p2", 7], hold=True, items=["sub"], priority=5,
    )  # fmt: skip
    assert found.pipeline.jobs[0] == JobSpec(
        "sub.train[lr=0.1]", ("python", "train.py", ""), "container", "lab/torch", 2, 20 << 30, True, "*A100*", "8.0", ("0", "GPU-1f"), 1.5,
        1024, 10**9, 0, 43200.0, 60.0, 3, 1.0, True, (), True, 5, {"A": "", "B": "b"}, "sub", ("/a:/b", "/c:/d:ro"), ("8888:8888", "6007:6006"),
        NOW + 7200,
        "e.yml", True, Notify("me@lab"), True,
    )  # fmt: skip
    assert found.pipeline.barriers == (Barrier(0, 0),)
    assert (found.pipeline.name, found.pipeline.num_jobs, found.pipeline.items) == ("a name", 3, ("sub",))
    assert (found.env, found.umask, found.after, found.hold) == ({"PATH": "/bin"}, 0o077, (7, "p2"), True)


@pytest.mark.parametrize(
    ("script", "config", "command"),
    [
        ("prepare", "-y data_prep/musdb.yml", ("python", "-m", "scripts.prepare", "-y", "data_prep/musdb.yml")),
        (
            "prepare",
            "-p '/a key/x.yml' --b \"c d\"",
            ("python", "-m", "scripts.prepare", "-p", "/a key/x.yml", "--b", "c d"),
        ),
        ("prepare", ["-y", "a b"], ("python", "-m", "scripts.prepare", "-y", "a b")),
        ("dir/x.py", "", ("python", "dir/x.py")),
        ("x.py", None, ("python", "x.py")),
        ("./x", "1", ("python", "./x", "1")),
    ],
)
def test_a_script_is_a_module_or_a_file(script: str, config: Any, command: tuple[str, ...]) -> None:
    assert submission({"script": script, "config": config}).pipeline.jobs[0].command == command


@pytest.mark.parametrize(
    ("keys", "field", "value"),
    [
        ({"begin": "2026-01-31T18:00:00+00:00"}, "begin", 1769882400.0),
        ({"begin": 5}, "begin", 5.0),
        ({"begin": "now"}, "begin", None),
        ({"image": None}, "image", None),
        ({"gpus": "0, 3"}, "gpus", ("0", "3")),
        ({"gpus": 2}, "num_gpus", 1),
        ({"gpus": [0, 1, 2]}, "num_gpus", 3),
        ({"gpus": []}, "num_gpus", 0),
        ({"cpus": 4}, "cpus", 4.0),
        ({"gpu_capability": "9.0"}, "gpu_capability", "9.0"),
        ({"gpu_capability": "12"}, "gpu_capability", "12.0"),
        ({"gpu_capability": 8.0}, "gpu_capability", "8.0"),
        ({"gpu_capability": 8}, "gpu_capability", "8.0"),
        ({"gpu_capability": 8.10}, "gpu_capability", "8.1"),
        ({"gpu_capability": "8.10"}, "gpu_capability", "8.10"),
        ({"gpu_capability": None}, "gpu_capability", None),
    ],
)
def test_values_become_what_the_spec_keeps(keys: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(job(**keys), field) == value


@pytest.mark.parametrize(
    "asked",
    ["", "sm_90", "9.x", "9.", ".9", "9.0.1", "0.9", "09.0", "9.00", "-8.0", "900.0", "9.0 ", "٩.0", 0, -8, 1e40, math.nan,
     math.inf, True, [9, 0], {"major": 9}],
)  # fmt: skip
def test_what_is_no_compute_capability_is_refused(asked: Any) -> None:
    (message,) = mistakes_of({"command": "true", "gpu_capability": asked})
    assert message.startswith("jobs[0].gpu_capability: expected a CUDA compute capability such as 8.0 or 9.0, found")


@pytest.mark.parametrize(
    ("ports", "found"),
    [
        ([8888], ("8888:8888",)),
        (["8889:8888", "6006"], ("8889:8888", "6006:6006")),
        ("8080:80", ("8080:80",)),
        (65535, ("65535:65535",)),
        ([], ()),
        (None, ()),
    ],
)
def test_ports_are_outside_and_inside(ports: Any, found: tuple[str, ...]) -> None:
    assert job(run_in="container", ports=ports).ports == found


@pytest.mark.parametrize(
    ("ports", "message"),
    [
        ([80], "jobs[0].ports[0]: port 80 of the machine is the system's: name one from 1024 on, as 8080:80"),
        (["631:8888"], "jobs[0].ports[0]: port 631 of the machine is the system's"),
        ([8888, "8888:80"], "jobs[0].ports[1]: opens port 8888 of the machine twice"),
        ([0], "expected a port such as 8888"),
        ([65536], "expected a port such as 8888"),
        (["8888:65536"], "expected a port such as 8888"),
        (["127.0.0.1:8888:80"], "expected a port such as 8888"),
        (["0.0.0.0:8888"], "expected a port such as 8888"),
        (["8888/udp"], "expected a port such as 8888"),
        (["8888-8890"], "expected a port such as 8888"),
        (["٨٨٨٨"], "expected a port such as 8888"),
        ([True], "expected a port such as 8888"),
        ({"8888": 80}, "expected a list of ports"),
        (list(range(2000, 2033)), "more than 32 ports"),
    ],
)
def test_ports_that_will_not_do(ports: Any, message: str) -> None:
    [said] = mistakes_of({"command": "x", "run_in": "container", "ports": ports})
    assert message in said


def test_only_a_container_has_ports() -> None:
    [said] = mistakes_of({"command": "x", "ports": [8888]})
    assert said == "jobs[0].ports: only a container has `ports`; a job on the host opens its own"


def test_needs_are_names_all_or_mappings() -> None:
    found = submission(
        {"name": "a", "command": "x"},
        {"name": "b[lr=1]", "command": "x", "needs": "a"},
        {"name": "b[lr=2]", "command": "x", "needs": ["a", {"job": "a"}, {"job": "a", "on": "finished"}]},
        {"name": "c", "command": "x", "needs": ["all", "b", "b[lr=1]"]},
        {"name": "it.d", "command": "x"},
        {"name": "e", "command": "x", "needs": "it"},
        items=["it"],
    ).pipeline.jobs
    assert [each.needs for each in found] == [
        (), (Need("a"),), (Need("a"), Need("a", "finished")), (Need("all"), Need("b"), Need("b[lr=1]")), (), (Need("it"),),
    ]  # fmt: skip


def test_defaults_lie_under_every_job() -> None:
    found = submission(
        {"command": "x"},
        {"script": "y", "env": {"A": "2"}, "num_gpus": 1},
        {"gpus": [0, 1]},
        defaults={"command": "z", "env": {"A": "1", "B": "1"}, "num_gpus": 4},
    ).pipeline.jobs
    assert [each.command for each in found] == ["x", ("python", "-m", "scripts.y"), "z"]
    assert [each.env for each in found] == [{"A": "1", "B": "1"}, {"A": "2", "B": "1"}, {"A": "1", "B": "1"}]
    assert [each.num_gpus for each in found] == [4, 1, 2]


def test_barriers_are_those_sent_and_one_for_each_blocking_job() -> None:
    jobs = [{"command": "x", "blocking": position in (1, 3)} for position in range(5)]
    sent = [
        {"first": 0, "last": 3, "on": "finished"},
        {"first": 1, "last": 1, "on": "success"},
        {"first": 0, "last": 2},
    ]
    assert submission(*jobs, barriers=sent).pipeline.barriers == (
        Barrier(1, 1), Barrier(0, 2), Barrier(3, 3), Barrier(0, 3, "finished"),
    )  # fmt: skip


def test_unnamed_jobs_are_named_after_what_they_run() -> None:
    work = [
        {"script": "prepare"}, {"script": "dir/x.py"}, {"command": "/usr/bin/python3 a.py"}, {"command": ["a b", "c"]}, {"command": "python3"},
        {"command": "python3", "name": "python3-2"}, {"command": "$(x)"}, {"command": "all"}, {"command": "é"}, {"command": "all"},
    ]  # fmt: skip
    names = [each.name for each in submission(*work).pipeline.jobs]
    assert names == ["prepare", "x", "python3", "a", "python3-3", "python3-2", "x-2", "all-2", "job", "all-3"]


@given(st.lists(st.tuples(st.none() | st.sampled_from("ab"), st.sampled_from("ab"))))
def test_filled_names_are_unique_where_the_given_ones_are(pairs: list[tuple[str | None, str]]) -> None:
    given_once = [
        name if name not in [other for other, _ in pairs[:at]] else None for at, (name, _) in enumerate(pairs)
    ]
    names = fill_names(given_once, [fallback for _, fallback in pairs])
    assert len(set(names)) == len(names)
    assert all(want in (None, got) for want, got in zip(given_once, names, strict=True))


@given(st.text(max_size=50) | st.lists(st.text(max_size=9), max_size=2) | st.none())
def test_a_derived_name_is_always_a_name(work: Any) -> None:
    name = derived_name(work)
    assert job(name=name if name != "all" else "x").name in (name, "x")


ONE_JOB = [
    ({"name": "a b"}, "jobs[0].name: expected a name of letters, digits, `.`, `_` and `-`, at most 250 of them, found 'a b'"),
    ({"name": "a[\n]"}, "jobs[0].name: expected a name of letters, digits, `.`, `_` and `-`, at most 250 of them, found 'a[\\x0a]'"),
    ({"name": "all"}, "jobs[0].name: a job cannot be named `all`: in `needs` it means every job above"),
    ({"run_in": "contaner"}, "jobs[0].run_in: expected `host` or `container`, found 'contaner'; did you mean `container`?"),
    ({"run_in": None}, "jobs[0].run_in: expected `host` or `container`, found nothing (null)"),
    ({"num_gpus": True}, "jobs[0].num_gpus: expected a whole number from 0 to 1024, found true"),
    ({"num_gpus": 1.0}, "jobs[0].num_gpus: expected a whole number from 0 to 1024, found 1.0"),
    ({"num_gpus": "2"}, "jobs[0].num_gpus: expected a whole number from 0 to 1024, found '2'"),
    ({"num_gpus": -1}, "jobs[0].num_gpus: expected a whole number from 0 to 1024, found -1"),
    ({"num_gpus": 10**5000}, "jobs[0].num_gpus: expected a whole number from 0 to 1024, found a huge number"),
    ({"retries": math.nan}, "jobs[0].retries: expected a whole number from 0 to 10000, found nan"),
    ({"priority": 101}, "jobs[0].priority: expected a whole number from -100 to 100, found 101"),
    ({"cpus": 0}, "jobs[0].cpus: expected a number of CPUs above 0, such as 4 or 0.5, found 0"),
    ({"cpus": math.nan}, "jobs[0].cpus: expected a number of CPUs above 0, such as 4 or 0.5, found nan"),
    ({"blocking": "yes"}, "jobs[0].blocking: expected true or false, found 'yes'"),
    ({"time_limit": "5x"}, "jobs[0].time_limit: found '5x', not a duration: write seconds (90), 90s, 30m, 12h, 2d, 1h30m, 1:30:00 or 2-12:00:00 (days)"),
    ({"time_limit": 0}, "jobs[0].time_limit: expected a duration above 0, found 0"),
    ({"gpu_memory": "20 gigs"}, "jobs[0].gpu_memory: found '20 gigs', not a size: write bytes (1073741824), 512MiB, 20GiB or 20GB"),
    ({"gpu_memory": 0}, "jobs[0].gpu_memory: expected a size above 0, found 0"),
    ({"gpu_shared": True}, "jobs[0].gpu_shared: a job that shares a card must say its `gpu_memory`"),
    ({"gpus": [0, 1], "num_gpus": 1}, "jobs[0].num_gpus: is 1, but `gpus` names 2; leave one of them out"),
    ({"gpus": [0, 0]}, "jobs[0].gpus[1]: names the card '0' twice"),
    ({"gpus": ["tpu"]}, "jobs[0].gpus[0]: expected the index or the UUID of a card, found 'tpu'"),
    ({"gpus": True}, "jobs[0].gpus[0]: expected the index or the UUID of a card, found true"),
    ({"env": {"A B": "1"}}, "jobs[0].env['A B']: expected the name of a variable, without blanks or `=`, found 'A B'"),
    ({"env": {"A": None}}, "jobs[0].env.A: has no value; write '' for an empty one"),
    ({"env": {"A": 1}}, "jobs[0].env.A: expected text, found 1"),
    ({"env": {"A": "\0"}}, "jobs[0].env.A: expected text, found a NUL or a broken character"),
    ({"env": {"A": "x" * 131071}}, "jobs[0].env.A: longer than 131071 bytes, the most that can be passed on"),
    ({"env": []}, "jobs[0].env: expected a mapping of variables to values, found an empty list"),
    ({"command": ""}, "jobs[0].command: expected a command, found ''"),
    ({"command": []}, "jobs[0].command: expected a command, found an empty one"),
    ({"command": ["ls", 1]}, "jobs[0].command[1]: expected text, found 1"),
    ({"command": "\ud800"}, "jobs[0].command: expected a command, found a NUL or a broken character in '\\xd800'"),
    ({"config": "x"}, "jobs[0].config: `config` holds the arguments of a `script`; a `command` has its own"),
    ({"script": "x"}, "jobs[0]: expected exactly one of `command`, `script` and `pipeline`, found both"),
    ({"command": None}, "jobs[0]: expected exactly one of `command`, `script` and `pipeline`, found none"),
    ({"mounts": ["a"]}, "jobs[0].mounts[0]: expected `host:/container` or `host:/container:ro`, found 'a'"),
    ({"mounts": ["/a:/b:rx"]}, "jobs[0].mounts[0]: expected `host:/container` or `host:/container:ro`, found '/a:/b:rx'"),
    ({"begin": "tomorrow"}, "jobs[0].begin: expected an ISO time such as 2026-01-31T18:00, or a delay such as +2h, found 'tomorrow'"),
    ({"needs": 5}, "jobs[0].needs: expected a list of job names, or `all`, found 5"),
    ({"needs": [{"on": "finished"}]}, "jobs[0].needs[0]: says not which `job` is needed"),
    ({"needs": [{"job": "x", "on": "end"}]}, "jobs[0].needs[0].on: expected `success` or `finished`, found 'end'"),
    ({"needs": [{"job": "x", "onn": "finished"}]}, "jobs[0].needs[0].onn: unknown key 'onn'; did you mean `on`?; allowed: job, on"),
    ({"needs": ["x"]}, "jobs[0].needs[0]: no job is named 'x'; name a job of this pipeline, or `all`"),
    ({"needs": ["true"]}, "jobs[0].needs[0]: 'true' needs itself"),
    ({"num_gpu": 1}, "jobs[0].num_gpu: unknown key 'num_gpu'; did you mean `num_gpus`?"),
    ({"gpu": 1}, "jobs[0].gpu: unknown key 'gpu'; did you mean `num_gpus`?"),
    ({"time": "1h"}, "jobs[0].time: unknown key 'time'; did you mean `time_limit`?"),
    ({"depends-on": ["x"]}, "jobs[0].depends-on: unknown key 'depends-on'; did you mean `needs`?"),
    ({"matrix": {}}, "jobs[0].matrix: `matrix` belongs in a file; the client expands it before it submits"),
    ({"pipeline": "x"}, "jobs[0].pipeline: `pipeline` belongs in a file; the client expands it before it submits"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"), ONE_JOB, ids=[message.split(":")[0] + f"-{at}" for at, (_, message) in enumerate(ONE_JOB)]
)
def test_a_mistake_says_where_what_and_what_is_allowed(keys: dict[str, Any], message: str) -> None:
    assert mistakes_of({"command": "true", **keys}) == [message]


@pytest.mark.parametrize(
    ("script", "config", "message"),
    [
        ("-x.py", "", "jobs[0].script: a script's name cannot begin with `-`: '-x.py'"),
        ("a b", "", "jobs[0].script: a script takes its arguments from `config`, found 'a b'"),
        ("a", "'b", "jobs[0].config: cannot split ''b' into arguments: no closing quotation"),
        ("a", 5, "jobs[0].config: expected a string of arguments, or a list, found 5"),
    ],
)
def test_mistakes_of_scripts(script: str, config: Any, message: str) -> None:
    assert mistakes_of({"script": script, "config": config}) == [message]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"jobs": []}, "jobs: expected a list of jobs, found an empty list"),
        ({"jobs": None}, "jobs: expected a list of jobs, found nothing (null)"),
        ({"jobs": ["ls"]}, "jobs[0]: expected a mapping of job keys, found 'ls'"),
        ({"jobs": [0] * (MAX_JOBS + 1)}, "jobs: 50001 jobs; at most 50000 fit into one pipeline"),
        ({"name": ""}, "name: expected a name, found ''"),
        ({"num_jobs": 0}, "num_jobs: expected a whole number from 1 to 1000000, found 0"),
        ({"cwd": "here"}, "cwd: expected the absolute path of the submit directory, found 'here'"),
        ({"env": {"A=B": "1"}}, "env['A=B']: expected the name of a variable, without blanks or `=`, found 'A=B'"),
        ({"umask": 0o1000}, "umask: expected a whole number from 0 to 511, found 512"),
        ({"after": [0]}, "after[0]: expected the id of a job (17) or of a pipeline ('p3'), found 0"),
        ({"after": ["p0"]}, "after[0]: expected the id of a job (17) or of a pipeline ('p3'), found 'p0'"),
        ({"hold": 1}, "hold: expected true or false, found 1"),
        ({"priority": "high"}, "priority: expected a whole number from -100 to 100, found 'high'"),
        ({"item": []}, "item: unknown key 'item'; did you mean `items`?"),
        ({"items": ["a b"]}, "items[0]: expected the name of a nested pipeline, found 'a b'"),
        ({"barriers": [{"first": 0, "last": 1}]}, "barriers[0].last: expected a whole number from 0 to 0, found 1"),
        ({"barriers": [{"first": 0, "last": 0, "on": 1}]}, "barriers[0].on: expected `success` or `finished`, found 1"),
        ({"defaults": []}, "defaults: expected a mapping of job keys, found an empty list"),
        ({"defaults": {"name": "x"}}, "defaults.name: names are unique, so there is no default for one"),
    ],
)
def test_mistakes_of_the_whole(more: dict[str, Any], message: str) -> None:
    assert mistakes({"cwd": "/work", "jobs": [{"command": "true"}], **more}) == [message]


def test_all_mistakes_are_told_at_once_up_to_a_point() -> None:
    told = mistakes({"jobs": [{"command": "x", "retries": -1}, {"comand": "x"}], "umask": None, "num_jobs": True})
    assert [line.split(":")[0] for line in told] == [
        "num_jobs",
        "jobs[0].retries",
        "jobs[1].comand",
        "jobs[1]",
        "cwd",
        "umask",
    ]
    told = mistakes_of(*[{"command": "x", "retries": -1}] * 5000)
    assert len(told) == 201
    assert told[-1] == "stopped reading here: too many mistakes"


def test_a_name_is_given_once() -> None:
    told = mistakes_of({"command": "x", "name": "a"}, {"command": "x", "name": "b"}, {"command": "x", "name": "a"})
    assert told == ["jobs[2].name: the name 'a' is that of an earlier job already"]


def test_a_bad_name_is_not_held_against_those_who_need_it() -> None:
    assert len(mistakes_of({"command": "x", "name": "a b"}, {"command": "x", "needs": "a b"})) == 1


CIRCLES: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"needs": "b"}, {"needs": "a"}], {}, "jobs[0].needs[0]: a circle, so none of these could ever start: 'a' needs 'b', 'b' needs 'a'"),
    ([{"needs": "b"}, {"needs": "all"}], {}, "jobs[0].needs[0]: a circle, so none of these could ever start: 'a' needs 'b', 'b' needs 'a'"),
    ([{}, {"needs": "c", "blocking": True}, {}], {}, "jobs[1].needs[0]: a circle, so none of these could ever start: 'b' needs 'c', 'c' is below blocking 'b'"),
    (
        [{"needs": "c"}, {}, {}], {"barriers": [{"first": 0, "last": 1}]},
        "jobs[0].needs[0]: a circle, so none of these could ever start: 'a' needs 'c', 'c' is below blocking 'a'",
    ),
    (
        [{"needs": "d"}, {"blocking": True}, {"blocking": True, "needs": "a"}, {}], {},
        "jobs[0].needs[0]: a circle, so none of these could ever start: 'a' needs 'd', 'd' is below blocking 'c', 'c' needs 'a'",
    ),
    ([{"name": "t[k=1]", "needs": "t"}, {"name": "t[k=2]"}], {}, "jobs[0].needs[0]: 't[k=1]' needs itself"),
    ([{"name": "i.x", "needs": "b"}, {"needs": "i"}], {"items": ["i"]}, "jobs[0].needs[0]: a circle, so none of these could ever start: 'i.x' needs 'b', 'b' needs 'i.x'"),
]  # fmt: skip


@pytest.mark.parametrize(("jobs", "more", "message"), CIRCLES)
def test_a_circle_is_named(jobs: list[dict[str, Any]], more: dict[str, Any], message: str) -> None:
    named = [{"name": "abcd"[at], "command": "x", **keys} for at, keys in enumerate(jobs)]
    assert mistakes_of(*named, **more) == [message]


def test_several_circles_are_all_named() -> None:
    told = mistakes_of(*[{"name": f"a{at}", "command": "x", "needs": f"a{at ^ 1}"} for at in range(6)])
    assert [line.split(" could")[0] for line in told] == [
        f"jobs[{at}].needs[0]: a circle, so none of these" for at in (0, 2, 4)
    ]


@pytest.mark.parametrize(
    ("jobs", "more"),
    [
        ([{"needs": "c"}, {"blocking": True}, {}], {}),  # what is above a blocking job is not waited for
        ([{}, {"needs": "all", "blocking": True}, {"needs": "all"}], {}),
        ([{"blocking": True}, {"blocking": True}, {"needs": "a"}], {"barriers": [{"first": 0, "last": 1}]}),
    ],
)
def test_what_looks_like_a_circle_and_is_none(jobs: list[dict[str, Any]], more: dict[str, Any]) -> None:
    assert submission(*[{"name": "abc"[at], "command": "x", **keys} for at, keys in enumerate(jobs)], **more)


def _can_finish(needs: list[list[int]], blocking: list[bool]) -> bool:
    """By playing it: start whatever can start until nothing changes."""
    done: set[int] = set()
    while True:
        ready = {
            at for at in range(len(needs))
            if at not in done and all(other in done for other in needs[at]) and all(other in done for other in range(at) if blocking[other])
        }  # fmt: skip
        if not ready:
            return len(done) == len(needs)
        done |= ready


@given(st.data())
def test_a_pipeline_is_taken_exactly_when_all_of_it_can_run(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 7))
    needs = [sorted(data.draw(st.sets(st.integers(0, count - 1), max_size=2))) for _ in range(count)]
    blocking = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    jobs = [
        {"name": f"j{at}", "command": "x", "needs": [f"j{other}" for other in needs[at]], "blocking": blocking[at]}
        for at in range(count)
    ]
    try:
        submission(*jobs)
        taken = True
    except InvalidPipeline:
        taken = False
    assert taken == _can_finish(needs, blocking)


# -- hostile ----------------------------------------------------------------------------------------------------------

WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-3, 3) | st.floats() | st.text(max_size=12)
    | st.sampled_from(["all", "a", "p1", "+2h", "1:30", "a[b=1]", "\0", "\ud800", "x" * 5000, 10**400, "GPU-1", "0", "success"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["job", "on", "first", "last"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
JOBS = st.lists(
    st.dictionaries(st.sampled_from([*JOB_KEYS, "matrix", "nonsense"]), WILD, max_size=6) | WILD, max_size=5
)
KEYS = [
    "name",
    "num_jobs",
    "defaults",
    "barriers",
    "items",
    "cwd",
    "env",
    "umask",
    "after",
    "hold",
    "priority",
    "nonsense",
]


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), WILD), JOBS | WILD, st.booleans())
def test_wild_documents_are_read_or_refused_and_nothing_else(document: dict[str, Any], jobs: Any, whole: bool) -> None:
    document["jobs"] = jobs
    if whole:
        document["cwd"] = "/work"
    try:
        found = read_submission(document, now=NOW)
    except InvalidPipeline as error:
        assert error.problems
        json.dumps([problem._asdict() for problem in error.problems]).encode()
        assert str(error).isprintable() or "\n" in str(error)
        str(error).encode()
    else:
        assert found.pipeline.jobs


@pytest.mark.parametrize("document", [None, 5, "x", [], [[]], {}, {"jobs": {}}, {"jobs": [[[]]]}])
def test_a_document_of_the_wrong_shape_is_refused(document: Any) -> None:
    assert mistakes(document)


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


BIG: dict[str, dict[str, Any]] = {
    "list": {"jobs": [0] * 2_000_000},
    "keys": {str(at): 1 for at in range(300_000)},
    "jobs": {"jobs": [{"command": "x"}] * MAX_JOBS},
    "barriers": {"jobs": [{"command": "x"}] * 20_000, "barriers": [{"first": 0, "last": 19_999}] * 50_000},
    "defaults": {"jobs": [{"command": "x"}] * 20_000, "defaults": {"mounts": ["/a:/b"] * 100_000}},
    "default config": {"jobs": [{"script": "x"}] * 20_000, "defaults": {"config": "a " * 60_000}},
    "needs": {"jobs": [{"command": "x", "needs": ["x"] * 2000}] * 200},
    "all": {"jobs": [{"command": "x", "needs": "all", "blocking": True}] * 20_000},
    "circle": {"jobs": [{"command": "x", "name": f"a{at}", "needs": f"a{(at + 1) % 20_000}"} for at in range(20_000)]},
    "dots": {"jobs": [{"command": "x", "name": "a" + ".b" * 120}] * 20_000, "items": ["a" + ".b" * at for at in range(119)]},
    "deep": {"jobs": [{"command": _deep(800), "env": _deep(800), "needs": _deep(800)}], "name": _deep(800)},
}  # fmt: skip


@pytest.mark.parametrize("kind", BIG)
def test_large_documents_do_not_hold_the_daemon_up(kind: str) -> None:
    for last in (False, False, True):  # a busy machine makes every run longer
        started = time.process_time()
        try:
            read_submission({"cwd": "/work", **BIG[kind]}, now=NOW)
        except InvalidPipeline:
            assert kind not in ("jobs", "all")
        took = time.process_time() - started
        if took < 2:
            break
        assert not last, f"took {took} s"


# -- who is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("ann@lab.example", Notify("ann@lab.example")),
        ("https://chat.lab/hooks/x?y=1", Notify(webhook="https://chat.lab/hooks/x?y=1")),
        ({"on": "failure"}, Notify(on=("failure",))),
        ({"email": "ann@lab", "on": ["contaminated", "end"]}, Notify("ann@lab", on=("end", "contaminated"))),
        ({"on": []}, Notify(on=())),
        ({"email": None}, Notify()),
    ],
)
def test_who_is_told_is_an_address_a_hook_or_both(said: Any, means: Notify) -> None:
    [job] = submission({"command": "x", "notify": said}).pipeline.jobs
    assert job.notify == means
    assert JobSpec.from_json(json.loads(json.dumps(job.to_json()))) == job


@pytest.mark.parametrize(
    ("said", "mistake"),
    [
        ("me", "jobs[0].notify: expected an e-mail address, an http(s) URL, or a mapping of "),
        ("ann@lab\nBcc: all@lab", "jobs[0].notify: expected an e-mail address"),
        ("ftp://chat.lab/s3cret", "jobs[0].notify: expected an e-mail address"),
        ({"webhook": "https://ann:s3cret@chat.lab/"}, "jobs[0].notify.webhook: expected an http or https URL"),
        ({"webhook": "http://"}, "jobs[0].notify.webhook: expected an http or https URL"),
        ({"email": "Ann <ann@lab>"}, "jobs[0].notify.email: expected an e-mail address"),
        ({"mail": "ann@lab"}, "jobs[0].notify.mail: unknown key 'mail'; did you mean `email`?"),
        ({"on": ["ends"]}, "jobs[0].notify.on[0]: expected `end`, `failure`, `idle` or `contaminated`; did you mean `end`?"),
        ({"command": "mail ann"}, "jobs[0].notify.command: a job has no command to tell of its end"),
    ],
)  # fmt: skip
def test_who_cannot_be_told_is_said_without_what_was_written(said: Any, mistake: str) -> None:
    [found] = mistakes_of({"command": "x", "notify": said})
    assert found.startswith(mistake)
    assert "s3cret" not in found


def test_who_is_told_merges_with_the_defaults() -> None:
    defaults = {"notify": {"email": "ann@lab", "on": ["end"]}}
    jobs = submission(
        {"command": "x", "notify": {"on": ["failure"]}}, {"command": "y", "notify": "https://chat.lab/"}, {"command": "z"}, defaults=defaults,
    ).pipeline.jobs  # fmt: skip
    assert [job.notify for job in jobs] == [
        Notify("ann@lab", on=("failure",)), Notify(webhook="https://chat.lab/"), Notify("ann@lab", on=("end",)),
    ]  # fmt: skip


def test_what_an_older_daemon_kept_is_read_still() -> None:
    assert JobSpec.from_json({"name": "x", "command": "x", "notify": "ann@lab"}).notify == Notify("ann@lab")
    assert JobSpec.from_json({"name": "x", "command": "x", "notify": "me"}).notify == Notify()
