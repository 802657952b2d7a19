"""The backlog of a link: water marks, and who waits until its bytes have gone to the kernel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cpspika.wire.backlog import Backlog


class Kernel:
    """A transport whose kernel takes bytes when the test says so."""

    def __init__(self) -> None:
        self.queued = self.written = 0
        self.chunks: list[bytes | memoryview] = []

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        for chunk in chunks:
            self.chunks.append(chunk)
            self.queued += len(chunk)

    def take(self, count: int) -> None:
        self.written += min(count, self.queued - self.written)


def linked(high: int = 100, low: int = 20) -> tuple[Backlog[Any], Kernel]:
    backlog: Backlog[Any] = Backlog(high, low)
    kernel: Any = Kernel()
    backlog.transport = kernel
    return backlog, kernel


def test_the_size_is_what_the_kernel_has_not_taken() -> None:
    backlog, kernel = linked()
    backlog.write([b"abc", b"defgh"])
    kernel.take(3)
    assert (backlog.size, kernel.chunks) == (5, [b"abc", b"defgh"])


def test_it_is_congested_from_the_high_mark_down_to_the_low_mark() -> None:
    backlog, kernel = linked(100, 20)
    backlog.write([bytes(99)])
    assert (backlog.congested, backlog.writable) == (False, True)
    backlog.write([b"x"])
    assert (backlog.congested, backlog.writable) == (True, False)
    kernel.take(79)  # 21 are left
    assert backlog.drained() is False
    assert (backlog.congested, backlog.writable) == (True, False)
    kernel.take(1)
    assert backlog.drained() is True
    assert (backlog.congested, backlog.writable) == (False, True)
    assert backlog.drained() is False, "it ended once"


def test_it_is_drained_below_the_low_mark_too() -> None:
    backlog, kernel = linked(100, 20)
    backlog.write([bytes(150)])
    kernel.take(149)
    assert backlog.drained() is True


def test_a_stop_keeps_it_unwritable_whatever_the_kernel_takes() -> None:
    backlog, kernel = linked(100, 20)
    backlog.write([bytes(100)])
    backlog.stop(True)
    kernel.take(100)
    assert backlog.drained() is True
    assert backlog.writable is False
    backlog.stop(False)
    assert backlog.writable is True
    backlog.write([bytes(100)])
    backlog.stop(False)
    assert backlog.writable is False, "it is congested"


def test_without_a_transport_bytes_are_dropped_and_nothing_is_written() -> None:
    backlog: Backlog[str] = Backlog(100, 20)
    backlog.write([b"x"])
    assert backlog.size == 0
    backlog.when_written(1, "waiter")
    assert backlog.take_written() == []
    assert backlog.take_unwritten(1) == ["waiter"]


def test_who_waits_is_seen() -> None:
    backlog, kernel = linked()
    assert not backlog.waiting
    backlog.write([b"abc"])
    backlog.when_written(1, "waiter")
    assert backlog.waiting
    kernel.take(2)
    assert backlog.take_written() == []
    kernel.take(1)
    assert backlog.take_written() == ["waiter"]
    assert not backlog.waiting


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([300, 301]), st.integers(0, 12)), max_size=20))
def test_waiters_come_in_order_when_their_bytes_have_gone(steps: list[tuple[int, int, int]]) -> None:
    """Channel numbers above 256: equal numbers need not be the same object."""
    backlog, kernel = linked(10**6, 0)
    waiting: list[tuple[int, int, int]] = []  # position, channel, name
    for name, (size, number, taken) in enumerate(steps):
        backlog.write([bytes(size)])
        backlog.when_written(int(str(number)), name)
        waiting.append((kernel.queued, number, name))
        kernel.take(taken)
        gone = [entry for entry in waiting if entry[0] <= kernel.written]
        assert backlog.take_written() == [name for _, _, name in gone]
        waiting = [entry for entry in waiting if entry not in gone]
    assert backlog.take_unwritten(300) == [name for _, number, name in waiting if number == 300]
    assert backlog.take_unwritten(300) == []
    assert backlog.take_unwritten(301) == [name for _, number, name in waiting if number == 301]
    assert not backlog.waiting
