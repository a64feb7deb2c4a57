"""Standard streams that a program was started without (`>&-`)."""

from __future__ import annotations

import os
import sys


def open_closed_streams() -> None:
    """Let those that are closed lead nowhere; else the next file or socket that is opened would be taken for them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere == number:
                os.set_inheritable(number, True)  # nor is it to be closed in what the program starts
            else:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
