"""The ways to use the library, so that a scenario is written once and runs in each of them.

A scenario is a generator. It yields what it asks for, and goes on with the result, or with the error raised there:

    @scenario()
    def test_it(s):
        ch = yield s.channel()
        ok = yield ch.queue_declare(exclusive=True)
        with pytest.raises(NotFound):
            yield ch.queue_declare("nothing", passive=True)

A list of operations is asked for as the style does best (pipelined, where it can) and gives a list of results, an error
standing in it as itself. `yield s.until(condition)` gives callbacks room until the condition holds.

In the core's style each step runs inside the `on_done` of the one before; and the driver holds it to the law: never
called inside the call that took it, nor twice.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import cpspika
from cpspika.adapters import AsyncoreReactor, BlockingReactor, SelectReactor
from cpspika.styles.facade import Facade
from cpspika.styles.lifting import operations

PATIENCE = 20.0  # seconds for one wait: a scenario that hangs fails before pytest dumps its stacks

OPERATIONS = operations(cpspika.Channel).keys() | operations(cpspika.Connection).keys()
Scenario = Generator[Any, Any, None]
_names = itertools.count()


def count(ch: Any, queue: str, expected: int) -> Any:
    """Waits for a queue to hold so many messages. RabbitMQ may answer before the queue has done its part: after an ack,
    or after the close of a channel with unsettled messages."""
    for _ in range(500):
        found = (yield ch.queue_declare(queue, passive=True)).message_count
        if found == expected:
            return
    assert found == expected


def scenario(
    only: str | None = None, recovers: bool = True
) -> Callable[[Callable[..., Scenario]], Callable[..., None]]:
    """Makes a test of a scenario, whose first argument is the style, `s`. only: the one version that it is for.
    recovers: False for what is otherwise on a connection that recovers, as an error that closes a channel."""

    def decorate(function: Callable[..., Scenario]) -> Callable[..., None]:
        @functools.wraps(function)
        def test(s: Style, **arguments: Any) -> None:
            s.run(function(s, **arguments))

        test.only = only  # type: ignore[attr-defined]
        test.recovers = recovers  # type: ignore[attr-defined]
        return test

    return decorate


class Broker:
    """A broker under test, whichever it is: `name`, and URLs that lead to it."""

    def __init__(self, name: str, host: str, port: int):
        self.name, self.host, self.port = name, host, port

    def url(
        self, protocol: str = "0-9-1", user: str = "guest", password: str = "guest", vhost: str = "/", **options: Any
    ) -> str:
        query = urlencode({"protocol": protocol, **options})
        return f"amqp://{quote(user)}:{quote(password)}@{self.host}:{self.port}/{quote(vhost, safe='')}?{query}"


class Operation(NamedTuple):
    """Something to be asked for: `call` takes the arguments, and in the core's style on_done."""

    reactor: Any
    call: Callable[..., Any]


class Until(NamedTuple):
    condition: Callable[[], Any]


class Asking:
    """A connection or channel whose operations are handed out, to be yielded."""

    def __init__(self, subject: Any, reactor: Any):
        self.subject = subject
        self._reactor = reactor

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.subject, name)
        if name not in OPERATIONS:
            return member
        return lambda *args, **kwargs: Operation(self._reactor, partial(member, *args, **kwargs))

    def __repr__(self) -> str:
        return f"<Asking {self.subject!r}>"


class Style:
    """One way to use the library against a broker, in one version of the protocol."""

    recovery: Any = None  # what connections are opened with

    def __init__(self, broker: Any, protocol: str):
        self.broker, self.protocol = broker, protocol
        self.connections: list[Any] = []

    def name(self) -> str:
        """One that no other test has: for a queue, an exchange..."""
        return f"cpspika-{os.getpid()}-{next(_names)}"

    def url(self, **parts: Any) -> str:
        url: str = self.broker.url(**{"protocol": self.protocol, **parts})
        return url

    def connect(self, target: Any = None, **options: Any) -> Operation:
        """Opens a connection; it is closed with the test."""
        raise NotImplementedError

    def with_recovery(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"recovery": self.recovery, **options}

    def channel(self) -> Generator[Any, Any, Any]:
        """A channel on a connection of its own; `ch = yield from s.channel()`."""
        connection = yield self.connect()
        channel = yield connection.channel()
        return channel

    def until(self, condition: Callable[[], Any]) -> Until:
        return Until(condition)

    def run(self, steps: Scenario) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Closes what is open."""
        self.run(self._closing())

    def _closing(self) -> Scenario:
        for connection in self.connections:
            if connection.is_open:
                yield connection.close()


class CoreStyle(Style):
    """The core: each operation with its on_done, on one reactor (BlockingReactor: one for each connection)."""

    def __init__(self, make_reactor: Callable[[], Any], broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._make_reactor = make_reactor
        self.reactors: list[Any] = []

    def connect(self, target: Any = None, **options: Any) -> Operation:
        if not self.reactors or self._make_reactor is BlockingReactor:
            self.reactors.append(self._make_reactor())
        reactor = self.reactors[-1]

        def call(on_done: Callable[..., object]) -> None:
            def connected(error: Any, connection: Any) -> None:
                if connection is not None:
                    self.connections.append(Asking(connection, reactor))
                on_done(error, connection)

            cpspika.connect(target or self.url(), on_done=connected, reactor=reactor, **self.with_recovery(options))

        return Operation(reactor, call)

    def run(self, steps: Scenario) -> None:
        thread = _Continued(steps)
        thread.go_on(partial(steps.send, None))
        while not thread.finished:
            thread.check_patience()
            for reactor in self.reactors:
                reactor.run_once(0.02 if len(self.reactors) > 1 else thread.left())
            thread.look()
        if thread.error is not None:
            raise thread.error

    def close(self) -> None:
        super().close()
        for reactor in self.reactors:
            reactor.run_once(0)
            if hasattr(reactor, "close"):
                reactor.close()


class _Continued:
    """A scenario under way in the core's style."""

    def __init__(self, steps: Scenario):
        self._steps = steps
        self._waiting: Until | None = None
        self._deadline = time.monotonic() + PATIENCE
        self.finished = False
        self.error: BaseException | None = None

    def left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def check_patience(self) -> None:
        if not self.left():
            frame = self._steps.gi_frame
            raise AssertionError(f"nothing came for {PATIENCE:g} s at line {frame.f_lineno if frame else '?'}")

    def go_on(self, step: Callable[[], Any]) -> None:
        self._deadline = time.monotonic() + PATIENCE
        try:
            wanted = step()
        except StopIteration:
            self.finished = True
        except BaseException as error:
            self.finished, self.error = True, error
        else:
            self._ask(wanted)

    def _ask(self, wanted: Any) -> None:
        if isinstance(wanted, Until):
            self._waiting = wanted
            self.look()
            return
        asked = wanted if isinstance(wanted, list) else [wanted]
        outcomes: dict[int, Any] = {}

        def told(index: int, outcome: Any) -> None:
            assert index not in outcomes, f"settled twice: {outcomes[index]!r}, then {outcome!r}"
            outcomes[index] = outcome
            if len(outcomes) < len(asked):
                return
            if isinstance(wanted, list):
                self.go_on(partial(self._steps.send, [outcomes[i] for i in range(len(asked))]))
            elif isinstance(outcome, BaseException):
                self.go_on(partial(self._steps.throw, outcome))
            else:
                self.go_on(partial(self._steps.send, outcome))

        for index, operation in enumerate(asked):
            _start(operation, partial(told, index))
        if not asked:
            self.go_on(partial(self._steps.send, []))

    def look(self) -> None:
        waiting = self._waiting
        if waiting is not None and waiting.condition():
            self._waiting = None
            self.go_on(partial(self._steps.send, None))


def _start(operation: Operation, told: Callable[[Any], None]) -> None:
    inside = True

    def on_done(error: Any, result: Any) -> None:
        assert not inside, "on_done was called inside the call that took it"
        assert error is None or result is None
        told(error if error is not None else _asking(result, operation.reactor))

    try:
        operation.call(on_done=on_done)
    except Exception as mistake:
        told(mistake)
    finally:
        inside = False


class SyncStyle(Style):
    """The synchronous facade."""

    def __init__(self, make_connection: Callable[..., Any], broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._make_connection = make_connection

    def connect(self, target: Any = None, **options: Any) -> Operation:
        def call() -> Any:
            connection = self._make_connection(target or self.url(), timeout=PATIENCE, **self.with_recovery(options))
            self.connections.append(Asking(connection, None))
            return connection

        return Operation(None, call)

    def run(self, steps: Scenario) -> None:
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                wanted = step()
            except StopIteration:
                return
            if isinstance(wanted, Until):
                self._drain(wanted.condition)
                step = partial(steps.send, None)
            elif isinstance(wanted, list):
                step = partial(steps.send, [self._outcome(operation) for operation in wanted])
            else:
                outcome = self._outcome(wanted)
                step = partial(steps.throw if isinstance(outcome, Exception) else steps.send, outcome)

    def _outcome(self, operation: Operation) -> Any:
        try:
            return _asking(operation.call(), None)
        except cpspika.OperationTimeout as late:
            # No scenario waits for one, and the next operation would take as long.
            blocked = [connection for connection in self.connections if connection.is_blocked]
            raise AssertionError(f"{late}; blocked connections: {blocked}") from late
        except Exception as error:
            return error

    def _drain(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"nothing came for {PATIENCE:g} s"
            for connection in self.connections:
                try:
                    connection.drain_events(0.02 if len(self.connections) > 1 else PATIENCE)
                except cpspika.ConnectionClosed:
                    time.sleep(0.01)


def _asking(result: Any, reactor: Any) -> Any:
    return Asking(result, reactor) if isinstance(result, (cpspika.Channel, cpspika.Connection, Facade)) else result


def begun(operation: Operation) -> Any:
    """What an operation hands back, to be awaited; or the mistake that it raised."""
    try:
        return operation.call()
    except Exception as mistake:
        return mistake


async def perform(
    steps: Scenario, outcome: Callable[[Any], Awaitable[Any]], until: Callable[[Callable[[], Any]], Awaitable[None]]
) -> None:
    """Runs a scenario where one awaits: outcome(what was begun) is the result, or the error."""
    step: Callable[[], Any] = partial(steps.send, None)
    while True:
        try:
            wanted = step()
        except StopIteration:
            return
        if isinstance(wanted, Until):
            await until(wanted.condition)
            step = partial(steps.send, None)
        elif isinstance(wanted, list):
            together = [begun(operation) for operation in wanted]
            step = partial(steps.send, [await outcome(each) for each in together])
        else:
            told = await outcome(begun(wanted))
            step = partial(steps.throw if isinstance(told, Exception) else steps.send, told)


STYLES: dict[str, Callable[..., Style]] = {
    "core-select": partial(CoreStyle, SelectReactor),
    "core-asyncore": partial(CoreStyle, AsyncoreReactor),
    "core-blocking": partial(CoreStyle, BlockingReactor),
    "sync-select": partial(SyncStyle, cpspika.SelectConnection),
    "sync-asyncore": partial(SyncStyle, cpspika.AsyncoreConnection),
    "sync-blocking": partial(SyncStyle, cpspika.BlockingConnection),
}

# Styles that differ from another in the reactor alone. On RabbitMQ these run with the long tests, else with the slow
# ones; their reactors are held to the conformance tests besides.
AGAIN = ("core-asyncore", "core-blocking", "sync-select", "sync-asyncore", "asyncio-uvloop", "core-twisted")


def recovering(make: Callable[..., Style]) -> Callable[..., Style]:
    """The same style, with connections that recover: where nothing is lost, nothing changes."""

    def made(broker: Any, protocol: str) -> Style:
        style = make(broker, protocol)
        style.recovery = True
        return style

    return made


# At the end, since these modules use what stands above.
from tests.support import style_asyncio, style_tasks, style_threads, style_trio  # noqa: E402

STYLES |= style_tasks.STYLES | style_asyncio.STYLES | style_trio.STYLES | style_threads.STYLES
if find_spec("twisted") is not None:
    from tests.support import style_twisted

    STYLES |= style_twisted.STYLES

RECOVERING = {
    f"{name}-recovering": recovering(STYLES[name])
    for name in ("core-select", "sync-blocking", "tasks-coroutine", "asyncio", "trio", "twisted", "threads")
    if name in STYLES
}
STYLES |= RECOVERING
