"""kombu on its transport of cpspika, on the embedded broker and on RabbitMQ."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

import cpspika
from cpspika.integrations.kombu.errors import raise_translated
from cpspika.parameters import Remedy
from tests.support.scripted import free_port

kombu: Any = pytest.importorskip("kombu")
amqp: Any = pytest.importorskip("amqp")
hub: Any = pytest.importorskip("kombu.asynchronous.hub")
face: Any = pytest.importorskip("cpspika.integrations.kombu")

TRANSPORT = "cpspika.integrations.kombu:Transport"
PATIENCE = 10.0


def url(broker: Any, port: int | None = None) -> str:
    return f"amqp://guest:guest@{broker.host}:{port or broker.port}//"


def connect(*target: str, **options: Any) -> None:
    """Connects, where that fails: as kombu.Connection.connect, which would wait two seconds and try again."""
    connection = kombu.Connection(*target, transport=TRANSPORT, **options)
    connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False)


@pytest.fixture
def connection(broker: Any) -> Iterator[Any]:
    with kombu.Connection(url(broker), transport=TRANSPORT) as made:
        yield made


@pytest.fixture
def queue() -> Any:
    name = f"kombu-{uuid4().hex}"
    return kombu.Queue(name, routing_key=name, auto_delete=True)


def publish(channel: Any, queue: Any, *bodies: Any, **options: Any) -> None:
    producer = kombu.Producer(channel)
    for body in bodies:
        producer.publish(body, routing_key=queue.routing_key, declare=[queue], **options)


def drained(connection: Any, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        assert time.monotonic() < end, f"it did not happen within {PATIENCE} s"
        try:
            connection.drain_events(timeout=0.1)
        except TimeoutError:
            pass


def until_queued(connection: Any, queue: Any, count: int) -> None:
    """RabbitMQ may answer a declare before the messages that came before are in the queue."""
    bound, end = queue(connection.default_channel), time.monotonic() + PATIENCE
    while (found := bound.queue_declare(passive=True).message_count) != count:
        assert time.monotonic() < end, f"{found} messages are in the queue, not {count}"


def test_a_message_arrives_as_py_amqp_gives_it(connection: Any, queue: Any) -> None:
    got: list[Any] = []
    publish(connection, queue, {"a": 1}, headers={"k": ["v", None]}, priority=3, correlation_id="c", timestamp=7)
    with connection.Consumer([queue], on_message=got.append):
        drained(connection, lambda: bool(got))
    (message,) = got
    assert message.payload == {"a": 1}
    assert message.body == '{"a": 1}'
    assert message.headers == message.properties["application_headers"] == {"k": ["v", None]}
    expected = {"priority": 3, "correlation_id": "c", "timestamp": 7, "content_encoding": "utf-8", "delivery_mode": 2}
    assert expected.items() <= message.properties.items()
    assert message.delivery_info["routing_key"] == queue.name
    message.ack()


def test_a_drain_hands_out_one_event(connection: Any, queue: Any) -> None:
    got: list[Any] = []
    publish(connection, queue, 0, 1, 2)
    with connection.Consumer([queue], callbacks=[lambda body, message: got.append(body)], no_ack=True):
        for number in range(3):
            connection.drain_events(timeout=PATIENCE)
            assert got == list(range(number + 1))
        with pytest.raises(socket.timeout):
            connection.drain_events(timeout=0)


def test_a_cancel_hands_out_what_has_arrived(connection: Any, queue: Any) -> None:
    got: list[Any] = []
    publish(connection, queue, 0, 1, 2)
    with connection.Consumer([queue], callbacks=[lambda body, message: got.append(body)], no_ack=True):
        connection.drain_events(timeout=PATIENCE)
    assert got == [0, 1, 2]


def test_a_refused_connection_is_an_os_error() -> None:
    with pytest.raises(ConnectionRefusedError):
        connect(f"amqp://127.0.0.1:{free_port()}")


def test_a_wrong_password_and_a_missing_virtual_host(broker: Any) -> None:
    options = {"hostname": broker.host, "port": broker.port, "transport": TRANSPORT}
    with pytest.raises(amqp.AccessRefused) as refused:
        kombu.Connection(userid="guest", password="wrong-secret", **options).connect()
    assert "wrong-secret" not in str(refused.value)
    with pytest.raises(amqp.NotAllowed):
        kombu.Connection(virtual_host="nowhere", **options).connect()


def test_failover_keeps_the_transport(broker: Any) -> None:
    urls = [url(broker, free_port()), url(broker)]
    with kombu.Connection(urls, transport=TRANSPORT) as connection:
        connection.ensure_connection(max_retries=3, interval_start=0)
        assert connection.transport.driver_name == "cpspika"
        assert connection.port == broker.port
        assert connection.clone().transport.driver_name == "cpspika"


def test_a_channel_goes_on_after_an_error_of_its_own(connection: Any, queue: Any) -> None:
    channel = connection.channel()
    with pytest.raises(amqp.NotFound) as missing:
        channel.queue_declare(uuid4().hex, passive=True)
    assert (missing.value.reply_code, missing.value.method_sig) == (404, (50, 10))
    assert isinstance(missing.value, connection.channel_errors)
    publish(channel, queue, "after")
    assert queue(channel).get(no_ack=True).payload == "after"


def test_an_ack_of_a_message_before_the_channels_error_hits_no_other(connection: Any, queue: Any) -> None:
    channel = connection.channel()
    publish(channel, queue, "first")
    before = queue(channel).get()
    with pytest.raises(amqp.NotFound):
        channel.queue_declare(uuid4().hex, passive=True)
    after = queue(channel).get()
    with pytest.raises(connection.channel_errors):
        before.ack()
    after.ack()
    assert queue(channel).get() is None


def test_confirms_and_returns(broker: Any, queue: Any) -> None:
    options = {"confirm_publish": True}
    with kombu.Connection(url(broker), transport=TRANSPORT, transport_options=options) as connection:
        publish(connection, queue, "confirmed")
        assert connection.default_channel.queue_declare(queue.name, passive=True).message_count == 1
        returned: list[Any] = []
        producer = kombu.Producer(connection, on_return=lambda error, *rest: returned.append((error, *rest)))
        producer.publish("lost", routing_key=uuid4().hex, mandatory=True)
        assert [error.reply_code for error, *_ in returned] == [312]
        with pytest.raises(amqp.ChannelError):
            kombu.Producer(connection.channel()).publish("lost", routing_key=uuid4().hex, mandatory=True)
        queue(connection.default_channel).delete()


def test_a_lost_connection_is_told_before_kombu_replaces_it(connection: Any, queue: Any) -> None:
    with connection.Consumer([queue]):
        link = connection.connection
        link.sock.shutdown(socket.SHUT_RDWR)
        assert connection.connected
        with pytest.raises(connection.connection_errors):
            connection.drain_events(timeout=PATIENCE)
        assert not connection.connected


def test_publishes_in_a_row_make_no_turn_while_nothing_arrives(
    connection: Any, queue: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(connection, queue, 0)
    established = connection.connection
    if established._poll is None:
        pytest.skip("this system has no poll")
    turns: list[None] = []
    turn = established.link.turn
    monkeypatch.setattr(established.link, "turn", lambda: (turns.append(None), turn()))
    monkeypatch.setattr("cpspika.integrations.kombu.connection.TURN", 60.0)
    producer = kombu.Producer(connection.default_channel)
    for number in range(20):
        producer.publish(number, routing_key=queue.routing_key)
    assert len(turns) <= 1  # the first may be due
    until_queued(connection, queue, 21)
    before = len(turns)
    established._turn_due = 0.0
    producer.publish(20, routing_key=queue.routing_key)
    assert len(turns) == before + 1


def test_a_burst_ends_when_the_event_loop_has_a_call_to_make(connection: Any, queue: Any) -> None:
    got: list[Any] = []
    waiting: set[Any] = set()

    def on_message(message: Any) -> None:
        got.append(message)
        waiting.add(message.ack)

    publish(connection, queue, *range(5))
    until_queued(connection, queue, 5)
    end = time.monotonic() + PATIENCE
    with connection.Consumer([queue], on_message=on_message):
        for count in range(1, 6):
            while len(got) < count:
                assert time.monotonic() < end, "a message does not come"
                connection.connection.drain_burst(waiting)
            assert len(got) == count
            waiting.pop()()


def test_a_publish_after_a_loss_is_sent_again(connection: Any, queue: Any) -> None:
    publish(connection, queue, "before")
    connection.connection.sock.shutdown(socket.SHUT_RDWR)
    producer = kombu.Producer(connection)
    producer.publish("after", routing_key=queue.routing_key, retry=True, declare=[queue])
    bodies = {queue(connection.default_channel).get(no_ack=True).payload for _ in range(2)}
    assert bodies == {"before", "after"}
    queue(connection.default_channel).delete()


@pytest.mark.parametrize("how", ["hub", "thread"])
def test_an_ack_from_elsewhere_has_the_next_message_come(connection: Any, queue: Any, how: str) -> None:
    """With a prefetch of 1, and kombu's event loop: the ack is the loop's own call, or made in the thread."""
    loop, got, threads = hub.Hub(), [], []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        ack = (lambda: loop.call_soon(message.ack)) if how == "hub" else message.ack
        threads.append(threading.Timer(0.05, ack))
        threads[-1].start()

    publish(connection, queue, *range(3))
    with connection.Consumer([queue], callbacks=[callback], prefetch_count=1):
        try:
            connection.register_with_event_loop(loop)
            end = time.monotonic() + PATIENCE
            while len(got) < 3:
                assert time.monotonic() < end, got
                loop.run_once()
        finally:
            for thread in threads:
                thread.join()
            loop.close()
    assert got == [0, 1, 2]


def test_an_ack_while_another_thread_drains(connection: Any, queue: Any) -> None:
    got: list[Any] = []
    threads: list[threading.Timer] = []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        threads.append(threading.Timer(0.05, message.ack))
        threads[-1].start()

    publish(connection, queue, *range(3))
    with connection.Consumer([queue], callbacks=[callback], prefetch_count=1):
        for _ in range(3):
            connection.drain_events(timeout=PATIENCE)
        for thread in threads:
            thread.join()
    assert got == [0, 1, 2]


def test_heartbeats_are_negotiated_and_checked(broker: Any) -> None:
    with kombu.Connection(url(broker), transport=TRANSPORT, heartbeat=30) as connection:
        assert connection.get_heartbeat_interval() == 30
        connection.heartbeat_check()
        connection.connection.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(connection.connection_errors):
            connection.heartbeat_check()
    with kombu.Connection(url(broker), transport=TRANSPORT) as connection:
        connection.connect()
        assert connection.get_heartbeat_interval() == 0


def test_install_takes_the_urls_of_amqp(broker: Any) -> None:
    face.install()
    try:
        assert kombu.Connection(url(broker)).transport.driver_name == "cpspika"
        assert kombu.Connection("amqps://localhost").transport.client.ssl
    finally:
        face.uninstall()
    assert kombu.Connection(url(broker)).transport.driver_name == "py-amqp"
    with kombu.Connection(url(broker).replace("amqp://", "cpspika://")) as connection:
        assert connection.connect()


def test_tls_verifies_the_name(node: Any, certificates: Any) -> None:
    options = {"port": node.tls_port, "ssl": {"ca_certs": certificates.ca}}
    with kombu.Connection("localhost", transport=TRANSPORT, **options) as connection:
        connection.connect()
    with pytest.raises(OSError, match=r"give the name in it as ssl={'server_hostname': ...}"):
        connect("127.0.0.1", **options)
    with pytest.raises(OSError, match=r"give its certificate as ssl={'ca_certs': 'ca.pem'}"):
        connect("localhost", **{**options, "ssl": True})
    with pytest.raises(amqp.ConnectionError, match=r"give ssl=True \(Celery: broker_use_ssl\), or take SSLTransport"):
        connect("127.0.0.1", **{**options, "ssl": False})
    options["ssl"] = {"ca_certs": certificates.ca, "server_hostname": "localhost"}
    with kombu.Connection("127.0.0.1", transport=TRANSPORT, **options) as connection:
        connection.connect()


@contextmanager
def in_a_loop(broker: Any) -> Iterator[tuple[Any, Any, Any]]:
    """A kombu.Connection, its transport's connection, and the event loop that drains it."""
    loop = hub.Hub()
    client = kombu.Connection(url(broker), transport=TRANSPORT)
    client.connect()
    link = client.connection
    client.transport.register_with_event_loop(link, loop)
    yield client, link, loop
    client.collect()
    loop.close()


def test_an_event_loop_hears_nothing_of_a_connection_that_the_program_has_closed(broker: Any) -> None:
    """Celery closes the connection that was lost and makes another: an error of the old one would end that too."""
    with in_a_loop(broker) as (client, link, loop):
        loop.call_soon(client.transport.on_readable, link, loop)
        client.close()
        loop.run_once()


def turned(loop: Any) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        loop.run_once()


def test_an_event_loop_is_told_once_of_a_lost_connection(broker: Any) -> None:
    """Celery resets its loop after the error, and the loop makes the calls that are left in it."""
    with in_a_loop(broker) as (client, link, loop):
        link.link.core._backlog.transport.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(client.connection_errors):
            turned(loop)
        loop.call_soon(client.transport.on_readable, link, loop)
        loop.reset()


def test_a_consumer_is_cancelled_in_silence_once_the_end_of_its_connection_is_known(broker: Any, queue: Any) -> None:
    with kombu.Connection(url(broker), transport=TRANSPORT) as connection:
        consumer = connection.Consumer([queue])
        consumer.consume()
        connection.connection.link.core._backlog.transport.socket.shutdown(socket.SHUT_RDWR)
        with pytest.raises(connection.connection_errors):
            drained(connection, lambda: False)
        consumer.cancel()


def test_hooks_see_the_properties_of_a_publish(connection: Any, queue: Any) -> None:
    seen: list[Any] = []

    class Looking:
        def publishing(self, channel: Any, exchange: str, routing_key: str, properties: Any) -> Any:
            seen.append((properties.headers, properties.priority, repr(properties)))
            return properties

    installed = cpspika.instrument(Looking())
    try:
        publish(connection, queue, "x", headers={"a": 1}, priority=3)
    finally:
        installed()
    ((headers, priority, shown),) = seen
    assert (headers, priority) == ({"a": 1}, 3)
    assert shown.startswith("BasicProperties(")


def test_a_timestamp_in_milliseconds_is_a_number(connection: Any, queue: Any) -> None:
    """As some producers send it: a date beyond those of datetime."""
    bound = queue(connection.default_channel)
    bound.declare()
    stamp = 1_764_000_000_000
    connection.connection.link.channel().basic_publish("", queue.name, "x", {"timestamp": stamp})
    until_queued(connection, queue, 1)
    assert bound.get(no_ack=True).properties["timestamp"] == stamp


def test_a_body_alone_is_a_message(connection: Any, queue: Any) -> None:
    """Celery's shell publishes a str."""
    bound = queue(connection.default_channel)
    bound.declare()
    connection.default_channel.basic_publish("hello", "", queue.name)
    until_queued(connection, queue, 1)
    assert bound.get(no_ack=True).body == "hello"


def test_errors_of_connecting_speak_of_kombus_options(broker: Any) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1") as refused:
        connect(f"amqp://127.0.0.1:{free_port()}//")
    assert str(refused.value).count("Errno") == 1
    with pytest.raises(OSError, match=r"leave out ssl \(Celery: broker_use_ssl\)"):
        connect(url(broker), ssl={"cert_reqs": 0})
    with pytest.raises(cpspika.InvalidArgument, match="ssl has unknown names: cafile; it takes ca_certs, "):
        connect(url(broker), ssl={"cafile": "ca.pem"})


def test_each_remedy_is_told_in_kombus_words() -> None:
    remedies = [text for name, text in vars(Remedy).items() if name.isupper()]
    for remedy in remedies:
        with pytest.raises(OSError, match="ssl") as caught:
            raise_translated(cpspika.ConnectError(f"localhost: it failed; {remedy}"))
        assert remedy not in str(caught.value)


def test_a_mistake_of_the_caller_is_not_its_own_cause(connection: Any) -> None:
    with pytest.raises(cpspika.InvalidArgument) as caught:
        connection.default_channel.queue_declare("x" * 300)
    assert caught.value.__cause__ is not caught.value


def test_a_confirmed_publish_that_comes_back_calls_the_handlers(connection: Any) -> None:
    channel = connection.default_channel
    channel.confirm_select()
    message = channel.prepare_message("x")
    with pytest.raises(amqp.ChannelError) as caught:
        channel.basic_publish(message, "", "nowhere", mandatory=True)
    assert isinstance(caught.value.__cause__, cpspika.MessageReturned)
    got: list[Any] = []
    channel.events["basic_return"].add(lambda *details: got.append(details))
    channel.basic_publish(message, "", "nowhere", mandatory=True)
    ((error, exchange, routing_key, returned),) = got
    assert (error.reply_code, exchange, routing_key, returned.body) == (312, "", "nowhere", "x")


def test_a_limit_of_the_tls_version_may_be_none() -> None:
    from cpspika.integrations.kombu.options import parameters

    ssl = {"tls_minimum_version": None, "tls_maximum_version": None}
    client = kombu.Connection("amqp://localhost", transport=TRANSPORT, ssl=ssl)
    assert parameters(client, {}).ssl is not None
