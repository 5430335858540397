"""Waiting for a model that one call at a time may use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOOK_EVERY = 0.05
"""Seconds after which one that waits looks whether anybody still waits for it."""


@contextmanager
def turn(lock: threading.Lock, waits: Callable[[], bool] | None) -> Iterator[bool]:
    """Hold ``lock`` in the block; False, and not held, if ``waits()`` says no before it is free."""
    if waits is None:
        lock.acquire()
    else:
        while waits():
            if lock.acquire(timeout=LOOK_EVERY):
                break
        else:
            yield False
            return
    try:
        yield True
    finally:
        lock.release()
