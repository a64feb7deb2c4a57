"""What the inventory means: who is on a card, what state that puts it in, and which card a text names. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Literal

from runners.errors import NoSuchCard
from runners.spec import JobSpec
from runnersd.model import ForeignPolicy, Gpu, GpuProcess, Inventory, Job

CardState = Literal["lost", "drained", "reserved", "shared", "foreign", "free"]


def foreign_processes(gpu: Gpu, supervisors: AbstractSet[int], policy: ForeignPolicy) -> tuple[GpuProcess, ...]:
    """The processes on a card that make it `foreign`.

    ``supervisors`` are the pids of the supervisors of the jobs that hold *this* card: what descends from one is the
    card's own, and a process of a job that holds another card is foreign here. The inventory is older than the jobs:
    the supervisors of jobs that left the card since it was seen belong in the set too, even if they have another job.
    """
    return tuple(
        process
        for process in gpu.processes
        if process.name not in policy.ignore
        and process.pid not in supervisors
        and supervisors.isdisjoint(process.ancestors)
        and (process.kind == "compute" or (process.memory or 0) >= policy.min_graphics_memory)
    )


def foreign_memory(gpu: Gpu, foreign: Sequence[GpuProcess]) -> int | None:
    """What the ``foreign`` ones of a card's processes hold of its memory, in bytes; None where nobody can tell.

    Of one whose memory the driver does not give, it is what is used and not known to be another's.
    """
    known = sum(process.memory or 0 for process in foreign)
    if all(process.memory is not None for process in foreign):
        return known
    if gpu.memory_used is None:
        return None
    others = sum(process.memory or 0 for process in gpu.processes if process not in foreign)
    return max(gpu.memory_used - others, known)


def process_text(process: GpuProcess) -> str:
    """A process as people are told of it: `python (pid 4242, ann)`."""
    whose = process.user or ("" if process.uid is None else f"uid {process.uid}")
    return f"{process.name or 'a process'} (pid {process.pid}{', ' if whose else ''}{whose})"


def card_state(gpu: Gpu, holders: Sequence[Job], *, drained: bool, foreign: bool) -> CardState:
    """A card's state: the first that applies. ``holders`` are the live jobs that hold it, ``foreign`` whether
    :func:`foreign_processes` found any."""
    if gpu.lost:
        return "lost"
    if drained:
        return "drained"
    if holders:
        return "shared" if all(job.spec.gpu_shared for job in holders) else "reserved"
    if foreign or gpu.owner is not None:
        return "foreign"
    return "free"


def find_gpu(inventory: Inventory, text: str) -> Gpu:
    """The card that a person means: its index, its UUID, or a beginning of the UUID that no other card shares.

    Raises:
        NoSuchCard: no card, or more than one.
    """
    if text.isascii() and text.isdigit():
        found = [gpu for gpu in inventory.gpus if str(gpu.index) == text]
    else:
        found = [gpu for gpu in inventory.gpus if gpu.uuid == text]
        found = found or [gpu for gpu in inventory.gpus if text and gpu.uuid.lower().startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchCard(f"cannot tell which card {text!r} is: {', '.join(gpu.uuid for gpu in found)} begin so")
    if not inventory.gpus:
        raise NoSuchCard(f"cannot find card {text!r}: this machine has none")
    raise NoSuchCard(f"cannot find card {text[:100]!r}{_nearest_card(inventory, text)}")


def _nearest_card(inventory: Inventory, text: str) -> str:
    """Which cards there are, and the one that is most like what was written."""
    indices = sorted(gpu.index for gpu in inventory.gpus)
    known = f": this machine has cards {', '.join(map(str, indices))}"
    if text.isascii() and text.isdigit():
        nearest = min(indices, key=lambda index: abs(index - int(text[:9])))
        return f"{known}; the nearest is {nearest}"
    names = {gpu.uuid.lower(): gpu for gpu in inventory.gpus}
    found = get_close_matches(text.lower(), names, n=1, cutoff=0.6)
    return known + (f"; did you mean {names[found[0]].index} ({names[found[0]].uuid})?" if found else "")


def matches_model(gpu: Gpu, pattern: str) -> bool:
    """Whether a card's name is what a job's ``gpu_model`` asks for: a glob on the whole name, upper case or lower."""
    return fnmatchcase(gpu.name.lower(), pattern.lower())


def matches_capability(gpu: Gpu, least: str) -> bool:
    """Whether a card has the CUDA compute capability of a job's ``gpu_capability`` or a higher one, as numbers: 10.0 is
    more than 9.0. One whose capability the driver does not tell has not."""
    return gpu.compute_capability is not None and _version(gpu.compute_capability) >= _version(least)


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def matches(gpu: Gpu, spec: JobSpec) -> bool:
    """Whether the card is one that the job could use if nobody else did: named by it, of its model, able, large enough.

    A card whose memory is not known (it shares the machine's) is taken to be large enough.
    """
    if spec.gpus and not any(_named(gpu, name) for name in spec.gpus):
        return False
    if spec.gpu_model is not None and not matches_model(gpu, spec.gpu_model):
        return False
    if spec.gpu_capability is not None and not matches_capability(gpu, spec.gpu_capability):
        return False
    return spec.gpu_memory is None or gpu.memory_total is None or gpu.memory_total >= spec.gpu_memory


def _named(gpu: Gpu, name: str) -> bool:
    return gpu.index == int(name) if name.isascii() and name.isdigit() else gpu.uuid.lower() == name.lower()
