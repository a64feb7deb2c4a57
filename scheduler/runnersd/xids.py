"""What an Xid means: an error that the driver reports of a card, by its number in NVIDIA's catalog. Pure.

The catalog says for each number what to do at once. Where that is to reset the card, or to restart the machine, nothing
more should start on it. Where it is to restart the application, or nothing, the card is well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from runnersd.config import XidConfig

Action = Literal["ignore", "quarantine"]

# From https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html (Ampere and newer), a copy that ends with
# Xid 172, read on 27 November 2026; the page has no date of its own. Numbers that it calls unused are left out. So are
# those for which the number alone does not say what to do: 54, 78, 142, 144 to 150, 159, and 162 to 172.

#: Immediate action RESTART_APP, IGNORE, WORKFLOW_XID_45 or XID_154 (which is about another Xid).
_HARMLESS: Mapping[int, str] = {
    8: "GPU stopped processing",
    11: "Invalid or corrupted push buffer stream",
    13: "Graphics Engine Exception",
    14: "Fake or injected error from userspace",
    25: "Invalid or illegal push buffer stream",
    31: "GPU memory page fault",
    32: "Invalid or corrupted push buffer stream",
    37: "Driver firmware error",
    38: "Driver firmware error",
    39: "Copy Engine Exception",
    40: "Copy Engine Exception",
    41: "Copy Engine Exception",
    43: "GPU stopped processing",
    44: "Graphics Engine fault during context switch",
    45: "Preemptive cleanup, due to previous errors",
    60: "Video processor exception",
    63: "GPU memory remapping event",
    66: "Illegal access by driver",
    67: "Illegal access by driver",
    68: "NVDEC0 Exception",
    69: "Graphics Engine class error",
    70: "CE3: Unknown Error",
    71: "CE4: Unknown Error",
    72: "CE5: Unknown Error",
    75: "CE6: Unknown Error",
    76: "CE7: Unknown Error",
    77: "CE8: Unknown Error",
    80: "Corrupted data sent to GPU",
    82: "NVJPG0 Error",
    83: "NVDEC1 Error",
    84: "NVDEC2 Error",
    85: "CE9: Unknown Error",
    86: "OFA Exception",
    88: "NVDEC3 Error",
    89: "NVDEC4 Error",
    92: "High single-bit ECC error rate",
    93: "Non-fatal violation of provisioned InfoROM wear limit",
    94: "Contained memory error",
    96: "NVDEC5 Error",
    97: "NVDEC6 Error",
    98: "NVDEC7 Error",
    **{number: f"NVJPG{number - 98} Error" for number in range(99, 106)},
    106: "SMBPBI Test Message",
    107: "SMBPBI Test Message Silent",
    121: "C2C Error",
    **{number: f"CE{number - 116}: Unknown Error" for number in range(126, 136)},
    137: "NVLink Privilege Error",
    139: "OFA1 Error",
    141: "CUDA Fast Path Error",
    152: "DLA SMMU Error",
    153: "DLA timeout Error",
    154: "GPU Recovery Action Changed",
    157: "Resource Retirement Failure",
    160: "Channel Retirement Event",
    161: "Channel Retirement Failure",
}

#: Immediate action RESET_GPU, RESTART_BM or RESTART_VM; and 48 and 74, whose text asks for a reset or a reboot.
_GRAVE: Mapping[int, str] = {
    46: "GPU stopped processing",
    48: "Double Bit ECC Error",
    62: "Internal micro-controller halt",
    64: "GPU memory remapping failure",
    74: "NVLINK Error",
    79: "GPU has fallen off the bus",
    95: "Uncontained memory error",
    109: "Context Switch Timeout Error",
    110: "Security Fault Error",
    119: "GSP RPC Timeout",
    120: "GSP Error",
    136: "Link Training Failed",
    140: "ECC Unrecovered Error",
    143: "GPU Initialization Error",
    151: "Key rotation Error",
    155: "NVLINK: SW Defined Error",
    156: "Resource Retirement Event",
    158: "GPU Fatal Timeout",
}


def action(xid: int, config: XidConfig) -> Action:
    """What is done about a card of which that number is reported: as the configuration says, else the catalog."""
    if xid in config.quarantine:
        return "quarantine"
    if xid in config.ignore or xid in _HARMLESS:
        return "ignore"
    if xid in _GRAVE:
        return "quarantine"
    return "quarantine" if config.unknown == "quarantine" else "ignore"


def xid_text(xid: int) -> str:
    """``Xid 79 (GPU has fallen off the bus)``; the number alone where the catalog does not say what it is."""
    name = _GRAVE.get(xid) or _HARMLESS.get(xid)
    return f"Xid {xid} ({name})" if name else f"Xid {xid}"
