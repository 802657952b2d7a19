"""What the error of a connection that could not be opened says to write instead."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import cpspika
from cpspika.client.hints import hint
from tests.support.handshakes import by_hand, causes, say
from tests.support.scripted import SocketBroker

LOST = ConnectionResetError(104, "Connection reset by peer")


@pytest.fixture
def tls(certificates: Any) -> Iterator[SocketBroker]:
    """A broker with a certificate for "localhost" of a private authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with SocketBroker(tls=context) as broker:
        yield broker


def failure(call: Callable[[], Any], kind: type[cpspika.AMQPError] = cpspika.ConnectError) -> Any:
    with pytest.raises(kind) as caught:
        call()
    assert not isinstance(caught.value, (cpspika.LoginError, cpspika.VirtualHostRefused))
    return caught.value


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "Connection reset by peer")], ids=["end", "reset"])
def test_a_link_lost_behind_tune_ok_names_the_frame_max_that_rabbitmq_wants(error: Exception | None) -> None:
    world = by_hand(frame_max=4096)
    say(world, 3)
    world.peer.cut(error)
    world.settle()
    told = world.connected.error
    assert isinstance(told, cpspika.ConnectError)
    assert not isinstance(told, cpspika.VirtualHostRefused)
    assert "frame_max=4096" in str(told)
    assert "8192" in str(told)


@pytest.mark.parametrize(("frame_max", "steps"), [(8192, 3), (0, 3), (4096, 2)])
def test_a_link_that_was_lost_for_another_reason_does_not_name_it(frame_max: int, steps: int) -> None:
    world = by_hand(frame_max=frame_max)
    say(world, steps)
    world.peer.cut(ConnectionResetError(104, "Connection reset by peer"))
    world.settle()
    assert "8192" not in str(world.connected.error)


def test_an_unknown_authority_names_cafile_and_ssl(tls: SocketBroker) -> None:
    error = failure(lambda: cpspika.BlockingConnection(f"amqps://localhost:{tls.port}"))
    assert "certificate verify failed" in str(error)
    assert "cafile=" in str(error)
    assert "ssl=" in str(error)
    assert isinstance(causes(error)[-1], ssl.SSLCertVerificationError)


def test_an_authority_that_cafile_lacks_is_told_as_such(tls: SocketBroker, another_authority: str) -> None:
    error = failure(lambda: cpspika.BlockingConnection(f"amqps://localhost:{tls.port}", cafile=another_authority))
    assert "cafile has no certificate of the authority" in str(error)


@pytest.fixture
def another_authority(tmp_path: Any) -> str:
    path = tmp_path / "other.pem"
    pytest.importorskip("trustme").CA().cert_pem.write_to_path(path)
    return str(path)


def test_a_certificate_for_another_name_names_server_hostname(tls: SocketBroker, certificates: Any) -> None:
    error = failure(lambda: cpspika.BlockingConnection(f"amqps://127.0.0.1:{tls.port}", cafile=certificates.ca))
    assert "server_hostname=" in str(error)


def test_tls_to_a_port_without_it_names_amqp(certificates: Any) -> None:
    with cpspika.broker.serve() as broker:
        error = failure(lambda: cpspika.BlockingConnection(f"amqps://localhost:{broker.port}", cafile=certificates.ca))
    assert "amqp://" in str(error)
    assert isinstance(causes(error)[-1], ssl.SSLError)


def test_a_port_without_tls_that_hangs_up_names_amqp_too(certificates: Any) -> None:
    def hang_up(peer: Any) -> None:
        peer.socket.recv(65536)
        peer.hang_up()

    with SocketBroker(hang_up) as broker:
        error = failure(lambda: cpspika.BlockingConnection(f"amqps://localhost:{broker.port}", cafile=certificates.ca))
    assert "amqp://" in str(error)


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def asking(request: Any, certificates: Any) -> Iterator[SocketBroker]:
    """A broker that asks for the client's certificate, of the same authority as its own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.ca)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = request.param
    with SocketBroker(tls=context) as broker:
        yield broker


def test_a_client_without_the_certificate_that_the_broker_asks_for(asking: SocketBroker, certificates: Any) -> None:
    error = failure(lambda: cpspika.BlockingConnection(f"amqps://localhost:{asking.port}", cafile=certificates.ca))
    assert "certfile=" in str(error)
    assert "without TLS" not in str(error)


def test_a_clients_certificate_of_an_authority_that_the_broker_does_not_know(
    asking: SocketBroker, certificates: Any, tmp_path: Any
) -> None:
    path = str(tmp_path / "client.pem")
    stranger = pytest.importorskip("trustme").CA().issue_cert("joe@example.org")
    stranger.private_key_and_cert_chain_pem.write_to_path(path)
    url = f"amqps://localhost:{asking.port}"
    error = failure(lambda: cpspika.BlockingConnection(url, cafile=certificates.ca, certfile=path))
    assert "authority that signed the certificate in certfile" in str(error)


def test_a_broker_that_hangs_up_on_a_client_without_certificate() -> None:
    """RabbitMQ 3.10 with TLS 1.3 does, behind the handshake. Before it is done, the port may be one without TLS."""
    eof = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
    with_tls = cpspika.ConnectionParameters(ssl=ssl.create_default_context())
    for error in (eof, LOST, None):
        assert "certfile=" in hint(error, "begun", with_tls, {})
    assert "amqp://" in hint(eof, "", with_tls, {})


TELLS = {"capabilities": {"authentication_failure_close": True}}


@pytest.mark.parametrize(
    ("error", "state", "properties", "said"),
    [
        (None, "securing", {}, "hangs up if it refuses the credentials"),
        (None, "challenged", {}, "hangs up if it refuses the credentials"),
        (None, "securing", TELLS, ""),
        (LOST, "securing", {}, ""),
        (None, "tuning", {}, ""),
        (None, "opening", TELLS, "may refuse the virtual host 'v'"),
        (LOST, "opening", {}, ""),
        (None, "begun", {}, ""),
        (LOST, "begun", {}, ""),
    ],
)
def test_the_hint_of_a_link_without_tls(error: Any, state: str, properties: Any, said: str) -> None:
    told = hint(error, state, cpspika.ConnectionParameters(virtual_host="v"), properties)
    assert said in told
    assert bool(said) is bool(told)
    assert isinstance(told, str)


def test_an_error_of_tls_that_nothing_is_known_of_has_no_hint() -> None:
    with_tls = cpspika.ConnectionParameters(ssl=ssl.create_default_context())
    unknown = ssl.SSLCertVerificationError("expired")
    unknown.verify_code = 10
    assert hint(LOST, "", with_tls, {}) == ""
    for error in (ssl.SSLError("no shared cipher"), unknown):
        for state in ("", "begun"):
            assert hint(error, state, with_tls, {}) == ""
