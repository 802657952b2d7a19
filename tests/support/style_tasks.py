"""The scenarios as tasks: a generator that yields promises, and a coroutine that awaits them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from cpspika import tasks
from cpspika.adapters import SelectReactor
from cpspika.styles.facade import Facade
from tests.support.styles import PATIENCE, Asking, Operation, Scenario, Style, Until


class TaskStyle(Style):
    """perform(operation's outcome): a task that runs a scenario, in a generator or in a coroutine."""

    def __init__(self, perform: Callable[[Scenario], Any], broker: Any, protocol: str):
        super().__init__(broker, protocol)
        self._perform = perform
        self._reactor = SelectReactor()

    def connect(self, target: Any = None, **options: Any) -> Operation:
        async def opened() -> Any:
            connection = await tasks.connect(target or self.url(), **self.with_recovery(options))
            self.connections.append(Asking(connection, None))
            return connection

        return Operation(None, lambda: tasks.spawn(opened()))

    def run(self, steps: Scenario) -> None:
        tasks.run(self._perform(steps), self._reactor)

    def close(self) -> None:
        super().close()
        self._reactor.run_once(0)
        self._reactor.close()


def in_a_generator(steps: Scenario) -> Generator[Any, Any, None]:
    step: Callable[[], Any] = partial(steps.send, None)
    while True:
        try:
            wanted = step()
        except StopIteration:
            return
        begun = _begin(wanted)
        outcomes = []
        for promise in begun:
            try:
                outcomes.append(_shown((yield promise)))
            except Exception as error:
                outcomes.append(error)
        step = _next(steps, wanted, outcomes)


async def in_a_coroutine(steps: Scenario) -> None:
    step: Callable[[], Any] = partial(steps.send, None)
    while True:
        try:
            wanted = step()
        except StopIteration:
            return
        begun = _begin(wanted)
        outcomes = []
        for promise in begun:
            try:
                outcomes.append(_shown(await promise))
            except Exception as error:
                outcomes.append(error)
        step = _next(steps, wanted, outcomes)


def _begin(wanted: Any) -> list[Any]:
    """Promises of what a scenario asked for."""
    if isinstance(wanted, Until):
        return [_until(wanted.condition)]
    return [_begun(operation) for operation in (wanted if isinstance(wanted, list) else [wanted])]


def _begun(operation: Operation) -> Any:
    reactor = tasks.current_reactor()
    try:
        promise = operation.call()
    except Exception as mistake:
        promise = tasks.Promise(reactor)
        promise.settle(mistake, None)
    if not promise.done:
        promise.when_settled(reactor.call_later(PATIENCE, promise.cancel).cancel)
    return promise


async def _until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing came for {PATIENCE:g} s")
        await tasks.sleep(0.002)


def _shown(result: Any) -> Any:
    return Asking(result, None) if isinstance(result, Facade) else result


def _next(steps: Scenario, wanted: Any, outcomes: list[Any]) -> Callable[[], Any]:
    """The scenario's next step."""
    late = [outcome for outcome in outcomes if isinstance(outcome, (tasks.Cancelled, AssertionError))]
    if late:
        raise AssertionError(f"nothing came for {PATIENCE:g} s") from late[0]
    if isinstance(wanted, list):
        return partial(steps.send, outcomes)
    return partial(steps.throw if isinstance(outcomes[0], Exception) else steps.send, outcomes[0])


STYLES: dict[str, Callable[..., Style]] = {
    "tasks-generator": partial(TaskStyle, in_a_generator),
    "tasks-coroutine": partial(TaskStyle, in_a_coroutine),
}
