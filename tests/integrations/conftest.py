"""pika itself and the face of it: each test runs with both, on the embedded broker and on RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import pytest

from tests.support.styles import PATIENCE, Broker

IMPLEMENTATIONS = {"pika": "pika", "cpspika": "cpspika.integrations.pika"}


@pytest.fixture(params=IMPLEMENTATIONS)
def pika(request: pytest.FixtureRequest) -> Any:
    """pika, or the face of it."""
    name = IMPLEMENTATIONS[request.param]
    return pytest.importorskip("pika") if name == "pika" else import_module(name)


class Client:
    """Opens connections to one broker, and closes them at the end. `pika`: the implementation."""

    def __init__(self, pika: Any, broker: Broker):
        self.pika, self.broker = pika, broker
        self.connections: list[Any] = []

    def parameters(self, **options: Any) -> Any:
        return self.pika.ConnectionParameters(**{"host": self.broker.host, "port": self.broker.port, **options})

    def connect(self, parameters: Any = None, **options: Any) -> Any:
        connection = self.pika.BlockingConnection(parameters or self.parameters(**options))
        self.connections.append(connection)
        return connection

    def channel(self, **options: Any) -> Any:
        return self.connect(**options).channel()

    def pump(self, connection: Any, condition: Callable[[], Any], what: str) -> None:
        """Processes events until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {PATIENCE} s"
            connection.process_data_events(time_limit=0.05)

    def get(self, channel: Any, queue: str, auto_ack: bool = True) -> Any:
        """The next message of a queue, which may still be under way to it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
            if method is not None:
                return method, properties, body
            assert time.monotonic() < deadline, f"no message in {queue} within {PATIENCE} s"

    def filled(self, channel: Any, *bodies: str, **options: Any) -> str:
        """An exclusive queue that has these messages."""
        queue: str = channel.queue_declare("", exclusive=True, **options).method.queue
        for body in bodies:
            channel.basic_publish("", queue, body)
        deadline = time.monotonic() + PATIENCE
        while channel.queue_declare(queue, passive=True).method.message_count < len(bodies):
            assert time.monotonic() < deadline, f"{queue} doesn't have its {len(bodies)} messages within {PATIENCE} s"
        return queue

    def close(self) -> None:
        for connection in self.connections:
            if connection.is_open:
                with suppress(self.pika.exceptions.AMQPError):
                    connection.close()


@pytest.fixture
def client(pika: Any, broker: Broker) -> Iterator[Client]:
    made = Client(pika, broker)
    yield made
    made.close()


@pytest.fixture
def own_client(pika: Any, embedded_alone: Any) -> Iterator[Client]:
    """With an embedded broker of the test's own, which it may make misbehave: `client.broker`."""
    made = Client(pika, embedded_alone)
    yield made
    made.close()


@pytest.fixture
def embedded_alone() -> Iterator[Any]:
    from cpspika.broker import serve

    with serve() as running:
        yield running
