"""An attempt's first process: watched while it runs, its cards locked meanwhile, and what is known of it afterwards."""

from __future__ import annotations

from collections.abc import Callable

from runnersd.machine.docker.output import Output
from runnersd.machine.docker.record import RecordFile
from runnersd.machine.docker.surroundings import Surroundings
from runnersd.machine.docker.watch import Watch


class FirstProcess:
    """Of the container in ``record``. ``ended`` is called when it is gone, or the shim above it.

    An attempt may have two, one after the other: of a container that came no further than its gate, and of the same
    started again.
    """

    def __init__(self, record: RecordFile, around: Surroundings, output: Output, ended: Callable[[], None]) -> None:
        self.gone = False  #: it is, and so everything in its pid namespace
        self.orphaned = False  #: the shim that held it ended before it did
        self._record, self._around, self._output, self._ended = record, around, output, ended
        self._watch: Watch | None = None
        self._cards_kept = False
        self._peak: int | None = None

    @property
    def watched(self) -> bool:
        """Whether it runs, as far as the kernel has told."""
        return self._watch is not None

    @property
    def pid(self) -> int | None:
        """Its process id, above all others of its container, while it runs."""
        return self._record.said.pid if self._watch is not None else None

    @property
    def peak_memory(self) -> int | None:
        """Bytes of memory that its container has had at most, as far as is known."""
        return self._watch.peak_memory if self._watch is not None else self._peak

    def watch(self, pid: int) -> bool:
        """Watch it, unless that is done already. False: it has just ended."""
        if self._watch is None:
            said = self._record.said
            try:
                self._watch = Watch(pid, said.start, str(said.container), self._first_ended)
            except ProcessLookupError:
                return False
            self._cards_kept = False
            if self.gone:  # that was another one, which came no further than its gate
                self.gone = False
                self._output.go_on()
        return True

    async def keep_cards(self) -> None:
        """From before its payload runs until it has ended, its cards are locked, daemon or no daemon."""
        if not self._cards_kept and self._watch is not None:
            await self._around.keep_cards(self._watch.file, self._record.said.gpus)
            self._cards_kept = True

    def leave(self) -> None:
        """Watch it no longer."""
        if self._watch is not None:
            self._peak = self._watch.peak_memory
            self._watch.close()
            self._watch = None

    def _first_ended(self) -> None:
        orphaned = self._watch is not None and self._watch.orphaned
        self.orphaned, self.gone = self.orphaned or orphaned, not orphaned
        self.leave()
        self._ended()
