"""`caches`: what the cache directory holds, whether it is sound, and removing what nobody needs."""

from __future__ import annotations

import os
import sys
import time

from runners.cache import layout, upkeep
from runners.errors import InvalidRequest, NotFound
from runners.render import words as said

from .cache_users import Users, users_now
from .sentences import print_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from runners.cache.layout import Directory
    from runners.cache.upkeep import Entry

    from .options import Words


def caches(words: Words) -> int:
    """Do one of :data:`ACTIONS`."""
    action = words.text("ACTION") or "ls"
    done = ACTIONS.get(action)
    if done is None:
        from .options import nearest

        raise InvalidRequest(
            f"cannot look after caches: {action!r} is none of {', '.join(ACTIONS)}{nearest(action, ACTIONS)}"
        )
    if action != "prune" and (words.has("keep") or words.has("unused")):
        raise InvalidRequest("cannot look after caches: --keep and --unused are for `caches prune`")
    users = users_now(words.text("socket"), removing=action in ("rm", "prune"))
    users.warn()
    with layout.opened(_directory(words, users)) as directory:
        return done(directory, users, words)


def _directory(words: Words, users: Users) -> str:
    given = words.text("directory") or os.environ.get("CACHE_DIRECTORY") or users.cache_directory
    return layout.chosen_directory(given)


# -- looking -----------------------------------------------------------------------------------------------------------


def _ls(directory: Directory, users: Users, words: Words) -> int:
    found = _named(upkeep.entries(directory), words.all("CACHE"), all=True)
    building = upkeep.building(directory)
    if words.has("json"):
        built = [{"id": one.id, "builder": one.builder} for one in building]
        caches = [_document(one, users) for one in found]
        print_json({"directory": directory.path, "caches": caches, "building": built})
        return 0
    from runners.render.caches import table

    now = time.time()
    rows = [(one, users.of(one)) for one in found]
    for line in table(rows, building, now):
        print(line)
    print(f"{said.count(len(found), 'cache')}, {said.size(sum(one.bytes for one in found))}, in {directory.path}")
    return 0


def _show(directory: Directory, users: Users, words: Words) -> int:
    found = _named(upkeep.entries(directory), _required(words))
    if words.has("json"):
        print_json({"directory": directory.path, "caches": [_document(one, users) for one in found]})
        return 0
    from runners.render.caches import detail

    for number, one in enumerate(found):
        print("\n".join([""] * bool(number) + detail(one, users.of(one), directory.file(one.id), time.time())))
    return 0


def _verify(directory: Directory, users: Users, words: Words) -> int:
    found = _named(upkeep.entries(directory), words.all("CACHE"), all=True)
    documents, worst = [], 0
    for one in found:
        damage = list(upkeep.verify(directory, one))
        worst = 1 if damage else worst
        documents.append({"id": one.id, "ok": not damage, "damage": damage})
        if words.has("json"):
            continue
        if not damage:
            files = one.meta.get("files")
            print(f"{one.id}: as it was built ({files} files, {said.size(one.bytes)})", flush=True)
        for problem in damage:
            print(f"{one.id}: {said.clean(problem)}", flush=True)
    if words.has("json"):
        print_json({"directory": directory.path, "caches": documents})
    return worst


# -- removing ----------------------------------------------------------------------------------------------------------


def _rm(directory: Directory, users: Users, words: Words) -> int:
    found = _named(upkeep.entries(directory), _required(words))
    gone, kept = [], []
    for one in found:
        if one.leased or users.needing(one):
            kept.append((one, f"it is used by {', '.join(users.of(one))}"))
        elif words.has("dry-run") or upkeep.remove(directory, one):
            gone.append(one)
        else:
            kept.append((one, "it has come into use at this moment, or is gone"))
    if words.has("json"):
        print_json({"removed": [one.id for one in gone], "kept": [{"id": one.id, "why": why} for one, why in kept]})
    else:
        _tell_gone(gone, words.has("dry-run"))
    for one, why in kept:
        sys.stderr.write(f"runners-client: cannot remove {one.id}: {why}\n")
    return 1 if kept else 0


def _prune(directory: Directory, users: Users, words: Words) -> int:
    if words.all("CACHE"):
        raise InvalidRequest("cannot prune: it takes no cache's name; `caches rm` does")
    keep, unused = _quantities(words)
    dry_run = words.has("dry-run")
    swept = list(upkeep.sweep(directory, dry_run=dry_run))
    found = upkeep.entries(directory)
    needed = {one.id for one in found if users.needing(one)}
    chosen = upkeep.to_prune(found, time.time(), keep=keep, unused=unused, needed=needed, uid=os.geteuid())
    gone, failed = [], [problem for _name, problem in swept if problem]
    for one in chosen:
        try:
            if dry_run or upkeep.remove(directory, one):
                gone.append(one)
        except layout.CacheError as error:
            failed.append(str(error))
    left = [one for one in found if one not in gone and os.geteuid() in (0, one.uid)]
    size = sum(one.bytes for one in left)
    if words.has("json"):
        print_json(
            {
                "directory": directory.path,
                "removed": [one.id for one in gone],
                "freed": sum(one.bytes for one in gone),
                "swept": [name for name, problem in swept if not problem],
                "left": size,
                "failed": failed,
            }
        )
    else:
        for name, problem in swept:
            if not problem:
                print(f"{'would delete' if dry_run else 'deleted'} {name}: its builder, or a removal, had died")
        _tell_gone(gone, dry_run)
        over = keep is not None and size > keep
        rest = f", more than {said.size(keep)}: what is left is in use, or waited for" if over else ""
        print(f"{said.count(len(left), 'cache')} {'would be ' if dry_run else ''}left, {said.size(size)}{rest}")
    for problem in failed:
        sys.stderr.write(f"runners-client: {said.clean(problem)}\n")
    return 1 if failed else 0


def _tell_gone(gone: Sequence[Entry], dry_run: bool) -> None:
    now = time.time()
    for one in gone:
        used = f"last used {said.rough(now - one.last_used)} ago"
        print(f"{'would remove' if dry_run else 'removed'} {one.id}: {said.size(one.bytes)}, {used}")


def _quantities(words: Words) -> tuple[int | None, float | None]:
    """What `--keep` and `--unused` say: bytes, seconds."""
    from runners.pipeline.quantities import parse_duration, parse_size

    keep, unused = words.text("keep"), words.text("unused")
    try:
        size = None if keep is None else parse_size(keep)
    except ValueError as error:
        raise InvalidRequest(f"cannot prune: --keep {keep!r} is {error}") from None
    try:
        return size, None if unused is None else parse_duration(unused)
    except ValueError as error:
        raise InvalidRequest(f"cannot prune: --unused {unused!r} is {error}") from None


# -- words -------------------------------------------------------------------------------------------------------------


def _required(words: Words) -> list[str]:
    given = words.all("CACHE")
    if not given:
        raise InvalidRequest(f"cannot {words.text('ACTION')}: say which cache; `runners-client caches` lists them")
    return given


def _named(found: list[Entry], given: Sequence[str], *, all: bool = False) -> list[Entry]:
    """The caches that the words mean: a whole name, or the beginning of just one; every one, if ``all`` and no word."""
    if all and not given:
        return found
    chosen: dict[str, Entry] = {}
    for word in given:
        fits = [one for one in found if one.id == word] or [one for one in found if one.id.startswith(word)]
        if not fits:
            from .options import nearest

            near = nearest(word, [one.id for one in found])
            raise NotFound(f"cannot find cache {word}: there is none whose name begins so{near}")
        if len(fits) > 1 and not all:
            raise InvalidRequest(f"cannot tell which cache {word} is: {', '.join(one.id for one in fits)}")
        chosen.update({one.id: one for one in fits})
    return list(chosen.values())


def _document(one: Entry, users: Users) -> dict[str, Any]:
    """A cache as JSON."""
    keys = ("params", "source", "user", "job", "built_at", "seconds", "items", "files", "format", "host")
    return {
        "id": one.id,
        "name": one.name,
        "uid": one.uid,
        "bytes": one.bytes,
        **{key: one.meta.get(key) for key in keys},
        "last_used": one.last_used,
        "in_use": one.leased,
        "used_by": users.documents(one),
        "problem": one.problem or None,
    }


ACTIONS = {"ls": _ls, "show": _show, "verify": _verify, "rm": _rm, "prune": _prune}
