"""How long to wait before the next try: longer after each failure, and at random, so that a thousand clients whose
broker restarts don't come back at once."""

from __future__ import annotations

from random import Random


class Backoff:
    """Delays with full jitter: uniform(0, min(cap, base * 2**n)) seconds before try n. `attempt`: the number of tries
    since the last reset."""

    __slots__ = ("_base", "_cap", "_dice", "attempt")

    def __init__(self, base: float, cap: float, dice: Random):
        self._base = base
        self._cap = cap
        self._dice = dice
        self.attempt = 0

    def next(self) -> float:
        """The seconds to wait before the next try."""
        highest = min(self._cap, self._base * 2 ** min(self.attempt, 30))
        self.attempt += 1
        return self._dice.uniform(0, highest)

    def reset(self) -> None:
        self.attempt = 0
