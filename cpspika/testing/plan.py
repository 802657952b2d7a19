"""The plan of a simulated run: what happens when, made by a seed.

Each entry has dice of its own, so leaving one out changes no other. A plan that fails can therefore be made smaller,
one entry after another.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

SECONDS = 12.0  # virtual seconds in which the entries of a plan fall

ACTIONS = {  # what programs do, and how often
    "publish": 12,
    "get": 2,
    "consume": 2,
    "cancel": 2,
    "topology": 2,
    "purge": 1,
    "mistake": 1,
    "transaction": 2,
    "reopen": 1,
    "reconnect": 1,
    "recover": 1,
}
FAULTS = {  # what happens to them, and how often
    "latency": 3,
    "pieces": 2,
    "cut": 2,
    "cut_after": 5,
    "half_cut": 2,
    "hole": 2,
    "refuse": 1,
    "slow": 1,
    "silent": 1,
    "outage": 3,
    "drop": 1,
    "close": 2,
    "close_channel": 2,
    "nack": 2,
    "block": 1,
    "flow": 2,
    "cancel_consumer": 1,
    "delete_queue": 1,
    "lock": 1,
    "ack_timeout": 1,
    "crash": 2,
    "refuse_login": 1,
    "stall": 1,
}


class Entry(NamedTuple):
    """An action at a time. number: in the plan. time: virtual seconds. kind: "publish", "cut"..."""

    number: int
    time: float
    kind: str

    def dice(self, seed: int | str) -> random.Random:
        """The entry's own dice."""
        return random.Random(f"{seed} {self.number}")

    def __str__(self) -> str:
        return f"{self.time:7.3f} s  {self.number:3}  {self.kind}"


def make_plan(seed: int | str) -> list[Entry]:
    """The plan of a seed, in the order of the times."""
    dice = random.Random(f"{seed} plan")
    kinds = dice.choices(list(ACTIONS), list(ACTIONS.values()), k=dice.randint(3, 18))
    kinds += dice.choices(list(FAULTS), list(FAULTS.values()), k=dice.randint(0, 7))
    return sorted(
        (Entry(number, round(dice.uniform(0, SECONDS), 3), kind) for number, kind in enumerate(kinds)),
        key=lambda entry: entry.time,
    )


def smallest(plan: Sequence[Entry], fails: Callable[[list[Entry]], bool]) -> list[Entry]:
    """The smallest plan found that still fails: entries are left out by halves, quarters, and one by one."""
    plan = list(plan)
    size = max(1, len(plan) // 2)
    while True:
        at, smaller = 0, False
        while at < len(plan):
            rest = plan[:at] + plan[at + size :]
            if fails(rest):
                plan, smaller = rest, True
            else:
                at += size
        if size > 1:
            size //= 2
        elif not smaller:
            return plan
