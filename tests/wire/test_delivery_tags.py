"""The window of numbered things against a naive model: a dict of all that is unsettled."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cpspika.wire import delivery_tags as tags
from cpspika.wire.delivery_tags import Window


class WindowMachine(RuleBasedStateMachine):
    """Every operation on the window and on a dict; both must tell the same."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Window[str] = Window()
        self.open: dict[int, str] = {}
        self.last = 0

    @rule(count=st.integers(1, 700) | st.integers(1, 9))
    def add(self, count: int) -> None:
        for _ in range(count):
            self.last += 1
            assert self.window.next_tag == self.last
            assert self.window.add(f"item {self.last}") == self.last
            self.open[self.last] = f"item {self.last}"

    @rule(count=st.integers(1, 9))
    def skip(self, count: int) -> None:
        """Tags of things that need no settling."""
        for _ in range(count):
            self.last += 1
            assert self.window.skip() == self.last
            assert self.window.next_tag == self.last + 1

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        tag = data.draw(st.integers(1, self.last))
        if tag not in self.open and not any(other < tag for other in self.open):
            # As the broker does, which puts back what it has just taken from the front.
            self.window.put_back(tag, "put back")
            self.open = {tag: "put back", **self.open}

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def take_one(self, data: st.DataObject) -> None:
        tag = data.draw(st.sampled_from(sorted(self.open)))
        assert self.window.settle(tag) == [self.open.pop(tag)]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def take_all_but_one(self, data: st.DataObject) -> None:
        """Out of order, from the end: the window becomes holes with one item before them."""
        kept = data.draw(st.sampled_from(sorted(self.open)))
        for tag in sorted(self.open, reverse=True):
            if tag != kept:
                assert self.window.settle(tag) == [self.open.pop(tag)]

    @precondition(lambda self: self.last)
    @rule(data=st.data())
    def take_through(self, data: st.DataObject) -> None:
        tag = data.draw(st.integers(1, self.last))
        expected = [self.open.pop(known) for known in sorted(self.open) if known <= tag]
        assert self.window.settle(tag, multiple=True) == expected

    @rule()
    def take_all(self) -> None:
        assert self.window.settle(0, multiple=True) == list(self.open.values())
        self.open.clear()

    @rule(beyond=st.integers(1, 1000), multiple=st.booleans())
    def take_what_never_was(self, beyond: int, multiple: bool) -> None:
        with pytest.raises(KeyError):
            self.window.settle(self.last + beyond, multiple)

    @rule(data=st.data())
    def take_what_is_settled(self, data: st.DataObject) -> None:
        tag = data.draw(st.integers(0, self.last))
        if tag not in self.open:
            with pytest.raises(KeyError):
                self.window.settle(tag)

    @invariant()
    def they_are_alike(self) -> None:
        assert len(self.window) == len(self.open)
        assert list(self.window) == list(self.open.items())
        for tag in {
            0,
            1,
            self.last // 2,
            self.last - 1,
            self.last,
            self.last + 1,
            *[*self.open][:3],
            *[*self.open][-3:],
        }:
            assert self.window.has(tag) is (tag in self.open)


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


@given(st.permutations(range(1, 40)))
def test_tags_settle_in_any_order(order: list[int]) -> None:
    window: Window[int] = Window()
    for tag in range(1, 40):
        window.add(tag)
    assert [item for tag in order for item in window.settle(tag)] == order
    assert len(window) == 0
    assert window.next_tag == 40


def test_falsy_items_are_items() -> None:
    window: Window[object] = Window()
    window.add(0)
    window.add("")
    assert list(window) == [(1, 0), (2, "")]
    assert window.settle(2, multiple=True) == [0, ""]


@pytest.mark.parametrize("multiple", [False, True])
def test_a_negative_tag_settles_nothing(multiple: bool) -> None:
    window: Window[str] = Window()
    window.add("first")
    window.add("second")
    try:
        assert window.settle(-1, multiple) == []
    except KeyError:
        pass
    assert list(window) == [(1, "first"), (2, "second")]


def test_a_late_multiple_takes_nothing_that_came_after_it() -> None:
    """When the window has long dropped the tags up to it, too."""
    window: Window[int] = Window()
    for tag in range(1, 2001):
        window.add(tag)
    window.settle(1500, multiple=True)
    for late in (1, 2, 1000, 1499, 1500):
        assert window.settle(late, multiple=True) == []
    assert len(window) == 500


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [False, True])
def test_a_window_that_never_closes_wholly_stays_small(multiple: bool) -> None:
    """A busy publisher always has one unconfirmed; what is settled before it must not be kept."""
    window: Window[int] = Window()
    window.add(1)
    tracemalloc.start()
    try:
        for tag in range(2, 50_000):
            window.add(tag)
            window.settle(tag - 1, multiple)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(window) == [(49_999, 49_999)]
    assert peak < 64 * tags._BLOCK


def test_settling_from_the_front_costs_no_more_with_many_behind() -> None:
    """Counted in items that the list moves: less than twice what was settled."""
    window: Window[int] = Window()
    for tag in range(1, 20_001):
        window.add(tag)
    lengths = set()
    for tag in range(1, 20_001):
        window.settle(tag)
        lengths.add(len(window._items))
    assert len(lengths) < 20  # the front is dropped by halves, not at each step
    assert len(window._items) < tags._BLOCK
