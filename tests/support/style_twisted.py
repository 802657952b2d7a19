"""The scenarios in Twisted's style: each step in the callback of a Deferred, on a reactor of the tests' own."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from cpspika.adapters import twisted_adapter
from cpspika.styles.facade import Facade
from tests.support.styles import PATIENCE, Asking, CoreStyle, Operation, Scenario, Style, Until


@functools.cache
def private_reactor() -> Any:
    """One that isn't installed, and doesn't run: `twisted_adapter.TwistedReactor.run_once` turns it."""
    try:
        from twisted.internet.epollreactor import EPollReactor as PrivateReactor
    except ImportError:
        from twisted.internet.selectreactor import SelectReactor as PrivateReactor
    return PrivateReactor()


def twisted_reactor() -> twisted_adapter.TwistedReactor:
    """Ours, on the private one."""
    return twisted_adapter.TwistedReactor(private_reactor())


def spin(condition: Callable[[], Any], what: str) -> None:
    """Turns the private reactor until a condition holds."""
    reactor = twisted_reactor()
    deadline = time.monotonic() + PATIENCE
    while not condition():
        left = deadline - time.monotonic()
        assert left > 0, f"nothing came for {PATIENCE:g} s: {what}"
        reactor.run_once(left)


def outcome(work: Deferred[Any]) -> Any:
    """What a Deferred comes to, by turning the private reactor; its error is raised."""
    results: list[Any] = []
    work.addBoth(results.append)
    spin(lambda: results, f"{work} did not fire")
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


class TwistedStyle(Style):
    """Deferreds, awaited by a coroutine; what is logged as a failure fails the test."""

    def __init__(self, broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._until: tuple[Callable[[], Any], Deferred[None]] | None = None
        self._logged: list[Any] = []

    def connect(self, target: Any = None, **options: Any) -> Operation:
        def call() -> Deferred[Any]:
            return twisted_adapter.connect(
                target or self.url(), reactor=private_reactor(), **self.with_recovery(options)
            ).addCallback(made)

        def made(connection: Any) -> Any:
            self.connections.append(Asking(connection, None))
            return connection

        return Operation(None, call)

    def run(self, steps: Scenario) -> None:
        globalLogPublisher.addObserver(self._log)
        ended: list[Any] = []
        Deferred.fromCoroutine(self._drive(steps)).addBoth(ended.append)
        deadline, last = time.monotonic() + PATIENCE, None
        try:
            while not ended:
                step = steps.gi_frame and steps.gi_frame.f_lasti
                if step != last:
                    deadline, last = time.monotonic() + PATIENCE, step
                assert time.monotonic() < deadline, (
                    f"nothing came for {PATIENCE:g} s at line {steps.gi_frame and steps.gi_frame.f_lineno}"
                )
                twisted_reactor().run_once(max(0.0, deadline - time.monotonic()))
                self._look()
        finally:
            globalLogPublisher.removeObserver(self._log)
        if isinstance(ended[0], Failure):
            ended[0].raiseException()
        assert not self._logged

    def _log(self, event: Any) -> None:
        if "log_failure" in event:
            self._logged.append(event["log_failure"])

    async def _drive(self, steps: Scenario) -> None:
        step: Callable[..., Any] = steps.send
        value: Any = None
        while True:
            try:
                wanted = step(value)
            except StopIteration:
                return
            step = steps.send
            if isinstance(wanted, Until):
                done: Deferred[None] = Deferred()
                self._until = wanted.condition, done
                self._look()
                value = await done
            elif isinstance(wanted, list):
                asked = [maybeDeferred(operation.call) for operation in wanted]
                results = await DeferredList(asked, consumeErrors=True)
                value = [_asking(result) if well else result.value for well, result in results]
            else:
                try:
                    value = _asking(await maybeDeferred(wanted.call))
                except Exception as error:
                    step, value = steps.throw, error

    def _look(self) -> None:
        if self._until is not None and self._until[0]():
            done, self._until = self._until[1], None
            done.callback(None)


def _asking(result: Any) -> Any:
    return Asking(result, None) if isinstance(result, Facade) else result


STYLES = {"twisted": TwistedStyle, "core-twisted": functools.partial(CoreStyle, twisted_reactor)}
