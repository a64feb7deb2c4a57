"""What this machine lacks: tests that need it skip, with its name. Under CI=true they fail, as CI is to have it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def skipped_for(missing: type[Exception], saying: str = "{}") -> Iterator[None]:
    """Skip the test for that exception; ``saying`` is why, with the exception's own words in it."""
    try:
        yield
    except missing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(saying.format(error))
