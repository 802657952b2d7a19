"""The queue of calls to the program, by itself: what it owes after a call that raised, and the order of what comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from cpspika.client.continuations import CallQueue
from tests.support.endings import Boom


class Turns:
    """A reactor that is turned by hand."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], object]] = deque()
        self.log: list[Any] = []
        self.queue = CallQueue(self.waiting.append, lambda: None)

    def note(self, name: Any) -> Callable[[], object]:
        return lambda: self.log.append(name)

    def boom(self) -> None:
        raise Boom

    def turn(self) -> None:
        for _ in range(len(self.waiting)):
            self.waiting.popleft()()


@pytest.mark.parametrize("behind", [1, 2])
def test_what_is_behind_a_call_that_raised_is_made_in_the_next_turn(behind: int) -> None:
    turns = Turns()
    turns.queue.append(turns.boom)
    for name in range(behind):
        turns.queue.append(turns.note(name))
    with pytest.raises(Boom):
        turns.queue.run()
    assert turns.log == []
    turns.turn()
    assert turns.log == list(range(behind))


def test_the_call_for_a_lone_reply_waits_behind_those_that_a_raised_call_left() -> None:
    turns = Turns()
    turns.queue.append(turns.boom)
    turns.queue.append(turns.note("left"))
    with pytest.raises(Boom):
        turns.queue.run()
    turns.queue.make(turns.log.append, "reply")  # it arrives before the next turn
    assert turns.log == ["left", "reply"]
    turns.turn()
    assert turns.log == ["left", "reply"]


def test_a_lone_call_asks_the_reactor_for_nothing() -> None:
    turns = Turns()
    turns.queue.make(turns.log.append, "reply")
    assert turns.log == ["reply"]
    assert not turns.waiting
