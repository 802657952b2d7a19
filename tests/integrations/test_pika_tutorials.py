"""The programs that RabbitMQ's tutorials teach: pika runs them, and its face does."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integrations.conftest import Client
from tests.support.styles import PATIENCE
from tests.support.waiting import until


class Worker:
    """A thread with a connection of its own. prepare(channel): starts its consumers."""

    def __init__(self, client: Client, prepare: Callable[[Any], object]):
        self.connection = client.connect()
        self.channel = self.connection.channel()
        self.failed: list[BaseException] = []
        prepare(self.channel)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.channel.start_consuming()
        except BaseException as error:
            self.failed.append(error)

    def stop(self) -> None:
        self.connection.add_callback_threadsafe(self.channel.stop_consuming)
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the worker has not ended"
        assert not self.failed, self.failed


@contextmanager
def running(*workers: Worker) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            worker.stop()


@pytest.fixture
def name() -> str:
    return f"cpspika-{uuid.uuid4().hex}"


def test_hello(client: Client, name: str) -> None:
    connection = client.connect()
    channel = connection.channel()
    channel.queue_declare(queue=name)
    channel.basic_publish(exchange="", routing_key=name, body="Hello!")
    connection.close()

    channel = client.channel()
    channel.queue_declare(queue=name)
    got: list[bytes] = []

    def callback(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        ch.stop_consuming()

    channel.basic_consume(queue=name, on_message_callback=callback, auto_ack=True)
    channel.start_consuming()
    assert got == [b"Hello!"]
    channel.queue_delete(name)


def test_work_queues(client: Client, name: str) -> None:
    pika = client.pika
    done: list[tuple[int, bytes]] = []

    def prepare(channel: Any) -> None:
        channel.queue_declare(queue=name, durable=True)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=name, on_message_callback=work)

    def work(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        assert properties.delivery_mode == pika.spec.PERSISTENT_DELIVERY_MODE
        until(lambda: both_ready.is_set(), "second worker", PATIENCE)
        done.append((id(ch), body))
        ch.basic_ack(delivery_tag=method.delivery_tag)

    both_ready = threading.Event()
    workers = [Worker(client, prepare), Worker(client, prepare)]
    channel = client.channel()
    with running(*workers):
        for number in range(20):
            properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
            channel.basic_publish(exchange="", routing_key=name, body=f"task {number}", properties=properties)
        both_ready.set()
        until(lambda: len(done) == 20, "20 tasks", PATIENCE)
    assert sorted(body for _, body in done) == sorted(f"task {number}".encode() for number in range(20))
    assert len({who for who, _ in done}) == 2
    assert channel.queue_delete(name).method.message_count == 0


def test_publish_and_subscribe(client: Client, name: str) -> None:
    got: dict[int, list[bytes]] = {0: [], 1: []}

    def subscriber(number: int) -> Worker:
        def prepare(channel: Any) -> None:
            channel.exchange_declare(exchange=name, exchange_type="fanout", auto_delete=True)
            result = channel.queue_declare(queue="", exclusive=True)
            channel.queue_bind(exchange=name, queue=result.method.queue)
            channel.basic_consume(
                queue=result.method.queue, on_message_callback=lambda *args: got[number].append(args[3]), auto_ack=True
            )

        return Worker(client, prepare)

    with running(subscriber(0), subscriber(1)):
        channel = client.channel()
        channel.exchange_declare(exchange=name, exchange_type="fanout", auto_delete=True)
        for line in ("info: one", "info: two"):
            channel.basic_publish(exchange=name, routing_key="", body=line)
        until(lambda: len(got[0]) == len(got[1]) == 2, "two lines for each", PATIENCE)
    assert got[0] == got[1] == [b"info: one", b"info: two"]


@pytest.mark.parametrize(
    ("kind", "bindings", "expected"),
    [
        ("direct", ["error", "warning"], ["error", "warning"]),
        ("topic", ["kern.*", "*.critical"], ["kern.info", "a.critical", "kern.critical"]),
        ("topic", ["#"], ["error", "warning", "info", "kern.info", "a.critical", "kern.critical", "a.info"]),
    ],
    ids=["routing", "topics", "topics-all"],
)
def test_routing_and_topics(client: Client, name: str, kind: str, bindings: list[str], expected: list[str]) -> None:
    channel = client.channel()
    channel.exchange_declare(exchange=name, exchange_type=kind, auto_delete=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    for key in bindings:
        channel.queue_bind(exchange=name, queue=queue, routing_key=key)
    keys = ["error", "warning", "info", "kern.info", "a.critical", "kern.critical", "a.info"]
    for key in keys:
        channel.basic_publish(exchange=name, routing_key=key, body=key.upper())
    got: list[str] = []
    for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=PATIENCE):
        assert method is not None, f"only {got} came"
        assert body.decode() == method.routing_key.upper()
        got.append(method.routing_key)
        if len(got) == len(expected):
            channel.cancel()
    assert got == expected


def test_rpc(client: Client, name: str) -> None:
    pika = client.pika

    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    def prepare(channel: Any) -> None:
        channel.queue_declare(queue=name, auto_delete=True)
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue=name, on_message_callback=on_request)

    def on_request(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        ch.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
            body=str(fibonacci(int(body))),
        )
        ch.basic_ack(delivery_tag=method.delivery_tag)

    class Caller:
        def __init__(self) -> None:
            self.connection = client.connect()
            self.channel = self.connection.channel()
            self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
            self.channel.basic_consume(self.callback_queue, self.on_response, auto_ack=True)
            self.response: bytes | None = None
            self.correlation_id = ""

        def on_response(self, ch: Any, method: Any, properties: Any, body: bytes) -> None:
            if properties.correlation_id == self.correlation_id:
                self.response = body

        def call(self, n: int) -> int:
            self.response, self.correlation_id = None, str(uuid.uuid4())
            self.channel.basic_publish(
                exchange="",
                routing_key=name,
                properties=pika.BasicProperties(reply_to=self.callback_queue, correlation_id=self.correlation_id),
                body=str(n),
            )
            while self.response is None:
                self.connection.process_data_events(time_limit=PATIENCE)
            return int(self.response)

    with running(Worker(client, prepare)):
        caller = Caller()
        assert [caller.call(n) for n in (1, 10, 15)] == [1, 55, 610]


def test_confirms(client: Client, name: str) -> None:
    channel = client.channel()
    channel.confirm_delivery()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for number in range(50):
        channel.basic_publish("", queue, str(number), mandatory=True)
    assert channel.queue_declare(queue, passive=True).method.message_count == 50
    with pytest.raises(client.pika.exceptions.UnroutableError):
        channel.basic_publish("", name, b"", mandatory=True)


CTRL_C = """
import sys
import importlib
pika = importlib.import_module(sys.argv[1])
connection = pika.BlockingConnection(pika.ConnectionParameters(sys.argv[2], int(sys.argv[3])))
channel = connection.channel()
queue = channel.queue_declare("", exclusive=True).method.queue
channel.basic_consume(queue, lambda ch, method, properties, body: print(body.decode(), flush=True), auto_ack=True)
channel.basic_publish("", queue, "ready")
try:
    channel.start_consuming()
except KeyboardInterrupt:
    channel.stop_consuming()
connection.close()
print("closed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
def test_ctrl_c_ends_a_worker(client: Client) -> None:
    arguments = [client.pika.__name__, client.broker.host, str(client.broker.port)]
    with subprocess.Popen([sys.executable, "-c", CTRL_C, *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (said, process.returncode) == ("closed\n", 0)
