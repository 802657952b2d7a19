"""Workers: the threads that make the calls of ThreadedConnection's consumers and handlers."""

from __future__ import annotations

import threading

from cpspika.styles.workers import Workers

DEADLINE = 10.0  # seconds


def test_workers_keep_the_calls_of_a_key_in_order_and_use_every_thread() -> None:
    errors: list[BaseException] = []
    workers = Workers(4, "cpspika worker", errors.append)
    done: dict[int, list[int]] = {key: [] for key in range(16)}
    for count in range(100):
        for key, found in done.items():
            workers.put(key, lambda found=found, count=count: found.append(count))  # type: ignore[misc]
    workers.put("raises", lambda: 1 / 0)
    rendezvous = threading.Barrier(4)
    for number in range(4):
        workers.put(("meets", number), lambda: rendezvous.wait(DEADLINE))
    workers.finish()
    assert workers.join(DEADLINE)
    assert all(found == list(range(100)) for found in done.values())
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_a_key_that_waits_has_its_turn_though_the_others_are_busy() -> None:
    """With fewer threads than busy keys, each makes one call and goes behind those that wait."""
    workers = Workers(1, "cpspika worker", lambda error: None)
    made: list[str] = []
    held = threading.Event()
    workers.put("a", lambda: held.wait(DEADLINE))  # until all the others are there
    for key in "abc":
        for count in range(3):
            workers.put(key, lambda name=f"{key}{count}": made.append(name))  # type: ignore[misc]
    held.set()
    workers.finish()
    assert workers.join(DEADLINE)
    assert made == ["b0", "c0", "a0", "b1", "c1", "a1", "b2", "c2", "a2"]
