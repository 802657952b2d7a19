"""TLS on each reactor that has sockets: whom it trusts, and that bodies pass whole."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from cpspika import AMQPConnectionError, ConnectError, ConnectionParameters, InvalidProtocolHeader
from tests.support.handshakes import causes
from tests.support.styles import Broker, Scenario, Style, scenario


@pytest.fixture
def broker(node: Any) -> Broker:
    """RabbitMQ alone: the embedded broker has no TLS."""
    return Broker("rabbitmq", node.host, node.port)


@pytest.fixture
def tls(node: Any, certificates: Any) -> Any:
    """URL and trusting context."""
    return node.tls_url, certificates.context


@scenario()
def test_a_trusted_broker(s: Style, tls: Any) -> Scenario:
    url, context = tls
    connection = yield s.connect(url, ssl=context, protocol=s.protocol)
    ch = yield connection.channel()
    queue = (yield ch.queue_declare(exclusive=True)).queue
    got: list[Any] = []
    yield ch.basic_consume(queue, got.append, no_ack=True)
    sent = [b"", b"x", bytes(range(256)) * 4096, b"\xce" * (5 * 2**20)]
    yield [ch.basic_publish("", queue, body) for body in sent]
    yield s.until(lambda: len(got) == len(sent))
    assert [message.body for message in got] == sent
    yield connection.close()


@scenario(only="0-9-1")
def test_a_broker_trusted_by_its_authoritys_file(s: Style, tls: Any, certificates: Any) -> Scenario:
    url, _ = tls
    connection = yield s.connect(url, cafile=certificates.ca, tcp_keepalive=60)
    assert connection.is_open
    yield connection.close()
    numeric = url.replace("localhost", "127.0.0.1")
    connection = yield s.connect(f"{numeric}?cafile={certificates.ca}&server_hostname=localhost")
    assert connection.is_open


@scenario()
def test_parameters_with_a_context(s: Style, tls: Any, node: Any) -> Scenario:
    _, context = tls
    parameters = ConnectionParameters("localhost", node.tls_port, ssl=context, protocol=s.protocol)
    connection = yield s.connect(parameters)
    assert connection.is_open


@scenario(only="0-9-1")
def test_an_untrusted_certificate_is_refused(s: Style, tls: Any, node: Any) -> Scenario:
    url, _ = tls
    with pytest.raises(ConnectError, match=rf"localhost:{node.tls_port}.*certificate verify failed") as caught:
        yield s.connect(url)
    assert isinstance(causes(caught.value)[-1], ssl.SSLCertVerificationError)


@scenario(only="0-9-1")
def test_a_certificate_for_another_name_is_refused(s: Style, tls: Any, node: Any) -> Scenario:
    url, context = tls
    with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{node.tls_port}.*certificate is not valid for") as caught:
        yield s.connect(url.replace("localhost", "127.0.0.1"), ssl=context)
    assert isinstance(causes(caught.value)[-1], ssl.SSLCertVerificationError)


@scenario(only="0-9-1")
def test_a_user_may_choose_to_verify_nothing(s: Style, tls: Any) -> Scenario:
    url, _ = tls
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = yield s.connect(url, ssl=context)
    assert connection.is_open


@scenario(only="0-9-1")
def test_tls_to_a_port_without_it(s: Style, node: Any, certificates: Any) -> Scenario:
    with pytest.raises(ConnectError, match=rf"localhost:{node.port} \(TLS\)"):
        yield s.connect(f"amqps://localhost:{node.port}/", ssl=certificates.context)


@scenario(only="0-9-1")
def test_no_tls_to_a_port_with_it(s: Style, node: Any) -> Scenario:
    with pytest.raises(AMQPConnectionError, match=f"localhost:{node.tls_port}") as caught:
        yield s.connect(f"amqp://localhost:{node.tls_port}/", connection_timeout=3)
    assert isinstance(causes(caught.value)[-1], InvalidProtocolHeader)
