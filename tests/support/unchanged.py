"""Calls that are refused, and the state of a client before and after them: a refused call changes nothing (clause 5 of
the law)."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest

import cpspika
from cpspika.styles.lifting import operations
from tests.support.scripted import Done

NOBODY = -1  # the number of no thread, so the calling one is another

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "exchange_declare": ("e",),
    "exchange_delete": ("e",),
    "exchange_bind": ("e", "f"),
    "exchange_unbind": ("e", "f"),
    "queue_declare": ("another",),
    "queue_bind": ("q", "e"),
    "queue_unbind": ("q", "e"),
    "queue_purge": ("q",),
    "queue_delete": ("q",),
    "basic_qos": (),
    "basic_consume": ("q", print),
    "basic_cancel": ("starting",),
    "basic_get": ("q",),
    "basic_ack": (1,),
    "basic_nack": (1,),
    "basic_reject": (1,),
    "basic_recover": (),
    "basic_publish": ("", "q", "x"),
    "confirm_select": (),
    "drain": (),
    "tx_select": (),
    "tx_commit": (),
    "tx_rollback": (),
    "flow": (True,),
    "close": (),
}
OF_CONNECTION: dict[str, tuple[Any, ...]] = {"channel": (), "close": (), "update_secret": ("s",), "abort": ()}
assert ARGUMENTS.keys() == operations(cpspika.Channel).keys()
assert OF_CONNECTION.keys() == operations(cpspika.Connection).keys() | {"abort"}

UNCHANGING = {
    "__weakref__",
    "_encoder",
    "thread",
    "_dice",
    "_fast_sender",
    "_facade",
    "_codec",
    "codec",
    "__dict__",
}  # the last four are caches


def snapshot(thing: Any, seen: set[int] | None = None) -> Any:
    """All that an object of the client holds, directly or through others, as a comparable value."""
    seen = set() if seen is None else seen
    kind = type(thing)
    if kind in (str, bytes, int, float, bool, type(None)):
        return thing
    if id(thing) in seen or callable(thing) or isinstance(thing, threading.Thread):
        return id(thing)
    seen.add(id(thing))
    if isinstance(thing, dict):
        return [(str(key), snapshot(value, seen)) for key, value in thing.items()]
    if hasattr(thing, "__iter__") and hasattr(thing, "__len__"):
        return [snapshot(each, seen) for each in thing]
    if not kind.__module__.startswith("cpspika") or kind.__module__.startswith("cpspika.broker"):
        return id(thing)
    return [(name, snapshot(getattr(thing, name, None), seen)) for name in [*names_of(kind), *vars_of(thing)]]


@cache
def names_of(kind: type) -> list[str]:
    """The slots of a class that tell something."""
    names = {name for cls in kind.__mro__ for name in getattr(cls, "__slots__", ())}
    return sorted(names - UNCHANGING)


def vars_of(thing: Any) -> dict[str, Any]:
    return {name: value for name, value in getattr(thing, "__dict__", {}).items() if name not in UNCHANGING}


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Where two snapshots differ, as paths of attributes."""
    if before == after:
        return []
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            path
            for number, (old, new) in enumerate(zip(before, after, strict=True))
            for path in differences(old, new, f"{where}[{number}]")
        ]
    if isinstance(before, tuple) and isinstance(after, tuple) and before[0] == after[0]:
        return differences(before[1], after[1], f"{where}.{before[0]}")
    return [f"{where}: {str(before)[:80]} became {str(after)[:80]}"]


def told_or_not(function: Any, arguments: tuple[Any, ...], told: bool) -> Callable[[], object]:
    """A call, with an on_done or without."""
    done = Done()
    return lambda: function(*arguments, **({"on_done": done} if told else {}))


def refused_in_another_thread(reactor: Any, state: Callable[[], Any], call: Callable[[], object], told: bool) -> None:
    """Makes a call while another thread is inside. told: the call has an on_done. Without one, a call that has nothing
    to do may return, and one that fails whatever the thread raises its own error."""
    before = state()
    outer, reactor.thread = reactor.thread, NOBODY
    try:
        with pytest.raises(cpspika.ConcurrentUse) if told else suppress(cpspika.AMQPError):
            call()
    finally:
        reactor.thread = outer
    assert differences(before, state()) == []


def mistakes(names: Iterable[str], of: type) -> Iterator[tuple[str, dict[str, Any]]]:
    """(operation, arguments) with one argument or its on_done wrong, or perhaps wrong: the operation decides."""
    for name in names:
        parameters = list(inspect.signature(getattr(of, name)).parameters)[1:]
        good = dict(zip(parameters, {**ARGUMENTS, **OF_CONNECTION}[name], strict=False))
        if of is cpspika.Connection and name == "close":
            good = {}
        for parameter in parameters:
            for wrong in WRONG_TABLES if parameter == "arguments" else WRONG:
                yield name, {**good, parameter: wrong}


WRONG = ("x" * 300, "\ud800", b"\xff" * 300, -1, 2**70, 1.5, None, object())
WRONG_TABLES = ("x", 5, {"x" * 300: 1}, {"k": object()}, {"k": threading.Lock()}, {5: 6}, {"k": float("nan")})
