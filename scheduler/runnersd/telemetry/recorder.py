"""Keeps the series of attempts: hands their samples to the process that writes them, and asks others to read and tidy.

Nothing here waits for a disk. What the writing process does not take in time is dropped, and said once; if it dies, it
is started again and goes on with the attempts that run; what it had not written by then is lost, a few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runners.errors import Unavailable
from runnersd.model import GpuId, JobId
from runnersd.telemetry.asking import Asking
from runnersd.telemetry.frames import ANSWER, REFUSAL, asked
from runnersd.telemetry.layout import FOLDER, Attempt
from runnersd.telemetry.process import MOST_WAITING, TelemetryProcess, clean_environment
from runnersd.telemetry.sample import CardSample, Sample

log = logging.getLogger(__name__)

#: Seconds after the first sample until the writing process is started: to start it costs what hours of samples do, and
#: many a daemon ends with its only job. What is sampled meanwhile waits here.
START_AFTER = 5.0
#: Seconds without a running attempt after which the writing process ends: it holds 60 MiB.
IDLE = 300.0
#: Seconds of rest before a process that died is started again, doubling with each death that follows soon.
REST, LONGEST_REST = 1.0, 300.0
#: Seconds a process lives after which its death counts as the first again.
SETTLED = 60.0
#: Seconds that the last samples of a live attempt may take to be written before it is read without them.
FLUSH_LIMIT = 2.0
#: Seconds that reading a series may take, and after which the process that reads ends if nobody asks again.
READ_LIMIT, READ_IDLE = 20.0, 60.0
#: Seconds that tidying up may take.
KEEP_LIMIT = 3600.0
#: Seconds after which a series is made small.
COMPACT_AFTER = 30 * 86_400.0
#: Seconds that the writing process has for what it has when the daemon ends. It goes on without the daemon, too.
CLOSE_LIMIT = 5.0


@dataclass(slots=True)
class _Running:
    """An attempt whose samples are kept."""

    started_at: float
    uuids: tuple[GpuId, ...]
    cards: list[dict[str, Any]] = field(default_factory=list)


class SeriesRecorder:
    """A `runnersd.telemetry.recording.Recorder` that can be asked for what it keeps.

    ``every``: seconds between samples, which series say of themselves; may be changed at any time.
    """

    def __init__(self, state: Path, every: float, environment: Mapping[str, str] | None = None) -> None:
        self.every = every
        self._root = state / FOLDER
        self._environment = clean_environment() if environment is None else environment
        self._running: dict[Attempt, _Running] = {}
        self._process: TelemetryProcess | None = None
        self._spool = bytearray()  # what is to be sent while there is no process
        self._resting = False
        self._old: list[TelemetryProcess] = []  # ending, or ended and not yet buried
        self._started = 0.0
        self._rest = REST
        self._timer: asyncio.TimerHandle | None = None
        self._dropping = False
        self._absent: str | None = None
        self._closed = False
        self._flushed: list[asyncio.Future[None]] = []
        self._reader = Asking(self._root, self._environment, act="read telemetry", limit=READ_LIMIT, idle=READ_IDLE)
        self._keeper = Asking(self._root, self._environment, act="tidy up old telemetry", limit=KEEP_LIMIT, idle=0.0)

    # -- writing -----------------------------------------------------------------------------------------------------

    def began(self, job: JobId, attempt: int, started_at: float, cards: Sequence[GpuId]) -> None:
        """As `Recorder.began`."""
        which = Attempt(job, attempt)
        if which in self._running or self._absent is not None or self._closed:
            return
        self._running[which] = _Running(started_at, tuple(cards), [_card(uuid) for uuid in cards])
        self._send(self._introduction(which))
        if self._process is not None:
            self._stop_timer()
        elif self._timer is None:
            self._set_timer(START_AFTER, self._start)

    def add(self, job: JobId, attempt: int, sample: Sample) -> None:
        """As `Recorder.add`."""
        which = Attempt(job, attempt)
        running = self._running.get(which)
        if running is None:
            return
        seen = {card.uuid: card for card in sample.gpus}
        cards = [
            _told(seen[uuid]) if uuid in seen else old for uuid, old in zip(running.uuids, running.cards, strict=True)
        ]
        if cards != running.cards:
            running.cards = cards
            self._send(asked(do="cards", job=job, attempt=attempt, cards=cards))
        row = _row(sample, [seen.get(uuid) for uuid in running.uuids])
        sent = self._send(asked(do="add", job=job, attempt=attempt, row=row), droppable=True)
        if not sent and not self._dropping:
            log.warning(
                "samples of telemetry are dropped: the process that writes them does not keep up (is the disk slow?)"
            )
        self._dropping = not sent

    def ended(self, job: JobId, attempt: int) -> None:
        """As `Recorder.ended`."""
        if self._running.pop(Attempt(job, attempt), None) is None:
            return
        self._send(asked(do="end", job=job, attempt=attempt))
        if self._process is not None and not self._running:
            self._set_timer(IDLE, self._end_idle)

    async def close(self) -> None:
        """Have everything written, and end the processes."""
        self._closed = True
        self._stop_timer()
        self._let_go()
        await self._reader.close()
        await self._keeper.close()
        for process in self._old:
            if not await process.wait(CLOSE_LIMIT):
                log.warning("the last samples of telemetry are still being written; process %d goes on", process.pid)

    # -- asking ------------------------------------------------------------------------------------------------------

    async def read(self, job: JobId, attempt: int, points: int) -> bytes:
        """As `Recorder.read`."""
        if self._spool and not self._resting:
            self._start()
        if self._process is not None:
            await self._flush(self._process, job, attempt)
        return await self._reader.ask(asked(do="read", job=job, attempt=attempt, points=points))

    async def keep(self, now: float, delete_after: float) -> None:
        """Make old series small, and delete those that are ``delete_after`` seconds old. ``now``: Unix seconds."""
        before = {"compact_before": now - COMPACT_AFTER, "delete_before": now - delete_after}
        await self._tidy(asked(do="keep", **before))

    async def forget(self, attempts: Sequence[tuple[JobId, int]]) -> None:
        """As `Recorder.forget`."""
        which = [list(one) for one in attempts]
        if which and self._root.is_dir():
            await self._tidy(asked(do="forget", attempts=which))

    async def _tidy(self, frame: bytes) -> None:
        try:
            said = (await self._keeper.ask(frame)).decode(errors="replace")
        except Unavailable as error:
            log.warning("%s", error)
            return
        if said:
            log.info("%s", said)

    async def _flush(self, process: TelemetryProcess, job: JobId, attempt: int) -> None:
        written = asyncio.get_running_loop().create_future()
        self._flushed.append(written)
        process.send(asked(do="flush", job=job, attempt=attempt))
        await asyncio.wait({written}, timeout=FLUSH_LIMIT)

    # -- the process that writes -------------------------------------------------------------------------------------

    def _send(self, frame: bytes, *, droppable: bool = False) -> bool:
        """Send a frame, or keep it until there is a process. False: so much is kept that it was dropped."""
        if self._process is not None:
            return self._process.send(frame, droppable=droppable)
        if droppable and len(self._spool) + len(frame) > MOST_WAITING:
            return False
        self._spool += frame
        return True

    def _start(self) -> None:
        self._stop_timer()
        self._resting = False
        if not self._spool:
            return
        try:
            self._process = TelemetryProcess(self._root, self._environment, self._heard, self._gone)
        except OSError as error:
            log.warning("cannot start the process that keeps telemetry: %s; trying again in %g s", error, self._rest)
            self._again()
            return
        self._started = asyncio.get_running_loop().time()
        spool, self._spool = self._spool, bytearray()
        self._process.send(bytes(spool))
        if not self._running:
            self._set_timer(IDLE, self._end_idle)

    def _introduction(self, which: Attempt) -> bytes:
        running = self._running[which]
        about = {"every": self.every, "started_at": running.started_at, "cards": running.cards}
        return asked(do="begin", job=which.job, attempt=which.number, **about)

    def _heard(self, process: TelemetryProcess, body: bytes) -> None:
        if body[:1] == ANSWER:
            # Answers come in the order of the questions.
            while self._flushed:
                written = self._flushed.pop(0)
                if not written.done():
                    written.set_result(None)
                return
        sentence = body[1:].decode(errors="replace")
        if body[:1] == REFUSAL:
            if self._absent is None:
                log.warning("no series of telemetry are kept: %s", sentence)
            self._absent = sentence
            self._running.clear()
            self._spool.clear()
            self._end_idle()
        else:
            log.warning("%s", sentence)

    def _gone(self, process: TelemetryProcess) -> None:
        if process is not self._process:
            return
        self._let_go()
        if asyncio.get_running_loop().time() - self._started >= SETTLED:
            self._rest = REST
        for which in self._running:
            self._spool += self._introduction(which)
        if self._running and not self._closed:
            log.warning("the process that keeps telemetry ended; it is started again in %g s", self._rest)
            self._again()

    def _again(self) -> None:
        self._resting = True
        self._set_timer(self._rest, self._start)
        self._rest = min(2 * self._rest, LONGEST_REST)

    def _end_idle(self) -> None:
        self._stop_timer()
        self._let_go()

    def _let_go(self) -> None:
        """Have the process end, if it has not."""
        self._old = [process for process in self._old if not process.ended()]
        if self._process is not None:
            self._process.end()
            self._old.append(self._process)
            self._process = None
        for written in self._flushed:
            if not written.done():
                written.set_result(None)
        self._flushed.clear()

    def _set_timer(self, seconds: float, act: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _card(uuid: GpuId) -> dict[str, Any]:
    """A card of which nothing has been seen yet."""
    return {"uuid": uuid, "index": None, "name": "", "memory_total": None}


def _told(card: CardSample) -> dict[str, Any]:
    return {"uuid": card.uuid, "index": card.index, "name": card.name, "memory_total": card.memory_total}


def _row(sample: Sample, cards: Sequence[CardSample | None]) -> dict[str, Any]:
    """A sample as the process takes it: of each quantity the number, or those of the cards in their order."""
    process = {"process_memory": sample.process.memory, "process_cpu": sample.process.cpu}
    row: dict[str, Any] = {"at": sample.at, **process}
    if cards:
        for name in ("utilization", "memory_used", "power", "temperature"):
            row[name] = [None if card is None else getattr(card, name) for card in cards]
    return row
