"""The program of the process that speaks with the NVIDIA driver. It is run by its path, not imported by the daemon.

It answers one request at a time over the socket that is its standard input. Every frame, both ways, is four bytes of
big-endian length and that much JSON. An empty frame from here is a sign of life between two driver calls, so that the
daemon's deadline is one on each call and not on a whole look: without nvidia-persistenced the first call on each card
takes seconds. End of input ends the program.

An answer is one of

    {"absent": "why there is no driver"}
    {"error": code, "text": "as NVML calls it"}         NVML itself failed
    {"cards": [...], "nameless": [{"index", "error"}]}  cards, and indices whose card does not even say its UUID

and the last of these has a "topology" too, when the request was {"topology": true}. Before it may come, as often as the
driver has something to report,

    {"xids": [[UUID, number], ...]}                     Xid errors of whole cards since the last of these

in a frame of its own, so that a driver call that hangs after that takes nothing of it away.

NVML stays initialised from the first look to the end of the process, and no CUDA context is ever made.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

LENGTH = struct.Struct(">I")

#: Seconds of work after which the next driver call is announced by an empty frame.
SIGN_EVERY = 0.25

# NVML's return codes, as nvml.h numbers them.
NO_DRIVER = {9: "the NVIDIA driver is not loaded", 12: "libnvidia-ml.so.1 is not found"}
NOT_SUPPORTED, FUNCTION_NOT_FOUND, LOST, RESET_REQUIRED, MISMATCH, UNKNOWN = 3, 13, 15, 16, 18, 999
#: These say something about the card or the driver; every other failure only means "this value is not known".
GRAVE = frozenset({LOST, RESET_REQUIRED, MISMATCH})

#: Which list a process is in, and what it counts as. A client of MPS computes through the MPS server.
PROCESS_LISTS = (
    ("nvmlDeviceGetComputeRunningProcesses", "compute"),
    ("nvmlDeviceGetMPSComputeRunningProcesses", "compute"),
    ("nvmlDeviceGetGraphicsRunningProcesses", "graphics"),
)


def beside(name: str) -> Any:
    """The module of that name beside this file. Neither this folder nor the package is loaded for it: that costs more
    than all the rest."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from runnersd.machine.nvml.processes import Processes
    from runnersd.machine.nvml.xids import XidEvents
else:
    Processes, XidEvents = beside("processes").Processes, beside("xids").XidEvents


class Driver:
    """NVML, initialised once. ``sign`` is called before every driver call, ``report`` with Xids when there are any."""

    def __init__(self, nvml: Any, sign: Callable[[], None], report: Callable[[list[tuple[str, int]]], None]) -> None:
        self._nvml = nvml
        self._report = report
        self._xids = XidEvents(nvml, self._call)
        self._sign = sign
        self._count = -1
        self._cards: list[tuple[Any, dict[str, Any]]] = []  # a handle, and what never changes of its card
        self._nameless: list[dict[str, int]] = []
        self._instances: dict[str, str] = {}  # names of MIG devices by UUID
        self._doubtful: list[str] = []  # calls on the card being read that ended in an unknown error
        self._runs: dict[tuple[int, bytes], str] = {}
        self._call("nvmlInit")

    def look(self) -> dict[str, Any]:
        """Everything about every card, as the module's docstring says.

        Raises:
            nvml.NVMLError: NVML as a whole has failed.
        """
        self._tell_xids()
        try:
            return self._look()
        finally:
            self._tell_xids()  # after a look that went badly this process may not be asked again

    def _tell_xids(self) -> None:
        if found := self._xids.fetch():
            self._report(found)

    def _look(self) -> dict[str, Any]:
        count = self._call("nvmlDeviceGetCount")
        if count != self._count or self._moved():
            self._enumerate(count)
        self._xids.watch([(handle, facts["uuid"]) for handle, facts in self._cards])
        processes = Processes(self._runs)
        cards: list[dict[str, Any]] = []
        for handle, facts in self._cards:
            try:
                cards += self._read(handle, facts, processes)
            except self._nvml.NVMLError as error:
                cards.append({**facts, "error": error.value})
        self._runs = processes.runs
        return {"cards": cards, "nameless": self._nameless}

    def topology(self) -> dict[str, Any]:
        """How the whole cards are connected, as far as the driver says: where pairs of them meet on the bus, how many
        NVLinks of each lead to which bus, and which pairs can use NVLink.
        """
        cards = [(handle, facts["uuid"]) for handle, facts in self._cards]
        links = {uuid: found for handle, uuid in cards if (found := self._links(handle))}
        levels: list[list[Any]] = []
        peers: list[list[str]] = []
        for place, (handle, uuid) in enumerate(cards):
            for other, its in cards[place + 1 :]:
                level = self._optional("nvmlDeviceGetTopologyCommonAncestor", handle, other)
                if level is not None:
                    levels.append([uuid, its, level])
                if uuid in links and its in links:
                    index = self._nvml.NVML_P2P_CAPS_INDEX_NVLINK
                    if self._optional("nvmlDeviceGetP2PStatus", handle, other, index) == self._nvml.NVML_P2P_STATUS_OK:
                        peers.append([uuid, its])
        return {"levels": levels, "links": links, "peers": peers}

    def _links(self, handle: Any) -> dict[str, int]:
        """How many NVLinks of the card lead to which bus; those that do not say where have an empty one."""
        found: dict[str, int] = {}
        for link in range(self._nvml.NVML_NVLINK_MAX_LINKS):
            active = self._optional("nvmlDeviceGetNvLinkState", handle, link)
            if active is None:
                break  # the card has no links, or no more
            if active:
                remote = self._optional("nvmlDeviceGetNvLinkRemotePciInfo", handle, link)
                bus = b"" if remote is None else remote.busId
                name = (bus.decode() if isinstance(bus, bytes) else bus).upper()
                found[name] = found.get(name, 0) + 1
        return found

    def _optional(self, name: str, *arguments: Any) -> Any:
        """A value that nothing depends on: None whatever is wrong."""
        try:
            return self._call(name, *arguments)
        except self._nvml.NVMLError:
            return None

    def _call(self, name: str, *arguments: Any) -> Any:
        self._sign()
        return getattr(self._nvml, name)(*arguments)

    def _value(self, name: str, *arguments: Any) -> Any:
        """A value that a card may do without: None where the driver does not give it."""
        try:
            return self._call(name, *arguments)
        except self._nvml.NVMLError as error:
            if error.value in GRAVE:
                raise
            if error.value == UNKNOWN:
                self._doubtful.append(name)
            return None

    def _moved(self) -> bool:
        """Whether a handle now means another card than it did, which a reset or MIG change can do."""
        for handle, facts in self._cards:
            try:
                if self._call("nvmlDeviceGetUUID", handle) != facts["uuid"]:
                    return True
            except self._nvml.NVMLError:
                continue  # reading the card will say what is wrong with it
        return False

    def _enumerate(self, count: int) -> None:
        self._cards, self._nameless = [], []
        for index in range(count):
            try:
                handle = self._call("nvmlDeviceGetHandleByIndex", index)
                uuid = self._call("nvmlDeviceGetUUID", handle)
                facts: dict[str, Any] = {"uuid": uuid, "name": "", "pci": "", "capability": None, "minor": None}
                self._cards.append((handle, facts))
            except self._nvml.NVMLError as error:
                self._nameless.append({"index": index, "error": error.value})
                continue
            try:
                facts["name"] = self._value("nvmlDeviceGetName", handle) or ""
                if (pci := self._value("nvmlDeviceGetPciInfo", handle)) is not None:
                    bus = pci.busId
                    facts["pci"] = (bus.decode() if isinstance(bus, bytes) else bus).upper()
                if (capability := self._value("nvmlDeviceGetCudaComputeCapability", handle)) is not None:
                    facts["capability"] = f"{capability[0]}.{capability[1]}"
                facts["minor"] = self._value("nvmlDeviceGetMinorNumber", handle)
            except self._nvml.NVMLError:
                continue  # a lost card: known by its UUID, and reading it will say so
        self._count = count

    def _read(self, handle: Any, facts: dict[str, Any], processes: Processes) -> list[dict[str, Any]]:
        """The card, or the MIG devices it is cut into."""
        self._doubtful = []
        mode = self._value("nvmlDeviceGetMigMode", handle)
        temperature = self._value("nvmlDeviceGetTemperature", handle, self._nvml.NVML_TEMPERATURE_GPU)
        if mode is not None and mode[0]:
            parts = self._read_instances(handle, facts, processes)
            for part in parts:
                part["temperature"] = temperature
            return [{**facts, "divided": True, "doubtful": self._doubtful}, *parts]
        rates = self._value("nvmlDeviceGetUtilizationRates", handle)
        milliwatts = self._value("nvmlDeviceGetPowerUsage", handle)
        return [
            {
                **facts,
                **self._read_memory(handle),
                "temperature": temperature,
                "utilization": None if rates is None else int(rates.gpu),
                "power": None if milliwatts is None else milliwatts / 1000,
                "processes": self._read_processes(handle, processes),
                "doubtful": self._doubtful,
            }
        ]

    def _read_instances(self, handle: Any, facts: dict[str, Any], processes: Processes) -> list[dict[str, Any]]:
        parts = []
        for index in range(self._value("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = self._value("nvmlDeviceGetMigDeviceHandleByIndex", handle, index)
            uuid = None if part is None else self._value("nvmlDeviceGetUUID", part)
            if uuid is None:
                continue  # the places for MIG devices need not all be taken
            if uuid not in self._instances:
                self._instances[uuid] = self._value("nvmlDeviceGetName", part) or facts["name"]
            own = {"uuid": uuid, "parent": facts["uuid"], "name": self._instances[uuid]}
            held = self._read_processes(part, processes)
            parts.append({**facts, **own, **self._read_memory(part), "processes": held, "doubtful": []})
        return parts

    def _read_memory(self, handle: Any) -> dict[str, int | None]:
        """Bytes. The second version of the call does not count the driver's own reserve as used."""
        for version in (self._nvml.nvmlMemory_v2, None):
            info = self._value("nvmlDeviceGetMemoryInfo", handle, version)
            if info is not None:
                return {"total": int(info.total), "used": int(info.used)}
        return {"total": None, "used": None}

    def _read_processes(self, handle: Any, processes: Processes) -> list[dict[str, Any]] | None:
        """Who is on the card, each pid once. None when the driver failed to say: that is not "nobody"."""
        found: dict[int, dict[str, Any]] = {}
        for name, kind in PROCESS_LISTS:
            listed = self._list_processes(name, handle)
            if listed is None:
                return None
            for process in listed:
                if process.pid not in found:
                    described = processes.describe(process.pid)
                    found[process.pid] = {
                        "pid": process.pid,
                        "kind": kind,
                        "memory": process.usedGpuMemory,
                        **described,
                    }
        return list(found.values())

    def _list_processes(self, name: str, handle: Any) -> list[Any] | None:
        known = False
        for version in ("_v3", "_v2"):
            if not hasattr(self._nvml, name + version):
                continue  # pynvml has had both and either
            try:
                listed: list[Any] = self._call(name + version, handle)
                return listed
            except self._nvml.NVMLError as error:
                if error.value in GRAVE:
                    raise
                if error.value == UNKNOWN:
                    self._doubtful.append(name)
                known = known or error.value not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
        return None if known else []


class Channel:
    """The daemon's end of the conversation."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._signed = time.monotonic()

    def asked(self) -> dict[str, Any] | None:
        """Wait for the next request. None when there will be none."""
        header = self._receive(LENGTH.size)
        body = None if header is None else self._receive(LENGTH.unpack(header)[0])
        if body is None:
            return None
        self._signed = time.monotonic()
        request: dict[str, Any] = json.loads(body)
        return request

    def answer(self, message: dict[str, Any]) -> None:
        """Send one answer."""
        body = json.dumps(message, separators=(",", ":")).encode()
        self._socket.sendall(LENGTH.pack(len(body)) + body)

    def report(self, xids: list[tuple[str, int]]) -> None:
        """Send what the driver has reported."""
        self.answer({"xids": xids})

    def sign(self) -> None:
        """Say that a driver call has come back, if it is a while since anything was said."""
        now = time.monotonic()
        if now - self._signed >= SIGN_EVERY:
            self._socket.sendall(LENGTH.pack(0))
            self._signed = now

    def _receive(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                return None
            data += more
        return data


def main() -> int:
    """Answer until the daemon closes its end."""
    channel = Channel(os.dup(0))
    try:
        import pynvml  # here, so that its absence is an answer
    except ImportError:
        return refuse(channel, "the Python package nvidia-ml-py is not installed")
    driver: Driver | None = None
    while (request := channel.asked()) is not None:
        try:
            driver = driver or Driver(pynvml, channel.sign, channel.report)
            answer = driver.look()
            if request.get("topology"):
                answer["topology"] = driver.topology()
            channel.answer(answer)
        except pynvml.NVMLError as error:
            if driver is None and error.value in NO_DRIVER:
                channel.answer({"absent": NO_DRIVER[error.value]})
            else:
                channel.answer({"error": error.value, "text": str(error)})
    return 0


def refuse(channel: Channel, why: str) -> int:
    """Answer everything with why there is nothing to see."""
    while channel.asked() is not None:
        channel.answer({"absent": why})
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # the daemon is gone: nobody is left to tell
