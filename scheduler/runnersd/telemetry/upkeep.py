"""What becomes of series as they grow old: made small, then deleted. Run in a process of its own, once a day.

Deleting goes by open folders and follows no link, as that of caches does. A series gets another name first, so that
what a killed deletion leaves is never taken for one; the next time it goes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from runners.cache.deletion import empty
from runners.errors import RunnersError
from runnersd.telemetry.layout import MINUTES, SAMPLES, TRASH, Attempt, attempt_of

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def keep(root: Path, compact_before: float, delete_before: float) -> str:
    """Make small what was last written to before the one time (Unix seconds), delete what was before the other.

    Returns what was done and what failed, in a sentence; nothing when there is nothing to tell.
    """
    small, gone, failures = 0, 0, []
    for folder in _folders(root):
        for name in sorted(one.name for one in folder.iterdir()):
            attempt = attempt_of(name)
            try:
                if name.startswith(TRASH):
                    _delete(folder, name)
                elif attempt is not None and _is_older(folder / name, delete_before):
                    gone += _forget(folder, name)
                elif attempt is not None and _is_compactable(folder / name, compact_before):
                    small += _compact(root, attempt, compact_before)
            except (OSError, RunnersError, ValueError, RuntimeError) as error:
                failures.append(f"{folder / name}: {error}")
        _remove_if_empty(folder)
    return _told(small, gone, failures)


def forget(root: Path, attempts: Sequence[Attempt]) -> str:
    """Delete the series of these attempts, where there are any. Returns what failed, in a sentence, or nothing."""
    failures = []
    for attempt in attempts:
        folder = root / attempt.folder
        try:
            _forget(folder, attempt.name)
        except (OSError, RunnersError) as error:
            failures.append(f"{folder / attempt.name}: {error}")
    for folder in {root / attempt.folder for attempt in attempts}:
        _remove_if_empty(folder)
    return _told(0, 0, failures)


def _folders(root: Path) -> Iterator[Path]:
    """The folders of thousands of jobs."""
    try:
        found = sorted(root.iterdir())
    except FileNotFoundError:
        return
    yield from (folder for folder in found if folder.name.isdigit() and folder.is_dir() and not folder.is_symlink())


def _is_older(path: Path, before: float) -> bool:
    """Whether its last row is; of one that does not say so, whether its last change is."""
    until = _says(path).get("until")
    if not isinstance(until, int | float):
        until = path.stat(follow_symlinks=False).st_mtime
    return until < before


def _is_compactable(path: Path, before: float) -> bool:
    says = _says(path)
    if says.get("held_in") == MINUTES:
        return (path / SAMPLES).exists()  # a kill left them
    until = says.get("until")
    return isinstance(until, int | float) and until < before


def _says(path: Path) -> dict[str, object]:
    """What the group says of itself, read without zarr; nothing when it is broken."""
    try:
        says = json.loads((path / "zarr.json").read_bytes())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return says if isinstance(says, dict) else {}


def _compact(root: Path, attempt: Attempt, before: float) -> bool:
    try:
        from runnersd.telemetry.compaction import compact
    except ImportError:
        return False  # without zarr they stay as they are; that it is missing was said by who writes
    return compact(root, attempt, before)


def _forget(folder: Path, name: str) -> bool:
    """Delete a series, if it is there."""
    trash = TRASH + name
    try:
        descriptor = os.open(folder, _FOLDER)
    except FileNotFoundError:
        return False
    try:
        _remove(descriptor, trash, folder)
        try:
            os.rename(name, trash, src_dir_fd=descriptor, dst_dir_fd=descriptor)
        except FileNotFoundError:
            return False
        _remove(descriptor, trash, folder)
        return True
    finally:
        os.close(descriptor)


def _delete(folder: Path, name: str) -> None:
    descriptor = os.open(folder, _FOLDER)
    try:
        _remove(descriptor, name, folder)
    finally:
        os.close(descriptor)


def _remove(parent: int, name: str, where: Path) -> None:
    """Delete a folder in an open one, and what is in it."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError:
        os.unlink(name, dir_fd=parent)  # a link, or a file
        return
    try:
        empty(folder, os.fstat(folder).st_dev, f"{where}/{name}")
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return  # it is not empty, or not there


def _told(small: int, gone: int, failures: Iterable[str]) -> str:
    parts = []
    if small:
        parts.append(f"made {small} old series of telemetry small")
    if gone:
        parts.append(f"deleted {gone} that were older than telemetry.keep")
    failed = [*failures]
    if failed:
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        parts.append(f"could not tidy up {failed[0]}{more}")
    return "; ".join(parts)
