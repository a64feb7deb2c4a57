"""What images are built from: every file that a Dockerfile takes is there, and is not kept out of the build."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.pages import ROOT, text_of

DOCKERFILES = ("docker/Dockerfile", "docker/runnersd.Dockerfile")
#: What a file may say of the machine it is built on: nothing.
MACHINE = re.compile(r"https?://(?!example)|/etc/apt|proxy|pip\.conf", re.IGNORECASE)


def taken(name: str) -> list[str]:
    """The sources of every COPY that reads from the build's folder."""
    found = []
    for line in text_of(name).splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            found += words[1:-1]
    return found


def left_in(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last line that fits it, or a folder above it, decides."""
    kept = True
    for line in text_of(".dockerignore").splitlines():
        pattern = line.removeprefix("!")
        above = [path, *map(str, Path(path).parents)]
        if line and not line.startswith("#") and any(fnmatch(one, pattern) for one in above if one != "."):
            kept = line.startswith("!")
    return kept


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_is_copied_is_there_and_reaches_the_build(name: str) -> None:
    sources = taken(name)
    assert sources
    for source in sources:
        files = [ROOT / source] if (ROOT / source).is_file() else [*(ROOT / source).rglob("*.py")]
        assert files, source
        assert all(left_in(str(file.relative_to(ROOT))) for file in files), source


def test_nothing_else_reaches_the_build() -> None:
    assert not left_in(".git/config")
    assert not left_in("tests/conftest.py")
    assert not left_in(".venv/bin/python")
    assert not left_in("Makefile")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_can_be_built_from_any_base_and_names_no_machine(name: str) -> None:
    text = text_of(name)
    assert re.findall(r"^ARG BASE=(\S+)$", text, re.MULTILINE) == ["debian:bookworm-slim"]
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert not MACHINE.search(text)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_no_label_is_taken_for_a_jobs(name: str) -> None:
    """The daemon runs no image whose labels look like those of its own containers."""
    assert not re.search(r"^LABEL\s+runners\.", text_of(name), re.MULTILINE)


def test_every_package_of_the_daemon_is_in_its_image() -> None:
    """setup.cfg names packages one by one: one that is forgotten is missing from what pip installs."""
    listed = set(re.search(r"^packages =\n((?:    \S+\n)+)", text_of("setup.cfg"), re.MULTILINE)[1].split())  # type: ignore[index]
    found = {
        ".".join(path.parent.relative_to(ROOT / folder).parts)
        for folder in ("client", "scheduler")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert listed == found


def compose(name: str) -> Any:
    return yaml.safe_load(text_of(f"docker/{name}"))["services"]["runnersd"]


def test_what_must_be_seen_at_its_own_path_is() -> None:
    """The engine mounts the state and the submitters' folders by the host's path."""
    volumes = compose("compose.yml")["volumes"]
    for variable in ("RUNNERS_STATE", "RUNNERS_HOMES", "RUNNERS_DATA"):
        [volume] = [one for one in volumes if one.startswith(f"${{{variable}:-")]
        inside, outside = re.fullmatch(r"(\$\{[^}]+\}):(\$\{[^}]+\})", volume).groups()  # type: ignore[union-attr]
        assert inside == outside
    assert compose("compose.yml")["environment"]["RUNNERS_STATE_DIR"] == "${RUNNERS_STATE:-/var/lib/runners}"


def test_the_daemon_in_a_container_sees_the_machine() -> None:
    service = compose("compose.yml")
    assert (service["pid"], service["cgroup"], service["cap_add"]) == ("host", "host", ["SYS_PTRACE"])
    mounted = [
        volume.rpartition(":")[2] if not volume.endswith(":ro") else volume.split(":")[-2]
        for volume in service["volumes"]
    ]
    assert {"/var/run/docker.sock", "/run/runners", "/run/lock", "/etc/machine-id", "/etc/passwd", "/etc/group"} <= set(
        mounted
    )
    [device] = compose("compose.gpu.yml")["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu", "utility"]
