"""Runs a command in a container of `$DOCKER_IMAGE_NAME`, in the foreground.

    # On two cards.
    python -m runners.run_in_docker nvidia-smi --name testing --gpus 0,1

    # List the workspace, as a container sees it.
    python -m runners.run_in_docker ls

or by the Makefile:

    make run_in_container command="nvidia-smi" name=testing gpus=0,1
    make run_in_container command="ls"

The command's output, signals and exit code are this program's. A card that is in use is an error that says who has it;
that, like any other failure before the command started, is exit code 125.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: Exits with this when the command was not started.
NOT_STARTED = 125


class Given(NamedTuple):
    """A command line. One word is a line for the shell, several run as they are."""

    command: str | list[str]
    name: str | None
    gpus: str | None
    ports: tuple[str, ...]
    image: str | None


def run_in_docker() -> int:
    """Run the command of this program's own command line (``sys.argv``) in a container, and return its exit code.

    ``--name N`` is what the job is called, ``--gpus 0,1`` the cards it gets, ``--image I`` the image, ``--port 8888``
    (or ``8889:8888``) a port of it to open on this machine's loopback address. They may stand before or behind the
    command; what follows ``--`` is the command's alone.
    """
    return foreground("run_in_docker", _in_container, ("image", "port"))


def foreground(program: str, run: Callable[[Given], int], more: Sequence[str] = ()) -> int:
    """Read ``sys.argv``, ``run`` what it says, and return the exit code. What fails is said on standard error.

    ``more`` are options that the program has beside ``--name`` and ``--gpus``.
    """
    from .errors import RunnersError

    words = sys.argv[1:]
    if words in (["-h"], ["--help"]):
        options = "".join(f" [--{name} {name.upper()}]" for name in ("name", "gpus", *more))
        sys.stdout.write(f"usage: python -m runners.{program}{options} [--] COMMAND...\n")
        return 0
    try:
        return run(read(words, ("name", "gpus", *more)))
    except RunnersError as error:
        from .cli.foreground import of_one_job

        sys.stderr.write(f"{program}: {of_one_job(error)}\n")
        return NOT_STARTED
    except BrokenPipeError:
        return 141
    except KeyboardInterrupt:
        return 130


def read(words: Sequence[str], options: Sequence[str]) -> Given:
    """The command and the options in it.

    >>> read(["nvidia-smi", "--name", "testing", "--gpus", "0,1"], ["name", "gpus"])[:3]
    ('nvidia-smi', 'testing', '0,1')
    >>> read(["--gpus=0", "python", "train.py", "--lr", "0.1"], ["name", "gpus"])[:3]
    (['python', 'train.py', '--lr', '0.1'], None, '0')

    Raises:
        InvalidRequest: there is no command, or an option without a value.
    """
    from .errors import InvalidRequest

    given: dict[str, list[str]] = {}
    command: list[str] = []
    queue = list(reversed(words))
    while queue:
        word = queue.pop()
        if word == "--":
            command += reversed(queue)
            break
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or option not in options:
            command.append(word)
            continue
        if not equals:
            if not queue:
                raise InvalidRequest(f"cannot run: --{option} needs a value")
            value = queue.pop()
        given.setdefault(option, []).append(value)
    if not command or not command[0].strip():
        raise InvalidRequest("cannot run: there is no command")

    def last(name: str) -> str | None:
        return given.get(name, [""])[-1] or None

    line = command[0] if len(command) == 1 else command
    return Given(line, last("name"), last("gpus"), tuple(given.get("port", ())), last("image"))


def _in_container(given: Given) -> int:
    from .docker_runner import DockerRunner

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no image is said by the daemon, which may have a default
        runner = DockerRunner(given.image)
    runner.ports = given.ports
    return runner.run(given.command, given.gpus or "", given.name, detach=False)


if __name__ == "__main__":
    sys.exit(run_in_docker())
