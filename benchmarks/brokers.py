"""The brokers: a private RabbitMQ node, and the embedded broker as a process. The parent fills a scenario's queue, so
that the measured process does nothing but the scenario."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psutil

import cpspika
from tests.support.rabbitmq import RabbitNode

from .styles import make_body

RABBITMQ, EMBEDDED = "rabbitmq", "embedded"
SETTLE = 0.2  # seconds for the broker to become idle
PATIENCE = 20.0  # seconds for all messages to be in the queue
AT_ONCE = 1 << 20  # bytes between two replies of the broker
EMBEDDED_MEMORY = 4096  # MiB; a queue filled for a scenario must not stop the publisher


@dataclass(frozen=True)
class Broker:
    name: str
    url: str
    pid: int

    def version(self) -> str:
        with cpspika.BlockingConnection(self.url) as connection:
            properties = connection.server_properties
            return f"{properties.get('product')} {properties.get('version')}"

    @contextmanager
    def queue(self, count: int, size: int) -> Iterator[str]:
        """A queue with so many messages: gives its name; deletes it at the end."""
        name = "benchmark"
        with cpspika.BlockingConnection(self.url) as connection:
            channel = connection.channel()
            channel.queue_delete(name)
            channel.queue_declare(name, durable=True)  # RabbitMQ 4.3 denies a transient queue that is not exclusive
            body, together = make_body(size), max(1, min(1000, AT_ONCE // (size + 1)))
            for begin in range(0, count, together):
                for _ in range(min(together, count - begin)):
                    channel.core.basic_publish("", name, body)
                channel.queue_declare(name, passive=True)
        self.await_count(name, count)
        time.sleep(SETTLE)
        try:
            yield name
        finally:
            if psutil.pid_exists(self.pid):
                with cpspika.BlockingConnection(self.url) as connection:
                    connection.channel().queue_delete(name)

    def await_count(self, queue: str, expected: int) -> None:
        """Waits until so many messages are in the queue. RabbitMQ may reply with a count before it has put all
        messages into the queue, so one reply is not enough."""
        with cpspika.BlockingConnection(self.url) as connection:
            channel = connection.channel()
            deadline = time.monotonic() + PATIENCE
            while (found := channel.queue_declare(queue, passive=True).message_count) != expected:
                if time.monotonic() > deadline:
                    raise WrongCount(f"{found} messages are in the queue, not the {expected} published")
                time.sleep(SETTLE / 10)


class WrongCount(Exception):
    """The queue doesn't hold the published messages: the measure is worthless."""


@contextmanager
def start(wanted: str) -> Iterator[list[Broker]]:
    """The brokers that are wanted (a name or "both") and can run here. The clients are measured on the first."""
    with ExitStack() as stack:
        brokers = []
        if wanted != EMBEDDED and RabbitNode.available():
            node = stack.enter_context(RabbitNode())
            brokers.append(Broker(RABBITMQ, node.url, node.pid))
        if wanted != RABBITMQ:
            brokers.append(stack.enter_context(_embedded()))
        if not brokers:
            raise SystemExit("RabbitMQ is not installed here (Debian: rabbitmq-server); there is --broker embedded")
        yield brokers


@contextmanager
def _embedded() -> Iterator[Broker]:
    command = [sys.executable, "-m", "cpspika", "broker", "--port", "0", "--memory", str(EMBEDDED_MEMORY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            where = next((word for word in line.split() if word.startswith("amqp://")), None)
            if where is None:
                raise RuntimeError(f"the embedded broker did not start: {line!r}")
            yield Broker(EMBEDDED, f"amqp://guest:guest@127.0.0.1:{urlsplit(where).port}/%2F", process.pid)
        finally:
            process.terminate()
            process.communicate()  # reads its last line
