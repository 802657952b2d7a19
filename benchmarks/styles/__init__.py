"""The scenarios, once for each style of client library. A style knows the steps and the measured section; a client (see
`clients`) knows the calls of its library. For each message the style calls the library's own function wherever
possible, so that little code of the benchmark is measured with it."""

from __future__ import annotations

PREFETCH = 1000  # unacknowledged messages, for consumers that acknowledge


def make_body(size: int) -> bytes:
    """Bytes that really take memory: `bytes(size)` is one page of zeros until it is written to."""
    return b"x" * size
