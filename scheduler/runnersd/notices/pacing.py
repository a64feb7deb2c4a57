"""When notices go: gathered for a while, so that a thousand ends are one message, and tried again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: What is gathered for one receiver waits at most so long, however much comes (seconds).
LONGEST_GATHER = 300.0
#: And a message that failed so long (seconds).
LONGEST_DELAY = 3600.0
#: Notices that wait for one receiver, and for all of a user's; what comes on top is counted and not listed.
MOST, MOST_OF_USER = 1000, 5000
#: A notice that is older is not told any more (seconds): nobody wants yesterday's at once when a daemon is back.
OLD = 86_400.0


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a message gathers at first (seconds), and how often it is tried."""

    gather: float = 10.0
    tries: int = 10

    def wait(self, messages: int) -> float:
        """Seconds that the next message gathers after so many in a row: twice as long each time, up to a limit.

        >>> [Pace(10.0).wait(sent) for sent in range(7)]
        [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]
        """
        return max(self.gather, min(self.gather * 2.0 ** min(messages, 30), LONGEST_GATHER))

    def delay(self, failures: int) -> float | None:
        """Seconds until a message that failed so often is tried again; None when it has been tried often enough.

        >>> [Pace(10.0, tries=4).delay(failures) for failures in (1, 2, 3, 4)]
        [10.0, 20.0, 40.0, None]
        """
        if failures >= self.tries:
            return None
        return max(self.gather, min(self.gather * 2.0 ** min(failures - 1, 30), LONGEST_DELAY))


def in_a_row(messages: int, quiet: float, pace: Pace) -> int:
    """How many messages in a row there were before one that begins to gather ``quiet`` seconds after the last.

    None, when it was quiet for longer than that one had gathered.
    """
    return 0 if quiet > pace.wait(messages) else messages
