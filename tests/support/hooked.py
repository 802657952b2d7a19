"""Hooks that note what they are called with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import cpspika

inside: ContextVar[str] = ContextVar("inside", default="")  # the body of the message that is in hand, in this context


class Noting:
    """`seen`: the calls, as tuples that begin with the hook's name."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
        self.seen.append(("publishing", type(channel).__name__, exchange, routing_key))
        given = cpspika.BasicProperties(**properties._present()) if properties else cpspika.BasicProperties()
        given.headers = {**(given.headers or {}), "noted": len(self.of("publishing"))}
        return given

    def published(self, properties: Any, error: Any) -> None:
        self.seen.append(("published", properties.headers["noted"], type(error)))

    @contextmanager
    def delivering(self, message: Any) -> Iterator[None]:
        self.seen.append(("delivering", message.body))
        token = inside.set(message.body.decode())
        try:
            yield
        except BaseException as error:
            self.seen.append(("raised", message.body, type(error)))
            raise
        finally:
            inside.reset(token)  # raises in another context
            self.seen.append(("delivered", message.body))

    def fetched(self, message: Any, seconds: float) -> None:
        assert seconds >= 0
        self.seen.append(("fetched", message.body))

    def settled(self, message: Any, how: str) -> None:
        self.seen.append(("settled", message.body, how))

    def connection(self, connection: Any, event: Any) -> None:
        assert isinstance(connection, cpspika.Connection)
        self.seen.append(("connection", event.kind))

    def of(self, *names: str) -> list[tuple[Any, ...]]:
        return [call for call in self.seen if call[0] in names]


@contextmanager
def noting() -> Iterator[Noting]:
    hooks = Noting()
    remove = cpspika.instrument(hooks)
    try:
        yield hooks
    finally:
        remove()
