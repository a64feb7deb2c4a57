"""What /proc says of the processes on the cards. Only the NVML process (`worker`) loads this, by path."""

from __future__ import annotations

from typing import Any

#: So much of a process's environment is read (bytes).
ENVIRONMENT_MAX = 1 << 20


class Processes:
    """What /proc says of the processes on the cards, each read once per look.

    ``known`` has what the environments of processes said earlier. A process is not asked for it again: when it hangs in
    the driver, who asks may hang too.
    """

    def __init__(self, known: dict[tuple[int, bytes], str]) -> None:
        self._parents: dict[int, int] = {}
        self._known = known
        self.runs: dict[tuple[int, bytes], str] = {}  #: the same, of the processes of this look

    def describe(self, pid: int) -> dict[str, Any]:
        """Name, real uid, ancestors (nearest first) and run of a process; as much as can be read."""
        name, uid = "", None
        try:
            with open(f"/proc/{pid}/status", "rb") as file:
                for line in file:
                    if line.startswith(b"Name:"):
                        name = line[5:].strip().decode(errors="replace")
                    elif line.startswith(b"Uid:"):
                        uid = int(line.split()[1])
                        break
            if len(name) == 15:
                name = self._whole_name(pid, name)
        except OSError:
            return {"name": name, "uid": uid, "ancestors": [], "run": ""}  # it has just ended, or /proc hides it
        return {"name": name, "uid": uid, "ancestors": self._ancestors(pid), "run": self._run(pid)}

    def _run(self, pid: int) -> str:
        """The attempt that its environment says it is of: a run name, or `JOB.ATTEMPT` in a container."""
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                process = (pid, file.read().rpartition(b")")[2].split()[19])  # with its start, lest a pid comes again
            if process not in self._known:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    said = dict(one.partition(b"=")[::2] for one in file.read(ENVIRONMENT_MAX).split(b"\0"))
                inside = said.get(b"RUNNERS_JOB_ID", b"") + b"." + said.get(b"RUNNERS_ATTEMPT", b"")
                run = said.get(b"RUNNERS_RUN") or (inside if len(inside) > 1 else b"")
                self._known[process] = run.decode(errors="replace")
        except OSError:
            return ""  # it has just ended, or is somebody else's
        self.runs[process] = self._known[process]
        return self.runs[process]

    @staticmethod
    def _whole_name(pid: int, name: str) -> str:
        """The kernel cuts a name after 15 bytes (`nvidia-cuda-mps-server` has 22): the command line has the rest."""
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            first = file.read(4096).partition(b"\0")[0].rpartition(b"/")[2].decode(errors="replace")
        return first if first.startswith(name) else name

    def _ancestors(self, pid: int) -> list[int]:
        above: list[int] = []
        while (pid := self._parent(pid)) > 0 and pid not in above:
            above.append(pid)
        return above

    def _parent(self, pid: int) -> int:
        if pid not in self._parents:
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    # pid (name) state ppid ...: the name may hold anything, so count from its last parenthesis
                    self._parents[pid] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                self._parents[pid] = 0
        return self._parents[pid]
