"""What the face of pika has beyond pika: heartbeats beside a callback, `embedded://`, `install`, and words for what is
not there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

import cpspika.integrations.pika as pika
from cpspika.broker import Served, serve
from tests.support.styles import Broker

SECONDS = 120


@pytest.fixture
def served() -> Iterator[Served]:
    with serve() as running:
        yield running


def run(program: str, *arguments: str, seconds: float = SECONDS) -> str:
    """Runs a program in a process of its own, to its end; returns what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.mark.long  # it works for four seconds
def test_heartbeats_go_on_while_a_callback_works(broker: Broker) -> None:
    """RabbitMQ and the embedded broker end a connection that has been silent for two heartbeats."""
    parameters = pika.ConnectionParameters(broker.host, broker.port, heartbeat=1)
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"work")

        def work(where: Any, method: Any, properties: Any, body: bytes) -> None:
            time.sleep(4)  # without the library's doing anything in this thread
            where.basic_ack(method.delivery_tag)
            where.stop_consuming()

        channel.basic_consume(queue, work)
        channel.start_consuming()
        assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_the_brokers_own_memory() -> None:
    with pika.BlockingConnection(pika.URLParameters("embedded://")) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_publish("", queue, b"hello")
        assert next(channel.consume(queue))[2] == b"hello"


def test_calls_from_many_threads(served: Served) -> None:
    with pika.BlockingConnection(pika.ConnectionParameters(served.host, served.port)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.confirm_delivery()
        threads = [
            threading.Thread(target=lambda: [channel.basic_publish("", queue, b"") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert channel.queue_declare(queue, passive=True).method.message_count == 200


def test_a_second_thread_that_waits_does_not_hold_up_the_first(served: Served) -> None:
    with pika.BlockingConnection(pika.ConnectionParameters(served.host, served.port)) as connection:
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        got: list[bytes] = []

        def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
            got.append(body)
            if len(got) == 200:
                where.stop_consuming()

        def wait() -> None:
            while len(got) < 200:
                connection.process_data_events(time_limit=0.05)

        def publish() -> None:
            for number in range(200):
                channel.basic_publish("", queue, str(number))

        channel.basic_consume(queue, on_message, auto_ack=True)
        connection.call_later(0, lambda: [thread.start() for thread in threads])
        threads = [threading.Thread(target=wait), threading.Thread(target=publish)]
        channel.start_consuming()
        for thread in threads:
            thread.join()
        assert got == [str(number).encode() for number in range(200)]


def test_auto_acknowledged_messages_are_not_lost_with_the_link(served: Served) -> None:
    connection = pika.BlockingConnection(pika.ConnectionParameters(served.host, served.port))
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    for number in range(3):
        channel.basic_publish("", queue, str(number))
    got: list[bytes] = []
    channel.basic_consume(queue, lambda ch, method, properties, body: got.append(body), auto_ack=True)
    while channel.queue_declare(queue, passive=True).method.message_count:
        pass
    served.drop_links()
    with pytest.raises(pika.exceptions.StreamLostError):
        channel.start_consuming()
    assert got == [b"0", b"1", b"2"]


def test_properties_are_the_cores(served: Served) -> None:
    """They go through the core's channel as they are."""
    import cpspika

    properties = pika.BasicProperties(app_id="a")
    assert isinstance(properties, cpspika.BasicProperties)
    assert properties.encode() == cpspika.BasicProperties(app_id="a").encode()


def test_absent_parts_say_what_to_use(served: Served) -> None:
    from cpspika.integrations.pika.adapters.asyncio_connection import AsyncioConnection
    from cpspika.integrations.pika.adapters.select_connection import SelectConnection

    class Mine(pika.SelectConnection):
        pass

    for call in (Mine, SelectConnection, AsyncioConnection, pika.channel.Channel, pika.AMQPConnectionWorkflow):
        with pytest.raises(NotImplementedError, match=r"cpspika.integrations.pika has no \w+; use "):
            call()
    with pytest.raises(NotImplementedError, match=r"has no AsyncioConnection; use cpspika\.adapters"):
        AsyncioConnection.create_connection([], print)
    with pytest.raises(AttributeError, match="has no module heartbeat; use the parameter heartbeat"):
        _ = pika.heartbeat
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pika.nonsense
    parameters = pika.ConnectionParameters(served.host, served.port, heartbeat=lambda connection, proposed: proposed)
    with pytest.raises(NotImplementedError, match="heartbeat as a function"):
        pika.BlockingConnection(parameters)


def test_errors_have_a_text_and_a_sentence(served: Served) -> None:
    """Programs log them by `str` and `repr`."""
    connection = pika.BlockingConnection(pika.URLParameters(served.url))
    with pytest.raises(TypeError, match="channel_number takes an int, not 'a'"):
        connection.channel("a")  # type: ignore[arg-type]
    channel = connection.channel()
    with pytest.raises(TypeError, match="prefetch_count take ints, not 0 and '5'"):
        channel.basic_qos(prefetch_count="5")  # type: ignore[arg-type]
    connection.close()
    calls: list[Any] = [connection.channel, connection.process_data_events, lambda: connection.call_later(1, print)]
    for call in calls:
        with pytest.raises(pika.exceptions.ConnectionWrongStateError, match="the connection is closed") as caught:
            call()
        assert repr(caught.value).startswith("ConnectionWrongStateError: The connection is closed: (")
    nacked = pika.exceptions.NackError([])
    assert repr(nacked).startswith("NackError: The broker refused a message")
    assert repr(pika.exceptions.NoFreeChannels()) == "NoFreeChannels: The connection has no free channels"
    with pytest.raises(TypeError, match="url takes a str, not NoneType"):
        pika.URLParameters(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frame_max=10 is out of range: it takes numbers from 4,096 to 131,072"):
        pika.ConnectionParameters(frame_max=10)


# --- processes of their own -------------------------------------------------------------------------------------------


def test_install(served: Served) -> None:
    program = """
        import sys
        import cpspika.integrations.pika
        cpspika.integrations.pika.install()
        cpspika.integrations.pika.install()
        import pika, pika.exceptions
        import pika.adapters.blocking_connection as blocking
        from pika.adapters.blocking_connection import BlockingChannel
        from pika.exchange_type import ExchangeType
        from pika.spec import Basic, BasicProperties
        from pika.channel import Channel
        assert pika is cpspika.integrations.pika
        assert blocking.BlockingConnection is pika.BlockingConnection
        connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
        assert isinstance(connection.channel(), BlockingChannel)
        try:
            pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", 1))
        except pika.exceptions.AMQPConnectionError:
            print("done")
        connection.close()
        from pika.connection import Connection
        from pika.adapters.utils.connection_workflow import AMQPConnectorException
        assert not issubclass(pika.exceptions.AMQPConnectionError, AMQPConnectorException)
        import pika.heartbeat
        try:
            from pika.heartbeat import HeartbeatChecker
        except ImportError as error:
            print(error)
    """
    told = "cpspika.integrations.pika has no heartbeat.HeartbeatChecker; use the parameter heartbeat"
    assert run(program, served.url) == f"done\n{told}\n"


def test_install_refuses_where_pika_is_loaded() -> None:
    pytest.importorskip("pika")
    program = """
        import pika
        import cpspika.integrations.pika
        try:
            cpspika.integrations.pika.install()
        except ImportError as error:
            print(error)
        import sys
        assert sys.modules["pika"] is pika
    """
    told = run(program)
    assert told.startswith("pika is loaded already, from ")
    assert "before the first module imports pika" in told


def test_a_program_that_ends_without_closing(served: Served) -> None:
    """What it has published and acknowledged has gone out, as with pika."""
    served.call(lambda: served.vhosts["/"].declare_queue("q", False, False, False, False, {}, None))
    program = """
        import sys
        import cpspika.integrations.pika as pika
        channel = pika.BlockingConnection(pika.URLParameters(sys.argv[1])).channel()
        for number in range(2000):
            channel.basic_publish("", "q", str(number))
        method, properties, body = channel.basic_get("q")
        channel.basic_ack(method.delivery_tag)
    """
    run(program, served.url)
    deadline = time.monotonic() + 20
    while served.connections:
        assert time.monotonic() < deadline, "the connection has not ended"
    assert [message.body for message in served.queues["q"].messages] == [str(n).encode() for n in range(1, 2000)]


DRAMATIQ = """
    import sys
    import threading
    import cpspika.integrations.pika
    cpspika.integrations.pika.install()
    import dramatiq
    import pika
    from dramatiq.brokers.rabbitmq import RabbitmqBroker
    from dramatiq.middleware import Retries

    assert pika is cpspika.integrations.pika
    broker = RabbitmqBroker(url=sys.argv[1], confirm_delivery=True)
    dramatiq.set_broker(broker)
    added, failures, lock = [], [], threading.Lock()

    @dramatiq.actor(queue_name=sys.argv[2])
    def add(a, b):
        with lock:
            added.append(a + b)

    @dramatiq.actor(queue_name=sys.argv[2], min_backoff=50, max_backoff=100, max_retries=3)
    def fails_twice():
        with lock:
            failures.append(1)
        if len(failures) < 3:
            raise ZeroDivisionError

    worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=4)
    worker.start()
    for number in range(100):
        add.send(number, 1)
    add.send_with_options(args=(1000, 0), delay=100)
    fails_twice.send()
    broker.join(sys.argv[2], timeout=60_000)
    worker.join()
    worker.stop()
    broker.close()
    assert sorted(added) == [*range(1, 101), 1000], added
    assert len(failures) == 3, failures
    print("done")
"""


@pytest.mark.slow
def test_dramatiq(broker: Broker) -> None:
    pytest.importorskip("dramatiq")
    url = f"amqp://guest:guest@{broker.host}:{broker.port}/%2F"
    assert run(DRAMATIQ, url, f"cpspika-{os.getpid()}-{broker.name}") == "done\n"


@pytest.mark.long
def test_dramatiq_goes_on_after_its_links_were_lost() -> None:
    pytest.importorskip("dramatiq")
    program = """
        import threading
        import cpspika.integrations.pika
        from cpspika.broker import serve
        cpspika.integrations.pika.install()
        import dramatiq
        from dramatiq.brokers.rabbitmq import RabbitmqBroker

        with serve() as served:
            broker = RabbitmqBroker(url=served.url, confirm_delivery=True)
            dramatiq.set_broker(broker)
            done, half, every = set(), threading.Event(), threading.Event()

            @dramatiq.actor(queue_name="tasks", min_backoff=50, max_backoff=100)
            def work(number):
                done.add(number)
                if len(done) == 50:
                    half.set()
                if len(done) == 100:
                    every.set()

            worker = dramatiq.Worker(broker, worker_timeout=100, worker_threads=2)
            worker.start()
            for number in range(50):
                work.send(number)
            assert half.wait(60), f"{len(done)} of the first 50 tasks are done"
            served.drop_links()
            for number in range(50, 100):
                work.send(number)
            assert every.wait(60), f"{len(done)} of 100 tasks are done"
            worker.stop()
            broker.close()
        print("done")
    """
    assert run(program) == "done\n"
