"""Installs this checkout in a booted container, as the comments in the shipped units say."""

from __future__ import annotations

import configparser
import shutil
from pathlib import Path

from faults.systemd.container import Container

PROJECT = Path(__file__).resolve().parents[3]
#: Who there is, and in which groups: users of the queue, one operator, and somebody who may not use it.
USERS = {"alice": ("runners", "audio"), "bob": ("runners",), "carol": ("runners", "runners-operators"), "mallory": ()}
#: World-writable, for what jobs write and wait for.
COMMON = "/srv/common"

#: A virtual environment in the place that the unit names, whose packages are this checkout's and the tests' own: the
#: tree's Python is of the version they were made for. A checkout may be readable by its owner alone, but what is
#: installed is everybody's to read; and as users cannot keep byte code there, it is made here.
SETTLE = f"""
python3 -m venv --without-pip /opt/runners
printf '/opt/runners/%s\\n' client scheduler packages >"$(echo /opt/runners/lib/python3.*/site-packages)/runners.pth"
chmod -R a+rX /opt/runners/client /opt/runners/scheduler /opt/runners/bin /etc/systemd/system /etc/runners
/opt/runners/bin/python3 -m compileall -q /opt/runners/client /opt/runners/scheduler
mkdir --mode=1777 {COMMON}
groupadd --system runners
groupadd --system runners-operators
systemctl daemon-reload
"""


def install(container: Container) -> None:
    """Put programs, configuration, units, groups and users in place, and start nothing."""
    target = container.root / "opt/runners"
    for package in ("client", "scheduler"):
        shutil.copytree(PROJECT / package, target / package, ignore=shutil.ignore_patterns("*.egg-info"))
    (target / "bin").mkdir()
    for program, (module, function) in _programs().items():
        path = target / "bin" / program
        path.write_text(
            f"#!/opt/runners/bin/python3\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        path.chmod(0o755)
    shutil.copytree(PROJECT / "configs/systemd", container.root / "etc/systemd/system", dirs_exist_ok=True)
    (container.root / "etc/runners").mkdir()
    shutil.copy(PROJECT / "configs/runnersd.yml", container.root / "etc/runners/runnersd.yml")
    container.run("sh", "-euc", SETTLE)
    for user, groups in USERS.items():
        container.run("useradd", "--create-home", "--shell=/bin/sh", f"--groups={','.join(groups)}", user)


def _programs() -> dict[str, tuple[str, str]]:
    """The programs that setup.cfg names: for each, its module and function."""
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    lines = setup["options.entry_points"]["console_scripts"].strip().splitlines()
    programs = {}
    for line in lines:
        program, _, place = line.partition("=")
        module, _, function = place.strip().partition(":")
        programs[program.strip()] = (module, function)
    return programs
