"""Listens for the Xid errors that the driver reports of the cards. Only the NVML process (`worker`) loads this.

The driver keeps what it reports until it is fetched, as long as the process lives that has asked for it. So nobody need
wait for anything: what has come is fetched at every look.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

#: NVML's return codes after which asking again may help: the card is lost, or wants a reset, or an error has no name.
_PASSING = frozenset({15, 16, 999})

#: Milliseconds that the driver may wait for the next report: not at all. NVIDIA's text does not say that it takes this
#: so; driver 580 does, and tells of what has come (`make test-cards`).
_WAIT = 0
#: So many reports are fetched at one time; the rest comes at the next.
_MOST = 200


class XidEvents:
    """What is reported of the cards that are watched. ``call`` calls a function of the module ``nvml`` by name."""

    def __init__(self, nvml: Any, call: Callable[..., Any]) -> None:
        self._nvml, self._call = nvml, call
        self._set: Any = None
        self._watched: dict[int, str] = {}  # UUIDs by where the card's handle points

    def watch(self, cards: Sequence[tuple[Any, str]]) -> None:
        """Have errors of these cards (handle, UUID) reported too. One that cannot report them is left in peace."""
        for handle, uuid in cards:
            place = _place(handle)
            if self._watched.get(place) == uuid:
                continue
            try:
                if self._set is None:
                    self._set = self._call("nvmlEventSetCreate")
                kinds = self._call("nvmlDeviceGetSupportedEventTypes", handle)
                if kinds & self._nvml.nvmlEventTypeXidCriticalError:
                    kind = self._nvml.nvmlEventTypeXidCriticalError
                    self._call("nvmlDeviceRegisterEvents", handle, kind, self._set)
            except self._nvml.NVMLError as error:
                if error.value in _PASSING:
                    continue  # asked again at the next look
            self._watched[place] = uuid

    def fetch(self) -> list[tuple[str, int]]:
        """What has been reported since the last time: UUIDs of whole cards, and the errors' numbers."""
        found: list[tuple[str, int]] = []
        while self._set is not None and len(found) < _MOST:
            try:
                event = self._call("nvmlEventSetWait_v2", self._set, _WAIT)
            except self._nvml.NVMLError:
                break  # there is nothing more; or the driver ails, which the look at the cards will tell
            uuid = self._watched.get(_place(event.device))
            if uuid is not None and event.eventType == self._nvml.nvmlEventTypeXidCriticalError:
                found.append((uuid, int(event.eventData)))
        return found


def _place(handle: Any) -> int:
    """Where a handle points: it names the card also when that does not say its UUID any more."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
