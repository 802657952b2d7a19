"""A window of delivery tags: items under the tags 1, 2, 3..., settled one at a time or all up to a tag.

The client's unconfirmed publishes and the broker's unacknowledged deliveries have the same pattern. Tags only grow.
Most items are settled in order. `multiple` settles all items up to a tag. So a list holds the items, offset by the
first tag. An item settled out of order leaves a hole (None). Holes at the front are removed a block at a time, because
to remove each one by itself would move the rest of the list each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

_BLOCK = 512


class Window(Generic[T]):
    """The unsettled items of one channel, by delivery tag."""

    __slots__ = ("_first", "_head", "_items", "_open")

    def __init__(self) -> None:
        self._items: list[T | None] = []
        self._first = 1  # the tag of _items[0]
        self._head = 0  # index; all items before it are holes
        self._open = 0

    def __len__(self) -> int:
        """The number of unsettled items."""
        return self._open

    def __iter__(self) -> Iterator[tuple[int, T]]:
        """(tag, item) of the unsettled items, in order."""
        for index in range(self._head, len(self._items)):
            item = self._items[index]
            if item is not None:
                yield self._first + index, item

    @property
    def next_tag(self) -> int:
        """The tag that the next `add` or `skip` will return."""
        return self._first + len(self._items)

    def add(self, item: T) -> int:
        """Appends an item (not None) and returns its tag."""
        self._items.append(item)
        self._open += 1
        return self._first + len(self._items) - 1

    def skip(self) -> int:
        """Uses up a tag for an item that needs no settling, and returns the tag."""
        if self._head == len(self._items):
            self._first += len(self._items) + 1
            self._items.clear()
            self._head = 0
            return self._first - 1
        self._items.append(None)
        return self.next_tag - 1

    def settle(self, tag: int, multiple: bool = False) -> list[T]:
        """Settles one tag, or with `multiple` all tags up to it (tag 0: all tags). Removes and returns the items, in
        order. With `multiple` the tag itself may be settled already; the unsettled items before it are returned.
        KeyError: the tag is not unsettled, or with `multiple` was never given."""
        if multiple:
            return self._settle_through(self.next_tag - 1 if tag == 0 else tag)
        index = tag - self._first
        item = self._items[index] if self._head <= index < len(self._items) else None
        if item is None:
            raise KeyError(tag)
        self._items[index] = None
        self._open -= 1
        if index == self._head:
            self._skip_holes()
        return [item]

    def has(self, tag: int) -> bool:
        """Whether a tag is unsettled."""
        index = tag - self._first
        return self._head <= index < len(self._items) and self._items[index] is not None

    def put_back(self, tag: int, item: T) -> None:
        """Makes a settled tag unsettled again, with its item."""
        index = tag - self._first
        if index < 0:
            self._items[:0] = [None] * -index
            self._first, self._head, index = tag, self._head - index, 0
        self._items[index] = item
        self._head = min(self._head, index)
        self._open += 1

    def _settle_through(self, tag: int) -> list[T]:
        stop = tag - self._first + 1
        if stop > len(self._items):
            raise KeyError(tag)
        if stop <= self._head:
            return []
        taken = [item for item in self._items[self._head : stop] if item is not None]
        self._items[self._head : stop] = [None] * (stop - self._head)
        self._open -= len(taken)
        self._head = stop
        self._skip_holes()
        return taken

    def _skip_holes(self) -> None:
        items, head = self._items, self._head
        while head < len(items) and items[head] is None:
            head += 1
        if head >= _BLOCK and head * 2 >= len(items):
            del items[:head]
            self._first += head
            head = 0
        self._head = head
