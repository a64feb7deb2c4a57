"""`runnersd` as a user's own daemon. Tests that are root's run it as root all the same: what differs is what it decides."""

from __future__ import annotations

import sys
from functools import partial

from runnersd import __main__ as program

program.load = partial(program.load, system=False)

if __name__ == "__main__":
    sys.exit(program.main())
