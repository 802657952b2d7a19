"""Connections and channels: opened, refused, many, closed; and operations that follow each other without waiting."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cpspika import (
    AmqplainCredentials,
    ChannelClosed,
    ConnectionClosed,
    ConnectionParameters,
    LoginError,
    NoFreeChannels,
    NotInThisVersion,
    PlainCredentials,
    VirtualHostRefused,
)
from tests.support.styles import Scenario, Style, scenario


@scenario()
def test_what_a_connection_tells(s: Style) -> Scenario:
    connection = yield s.connect()
    assert connection.is_open
    assert not connection.is_blocked
    assert connection.close_reason is None
    assert connection.server_properties["product"]
    assert connection.parameters.protocol == s.protocol
    assert connection.frame_max == 131072
    assert connection.channel_max > 0


@scenario()
def test_targets_of_every_kind(s: Style) -> Scenario:
    parameters = ConnectionParameters(s.broker.host, s.broker.port, "/", protocol=s.protocol)
    for target in (s.url(), parameters, [parameters], (s.url(), parameters)):
        connection = yield s.connect(target, heartbeat=60)
        assert connection.heartbeat == 60
        yield connection.close()


@scenario()
def test_limits_are_negotiated(s: Style) -> Scenario:
    connection = yield s.connect(s.url(frame_max=16384, channel_max=2, heartbeat=7))
    assert (connection.frame_max, connection.channel_max, connection.heartbeat) == (16384, 2, 7)
    first = yield connection.channel()
    yield connection.channel()
    with pytest.raises(NoFreeChannels):
        yield connection.channel()
    yield first.close()
    third = yield connection.channel()
    assert third.number == first.number
    yield third.queue_declare(exclusive=True)


@scenario()
@pytest.mark.parametrize("credentials", [PlainCredentials, AmqplainCredentials])
def test_logging_in(s: Style, credentials: Any) -> Scenario:
    connection = yield s.connect(credentials=credentials("guest", "guest"))
    assert connection.is_open


@scenario()
@pytest.mark.parametrize("credentials", [PlainCredentials, AmqplainCredentials])
def test_a_wrong_password_is_refused_at_once(s: Style, credentials: Any) -> Scenario:
    begin = time.monotonic()
    with pytest.raises(LoginError) as caught:
        yield s.connect(credentials=credentials("guest", "wrong password"))
    assert time.monotonic() - begin < 2
    assert caught.value.code == 403
    assert str(s.broker.port) in str(caught.value)
    assert "wrong password" not in str(caught.value) + repr(caught.value)


@scenario()
def test_an_unknown_virtual_host_is_refused(s: Style) -> Scenario:
    with pytest.raises(VirtualHostRefused, match="cpspika-nowhere") as caught:
        yield s.connect(s.url(vhost="cpspika-nowhere"))
    assert not isinstance(caught.value, LoginError)
    assert str(s.broker.port) in str(caught.value)


@scenario(only="0-9-1")
def test_update_secret(s: Style) -> Scenario:
    connection = yield s.connect()
    assert (yield connection.update_secret("guest", "renewed")) is None
    channel = yield connection.channel()
    yield channel.queue_declare(exclusive=True)


@scenario(only="0-8")
def test_what_0_8_lacks_is_told_at_the_call(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    with pytest.raises(NotInThisVersion, match=r"confirm\.select"):
        yield ch.confirm_select()
    with pytest.raises(NotInThisVersion, match=r"exchange\.bind"):
        yield ch.exchange_bind("amq.fanout", "amq.direct")
    with pytest.raises(NotInThisVersion, match=r"connection\.update-secret"):
        yield connection.update_secret("guest")
    yield ch.queue_declare(exclusive=True)


@pytest.mark.slow
@scenario()
def test_a_thousand_declares_without_waiting(s: Style) -> Scenario:
    ch = yield from s.channel()
    queue, exchange = s.name(), s.name()
    asked = []
    for _ in range(500):
        asked += [ch.queue_declare(queue, exclusive=True), ch.exchange_declare(exchange, auto_delete=True)]
    replies = yield asked
    assert replies == [(queue, 0, 0), None] * 500


@scenario()
def test_operations_without_waiting_on_a_channel_that_is_still_opening(s: Style) -> Scenario:
    connection = yield s.connect()
    asked = [connection.channel() for _ in range(20)]
    channels = yield asked
    assert sorted(channel.number for channel in channels) == list(range(1, 21))


@pytest.mark.slow
@scenario()
def test_many_channels(s: Style) -> Scenario:
    connection = yield s.connect()
    channels = yield [connection.channel() for _ in range(100)]
    declared = yield [channel.queue_declare(exclusive=True) for channel in channels]
    assert len({ok.queue for ok in declared}) == 100
    for channel, ok in zip(channels, declared, strict=True):
        yield channel.basic_publish("", ok.queue, str(channel.number))
    found = yield [ch.basic_get(ok.queue, no_ack=True) for ch, ok in zip(channels, declared, strict=True)]
    assert [int(message.body) for message in found] == [channel.number for channel in channels]
    yield [channel.close() for channel in channels]
    assert not any(channel.is_open for channel in channels)
    again = yield [connection.channel() for _ in range(100)]
    assert {channel.number for channel in again} == {channel.number for channel in channels}


@scenario()
def test_a_closed_channel(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    states: list[bool] = []
    ch.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    assert (yield ch.close(200, "done with it")) is None
    yield s.until(lambda: states)
    assert states == [False]
    assert not ch.is_open
    assert ch.close_reason is None
    for ask in (ch.queue_declare, ch.confirm_select, lambda: ch.basic_publish("", "q", "x"), lambda: ch.basic_ack(1)):
        with pytest.raises(ChannelClosed):
            yield ask()
    assert (yield ch.close()) is None
    reused = yield connection.channel()
    assert reused.number == ch.number
    yield reused.queue_declare(exclusive=True)


@scenario()
def test_what_was_asked_for_before_a_close_is_answered(s: Style) -> Scenario:
    ch = yield from s.channel()
    declared, got, closed = yield [
        ch.queue_declare(exclusive=True),
        ch.basic_get(""),
        ch.close(),
    ]
    assert declared.message_count == 0
    assert got is None
    assert closed is None


@scenario()
def test_a_closed_connection(s: Style) -> Scenario:
    ended: list[Any] = []
    connection = yield s.connect(on_close=lambda connection, error: ended.append(error))
    ch = yield connection.channel()
    assert (yield connection.close()) is None
    yield s.until(lambda: ended)
    assert ended == [None]
    assert not connection.is_open
    assert not ch.is_open
    with pytest.raises(ConnectionClosed):
        yield connection.channel()
    with pytest.raises(ConnectionClosed):
        yield ch.queue_declare(exclusive=True)
    assert (yield connection.close()) is None
    assert ended == [None]
