"""URLs, parameters and credentials: what they mean, what they refuse, and that they keep a secret."""

from __future__ import annotations

import copy
import os
import pickle
import ssl
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika.errors import AMQPError, InvalidArgument, InvalidArgumentType, LoginError
from cpspika.parameters import AmqplainCredentials, ConnectionParameters, ExternalCredentials, PlainCredentials, targets
from cpspika.wire import fields

SECRET = "hunter2"
from_url = ConnectionParameters.from_url
words = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=60)


def assert_without_secret(error: BaseException | None) -> None:
    """The suppressed context too: debuggers and error trackers show it."""
    while error is not None:
        assert SECRET not in f"{error!r} {error} {error.args!r}"
        error = error.__cause__ or error.__context__


def response(parameters: ConnectionParameters) -> bytes:
    return parameters.credentials.start()


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_the_least_url_is_the_local_broker_as_guest() -> None:
    for url in ("amqp://", "amqp:///", "amqp://localhost", "amqp://localhost:5672/"):
        assert from_url(url) == ConnectionParameters()
    parameters = ConnectionParameters()
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("localhost", 5672, "/")
    assert response(parameters) == b"\0guest\0guest"


def test_a_whole_url() -> None:
    parameters = from_url("amqp://me:pw@broker.example:5999/sales?heartbeat=30&frame_max=8192&protocol=0-8")
    assert (parameters.host, parameters.port, parameters.virtual_host) == ("broker.example", 5999, "sales")
    assert response(parameters) == b"\0me\0pw"
    assert (parameters.heartbeat, parameters.frame_max, parameters.protocol) == (30, 8192, "0-8")


@pytest.mark.parametrize(
    ("path", "virtual_host"),
    [("", "/"), ("/", "/"), ("/%2F", "/"), ("/%2f", "/"), ("/a", "a"), ("/a%2Fb", "a/b"), ("/a/b", "a/b"),
     ("/%20", " "), ("//", "/"), ("/caf%C3%A9", "café"), ("/a+b", "a+b")],
)  # fmt: skip
def test_the_path_is_the_virtual_host(path: str, virtual_host: str) -> None:
    assert from_url(f"amqp://localhost{path}").virtual_host == virtual_host
    assert from_url(f"amqp://localhost{path}?heartbeat=5").virtual_host == virtual_host


@given(words, words, st.text(min_size=1, max_size=60))
def test_name_password_and_virtual_host_are_percent_encoded_utf_8(name: str, password: str, virtual_host: str) -> None:
    quoted = (quote(text, safe="") for text in (name, password, virtual_host))
    url = "amqp://{}:{}@localhost/{}".format(*quoted)
    assert from_url(url) == ConnectionParameters(
        virtual_host=virtual_host, credentials=PlainCredentials(name, password)
    )


@pytest.mark.parametrize(
    ("netloc", "expected"),
    [
        ("me:pw@h", b"\0me\0pw"),
        ("me@h", b"\0me\0"),
        ("me:@h", b"\0me\0"),
        (":pw@h", b"\0\0pw"),
        ("me:a%3Ab%40c@h", b"\0me\0a:b@c"),
        ("me:a:b@h", b"\0me\0a:b"),
        ("me:a@b@h", b"\0me\0a@b"),
        ("me:a+b@h", b"\0me\0a+b"),
        ("h", b"\0guest\0guest"),
    ],
)
def test_name_and_password(netloc: str, expected: bytes) -> None:
    parameters = from_url(f"amqp://{netloc}/")
    assert response(parameters) == expected
    assert parameters.host == "h"


@pytest.mark.parametrize(
    ("netloc", "host", "port"),
    [
        ("[::1]", "::1", 5672),
        ("[::1]:5999", "::1", 5999),
        ("me:pw@[2001:db8::5]:1", "2001:db8::5", 1),
        ("[fe80::1%25eth0]:65535", "fe80::1%eth0", 65535),
        ("127.0.0.1:5999", "127.0.0.1", 5999),
        ("Broker.Example", "broker.example", 5672),
        (":5999", "localhost", 5999),
        ("me:pw@:5999", "localhost", 5999),
        ("h:", "h", 5672),
    ],
)
def test_host_and_port(netloc: str, host: str, port: int) -> None:
    parameters = from_url(f"amqp://{netloc}/v")
    assert (parameters.host, parameters.port) == (host, port)


def test_amqps_is_tls_on_its_own_port_verifying_certificate_and_name() -> None:
    parameters = from_url("amqps://broker.example")
    assert parameters.port == 5671
    assert parameters.ssl is not None
    assert (parameters.ssl.verify_mode, parameters.ssl.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert from_url("amqps://broker.example:5999").port == 5999


def test_a_context_of_the_users_is_the_one_that_is_used() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert from_url("amqps://h", ssl=context).ssl is context
    assert ConnectionParameters(ssl=context).port == 5671


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("heartbeat=0", "heartbeat", 0),
        ("heartbeat=65535", "heartbeat", 65535),
        ("frame_max=0", "frame_max", 0),
        ("frame_max=4096", "frame_max", 4096),
        ("channel_max=16", "channel_max", 16),
        ("connection_timeout=2.5", "connection_timeout", 2.5),
        ("blocked_connection_timeout=60", "blocked_connection_timeout", 60.0),
        ("protocol=0-8", "protocol", "0-8"),
        ("locale=de_DE", "locale", "de_DE"),
        ("virtual_host=a%2Fb", "virtual_host", "a/b"),
    ],
)
def test_every_option_has_one_name_in_url_and_parameters(query: str, name: str, value: Any) -> None:
    parameters = from_url(f"amqp://h?{query}")
    assert getattr(parameters, name) == value
    assert parameters == ConnectionParameters("h", **{name: value})


def test_options_of_the_call_go_before_the_urls() -> None:
    parameters = from_url("amqp://h:1/v?heartbeat=30", heartbeat=5, host="other", virtual_host="w")
    assert (parameters.heartbeat, parameters.host, parameters.port, parameters.virtual_host) == (5, "other", 1, "w")


@pytest.mark.parametrize("name", ["hearbeat", "Heartbeat", "host", "port", "credentials", "ssl", "client_properties"])
def test_an_unknown_option_in_a_url_is_named(name: str) -> None:
    with pytest.raises(
        InvalidArgument, match=f"^unknown option '{name}' in the URL; the options there are .*heartbeat"
    ):
        from_url(f"amqp://h?{name}=1")


@pytest.mark.parametrize("scheme", ["http", "ampq", "amqp+ssl", "embeded"])
def test_another_scheme_is_named(scheme: str) -> None:
    with pytest.raises(InvalidArgument, match=r"amqp://.*amqps://") as caught:
        from_url(f"{scheme}://h")
    assert repr(scheme) in str(caught.value)


BAD_URLS = [
    "amqp://me:hunter2@h:port/v",
    "amqp://me:hunter2@h:99999/v",
    "amqp://me:hunter2@h:0/v",
    "amqp://me:hunter2@h:-1/v",
    "amqp://me:hunter2@[::1/v",
    "amqp://me:hunter2@[zz]/v",
    "amqp://me:hunter2/x@h/v",
    "amqp://me:hunter2#x@h/v",
    "amqp://me:hunter2?x@h/v",
    "amqp://me:hunter2?heartbeat=5@h/v",
    "amqp://me:hunter2@h/v?heartbeat=soon",
    "amqp://me:hunter2@h/v?heartbeat=-1",
    "amqp://me:hunter2@h/v?frame_max=10",
    "amqp://me:hunter2@h/v?protocol=0-9",
    "amqp://me:hunter2@h/v?nonsense=1",
    "http://me:hunter2@h/v",
    "me:hunter2@h/v",
    "amqp:me:hunter2@h",
    "//me:hunter2@h",
    "amqp://me:1234#hunter2@h/v",
    "amqp://me:1234?hunter2@h/v",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_error_about_a_url_quotes_its_password(url: str) -> None:
    with pytest.raises((InvalidArgument, InvalidArgumentType)) as caught:
        from_url(url)
    assert_without_secret(caught.value)


@given(st.text())
def test_any_text_is_a_url_or_an_invalid_argument(text: str) -> None:
    for url in (text, "amqp://" + text):
        try:
            from_url(url)
        except (InvalidArgument, InvalidArgumentType):
            pass


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 0), ("port", 65536), ("heartbeat", -1), ("heartbeat", 65536), ("heartbeat", 1.5),
        ("frame_max", -1), ("frame_max", 4095), ("frame_max", 2**32), ("channel_max", -1), ("channel_max", 65536),
        ("connection_timeout", -1), ("connection_timeout", float("nan")), ("connection_timeout", float("inf")),
        ("blocked_connection_timeout", -0.1), ("protocol", "0-9"), ("protocol", None),
        ("virtual_host", "v" * 256), ("locale", "l" * 256),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_a_value_error_that_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=name) as caught:
        ConnectionParameters(**{name: value})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", None), ("host", b"h"), ("port", "amqp"), ("virtual_host", 1), ("heartbeat", "soon"),
        ("frame_max", None), ("channel_max", []), ("connection_timeout", "long"), ("ssl", True),
        ("client_properties", [1]), ("locale", None), ("credentials", ("me", "hunter2")), ("credentials", "hunter2"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_a_type_error_that_names_the_option(name: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentType, match=name) as caught:
        ConnectionParameters(**{name: value})
    assert isinstance(caught.value, TypeError)
    assert SECRET not in str(caught.value)


def test_an_unknown_option_is_named() -> None:
    for call in (
        lambda: ConnectionParameters(hearbeat=5),
        lambda: ConnectionParameters().replace(hearbeat=5),
        lambda: from_url("amqp://h", hearbeat=5),
        lambda: targets("amqp://h", {"hearbeat": 5}),
    ):
        with pytest.raises(
            InvalidArgument, match=r"^unknown option 'hearbeat'; the options are host, port, .*heartbeat"
        ):
            call()


def test_an_unknown_option_does_not_show_its_value() -> None:
    with pytest.raises(InvalidArgument) as caught:
        ConnectionParameters(password=SECRET)
    assert SECRET not in str(caught.value)


def test_a_copy_has_other_options_and_the_original_its_own() -> None:
    original = ConnectionParameters("h", 1, heartbeat=5)
    other = original.replace(heartbeat=6, host="i")
    assert (other.host, other.port, other.heartbeat) == ("i", 1, 6)
    assert (original.host, original.heartbeat) == ("h", 5)


def test_client_properties_are_the_parameters_own() -> None:
    given_ = {"connection_name": "one"}
    parameters = ConnectionParameters(client_properties=given_)
    given_["connection_name"] = "two"
    assert parameters.client_properties == {"connection_name": "one"}


def test_parameters_show_what_is_not_the_default() -> None:
    assert "heartbeat=5" in repr(ConnectionParameters(heartbeat=5))
    for name in ("heartbeat", "client_properties", "host"):
        assert name not in repr(ConnectionParameters())


@pytest.mark.parametrize(
    ("target", "hosts"),
    [
        ("amqp://a", ["a"]),
        (ConnectionParameters("a"), ["a"]),
        (["amqp://a", ConnectionParameters("b")], ["a", "b"]),
        ((one for one in ("amqp://a", "amqp://b")), ["a", "b"]),
        ([["amqp://a"], "amqp://b"], ["a", "b"]),
    ],
    ids=["url", "parameters", "list", "generator", "nested"],
)
def test_a_target_is_a_url_parameters_or_a_sequence_of_them(target: Any, hosts: list[str]) -> None:
    found = targets(target, {"heartbeat": 7})
    assert [parameters.host for parameters in found] == hosts
    assert all(parameters.heartbeat == 7 for parameters in found)


@pytest.mark.parametrize("target", [None, 5, b"amqp://me:hunter2@h", {"host": "hunter2"}, [None]], ids=repr)
def test_another_target_is_a_type_error_that_does_not_show_it(target: Any) -> None:
    with pytest.raises(InvalidArgumentType, match="target takes a URL") as caught:
        targets(target, {})
    assert SECRET not in str(caught.value)


def test_no_target_at_all_is_a_value_error() -> None:
    with pytest.raises(InvalidArgument, match="target is an empty sequence"):
        targets([], {})


# --- what is written in the wrong place -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "remedy"),
    [
        ("amqp://me:hunter2@h", r"ConnectionParameters\.from_url\(url\)"),
        ("h:5672", r"ConnectionParameters\('h', 5672\)"),
        ("[::1]:5672", r"ConnectionParameters\('::1', 5672\)"),
        ("me:hunter2@h", "credentials"),
        ("h/sales", "virtual_host"),
        ("[::1]", "without brackets"),
        ("me:hunter2", "no IPv6 address"),
        ("", "empty"),
    ],
)
def test_a_host_with_more_in_it_is_refused_with_what_to_write(host: str, remedy: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^host.*{remedy}") as caught:
        ConnectionParameters(host)
    assert_without_secret(caught.value)


@pytest.mark.parametrize("host", ["h", "127.0.0.1", "::1", "fe80::1%eth0", "broker.example."])
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert ConnectionParameters(host).host == host


# --- credentials ------------------------------------------------------------------------------------------------------


def test_plain_is_name_and_password_between_nulls() -> None:
    assert PlainCredentials("me", "pä").start() == "\0me\0pä".encode()


def test_amqplain_is_a_field_table() -> None:
    assert AmqplainCredentials("me", "pä").start() == {"LOGIN": "me", "PASSWORD": "pä"}


def test_external_says_nothing() -> None:
    assert ExternalCredentials().start() == b""


@pytest.mark.parametrize(
    "credentials", [PlainCredentials("me", SECRET), AmqplainCredentials("me", SECRET), ExternalCredentials()], ids=repr
)
def test_credentials_without_an_answer_to_a_challenge_say_so(credentials: Any) -> None:
    with pytest.raises(LoginError, match=credentials.mechanism) as caught:
        credentials.respond(b"challenge")
    assert SECRET not in repr(caught.value) + str(caught.value)


@pytest.mark.parametrize("make", [PlainCredentials, AmqplainCredentials])
def test_no_secret_is_shown_by_credentials_or_parameters(make: Any) -> None:
    credentials = make("me", SECRET)
    parameters = ConnectionParameters(credentials=credentials)
    url = f"amqp://me:{SECRET}@h/v"
    for shown in (credentials, parameters, parameters.replace(heartbeat=5), from_url(url), targets([url], {})):
        assert SECRET not in f"{shown!r} {shown} {shown!s:>5}"
        assert "me" in repr(shown)


@pytest.mark.parametrize("name", [".example.com", "a" * 70 + ".com", "a..b", "x\0y"])
def test_a_name_that_no_certificate_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="no certificate can have the name"):
        ConnectionParameters(server_hostname=name)
    assert ConnectionParameters(server_hostname="b\u00fccher.example").server_hostname == "b\u00fccher.example"


@pytest.mark.parametrize(("name", "password"), [("m\0e", SECRET), ("me", f"{SECRET}\0")])
def test_a_null_in_what_plain_separates_by_nulls_is_refused(name: str, password: str) -> None:
    """RFC 4616 forbids it: the broker would read another name or another password."""
    with pytest.raises(AMQPError) as caught:
        PlainCredentials(name, password).start()
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("make", [PlainCredentials, AmqplainCredentials])
@pytest.mark.parametrize(
    ("name", "password", "remedy"),
    [
        ("joe", None, "password takes a str, not NoneType; is an environment variable not set"),
        (None, SECRET, "username takes a str, not NoneType"),
        ("joe", SECRET.encode(), "password takes a str, not bytes"),
    ],
)
def test_a_name_or_password_of_another_type_is_refused_and_not_shown(
    make: Any, name: Any, password: Any, remedy: str
) -> None:
    with pytest.raises(InvalidArgumentType, match=f"^{remedy}") as caught:
        make(name, password)
    assert_without_secret(caught.value)


BYTES = b"hunter2\xff"


@pytest.mark.parametrize("make", [PlainCredentials, AmqplainCredentials])
def test_bytes_that_are_not_utf_8_pass_as_they_are(make: Any) -> None:
    """os.environ shows them as surrogates."""
    response = make("me", os.fsdecode(BYTES)).start()
    sent = fields.encode_table("response", response) if isinstance(response, dict) else response
    assert BYTES in sent


def test_bytes_in_a_url_that_are_not_utf_8_pass_as_they_are() -> None:
    assert response(from_url("amqp://me%FE:hunter2%FF@h")) == b"\0me\xfe\0hunter2\xff"


@pytest.mark.parametrize(
    "call",
    [
        lambda text: PlainCredentials("me", text),
        lambda text: AmqplainCredentials("me", text),
        lambda text: PlainCredentials(text, "me"),
        lambda text: fields.encode_longstr("new_secret", text),
        lambda text: fields.encode_table("response", {"PASSWORD": text}),
        lambda text: ConnectionParameters(text + "@h"),
        lambda text: ConnectionParameters("amqp://" + text),
    ],
)
def test_a_secret_that_cannot_be_encoded_is_in_no_error(call: Any) -> None:
    """A UnicodeEncodeError holds the whole text."""
    with pytest.raises(InvalidArgument) as caught:
        call(SECRET + "\ud800")
    assert_without_secret(caught.value)


def test_credentials_are_equal_by_kind_name_and_password() -> None:
    assert PlainCredentials("me", "a") == PlainCredentials("me", "a")
    assert PlainCredentials("me", "a") != PlainCredentials("me", "b")
    assert PlainCredentials("me", "a") != AmqplainCredentials("me", "a")


def test_parameters_pickle_and_copy() -> None:
    original = from_url(f"amqp://me:{SECRET}@h:1/v?heartbeat=5")
    for other in (pickle.loads(pickle.dumps(original)), copy.copy(original), copy.deepcopy(original)):
        assert other == original
        assert response(other) == response(original)


def test_a_class_of_the_users_needs_a_mechanism_and_start() -> None:
    class Token:
        mechanism = "OAUTHBEARER"

        def start(self) -> bytes:
            return b"token"

    parameters = ConnectionParameters(credentials=Token())  # type: ignore[arg-type]
    assert response(parameters) == b"token"


def test_a_default_port_follows_tls() -> None:
    plain = ConnectionParameters("h")
    secure = plain.replace(ssl=ssl.create_default_context())
    assert (plain.port, secure.port, secure.replace(ssl=None).port) == (5672, 5671, 5672)
    own = ConnectionParameters("h", 7000)
    assert own.replace(ssl=ssl.create_default_context()).port == 7000
