"""An exception of a signal handler at every place where a transport closes its socket. It closes it again. After that
the loop must not watch it: it would spin, or mistake the next socket of this number for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

import pytest

from cpspika.adapters import AsyncoreReactor, BlockingReactor, SelectReactor
from cpspika.adapters.asyncio_reactor import AsyncioReactor
from cpspika.testing.conformance_play import Owner, Peer
from tests.support.injector import Alarm, Injector
from tests.support.scripted import run_until

pytestmark = pytest.mark.slow


def in_asyncio(reactor: Any, fd: int) -> bool:
    return fd in reactor.loop._selector.get_map() or fd in reactor._watched


def on_twisted() -> Any:
    pytest.importorskip("twisted")
    from tests.support.style_twisted import twisted_reactor

    return twisted_reactor()


def in_twisted(reactor: Any, fd: int) -> bool:
    return any(each.fileno() in (fd, -1) for each in reactor.twisted.getReaders() + reactor.twisted.getWriters())


def in_asyncore() -> Any:
    if find_spec("asyncore") is None:
        pytest.skip("this Python has no asyncore, and pyasyncore is not installed")
    return AsyncoreReactor({})


KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any, int], bool]]] = {
    "blocking": (BlockingReactor, lambda reactor, fd: fd in dict(reactor._wait(0))),  # a closed one is an error
    "select": (SelectReactor, lambda reactor, fd: fd in reactor._selector.get_map()),
    "asyncore": (in_asyncore, lambda reactor, fd: fd in reactor._map),
    "asyncio": (lambda: AsyncioReactor(asyncio.new_event_loop()), in_asyncio),
    "twisted": (on_twisted, in_twisted),
}


@contextmanager
def linked(reactor: Any) -> Iterator[Any]:
    """A transport that is ready."""
    peer, owner = Peer(), Owner()
    where = socket.AF_INET, ("127.0.0.1", peer.endpoint.port)
    owner.transport = reactor.open(peer.endpoint, where, owner)
    run_until(reactor, peer.is_connected)
    run_until(reactor, lambda: owner.heard == ["ready"])
    try:
        yield owner.transport
    finally:
        owner.transport.abort()
        peer.close()


@pytest.fixture(params=KINDS)
def kind(request: Any) -> Iterator[tuple[Any, Callable[[Any, int], bool]]]:
    """A reactor, and whether its loop watches a socket."""
    make, is_watched = KINDS[request.param]
    reactor = make()
    yield reactor, is_watched
    getattr(reactor, "close", lambda: None)()
    if isinstance(reactor, AsyncioReactor):
        reactor.loop.close()


@pytest.mark.parametrize("from_outside", [False, True], ids=["", "fileno"])
def test_a_closed_socket_is_not_watched(kind: tuple[Any, Callable[[Any, int], bool]], from_outside: bool) -> None:
    reactor, is_watched = kind
    if from_outside:
        if not hasattr(reactor, "fileno"):
            pytest.skip("no foreign loop watches this reactor")
        reactor.fileno()
    number, gaps = 0, []
    while True:
        number += 1
        injector = Injector(number, Alarm)
        with linked(reactor) as transport:
            fd = transport._fd
            with injector.block(), suppress(Alarm):
                transport.abort()
            transport.abort()
            poll_file = getattr(reactor, "_poll_file", None)
            if is_watched(reactor, fd) or (poll_file is not None and fd in poll_file._selector.get_map()):
                gaps.append(injector.where)
        if not injector.where:
            break
    assert number > 5, "nothing was interrupted"
    assert not gaps
