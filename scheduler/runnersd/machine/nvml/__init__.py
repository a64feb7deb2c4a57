"""Sees the cards through NVML, in a process of its own: a driver call may hang for ever or crash who makes it.

`worker` is that process's program and the only module that imports pynvml; it loads `processes` and `xids`.
`connection` starts it and talks to it with a deadline; `sight` reads its answers; `observer` decides what they mean for
the inventory.
"""

from __future__ import annotations

from runnersd.machine.nvml.observer import NvmlObserver

__all__ = ["NvmlObserver"]
