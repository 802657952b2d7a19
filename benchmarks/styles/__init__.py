"""The scenarios, once for each style that client libraries have: a style knows what to do and what to measure, and a
client (see `clients`) how its library says it. What is called for each message is the library's own function wherever
possible, so that little of ours is measured with it."""

from __future__ import annotations

PREFETCH = 1000  # unacknowledged messages, for those who acknowledge


def make_body(size: int) -> bytes:
    """Bytes that really take memory: those of `bytes(size)` are one page of zeros until they are written to."""
    return b"x" * size
