"""`doctor`: what each step finds, on brokers and on peers that fail in one step."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from cpspika.broker import serve
from tests.cli.conftest import CommandLine
from tests.conftest import Certificates
from tests.support.rabbitmq import RabbitNode
from tests.support.rabbitmq_features import OLD_PROTOCOL, TRANSIENT_DENIED

STEPS = [
    "name", "tcp", "tls", "header", "mechanisms", "login", "vhost",
    "permissions", "heartbeat", "frame_max", "blocked", "deprecated",
]  # fmt: skip


def steps(cli: CommandLine, *arguments: str, status: int = 0) -> dict[str, Any]:
    found = cli("doctor", "--json", *arguments, status=status).json
    assert found["ok"] is (status == 0)
    assert [step["step"] for step in found["steps"]] == STEPS
    return {step["step"]: step for step in found["steps"]}


def failing(cli: CommandLine, *arguments: str) -> dict[str, Any]:
    """The step that failed; those behind it are left out."""
    found = steps(cli, *arguments, status=1)
    (failed,) = (step for step in found.values() if step["status"] == "failed")
    at = STEPS.index(failed["step"])
    assert [found[name]["status"] for name in STEPS[:at]] == ["ok"] * at
    assert {found[name]["status"] for name in STEPS[at + 1 :]} <= {"skipped"}
    assert failed["advice"]
    one: dict[str, Any] = failed
    return one


def test_a_healthy_broker(cli: CommandLine) -> None:
    found = steps(cli)
    assert {step["status"] for step in found.values()} == {"ok"}, found
    assert "configure, write, read" in found["permissions"]["detail"]
    text = cli("doctor").out
    assert all(f"ok       {name} " in text for name in STEPS)


@pytest.mark.needs(OLD_PROTOCOL)
def test_a_healthy_broker_on_0_8(cli: CommandLine, broker: Any) -> None:
    assert {step["status"] for step in steps(cli, broker.url("0-8")).values()} == {"ok"}


def test_in_memory_there_is_no_socket(on_embedded: CommandLine) -> None:
    found = on_embedded("doctor", "--json", "embedded://").json["steps"]
    assert [step["step"] for step in found] == STEPS[5:]


def test_refusals(cli: CommandLine, broker: Any) -> None:
    wrong = failing(cli, broker.url(password="hunter2"))
    assert (wrong["step"], "hunter2" in str(wrong)) == ("login", False)
    nowhere = failing(cli, broker.url(vhost="nope"))
    assert (nowhere["step"], "add_vhost" in nowhere["advice"]) == ("vhost", True)


def test_nothing_there(on_embedded: CommandLine) -> None:
    assert failing(on_embedded, "amqp://no.such.host.invalid/")["step"] == "name"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused = failing(on_embedded, f"amqp://127.0.0.1:{port}/")
    assert (refused["step"], "nothing listens" in refused["advice"]) == ("tcp", True)
    assert "skipped  tls, header" in on_embedded("doctor", f"amqp://127.0.0.1:{port}/", status=1).out


@contextmanager
def peer(answer: Callable[[Any], object]) -> Iterator[int]:
    """A peer whose answer to each link is answer(socket); its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock:
                    try:
                        answer(sock)
                    except OSError:
                        pass

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "management"),
        (b"AMQP\x00\x01\x00\x00", "another version"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", "amqps://"),
        (b"", "5672 is usual"),
        (b"SSH-2.0-OpenSSH\r\n", "5672 is usual"),
    ],
)
def test_a_peer_that_is_no_broker(said: bytes, advice: str, on_embedded: CommandLine) -> None:
    def answer(sock: Any) -> None:
        if sock.recv(8):
            sock.sendall(said)

    with peer(answer) as port:
        found = failing(on_embedded, f"amqp://127.0.0.1:{port}/")
    assert (found["step"], advice in found["advice"]) == ("header", True), found


def test_a_peer_that_is_silent(on_embedded: CommandLine) -> None:
    with peer(lambda sock: sock.recv(8) and sock.recv(8)) as port:
        found = failing(on_embedded, f"amqp://127.0.0.1:{port}/", "--timeout", "0.3")
    assert (found["step"], "no answer in time" in found["detail"]) == ("header", True)


# --- the rest of the steps --------------------------------------------------------------------------------------------


def test_options_that_are_no_good(on_embedded: CommandLine) -> None:
    found = steps(on_embedded, f"{on_embedded.url}?heartbeat=0&frame_max=4096")
    assert (found["heartbeat"]["status"], found["frame_max"]["status"]) == ("warning", "warning")
    assert "heartbeat=60" in found["heartbeat"]["advice"]
    assert steps(on_embedded, f"{on_embedded.url}?heartbeat=600")["heartbeat"]["status"] == "warning"


@pytest.mark.slow
@pytest.mark.needs(TRANSIENT_DENIED)
def test_a_broker_that_denies_transient_queues(node: Any, capsys: Any) -> None:
    """The one tried here; `node` is there for what this version lacks."""
    with RabbitNode(config="{permit_deprecated_features, #{transient_nonexcl_queues => false}}") as strict:
        cli = CommandLine(strict.url, capsys)
        done = cli("doctor", strict.url)
    assert "(denied here)" in " ".join(done.out.split())
    assert done.err == "", "the client's warning of the probe is no news"


def test_a_broker_that_is_blocked(capsys: Any) -> None:
    with serve() as broker:
        broker.block("low on disk")
        found = steps(CommandLine(broker.url, capsys), broker.url, "--timeout", "0.5", status=1)
    assert found["blocked"]["status"] == "failed"
    assert "alarms" in found["blocked"]["advice"]


def test_permissions(node: Any, name: str, on_embedded: CommandLine) -> None:
    """A user that may only use its own names: doctor says so, and takes one of them."""
    node.eval(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"hunter2">>, <<"me">>)')
    allow = (
        'rabbit_auth_backend_internal:set_permissions(<<"{0}">>, <<"/">>, <<"{1}">>, <<"{2}">>, <<"{3}">>, <<"me">>)'
    )
    url = node.url.replace("guest:guest", f"{name}:hunter2")
    try:
        assert failing(on_embedded, url)["step"] == "vhost"
        for patterns, lacking in (
            (("^app", ".*", ".*"), "no permission to configure"),
            ((".*", "^app", ".*"), "no permission to write (can configure)"),
            ((".*", ".*", "^app"), "no permission to read (can configure, write)"),
        ):
            node.eval(allow.format(name, *patterns))
            found = steps(on_embedded, url, status=1)["permissions"]
            assert lacking in found["detail"]
            assert "--probe" in found["advice"]
        node.eval(allow.format(name, "^app", ".*", "^app"))
        assert steps(on_embedded, url, "--probe", f"app-{name}")["permissions"]["status"] == "ok"
    finally:
        node.eval(f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"me">>)')


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_tls_of_a_broker(node: Any, certificates: Certificates, on_embedded: CommandLine) -> None:
    found = steps(on_embedded, f"{node.tls_url}?cafile={certificates.ca}")["tls"]
    assert found["status"] == "ok"
    assert "certificate for localhost" in found["detail"]
    plain = failing(on_embedded, f"amqp://127.0.0.1:{node.tls_port}/")
    assert (plain["step"], "amqps://" in plain["advice"]) == ("header", True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Any:
    trustme = pytest.importorskip("trustme")
    made = trustme.CA()
    made.path = tmp_path_factory.mktemp("ca") / "ca.pem"
    made.cert_pem.write_to_path(made.path)
    return made


def at(days: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=days)


@pytest.mark.parametrize(
    ("host", "dates", "trusted", "advice"),
    [
        ("127.0.0.1", (-9, -1), True, "renew"),
        ("127.0.0.1", (1, 9), True, "clock"),
        ("other.example", (-9, 900), True, "connect to a name of the certificate (other.example)"),
        ("127.0.0.1", (-9, 900), False, "cafile"),
    ],
)
def test_a_certificate_that_is_no_good(
    host: str, dates: tuple[int, int], trusted: bool, advice: str, authority: Any, on_embedded: CommandLine
) -> None:
    begin, end = map(at, dates)
    with tls_peer(authority, host, begin, end) as port:
        cafile = f"?cafile={authority.path}" if trusted else ""
        found = failing(on_embedded, f"amqps://127.0.0.1:{port}/{cafile}")
    assert found["step"] == "tls"
    assert advice in found["advice"], found
    assert f"certificate for {host}, of " in found["detail"]
    assert f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}" in found["detail"]


def test_a_certificate_that_ends_soon(authority: Any, on_embedded: CommandLine) -> None:
    with tls_peer(authority, "127.0.0.1", at(-9), at(5)) as port:
        found = steps(on_embedded, f"amqps://127.0.0.1:{port}/?cafile={authority.path}", status=1)
    assert (found["tls"]["status"], found["header"]["status"]) == ("warning", "failed")
    assert "ends in 4 days" in found["tls"]["advice"]


def test_a_port_without_tls(on_embedded: CommandLine, embedded: Any) -> None:
    found = failing(on_embedded, f"amqps://127.0.0.1:{embedded.port}/", "--timeout", "1")
    assert (found["step"], "amqp://" in found["advice"]) == ("tls", True)


@contextmanager
def tls_peer(authority: Any, host: str, begin: datetime, end: datetime) -> Iterator[int]:
    """A peer with a certificate that is trusted, and no broker behind it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, not_before=begin, not_after=end).configure_cert(context)

    def answer(sock: Any) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(8)

    with peer(answer) as port:
        yield port
