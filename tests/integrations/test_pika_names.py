"""Names of pika that programs read beside its calls: modules, exceptions, views and private attributes."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from unittest.mock import MagicMock

import pytest

import cpspika.integrations.pika as face
from tests.integrations.conftest import Client


def module(pika: Any, name: str) -> Any:
    return import_module(f"{pika.__name__}.{name}")


def public(thing: Any) -> set[str]:
    return {name for name in dir(thing) if name[0] != "_"}


# --- modules ----------------------------------------------------------------------------------------------------------


def test_the_exceptions_of_connecting(pika: Any) -> None:
    """Each is there, under the same ones. None is an AMQPConnectionError, so they do not catch a lost link."""
    real = pytest.importorskip("pika.adapters.utils.connection_workflow")
    mine = module(pika, "adapters.utils.connection_workflow")
    names = [name for name, value in vars(real).items() if isinstance(value, type) and issubclass(value, Exception)]
    for name in names:
        bases = [base.__name__ for base in getattr(real, name).__mro__]
        assert [base.__name__ for base in getattr(mine, name).__mro__] == bases
    assert not issubclass(pika.exceptions.AMQPConnectionError, mine.AMQPConnectorException)
    cause = OSError("a")
    assert mine.AMQPConnectorSocketConnectError(cause).exception is cause
    assert mine.AMQPConnectionWorkflowFailed([cause]).exceptions == (cause,)


def test_frames(pika: Any) -> None:
    frame, spec = module(pika, "frame"), pika.spec
    header = frame.Header(1, 5, pika.BasicProperties(app_id="a"))
    assert (header.channel_number, header.body_size, header.properties.app_id) == (1, 5, "a")
    assert frame.Body(1, b"hello").fragment == b"hello"
    types = [made.frame_type for made in (header, frame.Body(1, b""), frame.Heartbeat())]
    assert types == [spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT]
    version = frame.ProtocolHeader()
    assert (version.major, version.minor, version.revision) == (0, 9, 1)
    assert isinstance(header, frame.Frame)


def test_small_functions(pika: Any) -> None:
    compat, validators = module(pika, "compat"), module(pika, "validators")
    assert compat.as_bytes("ä") == compat.as_bytes(b"\xc3\xa4") == b"\xc3\xa4"
    assert compat.byte(206) == b"\xce"
    assert compat.time_now() <= compat.time_now()
    assert [compat.ON_LINUX, compat.ON_OSX, compat.ON_WINDOWS].count(True) <= 1
    assert isinstance("", compat.str_or_bytes)
    assert issubclass(ConnectionError, compat.SOCKET_ERROR)
    validators.require_string("a", "name")
    validators.require_callback(print)
    validators.zero_or_greater("count", 0)
    assert validators.rpc_completion_callback(None) is True
    assert validators.rpc_completion_callback(print) is False
    for call, error in (
        (lambda: validators.require_string(1, "name"), TypeError),
        (lambda: validators.require_callback(None, "callback"), TypeError),
        (lambda: validators.rpc_completion_callback(1), TypeError),
        (lambda: validators.zero_or_greater("count", -1), ValueError),
    ):
        with pytest.raises(error):
            call()


def test_other_functions_say_what_to_use() -> None:
    for name in ("compat.nonblocking_socketpair", "adapters.utils.connection_workflow.AMQPConnector"):
        path, _, wanted = name.rpartition(".")
        with pytest.raises(ImportError, match=f"cpspika.integrations.pika has no {name}; use "):
            getattr(module(face, path), wanted)


@pytest.mark.parametrize(("path", "name"), [("channel", "Channel"), ("connection", "Connection")])
def test_mocks_of_what_is_absent(pika: Any, path: str, name: str) -> None:
    real = getattr(pytest.importorskip(f"pika.{path}"), name)
    mine = getattr(module(pika, path), name)
    methods = {member for member in public(real) if not member.isupper()}
    assert methods <= public(mine)
    mock = MagicMock(spec=mine)
    mock.close()
    mock.close.assert_called_once_with()
    with pytest.raises(AttributeError):
        _ = mock.no_method


def test_the_default_of_a_parameter(pika: Any) -> None:
    absent = pika.ConnectionParameters._DEFAULT
    parameters = pika.ConnectionParameters("a", ssl_options=absent, port=absent)
    assert (parameters.ssl_options, parameters.port) == (None, 5672)


def test_vars_of_properties(pika: Any) -> None:
    properties = pika.BasicProperties(app_id="a")
    properties.__dict__.update(expiration="7")
    vars(properties)["type"] = "t"
    assert (properties.app_id, properties.expiration, properties.type) == ("a", "7", "t")
    assert vars(properties) == {**vars(pika.BasicProperties()), "app_id": "a", "expiration": "7", "type": "t"}


# --- private attributes -----------------------------------------------------------------------------------------------


def test_a_loop_that_waits_for_the_last_consumer(client: Client) -> None:
    channel = client.channel()
    tag = channel.basic_consume(client.filled(channel, "0"), lambda ch, *rest: ch.stop_consuming(), auto_ack=True)
    assert list(channel._consumer_infos) == [tag]
    assert callable(channel._consumer_infos[tag].on_message_callback)
    while channel._consumer_infos:
        channel.connection.process_data_events(time_limit=1)
    channel.basic_consume(client.filled(channel), print)
    channel.close()
    assert not channel._consumer_infos


def test_consumers_of_a_channel_that_the_broker_closed(client: Client) -> None:
    channel = client.channel()
    channel.basic_consume(client.filled(channel), print)
    with pytest.raises(client.pika.exceptions.ChannelClosedByBroker):
        channel.queue_declare("cpspika-missing", passive=True)
    assert not channel._consumer_infos


def test_the_connection_below(client: Client) -> None:
    nowhere = client.pika.ConnectionParameters("127.0.0.1", 1)
    options = {"heartbeat": 7, "blocked_connection_timeout": 300, "client_properties": {"connection_name": "test"}}
    connection = client.connect([nowhere, client.parameters(**options)])
    below = connection._impl
    assert (below.params.host, below.params.port) == (client.broker.host, client.broker.port)
    assert (below.params.virtual_host, below.params.ssl_options, below.params.heartbeat) == ("/", None, 7)
    assert below.params.blocked_connection_timeout == 300
    assert below.params.client_properties["connection_name"] == "test"
    assert below.params.frame_max <= 131072
    assert below.server_properties["capabilities"]["basic.nack"] is True
    assert below.server_capabilities["basic.nack"] is True
    assert (below.is_open, below.is_closing, below.is_closed) == (True, False, False)
    connection.close()
    assert (connection._impl.is_open, connection._impl.is_closed) == (False, True)


def test_the_channel_below(client: Client) -> None:
    channel = client.channel()
    below = channel._impl
    below._raise_if_not_open()
    assert (below.is_open, below.is_closed, below.channel_number) == (True, False, 1)
    assert below.connection.params.port == client.broker.port
    assert channel._delivery_confirmation is False
    channel.confirm_delivery()
    assert channel._delivery_confirmation is True
    channel.close()
    assert (channel._impl.is_open, channel._impl.is_closed) == (False, True)
    with pytest.raises(client.pika.exceptions.ChannelWrongStateError):
        channel._impl._raise_if_not_open()


def test_the_rest_below_is_absent() -> None:
    with face.BlockingConnection(face.URLParameters("embedded://")) as connection:
        assert not hasattr(connection.channel()._impl, "transport")
        with pytest.raises(AttributeError, match=r"has no BlockingConnection\._impl\.ioloop; use the methods"):
            _ = connection._impl.ioloop
