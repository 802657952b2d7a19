"""Opening a connection: protocol headers, SASL, tuning, and the ways in which it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpspika.errors import (
    AccessRefused,
    AMQPError,
    ConnectionClosed,
    InvalidProtocolHeader,
    LoginError,
    NotAllowed,
    ProtocolSyntaxError,
    ProtocolVersionMismatch,
    closed,
)
from cpspika.parameters import AmqplainCredentials, ExternalCredentials, PlainCredentials
from cpspika.spec import VERSIONS
from cpspika.wire import frames
from cpspika.wire.codec import Codec, Method
from cpspika.wire.handshake import Host, Negotiated, server
from cpspika.wire.link import Link
from tests.support.linked import LIMITS, Pair, opened, plain

SECRET = "hunter2"


def agreed(pair: Pair) -> tuple[Negotiated, Negotiated]:
    """What each end says was agreed; nothing else was heard."""
    ((zero, client),) = pair.heard["client"]
    ((null, server),) = pair.heard["server"]
    assert (zero, null) == (0, 0)
    assert isinstance(client, Negotiated)
    assert isinstance(server, Negotiated)
    return client, server


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_agree(version: str) -> None:
    pair = Pair(version, virtual_host="v", client_properties={"connection_name": "me"}).talk()
    client, server = agreed(pair)
    assert client[:4] == server[:4] == (8192, 100, 60, "v")
    assert (client.user, server.user) == (None, "guest")
    assert client.peer_properties == {"product": "server"}
    assert server.peer_properties["product"] == "tests"
    assert server.peer_properties["connection_name"] == "me"
    assert server.peer_properties["capabilities"]["consumer_cancel_notify"] is True
    assert (pair.client.state, pair.server.state) == ("open", "open")
    assert (pair.client.frame_max, pair.server.frame_max) == (8192, 8192)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_handshake_arrives_byte_by_byte(version: str) -> None:
    pair = Pair(version)
    while (mine := pair.client.take_answers()) + (yours := pair.server.take_answers()):
        for at in range(len(mine)):
            pair.carry(pair.client, mine[at : at + 1])
        for at in range(len(yours)):
            pair.carry(pair.server, yours[at : at + 1])
    assert agreed(pair)[0].frame_max == 8192


def test_the_users_client_properties_go_before_the_librarys() -> None:
    pair = Pair(client_properties={"product": "mine", "capabilities": {}}).talk()
    assert agreed(pair)[1].peer_properties == {"product": "mine", "capabilities": {}}


# --- protocol headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_begins_with_its_header(version: str) -> None:
    assert Link("client", version, None).take_answers() == frames.PROTOCOL_HEADERS[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_reads_the_header_byte_by_byte_and_keeps_what_follows(version: str) -> None:
    server = Link("server", None, None)
    header = frames.PROTOCOL_HEADERS[version]
    assert [server.greet_back(header[at : at + 1]) for at in range(7)] == [None] * 7
    assert server.greet_back(header[7:] + b"rest") == (version, b"rest")


@pytest.mark.parametrize("cut", range(9))
def test_a_server_refuses_a_header_of_another_version_by_the_names_of_both(cut: int) -> None:
    header, server = b"AMQP\0\1\0\0", Link("server", None, None)
    with pytest.raises(ProtocolVersionMismatch, match=r"the peer speaks AMQP 1-0-0 .*; we speak 0-9-1 and 0-8"):
        assert server.greet_back(header[:cut]) or server.greet_back(header[cut:])


@pytest.mark.parametrize("begin", [b"GET", b"\x16\x03\x01", b"AMQX", b"\0", b"GET / HTTP/1.1\r\n"])
def test_a_server_refuses_what_is_no_amqp_at_the_first_byte_that_shows_it(begin: bytes) -> None:
    with pytest.raises(InvalidProtocolHeader, match="does not speak AMQP"):
        Link("server", None, None).greet_back(begin)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", range(9))
def test_a_clients_refused_header_is_an_event_that_names_both_versions(version: str, cut: int) -> None:
    client = Pair(version).client
    (event,) = client.receive(b"AMQP\0\1\0\0"[:cut]) + client.receive(b"AMQP\0\1\0\0"[cut:])
    assert event[0] == 0
    assert isinstance(event[1], ProtocolVersionMismatch)
    assert (
        f"the broker wants AMQP 1-0-0 (header {bytes([65, 77, 81, 80, 0, 1, 0, 0])!r}); we asked for {version}"
        in str(event[1])
    )
    assert client.receive(frames.HEARTBEAT_FRAME) == []
    assert client.take_answers() == b""


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH", b"\0\0\0\0\0\0\0\0\0", b"AMQX1234"]
)
def test_a_client_that_met_no_broker_says_what_it_met(said: bytes) -> None:
    ((_, error),) = Pair().client.receive(said)
    assert isinstance(error, InvalidProtocolHeader)
    assert repr(said[:8]) in str(error)


# --- SASL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "response"),
    [
        (PlainCredentials("me", SECRET), b"\0me\0hunter2"),
        (AmqplainCredentials("me", SECRET), b"\x05LOGINS\0\0\0\x02me\x08PASSWORDS\0\0\0\x07hunter2"),
        (ExternalCredentials(), b""),
    ],
    ids=["PLAIN", "AMQPLAIN", "EXTERNAL"],
)
def test_the_response_goes_to_authenticate(credentials: Any, response: bytes) -> None:
    seen = []
    Pair(
        mechanisms="PLAIN AMQPLAIN EXTERNAL",
        credentials=credentials,
        authenticate=lambda mechanism, answers: seen.append((mechanism, *answers)),
    ).talk()
    assert seen == [(credentials.mechanism, response)]


class Puzzle:
    """A mechanism of a user's own, with challenges."""

    mechanism = "PUZZLE"

    def start(self) -> bytes:
        return b"first"

    def respond(self, challenge: bytes) -> bytes:
        return challenge[::-1]


@pytest.mark.parametrize("challenges", [1, 2, 3])
@pytest.mark.parametrize("version", VERSIONS)
def test_challenges_are_answered_until_the_server_is_content(version: str, challenges: int) -> None:
    def authenticate(mechanism: str, answers: list[bytes]) -> Any:
        if len(answers) <= challenges:
            return b"challenge %d" % len(answers)
        return [mechanism, *answers]

    pair = Pair(version, mechanisms="PLAIN PUZZLE", credentials=Puzzle(), authenticate=authenticate).talk()
    _, server = agreed(pair)
    backwards = [(b"challenge %d" % number)[::-1] for number in range(1, challenges + 1)]
    assert server.user == ["PUZZLE", b"first", *backwards]


def test_a_mechanism_that_the_server_lacks_is_a_login_error_that_names_both() -> None:
    pair = Pair(mechanisms="PLAIN AMQPLAIN", credentials=Puzzle()).talk()
    ((_, error),) = pair.heard["client"]
    assert isinstance(error, LoginError)
    assert "the broker accepts PLAIN, AMQPLAIN; the credentials are for PUZZLE: choose other credentials" in str(error)
    assert pair.heard["server"] == []


class Silent:
    """A user's mechanism without challenges: it leaves `respond` out, as the contract of Credentials allows."""

    mechanism = "PLAIN"

    def start(self) -> bytes:
        return b"\0me\0hunter2"


@pytest.mark.parametrize("credentials", [PlainCredentials("me", SECRET), Silent()], ids=["ours", "a user's"])
def test_a_challenge_to_credentials_that_have_no_answer_is_a_login_error(credentials: Any) -> None:
    pair = Pair(credentials=credentials, authenticate=lambda mechanism, answers: b"challenge").talk()
    ((_, error),) = pair.heard["client"]
    assert isinstance(error, LoginError)
    assert SECRET not in f"{error!r} {error}"


class Raising:
    """A user's mechanism with a mistake in it."""

    mechanism = "PLAIN"

    def start(self) -> bytes:
        raise RuntimeError(f"no keys for {SECRET}")


def test_credentials_that_raise_are_a_login_error_that_shows_no_secret() -> None:
    pair = Pair(credentials=Raising()).talk()
    ((_, error),) = pair.heard["client"]
    assert isinstance(error, LoginError)
    assert error.text == "the credentials for PLAIN have no response: start raised RuntimeError"
    assert isinstance(error.__cause__, RuntimeError)
    assert pair.heard["server"] == []


@pytest.mark.parametrize(("version", "number"), [("0-9-1", (0, 9)), ("0-8", (8, 0))])
def test_the_server_says_its_version(version: str, number: tuple[int, int]) -> None:
    """As RabbitMQ: 0-9-1 is 0 and 9, and 0-8 is 8 and 0."""
    link = Link("server", None, None)
    link.greet_back(frames.PROTOCOL_HEADERS[version])
    host = Host(version, {}, "PLAIN", LIMITS, lambda mechanism, answers: "guest", lambda user, virtual_host: None)
    link.begin(version, server(host))
    payload = link.take_answers()[7:-1]
    start = Codec.of(version).decode(payload)
    assert (start.version_major, start.version_minor) == number


@pytest.mark.parametrize("version", VERSIONS)
def test_a_refused_login_closes_with_403_at_both_ends(version: str) -> None:
    def authenticate(mechanism: str, answers: list[bytes]) -> Any:
        raise closed(ConnectionClosed, 403, "ACCESS_REFUSED - login refused")

    pair = Pair(version, authenticate=authenticate).talk()
    ((_, refusal),) = pair.heard["client"]
    assert refusal.name == "connection.close"
    assert (refusal.reply_code, refusal.reply_text) == (403, "ACCESS_REFUSED - login refused")
    (_, error), (_, ok) = pair.heard["server"]
    assert isinstance(error, AccessRefused)
    assert ok == Method("connection.close-ok", {})
    assert (pair.client.state, pair.server.state) == ("closed", "closed")
    assert pair.client.before_close == "securing"


def test_a_refused_virtual_host_closes_with_its_code_at_both_ends() -> None:
    def enter(user: Any, virtual_host: str) -> None:
        raise closed(ConnectionClosed, 530, f"NOT_ALLOWED - vhost {virtual_host} not found")

    pair = Pair(enter=enter, virtual_host="nowhere").talk()
    ((_, refusal),) = pair.heard["client"]
    assert (refusal.reply_code, refusal.reply_text) == (530, "NOT_ALLOWED - vhost nowhere not found")
    assert isinstance(pair.heard["server"][0][1], NotAllowed)
    assert pair.client.before_close == "opening"


def test_no_secret_is_shown_by_what_the_handshake_tells() -> None:
    def authenticate(mechanism: str, answers: list[bytes]) -> Any:
        raise closed(ConnectionClosed, 403, "ACCESS_REFUSED")

    pair = Pair(credentials=PlainCredentials("me", SECRET), authenticate=authenticate).talk()
    assert SECRET not in repr(pair.heard)


# --- tuning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [(0, 0, 0), (0, 8192, 8192), (8192, 0, 8192), (8192, 131072, 8192), (131072, 8192, 8192), (4096, 4096, 4096)],
)
def test_frame_max_is_the_lower_and_0_is_no_limit(ours: int, theirs: int, result: int) -> None:
    pair = Pair(frame_max=ours, limits=LIMITS._replace(frame_max=theirs)).talk()
    assert [one.frame_max for one in agreed(pair)] == [result, result]
    assert (pair.client.frame_max, pair.server.frame_max) == (result, result)


@pytest.mark.parametrize(
    ("ours", "theirs", "result"), [(0, 0, 65535), (0, 2047, 2047), (16, 0, 16), (16, 2047, 16), (2047, 16, 16)]
)
def test_channel_max_is_the_lower_and_0_is_no_limit(ours: int, theirs: int, result: int) -> None:
    pair = Pair(channel_max=ours, limits=LIMITS._replace(channel_max=theirs)).talk()
    assert [one.channel_max for one in agreed(pair)] == [result, result]


@pytest.mark.parametrize(
    ("ours", "theirs", "result"),
    [(None, 60, 60), (None, 0, 0), (0, 60, 0), (5, 60, 5), (300, 60, 300), (30, 0, 30)],
)
def test_the_users_heartbeat_wins_and_none_takes_the_servers(ours: int | None, theirs: int, result: int) -> None:
    pair = Pair(heartbeat=ours, limits=LIMITS._replace(heartbeat=theirs)).talk()
    assert [one.heartbeat for one in agreed(pair)] == [result, result]


def method_frame(name: str, **arguments: Any) -> bytes:
    return frames.frame(frames.METHOD, 0, Codec.of("0-9-1").encode(name, arguments))


@pytest.mark.parametrize("frame_max", [1, 7, 8, 9, 4095])
def test_a_server_that_tunes_below_the_least_frame_is_refused(frame_max: int) -> None:
    """0-9-1 §4.2.3 (frame-min-size): at 8 and less, not one byte of a body would go out."""
    pair = Pair(limits=LIMITS._replace(frame_max=frame_max)).talk()
    ((_, error),) = pair.heard["client"]
    assert isinstance(error, AMQPError)
    assert "frame_max" in str(error).replace("frame-max", "frame_max")


@pytest.mark.parametrize(
    "wrong",
    [{"frame_max": 0}, {"frame_max": 8193}, {"frame_max": 8}, {"channel_max": 0}, {"channel_max": 101}],
    ids=str,
)
def test_a_client_that_tunes_beyond_the_servers_limits_is_refused(wrong: dict[str, int]) -> None:
    """0 is "no limit", which is more than any. Without this a client lifts the limits that protect the server."""
    pair = Pair()
    pair.carry(pair.server, pair.server.take_answers())
    pair.carry(pair.client, pair.client.take_answers())
    tuned = {"frame_max": 8192, "channel_max": 100, "heartbeat": 60, **wrong}
    events = pair.server.receive(method_frame("connection.tune-ok", **tuned))
    events += pair.server.receive(method_frame("connection.open", virtual_host="/"))
    ((_, error),) = events
    assert isinstance(error, AMQPError)
    assert error.code in (501, 502, 530)


# --- out of turn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["connection.tune", "connection.open-ok", "connection.update-secret-ok"])
def test_a_method_of_the_server_out_of_turn_is_refused(name: str) -> None:
    client = Pair().client
    ((_, error),) = client.receive(method_frame(name))
    assert isinstance(error, ProtocolSyntaxError)
    assert (error.code, name in str(error)) == (503, True)


@pytest.mark.parametrize("name", ["connection.tune-ok", "connection.open", "connection.secure-ok"])
def test_a_method_of_the_client_out_of_turn_closes_with_503(name: str) -> None:
    pair = Pair()
    pair.server.take_answers()
    ((_, error),) = pair.server.receive(method_frame(name))
    assert (error.code, name in str(error)) == (503, True)
    assert pair.server.take_answers()[7:11] == b"\0\x0a\0\x32"  # connection.close


@pytest.mark.parametrize("name", ["connection.start", "connection.tune", "connection.open-ok"])
def test_the_handshake_does_not_begin_again(name: str) -> None:
    pair = opened()
    pair.carry(pair.server, method_frame(name))
    pair.talk()
    (_, error), *_ = pair.heard["client"]
    assert error.code == 503
    assert pair.server.state == "closed"


@settings(max_examples=80)
@given(role=st.sampled_from(["client", "server"]), steps=st.integers(0, 6), garbage=st.binary(max_size=60))
def test_garbage_in_the_handshake_is_an_event_and_never_raises(role: str, steps: int, garbage: bytes) -> None:
    pair = Pair()
    for _ in range(steps):
        for link in (pair.client, pair.server):
            pair.carry(link, link.take_answers())
    events = getattr(pair, role).receive(garbage)
    assert all(isinstance(event, AMQPError | Method) for _, event in events)
    assert getattr(pair, role).receive(garbage) is not None


@settings(max_examples=80)
@given(
    role=st.sampled_from(["client", "server"]),
    steps=st.integers(0, 4),
    names=st.lists(st.sampled_from(sorted(Codec.of("0-9-1").by_name)), max_size=6),
)
def test_any_methods_in_the_handshake_never_raise(role: str, steps: int, names: list[str]) -> None:
    pair = Pair()
    for _ in range(steps):
        for link in (pair.client, pair.server):
            pair.carry(link, link.take_answers())
    events = getattr(pair, role).receive(b"".join(map(method_frame, names)))
    assert all(number == 0 for number, _ in events)


# --- one whole frame, by the short way of a client --------------------------------------------------------------------

SPOILERS: dict[str, Any] = {
    "whole": lambda data: data,
    "an end mark that is wrong": lambda data: data[:-1] + b"\0",
    "on a channel": lambda data: data[:2] + b"\1" + data[3:],
    "a header frame": lambda data: b"\2" + data[1:],
    "cut": lambda data: data[:-9],
    "too large": lambda data: frames.frame(frames.METHOD, 0, data[7:-1] + bytes(5000)),
    "with bytes too many": lambda data: frames.frame(frames.METHOD, 0, data[7:-1] + b"?"),
    "a method of a client": lambda data: method_frame("connection.tune-ok"),
    "a method of a channel": lambda data: method_frame("queue.declare-ok"),
    "a method that does not exist": lambda data: frames.frame(frames.METHOD, 0, b"\0\x0a\3\xe7"),
    "out of order": lambda data: method_frame("connection.open-ok"),
    "connection.close": lambda data: method_frame("connection.close"),
    "connection.close-ok": lambda data: method_frame("connection.close-ok"),
    "a heartbeat": lambda data: frames.HEARTBEAT_FRAME,
    "a protocol header": lambda data: b"AMQP\0\1\0\0",
    "nothing": lambda data: b"",
}


def said_by_the_server(version: str) -> list[bytes]:
    """The three frames of a server's handshake."""
    pair, said = Pair(version), list[bytes]()
    while len(said) < 3:
        said.append(pair.server.take_answers())
        pair.carry(pair.server, said[-1])
        pair.carry(pair.client, pair.client.take_answers())
    return said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("step", range(3))
@pytest.mark.parametrize("spoiler", SPOILERS)
def test_a_lone_frame_means_the_same_to_a_client_by_the_short_way(
    spoiler: str, step: int, closing: bool, version: str
) -> None:
    """`alone`, and `runs` where it refuses, beside `runs` by itself; also amid the close, and with what follows."""
    short, general = Pair(version).client, Pair(version).client
    spoken = said_by_the_server(version)
    spoken[step] = SPOILERS[spoiler](spoken[step])
    for number, data in enumerate([*spoken, method_frame("connection.close-ok"), b"\xce"]):
        if number == 3 and closing:
            for link in (short, general):
                if link.state == "open":
                    link.send(0, "connection.close", {"reply_code": 200, "reply_text": ""})
        found = short.alone(data)
        if spoiler == "whole" and (closing or number < 3) and number < 4:
            assert found is not None
        events = short.receive(data) if found is None else [found[:2]] if found[1] is not None else []
        assert plain(events) == plain(general.receive(data))
        assert short.take_answers() == general.take_answers()
        assert (short.state, short.frame_max) == (general.state, general.frame_max)
        assert short.peer_properties == general.peer_properties
