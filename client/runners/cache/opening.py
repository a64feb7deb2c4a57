"""Opening a cache: read it if it is finished, build it if nobody does, else wait for the one who does."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from runners.errors import InvalidRequest, NotFound

from . import deletion, layout, locks, naming, source, sums
from .layout import CacheError, Directory
from .locks import Lease

if TYPE_CHECKING:
    import zarr

#: What is being built, by path and thread: to open the same cache in its own `build` would wait for ever.
_building: set[tuple[str, int]] = set()


def open_cache(
    name: str,
    params: Mapping[str, Any],
    build: Callable[[zarr.Group], object] | None = None,
    *,
    source: str | os.PathLike[str] | None = None,
    contents: bool = False,
    directory: str | os.PathLike[str] | None = None,
) -> zarr.Group:
    """The cache of this name, made with these parameters from this source: a zarr group to read.

    If it is there, it is opened. If it is not, ``build`` is called with an empty group to fill, in one process; all
    others that open the same cache wait until that is done, or take over when it dies. Other parameters, or a source
    that has changed, are another cache. What ``build`` does must follow from these alone: what else it depends on, such
    as a version of its code, belongs into the parameters.

    As long as the group, or an array of it, is in use, the cache is leased: `runners-client caches prune` leaves it
    alone. Both may be pickled and used after a fork.

    Args:
        name: What the cache is called: letters, digits, dots, dashes, underscores.
        params: What it is made with; see :func:`runners.cache.naming.canonical` for what may be in it.
        build: Fills the group. When it raises, nothing is kept and the error is the caller's.
        source: The file or folder that it is made from: names, sizes and times of modification of its files count.
        contents: The contents of the source's files count, not their times.
        directory: Where caches are, in place of :data:`runners.config.cache_directory`.

    Returns:
        The group, read only.

    Raises:
        NotFound: it is not there, and there is no ``build``; or there is no source.
        InvalidRequest: its name or parameters cannot name a cache, or there is no cache directory.
        CacheError: it cannot be locked, is damaged, or its source changed while it was built.
    """
    _check_zarr_is_there()
    naming.check_name(name)
    what = _What(name, naming.canonical(params), source, contents)
    where = layout.chosen_directory(directory)
    if build is None and not os.path.isdir(where):
        raise NotFound(f"cannot open cache {what.id}: there is no directory {where}, and no build was given")
    with layout.opened(where, make=build is not None) as opened:
        lease = _finished(opened, what) or _waited_for(opened, what, build)
        from . import leased

        return leased.group_of(opened.path, what.id, lease)


def _check_zarr_is_there() -> None:
    import importlib.util

    if importlib.util.find_spec("zarr") is None:
        raise CacheError("cannot open a cache: zarr is not installed; `pip install runnersd[experiments]` installs it")


class _What:
    """Which cache it is."""

    __slots__ = ("contents", "digest", "id", "name", "params", "source", "state")

    def __init__(self, name: str, params: dict[str, Any], where: str | os.PathLike[str] | None, contents: bool) -> None:
        self.name, self.params, self.source, self.contents = name, params, where, contents
        self.state = None if where is None else source.state_of(where, contents)
        self.digest = naming.digest_of(name, params, self.state["digest"] if self.state else None)
        self.id = naming.id_of(name, self.digest)


def _finished(directory: Directory, what: _What) -> Lease | None:
    """A lease on the cache, if it is there."""
    folder = layout.open_folder(directory, what.id)
    if folder is None:
        return None
    try:
        lease = locks.take_lease(directory, what.id, folder)
        if lease is None:
            return None
        meta = layout.read_meta(directory, what.id, folder)
        if meta.get("digest") != what.digest:
            raise CacheError(
                f"cannot use cache {directory.file(what.id)}: it was made of something else that gives the same name; "
                f"remove it with `runners-client caches rm {what.id}`"
            )
        return lease
    finally:
        os.close(folder)


def _waited_for(directory: Directory, what: _What, build: Callable[[zarr.Group], object] | None) -> Lease:
    """Build it, unless another does: then wait for them."""
    mine = (directory.file(what.id), threading.get_ident())
    if mine in _building:
        raise InvalidRequest(f"cannot open cache {what.id}: this is the call that builds it")
    told = False
    while True:
        if build is None and not os.path.lexists(directory.file(layout.LOCK_PREFIX + what.id)):
            lease = _finished(directory, what)  # its builder may just have ended
            if lease is not None:
                return lease
            raise NotFound(
                f"cannot open cache {what.id}: it is not in {directory.path}, and no build was given; was it made "
                "with other parameters, or from another source?"
            )
        lock = locks.take_build_lock(directory, what.id, wait=False)
        if lock is None:
            if not told:
                _tell_that_we_wait(directory, what)
                told = True
            lock = locks.take_build_lock(directory, what.id, wait=True)
            assert lock is not None, "it waits until it has it"
        try:
            lease = _finished(directory, what)
            if lease is not None:
                return lease
            if build is None:
                continue  # its builder has died
            lock.write(locks.builder_record(whoever_we_are()))
            clean_up(directory, what.id)
            _building.add(mine)
            try:
                return _built(directory, what, build)
            finally:
                _building.discard(mine)
        finally:
            lock.release()


def _built(directory: Directory, what: _What, build: Callable[[zarr.Group], object]) -> Lease:
    """Build it beside its place, and put it there when it is on the disk."""
    from . import leased

    process, began = os.getpid(), time.time()
    scratch = f"{layout.SCRATCH_PREFIX}{what.id}.{secrets.token_hex(4)}"
    os.mkdir(scratch, dir_fd=directory.fd)
    folder = layout.open_folder(directory, scratch)
    if folder is None:
        raise CacheError(f"cannot build in {directory.file(scratch)}: somebody has taken it away")
    lease = None
    try:
        layout.mark(folder)
        lease = locks.new_lease(folder, directory, scratch)
        group = leased.new_group(directory.file(scratch, layout.DATA))
        build(group)
        if os.getpid() != process:
            os._exit(1)  # forked by `build`, and come back: there is one builder
        items = leased.items_in(group)
        _check_source(what)
        sealed = sums.seal(folder)
        meta = {
            "format": naming.FORMAT,
            "id": what.id,
            "name": what.name,
            "digest": what.digest,
            "params": what.params,
            "source": what.state,
            **whoever_we_are(),
            "host": socket.gethostname(),
            "built_at": began,
            "seconds": time.time() - began,
            "items": items,
            "files": sealed.files,
            "bytes": sealed.bytes,
            "sums": sealed.sums,
            "zarr": leased.version(),
        }
        layout.write_meta(folder, meta)
        os.fsync(folder)
        os.rename(scratch, what.id, src_dir_fd=directory.fd, dst_dir_fd=directory.fd)
        os.fsync(directory.fd)
        return lease
    except BaseException:
        if os.getpid() == process:
            if lease is not None:
                lease.close()
            # What cannot be deleted now, the next builder or `prune` deletes: the error that brought us here matters.
            with contextlib.suppress(CacheError):
                deletion.delete(directory, scratch)
        raise
    finally:
        os.close(folder)


def _check_source(what: _What) -> None:
    if what.source is None or what.state is None:
        return
    if source.state_of(what.source, what.contents)["digest"] != what.state["digest"]:
        raise CacheError(f"cannot finish cache {what.id}: {what.source} changed while it was built; open it again")


def clean_up(directory: Directory, id: str) -> list[str]:
    """Delete what builders of this cache have left that died. For who holds its lock: nobody builds now."""
    gone = []
    for name in os.listdir(directory.fd):
        if name.startswith(f"{layout.SCRATCH_PREFIX}{id}."):
            # Another user's is theirs to delete, and one that a worker of the dead still writes into waits.
            with contextlib.suppress(CacheError):
                deletion.delete(directory, name)
                gone.append(name)
    return gone


def whoever_we_are() -> dict[str, Any]:
    """`user`, `uid` and, where a job runs this, `job`: what a cache keeps of who made it."""
    import pwd

    uid = os.geteuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    id = os.environ.get("RUNNERS_JOB_ID", "")
    job = None
    if id.isascii() and id.isdigit():
        job = {
            "id": int(id),
            "name": os.environ.get("RUNNERS_JOB_NAME"),
            "pipeline": os.environ.get("RUNNERS_PIPELINE_ID"),
        }
    return {"user": user, "uid": uid, "job": job}


def _tell_that_we_wait(directory: Directory, what: _What) -> None:
    builder = locks.builder_of(directory, what.id)
    who = "another process"
    if builder:
        job = builder.get("job")
        who = f"job {job.get('id')}" if isinstance(job, dict) else f"process {builder['pid']}"
        who += f" of {builder.get('user')}"
    sys.stderr.write(f"cache {what.id}: waiting for {who} to build it\n")
    sys.stderr.flush()
