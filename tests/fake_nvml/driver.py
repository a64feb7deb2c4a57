"""The fake driver's state: set it up, `write` it, and whoever has the library loaded sees it at the next call."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Card:
    """A whole card. ``mig``: -1 it cannot be divided, 0 it is not, 1 it is. Memory in bytes, power in watts."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    bus: str = "00000000:01:00.0"
    total: int = 80 << 30
    used: int = 0
    reserved: int = 512 << 20
    utilization: int = 0
    temperature: int = 33
    power: float = 70.0
    capability: str = "9.0"
    mig: int = -1
    lost: bool = False
    persistent: bool = True
    minor: int | None = None  #: N of /dev/nvidiaN; its place in the driver's list where that is None
    place: tuple[int, int, str] | None = None  #: NUMA node, host bridge, switches from there on (`0.1`); None: not told

    def line(self) -> str:
        """As the state file has it."""
        minor = "" if self.minor is None else f" minor={self.minor}"
        tree = "" if self.place is None else " numa={} bridge={} switch={}".format(*self.place)
        return (
            f"gpu uuid={self.uuid} name={self.name.replace(' ', '_')} bus={self.bus} total={self.total}"
            f" used={self.used} reserved={self.reserved} util={self.utilization} temp={self.temperature}"
            f" power={round(self.power * 1000)} cc={self.capability} mig={self.mig} lost={int(self.lost)}"
            f" persist={int(self.persistent)}{minor}{tree}"
        )


@dataclass
class MigDevice:
    """A part of the card at ``gpu``, a place in the driver's list."""

    uuid: str
    gpu: int = 0
    name: str = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    total: int = 10 << 30
    used: int = 0

    def line(self) -> str:
        """As the state file has it."""
        name = self.name.replace(" ", "_")
        return f"mig gpu={self.gpu} uuid={self.uuid} name={name} total={self.total} used={self.used}"


@dataclass
class Link:
    """NVLinks of the card at ``gpu``, a place in the driver's list: to another card, or to a switch on a ``bus``."""

    gpu: int
    to: int | None = None
    count: int = 1
    bus: str = ""

    def line(self) -> str:
        """As the state file has it."""
        end = f"bus={self.bus}" if self.to is None else f"to={self.to}"
        return f"link gpu={self.gpu} {end} n={self.count}"


@dataclass
class Process:
    """A process on the card at ``gpu``; ``kind`` is C(ompute), G(raphics) or M(PS)."""

    pid: int
    gpu: int = 0
    memory: int = 1 << 30
    kind: str = "C"
    mig: str | None = None

    def line(self) -> str:
        """As the state file has it."""
        part = f" mig={self.mig}" if self.mig else ""
        return f"proc gpu={self.gpu} pid={self.pid} mem={self.memory} type={self.kind}{part}"


@dataclass
class Fault:
    """What calls that match the glob ``call`` do: wait ``delay`` seconds, then crash or return ``code``."""

    call: str
    code: int = 0
    gpu: int = -1
    delay: float = 0.0
    crash: bool = False

    def line(self) -> str:
        """As the state file has it."""
        delay = round(self.delay * 1000)
        return f"fault fn={self.call} gpu={self.gpu} ret={self.code} delay={delay} crash={int(self.crash)}"


@dataclass
class XidEvent:
    """An error ``code`` that is reported of the card at ``gpu``, to whoever listened before it was written."""

    seq: int
    gpu: int
    code: int

    def line(self) -> str:
        """As the state file has it."""
        return f"xid seq={self.seq} gpu={self.gpu} code={self.code}"


@dataclass
class FakeDriver:
    """A driver with ``cards``, in the driver's own order; without any `write` it is not loaded."""

    library: Path
    folder: Path
    cards: list[Card] = field(default_factory=list)
    migs: list[MigDevice] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    xids: list[XidEvent] = field(default_factory=list)

    @property
    def state(self) -> Path:
        """The file the library reads."""
        return self.folder / "nvml-state"

    @property
    def calls(self) -> Path:
        """Where the library notes every call, when :meth:`environment` asks for it."""
        return self.folder / "nvml-calls"

    def environment(self, inherited: Mapping[str, str] = os.environ, *, log: bool = False) -> dict[str, str]:
        """What a process needs in its environment to see these cards, added to what it inherits."""
        own = {"LD_LIBRARY_PATH": str(self.library), "FAKE_NVML_STATE": str(self.state)}
        return {**inherited, **own, **({"FAKE_NVML_LOG": str(self.calls)} if log else {})}

    def add_cards(self, count: int) -> FakeDriver:
        """More cards, each on a bus of its own, with UUIDs that say their place; written at once."""
        for place in range(len(self.cards), len(self.cards) + count):
            self.cards.append(
                Card(f"GPU-{place:08x}-0000-4000-8000-000000000000", bus=f"00000000:{place + 1:02X}:00.0", minor=place)
            )
        return self.write()

    def write(self) -> FakeDriver:
        """Make the state what the fields say, in one step."""
        kinds = (self.cards, self.migs, self.links, self.processes, self.faults, self.xids)
        lines = [item.line() for items in kinds for item in items]
        scratch = self.folder / "nvml-state.new"
        scratch.write_text("\n".join(lines) + "\n")
        scratch.replace(self.state)
        return self

    def report(self, gpu: int, code: int) -> FakeDriver:
        """Have the driver report an Xid of the card at that place; written at once."""
        self.xids.append(XidEvent(len(self.xids) + 1, gpu, code))
        return self.write()

    def unload(self) -> None:
        """Take the driver away: it is not loaded."""
        self.state.unlink(missing_ok=True)
