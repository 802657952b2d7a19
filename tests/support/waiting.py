"""A wait for what happens in another thread or process and sends no event."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

DEADLINE = 10.0  # seconds


def until(ready: Callable[[], Any], what: str = "it", seconds: float = DEADLINE) -> None:
    """Looks again and again until ready(). After so many seconds it fails, and says that `what` is missing."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(0.002)
