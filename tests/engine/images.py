"""Root file systems for images, made here: no registry is asked."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from engine.requirements import search_path

#: The images that every shared engine has: busybox with all its commands, and :data:`PROGRAM` alone.
SHELL = "runners-test/shell:latest"
BARE = "runners-test/bare:latest"
#: Where every image has the program of program.c.
PROGRAM = "/program"

SOURCE = Path(__file__).with_name("program.c")
CACHE = Path(__file__).parents[2] / ".cache" / "engine"
ACCOUNTS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}
FOLDERS = {"/tmp": 0o1777, "/root": 0o700, "/etc": 0o755, "/bin": 0o755, "/usr/bin": 0o755}


def root(
    files: Mapping[str, bytes | str] | None = None,
    *,
    shell: bool = True,
    links: Mapping[str, str] | None = None,
    nodes: Mapping[str, tuple[int, int, str]] | None = None,
) -> bytes:
    """A tar archive: the program, busybox under all its names unless ``shell`` is false, and more.

    ``files`` are 0755 (a setuid one where its path ends with `+s`) and may replace others, ``links`` are symbolic,
    ``nodes`` devices: major, minor, and `c` or `b`.
    """
    archive = io.BytesIO()
    replaced = {path.removesuffix("+s") for path in (*(files or ()), *(links or ()))}
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        _file(tar, PROGRAM, program().read_bytes())
        if shell:
            for folder, mode in FOLDERS.items():
                _folder(tar, folder, mode)
            for path, text in ACCOUNTS.items():
                if path not in replaced:
                    _file(tar, path, text, 0o644)
            busybox = Path(shutil.which("busybox", path=search_path()) or "/bin/busybox")
            _file(tar, "/bin/busybox", busybox.read_bytes())
            for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
                if f"/bin/{name}" not in replaced:
                    _link(tar, f"/bin/{name}", "busybox")
            _link(tar, "/usr/bin/env", "../../bin/busybox")
        for path, content in (files or {}).items():
            mode = 0o4755 if path.endswith("+s") else 0o755
            _file(tar, path.removesuffix("+s"), content.encode() if isinstance(content, str) else content, mode)
        for path, target in (links or {}).items():
            _link(tar, path, target)
        for path, (major, minor, kind) in (nodes or {}).items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type = tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE
            entry.devmajor, entry.devminor, entry.mode = major, minor, 0o666
            tar.addfile(entry)
    return archive.getvalue()


def program() -> Path:
    """program.c compiled, once for every version of it, with nothing to load at run time."""
    made = CACHE / f"program-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not made.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            partial = Path(scratch) / "program"
            subprocess.run(["gcc", "-O1", "-s", "-static", "-o", partial, SOURCE], check=True)
            partial.replace(made)
    return made


def _file(tar: tarfile.TarFile, path: str, content: bytes, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _folder(tar: tarfile.TarFile, path: str, mode: int) -> None:
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, path: str, target: str) -> None:
    if path != "/bin/busybox":
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        tar.addfile(entry)
