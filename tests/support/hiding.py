"""Hides what other systems lack, then runs pytest: `python tests/support/hiding.py NAMES [ARGUMENTS OF PYTEST]`.

NAMES are keys of HIDERS, with commas between, or `all`. A process of its own is needed: cpspika looks for most of these
when it is imported. It is run by its path: `-m tests.support.hiding` imports `tests` before pytest, and pytest warns
of that where the tree was built (it reads the list of files of `cpspika.egg-info`).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import select
import selectors
import socket
import sys
from asyncio import selector_events
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest


def _remove(owner: Any, *names: str) -> None:
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)


def _sendmsg() -> None:
    # socket.socket inherits it from a class in C, which cannot be changed.
    class Without:
        def __get__(self, instance: Any, owner: Any) -> Any:
            raise AttributeError("sendmsg is hidden")

    socket.socket.sendmsg = Without()  # type: ignore[assignment]
    vars(selector_events)["_HAS_SENDMSG"] = False  # asyncio has looked already, from Python 3.12 on


def _choose_selector(*gone: str) -> None:
    _remove(selectors, *gone)
    kinds = ("EpollSelector", "KqueueSelector", "DevpollSelector", "PollSelector", "SelectSelector")
    selectors.DefaultSelector = next(  # type: ignore[misc]
        getattr(selectors, kind) for kind in kinds if hasattr(selectors, kind)
    )


def _poll() -> None:
    _remove(select, "poll", "POLLRDHUP")
    _choose_selector("PollSelector")


def _epoll() -> None:
    _remove(select, "epoll")
    _choose_selector("EpollSelector")


def _kqueue() -> None:
    _remove(select, "kqueue")
    _choose_selector("KqueueSelector")


def _eventfd() -> None:
    _remove(os, "eventfd")


def _register_at_fork() -> None:
    _remove(os, "register_at_fork")


def _unix_sockets() -> None:
    """No AF_UNIX: a socketpair is two TCP sockets; and no pipe that a reactor could wait for, as on Windows."""

    def socketpair(*_: Any) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = socket.create_connection(listener.getsockname())
            while True:
                there, address = listener.accept()
                if address == here.getsockname():
                    return there, here
                there.close()

    _remove(socket, "AF_UNIX")
    socket.socketpair = socketpair  # type: ignore[assignment]


def _add_reader() -> None:
    """asyncio's loops are as `WithoutAddReader`."""
    for name, member in vars(WithoutAddReader).items():
        if not name.startswith("__"):
            setattr(asyncio.SelectorEventLoop, name, member)


class WithoutAddReader(asyncio.SelectorEventLoop):
    """A loop whose users cannot watch sockets, as Windows' Proactor. Its own transports can."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    add_writer = asyncio.AbstractEventLoop.add_writer
    remove_reader = asyncio.AbstractEventLoop.remove_reader
    remove_writer = asyncio.AbstractEventLoop.remove_writer

    # asyncio's own, but that they ended the watch by remove_reader and remove_writer.
    def _sock_read_done(self, fd: int, fut: Any, handle: Any = None) -> None:
        if handle is None or not handle.cancelled():
            self._remove_reader(fd)  # type: ignore[attr-defined]

    def _sock_write_done(self, fd: int, fut: Any, handle: Any = None) -> None:
        if handle is None or not handle.cancelled():
            self._remove_writer(fd)  # type: ignore[attr-defined]


HIDERS: dict[str, Callable[[], None]] = {
    "sendmsg": _sendmsg,
    "poll": _poll,
    "epoll": _epoll,
    "kqueue": _kqueue,
    "eventfd": _eventfd,
    "register_at_fork": _register_at_fork,
    "AF_UNIX": _unix_sockets,
    "add_reader": _add_reader,
}


# These libraries keep what they find now: the tests are of cpspika.
FOREIGN = ("trio", "twisted.internet.epollreactor")


class Hiding:
    """A plugin of pytest, for what is hidden after cpspika is imported."""

    def __init__(self, names: str):
        self._chosen = list(HIDERS) if names == "all" else names.split(",")
        for foreign in FOREIGN:
            with contextlib.suppress(ImportError):
                importlib.import_module(foreign)
        for name, module in list(sys.modules.items()):
            if name.startswith("trio.") and getattr(module, "select", None) is select:
                module.select = SimpleNamespace(**vars(select))  # type: ignore[attr-defined]
        assert "cpspika" not in sys.modules, "cpspika is imported already, and has looked"
        for name in self._chosen:
            HIDERS[name]()

    def pytest_collection(self) -> None:
        if "AF_UNIX" in self._chosen:
            from cpspika.adapters import waker

            waker._make, waker._read, waker._write, waker._close = waker.SOCKETS
            waker.Waker.__del__.__defaults__ = (waker.SOCKETS[3],)

    def pytest_report_header(self) -> str:
        return f"hidden: {', '.join(self._chosen)}"


if __name__ == "__main__":
    del sys.path[0]  # This folder: its modules are to be found in their package alone.
    sys.exit(pytest.main(sys.argv[2:], [Hiding(sys.argv[1])]))
