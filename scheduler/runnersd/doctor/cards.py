"""Checks of the NVIDIA driver and the cards. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from runnersd.doctor.facts import CardFacts, Driver, Unseen
from runnersd.doctor.finding import Finding, failure, ok, warning


def check_cards(facts: CardFacts) -> Iterator[Finding]:
    """The kernel's driver, the library that speaks to it, and whether it stays awake."""
    yield _driver(facts)
    if isinstance(facts.nvml, Unseen):
        yield warning("nvml", f"cannot ask the driver: {facts.nvml.why}")
        return
    if facts.module is None and facts.nvml.absent is not None:
        return  # said already
    yield _nvml(facts.nvml)
    if facts.nvml.cards:
        yield _persistence(facts.nvml)


def has_cards(facts: CardFacts) -> bool:
    """Whether the driver shows any card."""
    return isinstance(facts.nvml, Driver) and bool(facts.nvml.cards)


def _driver(facts: CardFacts) -> Finding:
    if facts.module is not None:
        return ok("driver", f"NVIDIA {facts.module}, loaded")
    if has_cards(facts):
        assert isinstance(facts.nvml, Driver)
        return ok("driver", f"NVIDIA {facts.nvml.version}")
    if facts.on_bus:
        cards = "an NVIDIA card" if facts.on_bus == 1 else f"{facts.on_bus} NVIDIA cards"
        text = f"this machine has {cards}, and no NVIDIA driver is loaded: jobs get none"
        return warning("driver", text, "apt-get install nvidia-driver", "modprobe nvidia")
    return warning("driver", "no NVIDIA card and no driver: only jobs that ask for no card can run")


def _nvml(nvml: Driver) -> Finding:
    """What NVML says. Without it a loaded driver is of no use to the daemon."""
    if nvml.absent is not None:
        text = f"the driver is loaded, but {nvml.absent}: jobs get no cards"
        if "libnvidia-ml" in nvml.absent:
            return failure("nvml", text, "apt-get install libnvidia-ml1")
        return failure("nvml", text, "nvidia-smi")
    if nvml.mismatch:
        text = "the driver was changed under the running one: jobs that need cards wait until the machine has restarted"
        return failure("nvml", text, 'runners-client pause --reason "driver update"', "systemctl reboot")
    if nvml.error is not None:
        text = f"the NVIDIA driver does not work: {nvml.error}"
        return failure("nvml", text, "dmesg | grep -e Xid -e NVRM", "systemctl reboot")
    if not nvml.cards:
        return warning("nvml", "the driver works and shows no card", "lspci -d 10de:", "nvidia-smi")
    names = Counter(card.name for card in nvml.cards)
    return ok("nvml", ", ".join(f"{count} x {name}" for name, count in names.items()))


def _persistence(nvml: Driver) -> Finding:
    asleep = [index for index, card in enumerate(nvml.cards) if card.persistent is False]
    if not asleep:
        return ok("persistence", "on: the cards stay initialised and keep their settings")
    which = "every card" if len(asleep) == len(nvml.cards) else f"card {', '.join(map(str, asleep))}"
    text = (
        f"persistence mode is off on {which}: without a daemon the first use takes seconds, and settings are lost "
        "when nothing uses it"
    )
    return warning("persistence", text, "systemctl enable --now nvidia-persistenced", "nvidia-smi -pm 1")
