"""What can be the name of an image, and what would be another request to the engine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from core.builders import cards, spec
from runners.errors import InvalidPipeline
from runners.pipeline.image_names import is_image_name
from runners.pipeline.schema import read_submission
from runners.spec import PipelineSpec, Submission
from runnersd.admission import Limits, admit
from runnersd.model import EngineState

DIGEST = "sha256:" + "0123456789abcdef" * 4
LIMITS = Limits(cpus=8.0, memory=1 << 36, engine=EngineState(seen=True, cards="nvidia"))


@pytest.mark.parametrize(
    "name",
    ["debian", "debian:12", "lab/torch:latest", "a/b/c/d", "localhost/x", "localhost:5000/lab/torch:2.1-cuda12.1",
     "nvcr.io/nvidia/pytorch:24.01-py3", f"ghcr.io/lab/x:1@{DIGEST}", f"x@{DIGEST}", DIGEST,
     "0123456789ab", "a__b/c--d/e.f", "x:V1_2.3-rc", "[::1]:5000/x", "EXAMPLE.com/x", "10.0.0.1/x"],
)  # fmt: skip
def test_names_that_engines_take(name: str) -> None:
    assert is_image_name(name)


NO_NAMES = [
    "", " ", "--privileged", "-v", "x y", " x", "x ", "x\n", "x\0", "../x", "x/../y", "./x", "/x", "x/", "x//y", "x:",
    "x:a:b", "x@", "x@sha256:12", "x?fromImage=y", "x#", "x%2fy", "x%00", "../containers/json?all=1&a=", "x;y", "$(x)",
    "Lab/Torch", "x/Y", "a" * 256, "a/" * 5000 + "a", "http://x/y", "x:" + "t" * 129, "ünicode/x", "x\u2024y", "a..b",
    "..", ".", "*", None, 7, True, [], {}, ["x"],
]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_anything_else_is_refused_by_the_reader(name: Any) -> None:
    job = {"command": "true", "run_in": "container", "image": name}
    if name is None:
        assert read_submission({"jobs": [job], "cwd": "/"}, now=0.0).pipeline.jobs[0].image is None
        return
    with pytest.raises(InvalidPipeline) as refused:
        read_submission({"jobs": [job], "cwd": "/"}, now=0.0)
    assert refused.value.problems[0].path == "jobs[0].image"


@pytest.mark.parametrize("name", [name for name in NO_NAMES if isinstance(name, str) and name])
def test_nor_does_the_submitters_environment_or_the_configuration_smuggle_it_in(name: str) -> None:
    pipeline = PipelineSpec("p", (spec(run_in="container"),))
    for env, limits in (({"DOCKER_IMAGE_NAME": name}, LIMITS), ({}, replace(LIMITS, image=name))):
        with pytest.raises(InvalidPipeline) as refused:
            admit([Submission(pipeline, "/work", env)], cards(2), limits, queued=0, operator=False)
        (problem,) = refused.value.problems
        assert problem.path == "jobs[0].image" and "cannot be the name of an image" in problem.message


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a-" * 500, "a." * 509 + "!", "a" * 1000 + "!", "-" * 1000, "a/" * 500]
)
def test_no_text_takes_long_to_tell(text: str) -> None:
    start = time.perf_counter()
    is_image_name(text)
    assert time.perf_counter() - start < 0.2
