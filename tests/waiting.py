"""Waiting for what other processes do."""

import time


def wait_for(condition, limit=20.0):
    """Waits until ``condition()`` is true; returns whether it became so."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
