"""Every reactor of ours keeps the contract, by the class that adapters of others are tested with."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from importlib.util import find_spec
from typing import Any

import pytest

from cpspika.adapters import AsyncoreReactor, BlockingReactor, MemoryReactor, SelectReactor
from cpspika.adapters.asyncio_adapter import AsyncioReactor
from cpspika.adapters.sockets import SocketTransport
from cpspika.testing.conformance import ReactorConformance, Steps
from tests.support.hiding import WithoutAddReader


class TestSelect(ReactorConformance):
    def make_reactor(self) -> SelectReactor:
        return SelectReactor()

    def leftovers(self) -> list[Any]:
        return list(self.reactor._watched)


if find_spec("asyncore") is not None:

    class TestAsyncore(ReactorConformance):
        def make_reactor(self) -> AsyncoreReactor:
            self.map: dict[int, Any] = {}
            return AsyncoreReactor(self.map)

        def leftovers(self) -> list[Any]:
            return list(self.map.values())


class TestBlocking(ReactorConformance):
    many = listens = False

    def make_reactor(self) -> BlockingReactor:
        return BlockingReactor()

    def leftovers(self) -> list[Any]:
        return [self.reactor._transport] if self.reactor._transport else []


class TestMemory(ReactorConformance):
    sockets = False

    def make_reactor(self) -> MemoryReactor:
        return MemoryReactor()


class TestAsyncio(ReactorConformance):
    """Driven from outside."""

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def make_reactor(self) -> AsyncioReactor:
        return AsyncioReactor(self.make_loop())

    def leftovers(self) -> list[Any]:
        return [*self.reactor._watched, *self.reactor.leaving]

    def close_reactor(self, reactor: Any) -> None:
        reactor.loop.close()


@pytest.mark.slow
class TestAsyncioInside(ReactorConformance):
    """In a loop that the program runs."""

    runs = False

    def play(self, steps: Steps[None]) -> None:
        asyncio.run(self.play_inside(steps, asyncio.sleep))

    def make_reactor(self) -> AsyncioReactor:
        return AsyncioReactor(asyncio.get_running_loop())

    def leftovers(self) -> list[Any]:
        return [*self.reactor._watched, *self.reactor.leaving]


class TestAsyncioWithoutAddReader(TestAsyncio):
    """On a loop like Windows' Proactor: connections go through the loop's own transports."""

    def make_loop(self) -> asyncio.AbstractEventLoop:
        return WithoutAddReader()

    def leftovers(self) -> list[Any]:
        return [*self.reactor._watched, *range(self.reactor._held), *asyncio.all_tasks(self.reactor.loop)]


class TestAsyncioInsideWithoutAddReader(TestAsyncioInside):
    def play(self, steps: Steps[None]) -> None:
        loop = WithoutAddReader()
        try:
            loop.run_until_complete(self.play_inside(steps, asyncio.sleep))
        finally:
            loop.close()

    def leftovers(self) -> list[Any]:
        return list(range(self.reactor._held))


if find_spec("uvloop") is not None:

    @pytest.mark.slow
    class TestUvloop(TestAsyncio):
        def make_loop(self) -> asyncio.AbstractEventLoop:
            import uvloop

            return uvloop.new_event_loop()


if find_spec("twisted") is not None and find_spec("cpspika.adapters.twisted_adapter") is not None:

    class TestTwisted(ReactorConformance):
        runs = False  # Twisted's reactor runs once in a process

        def make_reactor(self) -> Any:
            from twisted.internet.epollreactor import EPollReactor

            from cpspika.adapters.twisted_adapter import TwistedReactor

            self.twisted: Any = EPollReactor()
            return TwistedReactor(self.twisted)

        def drive(self, reactor: Any, done: Any) -> None:
            while not done():
                self.twisted.iterate(0.01)

        def leftovers(self) -> list[Any]:
            own = self.twisted._internalReaders
            timers = [timer for timer in self.twisted.getDelayedCalls() if timer.active()]
            return [
                *(each for each in [*self.twisted.getReaders(), *self.twisted.getWriters()] if each not in own),
                *timers,
            ]

        def close_reactor(self, reactor: Any) -> None:
            self.twisted.disconnectAll()


if find_spec("trio") is not None:

    class TestTrio(ReactorConformance):
        runs = False

        def play(self, steps: Steps[None]) -> None:
            import trio

            async def main() -> None:
                async with trio.open_nursery() as self.nursery:
                    await self.play_inside(steps, trio.sleep)

            trio.run(main)

        def make_reactor(self) -> Any:
            from cpspika.adapters.trio_adapter import TrioReactor

            return TrioReactor(self.nursery)

        def leftovers(self) -> list[Any]:
            return list(self.reactor._watched)

        def close_reactor(self, reactor: Any) -> None:
            reactor.scope.cancel()


# --- the class itself: it finds what it looks for ---------------------------------------------------------------------


def broken(**members: Any) -> type[ReactorConformance]:
    """The conformance of a SelectReactor with these members instead of its own."""
    kind = type("Broken", (SelectReactor,), members)
    return type("Conformance", (ReactorConformance,), {"make_reactor": lambda self: kind(), "deadline": 0.2})


def _open_that_raises(self: Any, endpoint: Any, address: Any, owner: Any) -> Any:
    raise ConnectionRefusedError(111, "refused")


def _resolve_inside(self: Any, endpoint: Any, on_done: Any) -> None:
    on_done(None, [(2, (endpoint.host, endpoint.port))])


def _open_trusting(self: Any, endpoint: Any, address: Any, owner: Any) -> Any:
    if endpoint.ssl is not None:
        endpoint.ssl.check_hostname = False
        endpoint.ssl.verify_mode = ssl.CERT_NONE
    return SocketTransport.connect(self, endpoint, address, owner)


class _Deaf(SocketTransport):
    def close(self) -> None:
        pass


def _until_none_are_left(self: Any, timeout: float | None) -> int:
    while self._ready:
        self.call(self._ready.popleft())
    return 0


BROKEN = {
    "calls_come_in_order_and_never_inside_call_soon": (
        {"call_soon": lambda self, call: call()},
        "call_soon made the call at once",
    ),
    "resolve": ({"resolve": _resolve_inside}, "inside the call"),
    "a_refused_connection_is_told_and_not_raised": ({"open": _open_that_raises}, "refused"),
    "stop_ends_run_and_the_rest_waits": ({"stop": lambda self: None}, "vain for the end of run"),
    "hold_keeps_run_from_ending": ({"hold": lambda self: lambda: None}, "run ended"),
    "a_callbacks_exception_goes_to_on_error_and_the_loop_goes_on": (
        {"call": lambda self, call: call()},
        "ZeroDivisionError|division",
    ),
    "a_call_that_repeats_itself_keeps_nobody_out": (
        {"_patience": _until_none_are_left},
        "only the call that repeats",
    ),
    "a_transport_may_be_closed_while_it_connects": (
        {"open": lambda self, endpoint, address, owner: _Deaf.connect(self, endpoint, address, owner)},
        "after close the owner heard",
    ),
    "tls_with_somebody_who_is_not_trusted": ({"open": _open_trusting}, "TLS was ready with a peer that is not trusted"),
    "another_thread_wakes_the_wait": ({"_wake": lambda self: None}, "ended by a timer"),
}


if find_spec("trustme") is None:
    del BROKEN["tls_with_somebody_who_is_not_trusted"]


@pytest.mark.parametrize("test", BROKEN)
def test_a_broken_reactor_is_found(test: str) -> None:
    members, said = BROKEN[test]
    with pytest.raises(Exception, match=said):
        getattr(broken(**members)(), f"test_{test}")()


def test_what_never_comes_is_named() -> None:
    case = broken()()
    case.reactor = case.make_reactor()
    with contextlib.closing(case.reactor), pytest.raises(AssertionError, match=r"0\.2 s in vain for the moon"):
        case.play(case.until("moon", lambda: False))
