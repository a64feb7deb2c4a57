"""NVIDIA's prestart hook, played: notes what was asked, and gives the container the fake cards it asked for.

Run by runc as `gpu_hook.py CARDS LOG prestart` with the container's state on standard input. CARDS is a JSON file
{uuid: minor}, read at every start. A granted card is a node /dev/nvidiaN (character 195:N) that opens with ENXIO, as
there is no driver; without the grant a node opens with EPERM. Needs the devices controller of control groups, version 1.
"""

import json
import subprocess
import sys
from pathlib import Path

MAJOR = 195


def main(cards_file: str, log_file: str) -> str | None:
    """Grant and note; the complaint that fails the container's start, in the real hook's words."""
    state = json.load(sys.stdin)
    bundle = Path(state["bundle"])
    spec = json.loads((bundle / "config.json").read_text())
    cards = json.loads(Path(cards_file).read_text())
    environment = [entry.split("=", 1) for entry in spec["process"]["env"] if "=" in entry]
    visible = [value for name, value in environment if name == "NVIDIA_VISIBLE_DEVICES"]
    wanted = chosen(visible[-1] if visible else "", cards)  # the last one wins, as in the real hook
    unknown = [card for card in wanted if card not in cards]
    record = {
        "id": state["id"],
        "pid": state["pid"],
        "visible": visible,
        "capabilities": [value for name, value in environment if name == "NVIDIA_DRIVER_CAPABILITIES"],
        "granted": [] if unknown else wanted,
        "unknown": unknown,
    }
    with open(log_file, "a") as log:
        log.write(json.dumps(record) + "\n")
    if unknown:
        return f"nvidia-container-cli: device error: {unknown[0]}: unknown device"
    if wanted:
        grant(state["pid"], bundle / spec["root"]["path"], [cards[card] for card in wanted])
    return None


def chosen(visible: str, cards: dict[str, int]) -> list[str]:
    """The UUIDs that a value of NVIDIA_VISIBLE_DEVICES names; numbers are places, as in the real hook."""
    if visible in ("", "none", "void"):
        return []
    if visible == "all":
        return list(cards)
    by_place = {str(place): card for place, card in enumerate(cards)}
    return [by_place.get(name, name) for name in visible.split(",")]


def grant(pid: int, root: Path, minors: list[int]) -> None:
    """Let the container of ``pid`` open these nodes, and make them in its file system."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if "devices" in controllers.split(","):
            for minor in minors:
                (Path("/sys/fs/cgroup/devices" + path) / "devices.allow").write_text(f"c {MAJOR}:{minor} rwm")
    for minor in minors:
        node = ["mknod", "-m", "666", f"{root}/dev/nvidia{minor}", "c", str(MAJOR), str(minor)]
        subprocess.run(["nsenter", f"--target={pid}", "--mount", *node], check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
