"""Turns what the NVML process answers, or that it does not, into the inventory."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from runnersd.machine.nvml.connection import NvmlProcess
from runnersd.machine.nvml.sight import GONE, MISMATCH, Sight, sight
from runnersd.model import Gpu, GpuId, Inventory, Topology, Xid

#: Looks of a fresh NVML process that a card may fail with an unknown error before it counts as lost.
STRIKES = 3

#: NVML processes that may hang in the driver, killed but not gone, before no more are started.
STUCK_MAX = 4


class NvmlObserver:
    """Sees the cards of this machine; a driver that hangs or crashes only makes the inventory stale.

    ``timeout``: seconds a driver call may take. ``environment``: the NVML process's, else the daemon's own.
    ``retry``: seconds between two tries at a driver that is not there, and at a card that is lost.

    The NVML process is started by the first look and kept, so that the driver stays initialised. It is replaced when
    it hangs, crashes, or sees something that only a fresh one can be believed on: a card that vanished or answers
    "lost", "reset required" or "unknown error", a driver of another version than its library. A card that is gone for
    a fresh process too stays in the inventory as lost; the others are not touched.

    How the cards are connected is asked for at the look after the first, and again when there are other cards.

    A ``problem`` keeps its wording while it lasts, so whoever tells people says it when it changes.
    """

    def __init__(
        self, timeout: float = 5.0, environment: Mapping[str, str] | None = None, *, retry: float = 60.0
    ) -> None:
        self.timeout = timeout  #: may be changed at any time
        self._environment = environment
        self._retry = retry
        self._turn = asyncio.Lock()
        self._closed = False
        self._process: NvmlProcess | None = None
        self._killed: list[NvmlProcess] = []
        self._rest_until = 0.0  # loop time before which no process is started
        self._failures = 0  # in a row
        self._seen = Inventory()
        self._known: dict[GpuId, Gpu] = {}  # as last seen, the lost ones among them
        self._strikes: dict[GpuId, int] = {}
        self._leaving: dict[GpuId, float] = {}  # when a MIG layout that is no more leaves the inventory, loop time
        self._doubted: frozenset[tuple[GpuId, str]] = frozenset()
        self._maimed = False  # some card is lost or silent
        self._topology = Topology()
        self._mapped: frozenset[GpuId] = frozenset()  # the cards of which it was asked for
        self._xids: list[Xid] = []  # reported by processes that are gone

    async def observe(self) -> Inventory:
        """The cards as they are now, or as last seen and ``stale``, after at most twice the timeout.

        What the driver has reported of them is told once.
        """
        async with self._turn:
            self._seen = await self._observe()
            self._take_xids()
            told, self._xids = tuple(self._xids), []
            return replace(self._seen, xids=told) if told else self._seen

    def _take_xids(self) -> None:
        if self._process is not None:
            self._xids += self._process.xids
            self._process.xids.clear()

    async def close(self) -> None:
        """End the NVML process. One that hangs in the driver is left behind: nothing can end it."""
        self._closed = True
        self._discard()  # a look under way ends with that
        async with self._turn:
            for _ in range(50):
                self._bury()
                if not self._killed:
                    return
                await asyncio.sleep(0.01)

    async def _observe(self) -> Inventory:
        now = asyncio.get_running_loop().time()
        self._bury()
        if self._process is None and now < self._rest_until:
            return self._seen
        if self._process is not None and self._maimed and now - self._process.started >= self._retry:
            self._discard()  # a card that was reset is seen again by a fresh process only
        found = await self._look()
        if isinstance(found, Sight) and self._process and self._process.answers > 1 and self._is_troubled(found):
            self._discard()
            found = await self._look()
        if isinstance(found, str):
            return self._stale(found)
        return self._settle(found)

    async def _look(self) -> Sight | str:
        """What the NVML process sees, or a sentence on why it does not say."""
        if self._closed:
            return "the NVIDIA driver is not asked any more: the daemon is stopping"
        try:
            if self._process is None:
                if len(self._killed) >= STUCK_MAX:
                    return self._failed(f"{STUCK_MAX} processes hang in the NVIDIA driver: the machine needs a look")
                self._process = NvmlProcess(self._environment)
            answer = await self._process.look(self.timeout, topology=self._to_be_mapped(self._process))
            if answer is None:
                return f"the NVIDIA driver works for more than {self.timeout:g} s (is nvidia-persistenced running?)"
            return sight(answer)
        except TimeoutError:
            return self._failed(f"the NVIDIA driver has not answered for {self.timeout:g} s")
        except EOFError as error:
            return self._failed(f"the process that asks the NVIDIA driver crashed: {error}")
        except ValueError as error:
            return self._failed(f"the process that asks the NVIDIA driver sent garbage: {error}")
        except OSError as error:
            return self._failed(f"cannot start the process that asks the NVIDIA driver: {error}")

    def _to_be_mapped(self, process: NvmlProcess) -> bool:
        """Whether to ask how the cards are connected: once for the same cards, and not before they were seen.

        A driver that hangs at that question is asked for everything else first, and not for this again.
        """
        present = frozenset(uuid for uuid, gpu in self._known.items() if not gpu.lost)
        if not process.answers or len(present) < 2 or present <= self._mapped:
            return False
        self._mapped, self._topology = present, Topology()
        return True

    def _failed(self, sentence: str) -> str:
        """Give the process up. The next try comes at once, then later and later."""
        self._discard()
        self._failures += 1
        rest = min(self._retry, 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0
        self._rest_until = asyncio.get_running_loop().time() + rest
        return f"{sentence}; the cards are as last seen"

    def _discard(self) -> None:
        if self._process is not None:
            self._take_xids()
            self._process.kill()
            self._killed.append(self._process)
            self._process = None

    def _bury(self) -> None:
        self._killed = [killed for killed in self._killed if killed.process.poll() is None]

    def _rest(self) -> None:
        """Nothing to see for a while, and no process kept for it."""
        self._discard()
        self._rest_until = asyncio.get_running_loop().time() + self._retry

    def _is_troubled(self, found: Sight) -> bool:
        """Whether only a fresh process can be believed on this."""
        if found.error is not None or found.doubtful - self._doubted:
            return True
        answered = {gpu.uuid for gpu in found.gpus}
        return any(not gpu.lost and uuid not in answered for uuid, gpu in self._known.items()) or any(
            uuid not in self._known for uuid in found.failed
        )

    def _settle(self, found: Sight) -> Inventory:
        """The inventory after a look that is to be believed."""
        if found.absent is not None:
            self._rest()
            if self._known:
                return self._stale(f"{found.absent} any more; the cards are as last seen")
            return Inventory(problem=f"no cards: {found.absent}; jobs that need none run as ever")
        codes = {found.error, *found.nameless, *(code for _, code in found.failed.values())}
        if MISMATCH in codes:
            self._rest()
            return self._stale("the NVIDIA driver was changed under the running one: reboot needed; running jobs go on")
        if found.error is not None:
            return self._stale(self._failed(f"the NVIDIA driver answers with error {found.error} ({found.text})"))
        self._failures = 0
        self._topology = found.topology or self._topology
        self._doubted |= found.doubtful
        waiting = self._update(found)
        self._number()
        self._maimed = bool(found.nameless) or any(gpu.lost for gpu in self._known.values())
        if waiting:
            self._discard()
            return self._stale(f"the NVIDIA driver does not know {', '.join(waiting)} for now: asking again")
        return Inventory(tuple(self._known.values()), problem=self._problem(found), topology=self._topology)

    def _update(self, found: Sight) -> list[GpuId]:
        """Bring the known cards up to date. Returns those that are to be asked for again before they count as lost."""
        now = asyncio.get_running_loop().time()
        for gpu in found.gpus:
            before = self._known.get(gpu.uuid)
            if gpu.uuid in found.silent and before is not None:
                gpu = replace(gpu, processes=before.processes)
            self._known[gpu.uuid] = gpu
            self._strikes.pop(gpu.uuid, None)
            self._leaving.pop(gpu.uuid, None)
        parents = {gpu.parent for gpu in self._known.values()}
        for uuid, (gpu, _) in found.failed.items():
            if uuid not in parents:
                self._known.setdefault(uuid, gpu)
        answered = {gpu.uuid for gpu in found.gpus}
        waiting = []
        for uuid, gpu in [*self._known.items()]:
            if uuid in answered:
                continue
            if not gpu.lost and self._is_doubtful(gpu, found):
                self._strikes[uuid] = self._strikes.get(uuid, 0) + 1
                if self._strikes[uuid] < STRIKES:
                    waiting.append(uuid)
                    continue
            if (gpu.parent or uuid) in found.cards and now >= self._leaving.setdefault(uuid, now + self._retry):
                del self._known[uuid], self._leaving[uuid]  # divided anew: no card is gone
            elif not gpu.lost:
                self._known[uuid] = _lost(gpu)
        return waiting

    @staticmethod
    def _is_doubtful(gpu: Gpu, found: Sight) -> bool:
        """Whether a card that did not answer may yet: its error has no name."""
        failure = found.failed.get(gpu.parent or gpu.uuid)
        if failure is not None:
            return failure[1] not in GONE
        return (gpu.parent or gpu.uuid) not in found.cards and any(code not in GONE for code in found.nameless)

    def _number(self) -> None:
        """Index the cards in PCI order, the lost ones in their old places."""
        ordered = sorted(self._known.values(), key=lambda gpu: (gpu.pci_bus, gpu.uuid))
        self._known = {gpu.uuid: replace(gpu, index=index) for index, gpu in enumerate(ordered)}

    def _problem(self, found: Sight) -> str | None:
        lost = [f"card {gpu.index} ({gpu.name}, {gpu.uuid}) is lost" for gpu in self._known.values() if gpu.lost]
        if lost:
            return "; ".join(lost) + ": it needs a reset or a reboot, the other cards go on"
        if found.nameless:
            return f"the NVIDIA driver counts cards that do not answer ({len(found.nameless)}): the others go on"
        return None

    def _stale(self, problem: str) -> Inventory:
        return Inventory(tuple(self._known.values()), stale=True, problem=problem, topology=self._topology)


def _lost(gpu: Gpu) -> Gpu:
    """The card with nothing left that could be true of it now."""
    return replace(gpu, lost=True, memory_used=None, utilization=None, power=None, temperature=None, processes=())
