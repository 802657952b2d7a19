"""Sockets as the options say: TLS by files, the name in the certificate, and the kernel's probes of an idle link."""

from __future__ import annotations

import contextlib
import errno
import select
import signal
import socket
import ssl
import sys
import threading
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import cpspika
from cpspika import ConnectionParameters, InvalidArgument, InvalidArgumentType
from cpspika.adapters import AsyncoreReactor, BlockingReactor, SelectReactor, sockets, waker
from cpspika.adapters.asyncio_reactor import AsyncioReactor
from cpspika.broker import serve
from tests.support.hiding import WithoutAddReader
from tests.support.scripted import Done, SocketBroker, run_until
from tests.support.waiting import DEADLINE

REACTORS = {
    "select": SelectReactor,
    "blocking": BlockingReactor,
    "asyncore": lambda: AsyncoreReactor({}),
    "asyncio": AsyncioReactor,
    "asyncio without add_reader": lambda: AsyncioReactor(WithoutAddReader()),
}


@pytest.fixture(params=REACTORS)
def reactor(request: Any) -> Iterator[Any]:
    try:
        made = REACTORS[request.param]()
    except ImportError:
        pytest.skip("this Python has no asyncore, and pyasyncore is not installed")
    yield made
    getattr(made, "close", lambda: None)()
    if isinstance(made, AsyncioReactor):
        made.loop.close()


@pytest.mark.parametrize("kind", [cpspika.BlockingConnection, cpspika.SelectConnection])
def test_a_close_that_is_answered_at_the_end_of_a_turn_closes_the_socket(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer waits for a call at the turn's end. A call that is made there is for the next turn, and nobody turns
    this reactor any more."""
    with SocketBroker() as broker:
        connection = kind(broker.url)
        transport, reactor = connection.core._backlog.transport, connection._reactor
        on_readable = type(transport).on_readable
        monkeypatch.setattr(type(transport), "on_readable", lambda self: reactor.call_soon(lambda: on_readable(self)))
        connection.close()
        assert transport.socket is None


@contextlib.contextmanager
def connected(reactor: Any, target: Any, **options: Any) -> Iterator[Any]:
    """A connection, and its socket."""
    done, closed = Done("connect"), Done("close")
    cpspika.connect(target, reactor=reactor, on_done=done, **options)
    run_until(reactor, lambda: not done.pending)
    connection = done.result
    transport = connection._backlog.transport
    try:
        yield transport.socket
    finally:
        connection.close(on_done=closed)
        run_until(reactor, lambda: not closed.pending and transport.socket is None)


class Files:
    """Of a private authority: certificates of a broker named "broker.internal" and of a client."""

    def __init__(self, directory: Path):
        trustme = pytest.importorskip("trustme")
        authority = trustme.CA()
        self.ca, self.cert, self.key, self.both, self.encrypted = (
            str(directory / name) for name in ("c+a é.pem", "cert.pem", "key.pem", "both.pem", "encrypted.pem")
        )
        authority.cert_pem.write_to_path(self.ca)
        client = authority.issue_cert("client@example.org")
        client.private_key_pem.write_to_path(self.key)
        client.cert_chain_pems[0].write_to_path(self.cert)
        client.private_key_and_cert_chain_pem.write_to_path(self.both)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("broker.internal").configure_cert(self.server)
        authority.configure_trust(self.server)
        self.server.verify_mode = ssl.CERT_REQUIRED  # no client gets in without a certificate of its own


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def broker(files: Files) -> Iterator[SocketBroker]:
    with SocketBroker(tls=files.server) as running:
        yield running


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_tls_by_options_of_the_url(reactor: Any, broker: SocketBroker, files: Files) -> None:
    paths = "&".join(f"{name}={quote(path)}" for name, path in (("cafile", files.ca), ("certfile", files.both)))
    url = f"amqps://127.0.0.1:{broker.port}/?{paths}&server_hostname=broker.internal"
    with connected(reactor, url) as sock:
        if isinstance(sock, ssl.SSLSocket):  # asyncio's own transports have a plain one below
            assert str(sock.version()).startswith("TLS")
            assert sock.server_hostname == "broker.internal"
        (peer,) = broker.peers
        assert peer.socket.getpeercert()["subjectAltName"] == (("email", "client@example.org"),)


def test_tls_by_options_of_parameters_and_of_connect(broker: SocketBroker, files: Files) -> None:
    tls: Any = {"certfile": Path(files.cert), "keyfile": files.key, "cafile": files.ca}
    parameters = ConnectionParameters("127.0.0.1", broker.port, server_hostname="broker.internal", **tls)
    for target, options in (
        (parameters, {}),
        (parameters, {"heartbeat": 5}),
        (f"amqps://127.0.0.1:{broker.port}", {"server_hostname": "broker.internal", **tls}),
        (f"amqp://127.0.0.1:{broker.port}", {"server_hostname": "broker.internal", **tls}),
        (ConnectionParameters("127.0.0.1", broker.port), {"server_hostname": "broker.internal", **tls}),
    ):
        with connected(SelectReactor(), target, **options) as sock:
            assert sock.version().startswith("TLS")


def test_a_context_of_files_verifies_certificate_and_name(files: Files) -> None:
    for parameters in (
        ConnectionParameters(cafile=files.ca),
        ConnectionParameters(certfile=files.both),
        ConnectionParameters.from_url("amqps://h", cafile=files.ca),
        ConnectionParameters.from_url("amqps://h").replace(cafile=files.ca),
    ):
        context = parameters.ssl
        assert context is not None
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert parameters.port == 5671


def test_the_files_are_the_only_authorities(files: Files) -> None:
    for parameters in (
        ConnectionParameters(cafile=files.ca),
        ConnectionParameters.from_url("amqps://h").replace(cafile=files.ca),
    ):
        assert parameters.ssl is not None
        assert len(parameters.ssl.get_ca_certs()) == 1


def test_a_copy_keeps_the_context_until_the_files_change(files: Files) -> None:
    original = ConnectionParameters(cafile=files.ca)
    assert original.replace(heartbeat=5).ssl is original.ssl
    assert original.replace(certfile=files.both).ssl is not original.ssl
    assert original.replace(cafile=None, ssl=None).ssl is None


def test_amqps_with_ssl_none_is_still_tls() -> None:
    """None says that the program has no context of its own, and not that the link may be open to all."""
    assert ConnectionParameters.from_url("amqps://h", ssl=None).ssl is not None


def test_a_context_and_files_exclude_each_other(files: Files) -> None:
    context = ssl.create_default_context()
    with pytest.raises(InvalidArgument, match=r"^cafile cannot be given together with ssl"):
        ConnectionParameters(ssl=context, cafile=files.ca)
    with pytest.raises(InvalidArgument, match=r"^certfile cannot be given together with ssl"):
        ConnectionParameters(ssl=context).replace(certfile=files.both)


def test_a_key_without_a_certificate_is_refused(files: Files) -> None:
    with pytest.raises(InvalidArgument, match="give certfile too"):
        ConnectionParameters(keyfile=files.key)


@pytest.mark.parametrize("name", ["cafile", "certfile"])
def test_a_file_that_cannot_be_used_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_bytes(b"")
    for path in (tmp_path / "missing.pem", tmp_path / "empty.pem", tmp_path):
        with pytest.raises(InvalidArgument, match=rf"^{name}='.*{path.name}': .*; a PEM file is needed") as caught:
            ConnectionParameters(**{name: path})
        assert isinstance(caught.value.__cause__, OSError)


def test_a_key_of_another_certificate_is_refused_with_both_names(files: Files) -> None:
    other = pytest.importorskip("trustme").CA().issue_cert("other").private_key_pem
    path = Path(files.encrypted)
    other.write_to_path(path)
    with pytest.raises(InvalidArgument, match=r"^certfile='.*cert\.pem' with keyfile='.*encrypted\.pem'"):
        ConnectionParameters(certfile=files.cert, keyfile=path)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_the_password(files: Files) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    Path(files.encrypted).write_bytes(key.private_bytes(pem, form, serialization.BestAvailableEncryption(b"hunter2")))
    with pytest.raises(InvalidArgument, match=r"the private key is encrypted.*ssl="):
        ConnectionParameters(certfile=files.cert, keyfile=files.encrypted)


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile"])
@pytest.mark.parametrize("wrong", [1, True, ["ca.pem"]], ids=repr)
def test_a_path_of_another_type_is_refused(name: str, wrong: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=f"^{name} takes the path of a file"):
        ConnectionParameters(**{name: wrong})


@pytest.mark.parametrize("wrong", ["", b"h", 1], ids=repr)
def test_a_server_hostname_that_is_no_name_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=r"^server_hostname takes"):
        ConnectionParameters(server_hostname=wrong)


# --- probes -----------------------------------------------------------------------------------------------------------


def kept_alive(sock: Any) -> bool:
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))


def probes(sock: Any) -> tuple[int, ...]:
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    return tuple(sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names)


def test_a_link_is_not_probed_without_the_option(reactor: Any) -> None:
    with SocketBroker() as broker, connected(reactor, broker.url) as sock:
        assert not kept_alive(sock)


def test_a_link_is_probed_as_the_option_says(reactor: Any) -> None:
    with SocketBroker() as broker, connected(reactor, broker.url, tcp_keepalive=True) as sock:
        assert kept_alive(sock)


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="this system doesn't show the times of its probes")
def test_the_times_of_the_probes_are_set() -> None:
    with SocketBroker() as broker:
        with connected(SelectReactor(), f"{broker.url}?tcp_keepalive=true") as sock:
            idle, interval, count = probes(sock)
        with connected(SelectReactor(), f"{broker.url}?tcp_keepalive=33") as sock:
            assert probes(sock) == (33, interval, count)
        with connected(SelectReactor(), f"{broker.url}?tcp_keepalive=idle=34,interval=11,count=4") as sock:
            assert probes(sock) == (34, 11, 4)
        with connected(SelectReactor(), broker.url, tcp_keepalive={"count": 5}) as sock:
            assert probes(sock) == (idle, interval, 5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("on", True), ("false", False), ("0", False), ("60", 60),
     ("count=3,idle=60", {"idle": 60, "count": 3})],
)  # fmt: skip
def test_the_option_is_the_same_in_a_url_and_in_parameters(text: str, value: Any) -> None:
    found = ConnectionParameters.from_url(f"amqp://h?tcp_keepalive={text}").tcp_keepalive
    assert found == ConnectionParameters("h", tcp_keepalive=value).tcp_keepalive == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "wrong", ["soon", "", -1, 32768, float("nan"), float("inf"), {}, {"idel": 5}, {"idle": 0}, {"idle": "x"}, [5],
              "idle=", "idle=5,count"]
)  # fmt: skip
def test_a_value_that_is_none_of_these_is_refused(wrong: Any) -> None:
    with pytest.raises((InvalidArgument, InvalidArgumentType), match=r"^tcp_keepalive"):
        ConnectionParameters(tcp_keepalive=wrong)


def test_a_name_with_several_addresses_is_probed_on_whichever_connects() -> None:
    with (
        cpspika.broker.serve() as broker,
        cpspika.BlockingConnection(f"amqp://localhost:{broker.port}", tcp_keepalive=True, timeout=DEADLINE) as conn,
    ):
        assert kept_alive(conn.core._backlog.transport.socket)


# --- what other systems lack ------------------------------------------------------------------------------------------


def test_without_sendmsg_chunks_are_joined_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_HAS_SENDMSG", False)
    sent: list[int] = []
    large, small = b"x" * (sockets.SMALL + 1), b"y"
    out: deque[Any] = deque([small, large, small, b"z" * sockets.JOIN, small])
    while out:
        sent.append(len(sockets.take_first(out, sockets.JOIN)))
    assert sent == [1 + len(large) + 1, sockets.JOIN, 1]


def test_without_poll_a_hang_up_is_seen_once_all_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll", raising=False)
    near, far = socket.socketpair()
    near.setblocking(False)
    with near:
        with far:
            assert not sockets.has_hung_up(near)
            far.send(b"x")
            assert not sockets.has_hung_up(near)
        assert near.recv(10) == b"x"
        assert sockets.has_hung_up(near)


def test_an_error_of_a_socket_has_the_class_of_its_number_and_windows_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(sockets.socket_error(errno.ECONNREFUSED), ConnectionRefusedError)
    monkeypatch.setattr(socket, "errorTab", {errno.ECONNRESET: "The network connection has been reset."}, raising=False)
    error = sockets.socket_error(errno.ECONNRESET)
    assert isinstance(error, ConnectionResetError)
    assert error.strerror == "The network connection has been reset."


@pytest.mark.parametrize("kind", ["select", "asyncore"])
def test_where_ctrl_c_does_not_end_a_wait_it_ends_by_itself(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module(f"cpspika.adapters.{kind}_reactor"), "DEAF", True)
    monkeypatch.setattr(waker, "DEAF_WAIT", 0.01)
    try:
        made = REACTORS[kind]()
    except ImportError:
        pytest.skip("this Python has no asyncore, and pyasyncore is not installed")
    late: list[int] = []
    watchdog = threading.Timer(DEADLINE, lambda: made.call_soon_threadsafe(lambda: late.append(1)))
    watchdog.start()
    release = made.hold()
    made.run_once()
    watchdog.cancel()
    release()
    made.close() if kind == "select" else made.run_once(0)
    assert not late


def test_an_exception_amid_connect_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent switches in connect_ex, so its timeouts come there; nobody has the transport yet."""
    made: list[socket.socket] = []

    class Interrupted(socket.socket):
        def connect_ex(self, address: Any) -> int:
            made.append(self)
            raise KeyboardInterrupt

    monkeypatch.setattr(socket, "socket", Interrupted)
    with SocketBroker() as broker, pytest.raises(KeyboardInterrupt):
        cpspika.SelectConnection(f"amqp://127.0.0.1:{broker.port}")
    assert made
    assert all(each.fileno() == -1 for each in made)


def test_an_interrupt_as_a_socket_is_adopted_goes_on_to_the_program_and_leaves_no_file() -> None:
    class Alarm(Exception):
        pass

    def handler(*_: object) -> None:
        raise Alarm

    def at_fileno(frame: Any, event: str, called: Any) -> None:
        if event == "c_return" and called.__name__ == "fileno" and frame.f_code.co_name == "_adopt":
            sys.setprofile(None)
            signal.raise_signal(signal.SIGALRM)

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with serve() as broker:
            sys.setprofile(at_fileno)
            with pytest.raises(Alarm):
                cpspika.BlockingConnection(broker.url, timeout=5)
            with cpspika.BlockingConnection(broker.url, timeout=5) as connection:
                assert connection.is_open
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGALRM, old)
