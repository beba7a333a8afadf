"""A test of processes and threads that goes wrong hangs; here it fails instead."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Iterator

import pytest

LONGEST = 240  # seconds; the longest takes some twenty, on a busy machine four times that


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    def late(number: int, frame: object) -> None:
        faulthandler.dump_traceback()
        raise TimeoutError(f"a test of stages took longer than {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LONGEST)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
