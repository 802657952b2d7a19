"""A BlockingConnection and its parameters: pika's own, and the face's."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from importlib import import_module
from typing import Any

import pytest

import cpspika.integrations.pika as face
from tests.integrations.conftest import Client
from tests.support.scripted import method_frame

# --- parameters -------------------------------------------------------------------------------------------------------


def test_the_default_parameters(pika: Any) -> None:
    for parameters in (pika.ConnectionParameters(), pika.URLParameters("amqp://")):
        assert (parameters.host, parameters.port, parameters.virtual_host) == ("localhost", 5672, "/")
        assert parameters.credentials == pika.PlainCredentials("guest", "guest")
        assert (parameters.heartbeat, parameters.blocked_connection_timeout) == (None, None)
        assert (parameters.channel_max, parameters.frame_max) == (65535, 131072)
        assert (parameters.connection_attempts, parameters.retry_delay) == (1, 2.0)
        assert (parameters.socket_timeout, parameters.stack_timeout) == (10.0, 15.0)
        assert (parameters.ssl_options, parameters.client_properties, parameters.tcp_options) == (None, None, None)
        assert parameters.locale == "en_US"
    assert pika.ConnectionParameters.DEFAULT_PORT == 5672


def test_given_parameters(pika: Any) -> None:
    options = pika.SSLOptions(ssl.create_default_context(), "broker")
    parameters = pika.ConnectionParameters(
        "a", virtual_host="v", credentials=pika.credentials.ExternalCredentials(), heartbeat=7, ssl_options=options
    )
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("a", 5671, "v")
    assert parameters.ssl_options.server_hostname == "broker"
    assert parameters.heartbeat == 7
    parameters.heartbeat = 8
    parameters.port = "15"
    assert (parameters.heartbeat, parameters.port) == (8, 15)
    assert pika.ConnectionParameters("a", 1) == pika.ConnectionParameters("a", 1, "other")
    assert pika.ConnectionParameters("a", 1) != pika.ConnectionParameters("a", 2)
    assert repr(pika.ConnectionParameters("a")) == "<ConnectionParameters host=a port=5672 virtual_host=/ ssl=False>"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"host": 1}, TypeError),
        ({"port": "x"}, TypeError),
        ({"heartbeat": "7"}, TypeError),
        ({"heartbeat": -1}, ValueError),
        ({"frame_max": 7}, ValueError),
        ({"frame_max": 200_000}, ValueError),
        ({"channel_max": 0}, ValueError),
        ({"channel_max": "7"}, TypeError),
        ({"connection_attempts": 0}, ValueError),
        ({"retry_delay": "7"}, TypeError),
        ({"socket_timeout": 0}, ValueError),
        ({"stack_timeout": "7"}, TypeError),
        ({"blocked_connection_timeout": -1}, ValueError),
        ({"blocked_connection_timeout": "7"}, TypeError),
        ({"client_properties": []}, TypeError),
        ({"credentials": ("guest", "guest")}, TypeError),
        ({"ssl_options": True}, TypeError),
        ({"tcp_options": []}, TypeError),
        ({"virtual_host": None}, TypeError),
        ({"locale": None}, TypeError),
        ({"unknown": 1}, TypeError),
    ],
    ids=str,
)
def test_mistakes_in_parameters(pika: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        pika.ConnectionParameters(**options)


def test_a_url(pika: Any) -> None:
    url = (
        "amqp://us%40er:pass%2Fword@host:15/v%2Fhost?heartbeat=7&connection_attempts=3&retry_delay=0.5"
        "&socket_timeout=1.5&stack_timeout=2&blocked_connection_timeout=3&channel_max=4&frame_max=5000&locale=fr"
        "&client_properties=%7B%27a%27%3A1%7D&tcp_options=%7B%27TCP_KEEPIDLE%27%3A60%7D"
    )
    p = pika.URLParameters(url)
    assert (p.host, p.port, p.virtual_host) == ("host", 15, "v/host")
    assert p.credentials == pika.PlainCredentials("us@er", "pass/word")
    assert (p.heartbeat, p.connection_attempts, p.retry_delay) == (7, 3, 0.5)
    assert (p.socket_timeout, p.stack_timeout, p.blocked_connection_timeout) == (1.5, 2.0, 3.0)
    assert (p.channel_max, p.frame_max, p.locale) == (4, 5000, "fr")
    assert (p.client_properties, p.tcp_options) == ({"a": 1}, {"TCP_KEEPIDLE": 60})
    assert pika.URLParameters("amqps://host").port == 5671
    assert isinstance(pika.URLParameters("amqps://host").ssl_options, pika.SSLOptions)
    assert pika.URLParameters("amqp://host/").virtual_host == "/"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "amqp://host?unknown=1",
        "amqp://host?heartbeat=x",
        "amqp://host?heartbeat=1&heartbeat=2",
        "amqps://host?ssl_options=None",
    ],
)
def test_mistakes_in_a_url(pika: Any, url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (pika has another text for each)
        pika.URLParameters(url)


def test_credentials(pika: Any) -> None:
    start = pika.spec.Connection.Start(mechanisms="PLAIN AMQPLAIN")
    plain = pika.PlainCredentials("user", "pass", erase_on_connect=True)
    assert plain.response_for(start) == ("PLAIN", b"\0user\0pass")
    assert pika.credentials.ExternalCredentials().response_for(start) == (None, None)
    plain.erase_credentials()
    assert (plain.username, plain.password) == (None, None)
    assert pika.PlainCredentials("a", "b") != pika.PlainCredentials("a", "c")


def test_ssl_options_take_a_context(pika: Any) -> None:
    with pytest.raises(TypeError):
        pika.SSLOptions({"ca_certs": "file"})


# --- connecting -------------------------------------------------------------------------------------------------------


def test_a_connection(client: Client) -> None:
    with client.connect() as connection:
        assert connection.is_open
        assert not connection.is_closed
        assert connection.basic_nack_supported
        assert connection.consumer_cancel_notify_supported
        assert connection.exchange_exchange_bindings_supported
        assert connection.publisher_confirms_supported
        assert connection.publisher_confirms
        assert connection.channel().channel_number == 1
        assert connection.channel().channel_number == 2
    assert connection.is_closed
    for call in (
        connection.channel,
        connection.close,
        lambda: connection.process_data_events(time_limit=None),
        lambda: connection.add_callback_threadsafe(print),
        lambda: connection.update_secret("secret", "reason"),
    ):
        with pytest.raises(client.pika.exceptions.ConnectionWrongStateError):
            call()


def test_closing_closes_the_channels(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    channel.basic_consume(client.filled(channel, "0"), print)
    connection.close(320, "enough")
    assert channel.is_closed
    with pytest.raises(client.pika.exceptions.ChannelWrongStateError):
        channel.queue_declare("")
    with connection:
        pass  # leaving a closed connection is no error


def test_by_url(client: Client) -> None:
    url = f"amqp://guest:guest@{client.broker.host}:{client.broker.port}/%2F?heartbeat=30&connection_attempts=2"
    connection = client.connect(client.pika.URLParameters(url))
    connection.channel().queue_declare("", exclusive=True)


def test_many_options(client: Client) -> None:
    connection = client.connect(
        heartbeat=0,
        frame_max=8192,
        channel_max=10,
        blocked_connection_timeout=300,
        client_properties={"connection_name": "test"},
        tcp_options={"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000},
        credentials=client.pika.PlainCredentials("guest", "guest", erase_on_connect=True),
        socket_timeout=5,
        stack_timeout=None,
    )
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.basic_publish("", queue, b"x" * 20_000)
    assert len(client.get(channel, queue)[2]) == 20_000


def test_tcp_options_of_a_link_without_a_socket_are_passed_over() -> None:
    options = {"TCP_USER_TIMEOUT": 20_000}
    parameters = face.URLParameters("embedded://")
    parameters.tcp_options = options
    with face.BlockingConnection(parameters) as connection:
        assert connection.is_open


def test_no_broker_at_the_address(client: Client) -> None:
    nowhere = client.pika.ConnectionParameters("127.0.0.1", 1, connection_attempts=2, retry_delay=0.01)
    with pytest.raises(client.pika.exceptions.AMQPConnectionError) as caught:
        client.connect(nowhere)
    assert type(caught.value) is client.pika.exceptions.AMQPConnectionError
    assert client.connect([nowhere, client.parameters()]).is_open  # all are tried, in order
    assert client.connect((client.parameters(), nowhere)).is_open
    with pytest.raises(ValueError, match="empty sequence"):
        client.pika.BlockingConnection([])


def test_a_wrong_password(client: Client) -> None:
    with pytest.raises(client.pika.exceptions.ProbableAuthenticationError) as caught:
        client.connect(credentials=client.pika.PlainCredentials("guest", "wrong password"))
    assert "ACCESS_REFUSED" in str(caught.value)
    assert "wrong password" not in str(caught.value)


def test_an_unknown_virtual_host(client: Client) -> None:
    with pytest.raises(client.pika.exceptions.AMQPConnectionError) as caught:
        client.connect(virtual_host="cpspika-nowhere")
    assert "cpspika-nowhere" in repr(caught.value)


def test_a_mechanism_that_the_broker_does_not_offer(own_client: Client) -> None:
    with pytest.raises(own_client.pika.exceptions.AMQPConnectionError):
        own_client.connect(credentials=own_client.pika.credentials.ExternalCredentials())


def test_a_host_that_nobody_knows(pika: Any) -> None:
    with pytest.raises(socket.gaierror):
        pika.BlockingConnection(pika.ConnectionParameters("cpspika.invalid"))


def listening(*answers: bytes) -> tuple[socket.socket, int]:
    """A peer that reads once before each of these answers and once behind the last, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            for each in answers:
                peer.recv(65536)
                peer.sendall(each)
            peer.recv(65536)

    threading.Thread(target=answer, daemon=True).start()
    return listener, listener.getsockname()[1]


START = method_frame(
    0,
    "connection.start",
    version_major=0,
    version_minor=9,
    server_properties={"product": "scripted"},
    mechanisms=b"PLAIN",
    locales=b"en_US",
)
TUNE = method_frame(0, "connection.tune", channel_max=10, frame_max=8192, heartbeat=0)


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([], "IncompatibleProtocolError"),  # a broker behind a proxy that is not up yet
        ([START], "ProbableAuthenticationError"),
        ([START, TUNE], "ProbableAccessDeniedError"),
    ],
    ids=["begun", "started", "tuned"],
)
def test_a_peer_that_hangs_up_in_the_handshake(pika: Any, answers: list[bytes], error: str) -> None:
    listener, port = listening(*answers)
    with listener, pytest.raises(getattr(pika.exceptions, error)):
        pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port))


def test_a_peer_that_resets_the_link_before_it_says_anything(pika: Any) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def reset() -> None:
        peer, _ = listener.accept()
        peer.recv(1)
        peer.close()  # with bytes unread, which makes it a reset

    threading.Thread(target=reset, daemon=True).start()
    with listener, pytest.raises(pika.exceptions.IncompatibleProtocolError):
        pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", listener.getsockname()[1]))


def test_a_peer_that_says_nothing(pika: Any) -> None:
    workflow = import_module(f"{pika.__name__}.adapters.utils.connection_workflow")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        parameters = pika.ConnectionParameters("127.0.0.1", silent.getsockname()[1], stack_timeout=0.1)
        with pytest.raises(workflow.AMQPConnectorStackTimeout) as caught:
            pika.BlockingConnection(parameters)
    if pika is face:  # programs that forget pika's own class catch it too
        assert isinstance(caught.value, face.exceptions.AMQPConnectionError)


def test_booleans_as_numbers(client: Client) -> None:
    parameters = client.parameters(heartbeat=False, connection_attempts=True, blocked_connection_timeout=True)
    assert (parameters.heartbeat, parameters.connection_attempts) == (0, 1)
    assert client.connect(parameters).is_open
    assert client.connect(heartbeat=True).is_open


def test_credentials_of_the_programs_own(client: Client) -> None:
    class Own:
        TYPE = "PLAIN"
        erased = 0

        def response_for(self, start: Any) -> tuple[str, bytes]:
            return "PLAIN", b"\0guest\0guest"

        def erase_credentials(self) -> None:
            Own.erased += 1

    types = client.pika.credentials.VALID_TYPES
    types.append(Own)
    try:
        assert client.connect(credentials=Own()).is_open
    finally:
        types.remove(Own)
    assert Own.erased == 1


@pytest.mark.rabbitmq
def test_tls(pika: Any, node: Any, certificates: Any) -> None:
    port = int(node.tls_url.rpartition(":")[2].partition("/")[0])
    options = pika.SSLOptions(certificates.context, "localhost")
    with pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, ssl_options=options)) as connection:
        connection.channel().queue_declare("", exclusive=True)
    wrong = pika.ConnectionParameters("127.0.0.1", port, ssl_options=pika.SSLOptions(certificates.context))
    with pytest.raises(ssl.SSLCertVerificationError):
        pika.BlockingConnection(wrong)
    url = f"amqps://guest:guest@localhost:{port}/?ssl_options=%7B%27cafile%27%3A%27{certificates.ca}%27%7D"
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        assert connection.is_open


# --- the connection's end ---------------------------------------------------------------------------------------------


def test_the_broker_closes_the_connection(own_client: Client) -> None:
    connection = own_client.connect()
    channel = connection.channel()
    own_client.broker.close_connections(320, "CONNECTION_FORCED - enough")
    with pytest.raises(own_client.pika.exceptions.ConnectionClosedByBroker) as caught:
        connection.process_data_events(time_limit=20)
    assert (caught.value.reply_code, caught.value.reply_text) == (320, "CONNECTION_FORCED - enough")
    assert isinstance(caught.value, own_client.pika.exceptions.ConnectionClosed)
    assert connection.is_closed
    assert channel.is_closed
    with pytest.raises(own_client.pika.exceptions.ConnectionWrongStateError):
        connection.process_data_events(time_limit=None)
    with pytest.raises(own_client.pika.exceptions.ChannelWrongStateError):
        channel.queue_declare("")


@pytest.mark.parametrize("waits", ["start_consuming", "consume", "sleep"])
def test_a_link_that_is_lost_while_the_program_waits(own_client: Client, waits: str) -> None:
    connection = own_client.connect()
    channel = connection.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    wait = {
        "start_consuming": lambda: channel.start_consuming(),
        "consume": lambda: next(channel.consume(queue)),
        "sleep": lambda: connection.sleep(30),
    }[waits]
    if waits == "start_consuming":
        channel.basic_consume(queue, print)
    threading.Timer(0.1, own_client.broker.drop_links).start()
    with pytest.raises(own_client.pika.exceptions.StreamLostError):
        wait()
    assert connection.is_closed


def test_a_link_that_was_lost_shows_at_the_next_call(own_client: Client) -> None:
    connection = own_client.connect()
    channel = connection.channel()
    own_client.broker.drop_links()
    with pytest.raises(own_client.pika.exceptions.StreamLostError):
        channel.queue_declare("")
    with pytest.raises(own_client.pika.exceptions.ConnectionWrongStateError):
        connection.channel()


@pytest.mark.long
def test_a_broker_that_is_silent(own_client: Client) -> None:
    connection = own_client.connect(heartbeat=1)
    own_client.broker.stall()
    with pytest.raises(own_client.pika.exceptions.AMQPHeartbeatTimeout):
        connection.sleep(30)
    own_client.broker.stall(False)


def test_a_confirmed_publish_whose_fate_is_unknown(own_client: Client) -> None:
    channel = own_client.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.confirm_delivery()
    own_client.broker.stall()
    threading.Timer(0.1, own_client.broker.drop_links).start()
    with pytest.raises(own_client.pika.exceptions.AMQPConnectionError):
        channel.basic_publish("", queue, b"")


# --- events -----------------------------------------------------------------------------------------------------------


def test_timers(client: Client) -> None:
    connection = client.connect()
    told: list[str] = []
    connection.call_later(0.02, lambda: told.append("second"))
    connection.call_later(0, lambda: told.append("first"))
    dropped = connection.call_later(0.01, lambda: told.append("dropped"))
    connection.remove_timeout(dropped)
    assert told == []
    client.pump(connection, lambda: len(told) == 2, "two calls")
    assert told == ["first", "second"]
    late = connection.call_later(0, lambda: told.append("late"))
    connection.channel()  # the timer is due, and its call waits
    connection.remove_timeout(late)
    connection.process_data_events(time_limit=0.05)
    assert told == ["first", "second"]
    with pytest.raises(TypeError):
        connection.call_later(1, "print")


def test_no_time_is_negative(client: Client) -> None:
    connection = client.connect()
    for call in (
        lambda: connection.call_later(-1, print),
        lambda: connection.process_data_events(-1),
        lambda: connection.sleep(-1),
    ):
        with pytest.raises((ValueError, AssertionError)):
            call()


def test_sleep_runs_callbacks(client: Client) -> None:
    connection = client.connect()
    told: list[int] = []
    connection.call_later(0.01, lambda: told.append(threading.get_ident()))
    connection.sleep(0.2)
    assert told == [threading.get_ident()]
    connection.sleep(0)


def test_callbacks_of_other_threads(client: Client) -> None:
    connection = client.connect()
    channel = connection.channel()
    queue = client.filled(channel, "0")
    told: list[Any] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        def work() -> None:
            connection.add_callback_threadsafe(lambda: finish(method.delivery_tag))

        threading.Thread(target=work).start()

    def finish(tag: int) -> None:
        told.append(threading.get_ident())
        channel.basic_ack(tag)
        channel.stop_consuming()

    channel.basic_consume(queue, on_message)
    channel.start_consuming()
    assert told == [threading.get_ident()]
    assert channel.queue_declare(queue, passive=True).method.message_count == 0


def test_another_thread_ends_a_wait_without_limit(client: Client) -> None:
    connection = client.connect()
    told: list[int] = []
    threading.Timer(0.05, lambda: connection.add_callback_threadsafe(lambda: told.append(1))).start()
    connection.process_data_events(time_limit=None)
    assert told == [1]


def test_a_blocked_connection(own_client: Client) -> None:
    connection = own_client.connect()
    told: list[Any] = []
    connection.add_on_connection_blocked_callback(lambda *args: told.append(args))
    connection.add_on_connection_unblocked_callback(lambda *args: told.append(args))
    own_client.broker.block("no memory")
    own_client.pump(connection, lambda: told, "connection.blocked")
    own_client.broker.unblock()
    own_client.pump(connection, lambda: len(told) == 2, "connection.unblocked")
    (who, blocked), (_, unblocked) = told
    assert who is connection
    assert isinstance(blocked.method, own_client.pika.spec.Connection.Blocked)
    assert blocked.method.reason == "no memory"
    assert isinstance(unblocked.method, own_client.pika.spec.Connection.Unblocked)


def test_a_connection_that_stays_blocked(own_client: Client) -> None:
    connection = own_client.connect(blocked_connection_timeout=0.1)
    own_client.broker.block()
    with pytest.raises(own_client.pika.exceptions.ConnectionBlockedTimeout):
        connection.sleep(20)
    own_client.broker.unblock()


@pytest.mark.rabbitmq
def test_a_new_secret(pika: Any, node: Any) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.url)) as connection:
        connection.update_secret("guest", "renewed")


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_tree_of_exceptions(pika: Any) -> None:
    """The face has pika's exceptions, each under the same ones."""
    real = pytest.importorskip("pika").exceptions

    def tree(module: Any) -> dict[str, set[str]]:
        classes = {name: cls for name, cls in vars(module).items() if isinstance(cls, type) and name[0] != "_"}
        return {
            name: {base.__name__ for base in cls.__mro__ if base.__name__[0] != "_"}
            for name, cls in classes.items()
            if issubclass(cls, Exception)
        }

    assert tree(pika.exceptions) == tree(real)


def test_the_methods_of_the_protocol(pika: Any) -> None:
    """The face has pika's methods, with the same arguments in the same order."""
    real = pytest.importorskip("pika").spec
    for name in ("Access", "Basic", "Channel", "Confirm", "Connection", "Exchange", "Queue", "Tx"):
        for method_name, method in vars(getattr(real, name)).items():
            if isinstance(method, type):
                mine = getattr(getattr(pika.spec, name), method_name)
                assert (mine.NAME, mine.INDEX) == (method.NAME, method.INDEX)
                code, other = mine.__init__.__code__, method.__init__.__code__
                assert code.co_varnames[1 : code.co_argcount] == other.co_varnames[1 : other.co_argcount]
    numbers = {name: value for name, value in vars(real).items() if isinstance(value, int) and name.isupper()}
    assert {name: getattr(pika.spec, name) for name in numbers} == numbers


def test_all_public_methods_are_there(pika: Any) -> None:
    real = pytest.importorskip("pika.adapters.blocking_connection")
    for name in ("BlockingConnection", "BlockingChannel"):
        mine = getattr(pika.adapters.blocking_connection, name)
        for member, value in vars(getattr(real, name)).items():
            if member[0] != "_":
                assert hasattr(mine, member), f"{name}.{member}"
                if callable(value):
                    here, there = getattr(mine, member).__code__, value.__code__
                    assert here.co_varnames[: here.co_argcount] == there.co_varnames[: there.co_argcount], member


def test_the_log_shows_no_secret(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    parameters = client.parameters(credentials=client.pika.PlainCredentials("guest", "secret word"))
    assert "secret word" not in repr(parameters)
    with pytest.raises(client.pika.exceptions.AMQPConnectionError):
        client.connect(parameters)
    assert "secret word" not in caplog.text
