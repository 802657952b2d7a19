"""What becomes of a publish: confirmed, refused, returned, unknown; and when it is wise to publish no more."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import cpspika
from cpspika import BasicProperties
from tests.support.scripted import Done, World, opened, run_until, said


def publish(world: World, channel: Any, *bodies: str, log: list[Any] | None = None, **options: Any) -> list[Done]:
    """Publishes; the peer takes them off the wire."""
    fates = []
    for body in bodies:
        fates.append(Done(body, log))
        channel.basic_publish(routing_key="q", body=body, on_done=fates[-1], **options)
    for body in bodies:
        assert world.peer.expect("basic.publish", channel.number).body == body.encode()
    return fates


def confirming() -> tuple[World, Any]:
    world = opened()
    return world, world.confirming()


# --- confirms ---------------------------------------------------------------------------------------------------------


def test_acks_one_by_one_tell_each_publish_its_own() -> None:
    world, channel = confirming()
    fates = publish(world, channel, "a", "b", "c")
    world.settle()
    assert all(fate.pending for fate in fates), "nothing is told before the broker decides"
    for tag, fate in enumerate(fates, 1):
        world.peer.ack(tag)
        world.settle()
        assert fate.result is True
        assert all(later.pending for later in fates[tag:])


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_acks_may_come_in_any_order(order: tuple[int, ...]) -> None:
    world, channel = confirming()
    log: list[Any] = []
    publish(world, channel, "1", "2", "3", log=log)
    for tag in order:
        world.peer.ack(tag)
    world.settle()
    assert log == [(str(tag), None, True) for tag in order]


def test_multiple_decides_all_up_to_its_tag_in_order() -> None:
    world, channel = confirming()
    log: list[Any] = []
    publish(world, channel, "1", "2", "3", "4", "5", log=log)
    world.peer.ack(2)
    world.peer.ack(4, multiple=True)
    world.settle()
    assert [name for name, _, _ in log] == ["2", "1", "3", "4"]
    world.peer.ack(0, multiple=True)
    world.settle()
    assert [name for name, _, _ in log] == ["2", "1", "3", "4", "5"], "multiple with tag 0 is all there are"
    assert {result for _, _, result in log} == {True}


def test_a_nack_is_told_as_refused() -> None:
    world, channel = confirming()
    fates = publish(world, channel, "1", "2", "3", "4")
    world.peer.nack(2)
    world.peer.ack(1)
    world.peer.nack(4, multiple=True)
    world.settle()
    assert fates[0].result is True
    for fate in fates[1:]:
        assert isinstance(fate.error, cpspika.MessageNacked)
        assert fate.error.method == "basic.publish"
        assert "test_publisher.py" in fate.error.asked_at
    assert channel.is_open, "a refused message closes nothing"


def test_thousands_are_matched_in_any_order() -> None:
    world, channel = confirming()
    count = 3000
    log: list[Any] = []
    for name in range(1, count + 1):
        channel.basic_publish(body=b"m", on_done=Done(name, log))
    world.settle()
    tags = [*range(2, count + 1, 2), *range(1, count + 1, 2)]
    for tag in tags:
        world.peer.ack(tag)
    world.settle()
    assert [name for name, _, _ in log] == tags


def test_publishes_before_confirm_select_are_not_counted() -> None:
    """Tag 1 is the first publish after confirm.select, as the broker counts."""
    world = opened()
    channel = world.channel()
    before, after = Done("before"), Done("after")
    channel.basic_publish(body="m", on_done=before)
    channel.confirm_select()
    channel.basic_publish(body="m", on_done=after)
    world.settle()
    assert before.result is True
    world.peer.send(1, "confirm.select-ok")
    world.peer.nack(1)
    world.settle()
    assert isinstance(after.error, cpspika.MessageNacked)


def test_each_channel_counts_for_itself() -> None:
    world = opened()
    first, second = world.confirming(), world.confirming()
    of_first = publish(world, first, "a")
    of_second = publish(world, second, "b")
    world.peer.ack(1, number=second.number)
    world.settle()
    assert of_second[0].result is True
    assert of_first[0].pending


@pytest.mark.parametrize(
    ("name", "tag", "multiple"),
    [
        ("basic.ack", 2, False),
        ("basic.ack", 2, True),
        ("basic.nack", 7, False),
        ("basic.ack", 2**64 - 1, True),
        ("basic.ack", 0, False),
    ],
)
def test_deciding_a_publish_that_nobody_made_closes_with_503(name: str, tag: int, multiple: bool) -> None:
    world, channel = confirming()
    fate = publish(world, channel, "1")[0]
    world.peer.send(1, name, delivery_tag=tag, multiple=multiple)
    world.settle()
    close = world.peer.expect("connection.close")
    assert close.reply_code == 503
    assert f"{name} of publish {tag} on channel 1" in close.reply_text
    assert isinstance(fate.error, cpspika.DeliveryUnknown)
    assert world.closed[0] is not None
    assert world.closed[0].code == 503


@pytest.mark.parametrize("again", ["ack", "nack"])
def test_a_publish_that_is_decided_twice_keeps_its_first_fate(again: str) -> None:
    world, channel = confirming()
    fates = publish(world, channel, "1", "2")
    world.peer.ack(1)
    getattr(world.peer, again)(1)
    world.peer.ack(2)
    world.settle()
    world.peer.expect_nothing()
    assert [fate.result for fate in fates] == [True, True]


def test_an_ack_on_a_channel_that_does_not_confirm_closes_with_503() -> None:
    world = opened()
    world.channel().basic_publish(body="m")
    world.settle()
    world.peer.expect("basic.publish")
    world.peer.ack(1)
    world.settle()
    assert world.peer.expect("connection.close").reply_code == 503


def test_a_refused_publish_with_nobody_to_tell_comes_out_of_run() -> None:
    world, channel = confirming()
    channel.basic_publish(body="m")
    world.settle()
    world.peer.nack(1)
    with pytest.raises(cpspika.MessageNacked) as caught:
        world.settle()
    assert "test_publisher.py" in caught.value.asked_at
    assert channel.is_open


# --- unknown ----------------------------------------------------------------------------------------------------------

LOSSES = {
    "cut": lambda world: world.peer.cut(),
    "hung up": lambda world: world.peer.hang_up(),
    "connection closed": lambda world: world.peer.close_connection(),
    "channel closed": lambda world: world.peer.close_channel(404, "NOT_FOUND - no exchange", 60, 40),
    "our close": lambda world: world.connection.close(),
    "our channel's close": lambda world: world.channels[0].close(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_undecided_at_the_end_is_unknown_and_never_refused(loss: str) -> None:
    world, channel = confirming()
    world.channels = [channel]  # type: ignore[attr-defined]
    fates = publish(world, channel, "1", "2", "3", mandatory=True)
    world.peer.ack(2)
    world.settle()
    LOSSES[loss](world)
    world.settle()
    assert fates[1].result is True
    for fate in (fates[0], fates[2]):
        assert isinstance(fate.error, cpspika.DeliveryUnknown)
        assert not isinstance(fate.error, (cpspika.MessageNacked, cpspika.MessageReturned))
        assert fate.error.__cause__ is not None
    if loss == "cut":
        assert "the network failed" in said(fates[0].error)


def test_a_publish_refused_at_the_call_is_not_unknown() -> None:
    """It was never sent, so the caller may send it again without fear of a second copy."""
    world, channel = confirming()
    world.peer.cut()
    world.settle()
    fate = Done()
    assert channel.basic_publish(body="m", on_done=fate) is False
    world.settle()
    assert isinstance(fate.error, cpspika.ConnectionClosed)
    assert not isinstance(fate.error, cpspika.DeliveryUnknown)


def test_the_only_publish_that_the_broker_closed_the_channel_for_is_told_why() -> None:
    world, channel = confirming()
    fate = publish(world, channel, "1")[0]
    world.peer.close_channel(404, "NOT_FOUND - no exchange 'x'", 60, 40)
    world.settle()
    assert "no exchange 'x'" in said(fate.error)
    assert not isinstance(fate.error, cpspika.MessageNacked)


# --- returns ----------------------------------------------------------------------------------------------------------


def test_a_returned_message_is_told_to_its_own_publish_with_code_and_message() -> None:
    world, channel = confirming()
    fate = Done()
    properties = BasicProperties(message_id="7", headers={"mine": 1})
    channel.basic_publish("", "nowhere", "lost", properties, mandatory=True, on_done=fate)
    sent = world.peer.expect("basic.publish")
    world.peer.give_back(1, sent, 312, "NO_ROUTE")
    world.settle()
    assert fate.pending, "the ack decides, and it comes after the return"
    world.peer.ack(1)
    world.settle()
    error = fate.error
    assert isinstance(error, cpspika.MessageReturned)
    assert error.code == 312
    assert "NO_ROUTE" in str(error)
    assert error.method == "basic.publish"
    assert (error.message.body, error.message.routing_key) == (b"lost", "nowhere")
    assert error.message.properties == properties
    assert (error.message.reply_code, error.message.reply_text) == (312, "NO_ROUTE")
    assert channel.is_open


def test_a_returned_message_that_is_then_nacked_is_returned() -> None:
    world, channel = confirming()
    fate = publish(world, channel, "m", mandatory=True)[0]
    world.peer.give_back(1, world.peer.received[-1][1])
    world.peer.nack(1)
    world.settle()
    assert isinstance(fate.error, cpspika.MessageReturned)


def test_a_returned_message_whose_ack_never_comes_is_returned_all_the_same() -> None:
    world, channel = confirming()
    fates = publish(world, channel, "a", "b", mandatory=True)
    world.peer.give_back(1, world.peer.received[-2][1])
    world.settle()
    world.peer.cut()
    world.settle()
    assert isinstance(fates[0].error, cpspika.MessageReturned)
    assert isinstance(fates[1].error, cpspika.DeliveryUnknown)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_among_several_waiting_the_return_finds_its_own(which: int) -> None:
    """They differ in body, routing key, exchange, or in the properties alone."""
    world, channel = confirming()
    contents: list[dict[str, Any]] = [
        {"exchange": "", "routing_key": "q", "body": "1"},
        {"exchange": "", "routing_key": "other", "body": "1"},
        {"exchange": "x", "routing_key": "q", "body": "1"},
        {"exchange": "", "routing_key": "q", "body": "1", "properties": BasicProperties(message_id="mine")},
    ]
    fates = [Done(i) for i in range(4)]
    for fate, content in zip(fates, contents, strict=True):
        channel.basic_publish(**content, mandatory=True, on_done=fate)
    sent = [world.peer.expect("basic.publish") for _ in contents]
    world.peer.give_back(1, sent[which])
    world.peer.ack(4, multiple=True)
    world.settle()
    assert isinstance(fates[which].error, cpspika.MessageReturned)
    assert [fate.result for i, fate in enumerate(fates) if i != which] == [True] * 3


def test_identical_messages_are_returned_in_the_order_of_publishing() -> None:
    world, channel = confirming()
    fates = publish(world, channel, "m", "m", "m", mandatory=True)
    sent = world.peer.received[-1][1]
    world.peer.give_back(1, sent)
    world.peer.ack(1)
    world.settle()
    assert isinstance(fates[0].error, cpspika.MessageReturned)
    world.peer.give_back(1, sent)
    world.peer.give_back(1, sent)
    world.peer.ack(3, multiple=True)
    world.settle()
    assert isinstance(fates[1].error, cpspika.MessageReturned)
    assert isinstance(fates[2].error, cpspika.MessageReturned)
    assert fates[1].error.message is not fates[2].error.message


def test_a_return_out_of_order_that_can_be_only_ones_is_that_ones() -> None:
    """Telling it as confirmed would be the one wrong answer."""
    world, channel = confirming()
    fates = publish(world, channel, "first", "second", mandatory=True)
    first, second = (message for _, message in world.peer.received[-2:])
    world.peer.give_back(1, second)
    world.peer.give_back(1, first)
    world.peer.ack(2, multiple=True)
    world.settle()
    for fate, body in zip(fates, (b"first", b"second"), strict=True):
        assert isinstance(fate.error, cpspika.MessageReturned)
        assert fate.error.message.body == body


def test_a_return_behind_another_belongs_to_the_later_of_two_that_look_alike() -> None:
    """The broker keeps the order: the first was routed, since the second came back before anything else."""
    world, channel = confirming()
    first, second, third = publish(world, channel, "m", "other", "m", mandatory=True)
    other, alike = (message for _, message in world.peer.received[-2:])
    world.peer.give_back(1, other)
    world.peer.give_back(1, alike)
    world.peer.ack(3, multiple=True)
    world.settle()
    assert first.result is True
    assert isinstance(second.error, cpspika.MessageReturned)
    assert isinstance(third.error, cpspika.MessageReturned)


def test_a_return_is_not_paired_with_a_publish_that_was_not_mandatory() -> None:
    world, channel = confirming()
    plain = publish(world, channel, "m")[0]
    mandatory = publish(world, channel, "m", mandatory=True)[0]
    world.peer.give_back(1, world.peer.received[-1][1])
    world.peer.ack(2, multiple=True)
    world.settle()
    assert plain.result is True
    assert isinstance(mandatory.error, cpspika.MessageReturned)


def test_a_return_that_came_for_a_publish_decided_already_is_not_given_to_the_next() -> None:
    world, channel = confirming()
    first = publish(world, channel, "m", mandatory=True)[0]
    world.peer.ack(1)
    world.settle()
    assert first.result is True
    second = publish(world, channel, "other", mandatory=True)[0]
    world.peer.give_back(1, world.peer.received[-2][1])
    with pytest.raises(cpspika.MessageReturned):
        world.settle()
    world.peer.ack(2)
    world.settle()
    assert second.result is True


def test_the_users_properties_and_headers_are_not_touched() -> None:
    world, channel = confirming()
    headers = {"a": 1, "nested": {"b": [1, 2]}}
    properties = BasicProperties(headers=headers, delivery_mode=2, correlation_id="c")
    fates = []
    for _ in range(3):
        fates.append(Done())
        channel.basic_publish("", "q", "m", properties, mandatory=True, on_done=fates[-1])
    assert headers == {"a": 1, "nested": {"b": [1, 2]}}
    assert properties == BasicProperties(headers=headers, delivery_mode=2, correlation_id="c")
    sent = [world.peer.expect("basic.publish") for _ in range(3)]
    assert [message.properties for message in sent] == [properties] * 3, "nothing is added on the wire"
    plain = {"headers": headers}
    channel.basic_publish("", "q", "m", plain, mandatory=True)
    assert plain == {"headers": {"a": 1, "nested": {"b": [1, 2]}}}


def test_headers_changed_after_the_publish_do_not_change_what_was_published() -> None:
    world, channel = confirming()
    properties = BasicProperties(headers={"n": 1})
    fates = [Done(), Done()]
    channel.basic_publish("", "q", "m", properties, mandatory=True, on_done=fates[0])
    assert properties.headers is not None
    properties.headers["n"] = 2  # type: ignore[index]
    channel.basic_publish("", "q", "m", properties, mandatory=True, on_done=fates[1])
    sent = [world.peer.expect("basic.publish") for _ in range(2)]
    assert [message.properties.headers for message in sent] == [{"n": 1}, {"n": 2}]
    world.peer.give_back(1, sent[1])
    world.peer.ack(2, multiple=True)
    world.settle()
    assert fates[0].result is True
    assert isinstance(fates[1].error, cpspika.MessageReturned)


def test_return_handlers_get_the_message_and_the_publish_its_fate() -> None:
    world, channel = confirming()
    returned: list[Any] = []
    remove = channel.add_return_handler(returned.append)
    channel.basic_publish(routing_key="q", body="nobody told", mandatory=True)
    sent = world.peer.expect("basic.publish")
    fate = publish(world, channel, "told", mandatory=True)[0]
    world.peer.give_back(1, sent)
    world.peer.give_back(1, world.peer.received[-1][1])
    world.peer.ack(2, multiple=True)
    world.settle()
    assert [message.body for message in returned] == [b"nobody told", b"told"]
    assert isinstance(fate.error, cpspika.MessageReturned)
    remove()
    channel.basic_publish(routing_key="q", body="after", mandatory=True)
    world.peer.give_back(1, world.peer.expect("basic.publish"))
    world.peer.ack(3)
    with pytest.raises(cpspika.MessageReturned):
        world.settle()
    assert len(returned) == 2


@pytest.mark.parametrize("confirms", [True, False])
def test_a_return_with_nobody_to_tell_comes_out_of_run(confirms: bool) -> None:
    world = opened()
    channel = world.confirming() if confirms else world.channel()
    channel.basic_publish(routing_key="gone", body="m", mandatory=True)
    world.peer.give_back(1, world.peer.expect("basic.publish"))
    if confirms:
        world.peer.ack(1)
    with pytest.raises(cpspika.MessageReturned, match="NO_ROUTE") as caught:
        world.reactor.run()
    assert caught.value.message.body == b"m"
    assert caught.value.code == 312
    world.settle()
    assert channel.is_open


def test_a_large_returned_body_is_whole() -> None:
    world, channel = confirming()
    body = bytes(range(256)) * 2000
    fate = Done()
    channel.basic_publish(routing_key="q", body=body, mandatory=True, on_done=fate)
    world.peer.give_back(1, world.peer.expect("basic.publish"))
    world.peer.ack(1)
    world.settle()
    assert fate.error.message.body == body


# --- without confirms -------------------------------------------------------------------------------------------------


def test_without_confirms_on_done_comes_when_the_bytes_have_gone_to_the_kernel() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.peer.clog()
    with done.not_inside():
        channel.basic_publish(routing_key="q", body="m", on_done=done)
    world.settle()
    assert done.pending, "they are still ours"
    transport: Any = world.connection._backlog.transport
    transport._flush()
    world.settle()
    assert done.result is True


def test_without_confirms_what_the_kernel_never_took_is_told_the_loss() -> None:
    world = opened()
    channel, done = world.channel(), Done()
    world.peer.clog()
    channel.basic_publish(routing_key="q", body="m", on_done=done)
    world.peer.cut()
    world.settle()
    assert isinstance(done.error, cpspika.ConnectionClosed)
    assert "the network failed" in said(done.error)
    assert not isinstance(done.error, cpspika.MessageNacked)


def test_messages_arrive_in_the_order_of_publishing_whatever_their_size() -> None:
    world = opened()
    channel = world.channel()
    bodies = [b"x" * size for size in (0, 1, 131064, 131065, 400_000, 3, 0)]
    done = [Done(i) for i in range(len(bodies))]
    for body, on_done in zip(bodies, done, strict=True):
        channel.basic_publish(routing_key="q", body=body, on_done=on_done)
    for body in bodies:
        assert world.peer.expect("basic.publish").body == body
    assert all(on_done.result is True for on_done in done)


# --- writable ---------------------------------------------------------------------------------------------------------


def test_publish_returns_false_at_high_water_and_the_handler_calls_it_back() -> None:
    world = opened()
    channel, calls = world.channel(), []
    channel.add_writable_handler(calls.append)
    body = b"x" * 50_000
    answers = [channel.basic_publish(routing_key="q", body=body) for _ in range(10)]
    assert answers[0] is True
    assert answers[-1] is False
    assert answers == sorted(answers, reverse=True)
    assert channel.writable is False
    assert world.connection.writable is False
    assert calls == []
    world.settle()
    assert calls == [channel]
    assert channel.writable is True
    for _ in range(10):
        assert world.peer.expect("basic.publish").body == body, "the message is kept all the same"


def test_every_channel_is_called_when_the_link_drains() -> None:
    world = opened()
    channels = [world.channel() for _ in range(3)]
    calls: list[Any] = []
    for channel in channels:
        channel.add_writable_handler(calls.append)
    while channels[0].basic_publish(body=b"x" * 50_000):
        pass
    assert not any(channel.writable for channel in channels)
    world.settle()
    assert calls == channels


def test_a_publisher_that_waits_for_the_handler_gets_everything_through() -> None:
    world = opened()
    channel = world.channel()
    left = list(range(100))

    def go_on(_: Any) -> None:
        while left:
            if not channel.basic_publish(body=b"%d" % left.pop(0) + b"x" * 20_000):
                return

    channel.add_writable_handler(go_on)
    go_on(channel)
    assert left, "it stopped at the high water"
    assert world.connection._backlog.transport is not None
    assert world.connection._backlog.transport.queued - world.connection._backlog.transport.written < 2**20
    for i in range(100):
        assert world.peer.expect("basic.publish").body.startswith(b"%d" % i)


def test_connection_blocked_turns_writable_off_and_stops_nothing() -> None:
    world = opened()
    channel, told, calls = world.channel(), [], []
    world.connection.add_blocked_handler(lambda connection, blocked, reason: told.append((blocked, reason)))
    channel.add_writable_handler(calls.append)
    world.peer.send(0, "connection.blocked", reason="low on memory")
    world.settle()
    assert told == [(True, "low on memory")]
    assert world.connection.is_blocked
    assert not channel.writable
    assert channel.basic_publish(body="m") is False
    assert world.peer.expect("basic.publish").body == b"m"
    assert calls == []
    world.peer.send(0, "connection.unblocked")
    world.settle()
    assert told[1:] == [(False, "")]
    assert calls == [channel]
    assert channel.basic_publish(body="m") is True


def test_writable_stays_off_while_any_reason_lasts() -> None:
    world = opened()
    channel, calls = world.channel(), []
    channel.add_writable_handler(calls.append)
    world.peer.send(0, "connection.blocked", reason="r")
    world.peer.send(1, "channel.flow", active=False)
    world.settle()
    world.peer.send(0, "connection.unblocked")
    world.settle()
    assert calls == []
    assert not channel.writable
    world.peer.send(1, "channel.flow", active=True)
    world.settle()
    assert calls == [channel]
    assert channel.writable


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        ("", b""),
        ("grüße €", "grüße €".encode()),
        (b"\x00\xff", b"\x00\xff"),
        (bytearray(b"array"), b"array"),
        (memoryview(b"a view of it")[2:6], b"view"),
        (memoryview(b"every other")[::2], b"eeyohr"),
    ],
)
def test_bodies_of_each_type(body: Any, sent: bytes) -> None:
    world = opened()
    world.channel().basic_publish(routing_key="q", body=body)
    assert world.peer.expect("basic.publish").body == sent


def test_a_buffer_changed_after_the_publish_does_not_change_the_message() -> None:
    world = opened()
    body = bytearray(b"as it was")
    world.channel().basic_publish(routing_key="q", body=body)
    body[:] = b"different"
    assert world.peer.expect("basic.publish").body == b"as it was"


def test_a_message_arrives_as_it_was_published() -> None:
    world = opened()
    channel = world.channel()
    properties = BasicProperties(content_type="text/plain", delivery_mode=2, priority=5, headers={"k": ["v", None]})
    channel.basic_publish("x", "k", "body", properties, mandatory=True)
    message = world.peer.expect("basic.publish")
    assert (message.exchange, message.routing_key, message.body) == ("x", "k", b"body")
    assert (message.details["mandatory"], message.details["immediate"]) == (True, False)
    assert message.properties == properties


def test_a_dict_does_as_well_as_properties() -> None:
    world = opened()
    world.channel().basic_publish("", "q", "m", {"message_id": "1", "headers": {"a": True}})
    assert world.peer.expect("basic.publish").properties == BasicProperties(message_id="1", headers={"a": True})


def test_run_until_a_publish_is_decided() -> None:
    """What a program does that wants to wait: turn the reactor until its on_done was called."""
    world, channel = confirming()
    fate = Done()
    world.peer.when("basic.publish", lambda peer, number, message: peer.ack(1))
    channel.basic_publish(body="m", on_done=fate)
    run_until(world.reactor, lambda: not fate.pending)
    assert fate.result is True


@pytest.mark.parametrize("flags", [{}, {"mandatory": True}, {"immediate": True}], ids=str)
@pytest.mark.parametrize("confirming", [False, True])
def test_a_mistake_in_a_publish_raises_at_the_call_and_changes_nothing(flags: Any, confirming: bool) -> None:
    world = opened()
    channel = world.channel()
    if confirming:
        channel.confirm_select()
        world.settle()
        world.peer.expect("confirm.select")
        world.peer.send(1, "confirm.select-ok")
    fate, right = Done(), Done()
    for wrong in ({"exchange": "x" * 256}, {"routing_key": "x" * 256}, {"routing_key": 1}, {"body": 1}):
        with pytest.raises(cpspika.LocalError):
            channel.basic_publish(**{"body": b"m", **wrong}, **flags, on_done=fate)
    channel.basic_publish("", "q", b"right", on_done=right)
    world.peer.expect("basic.publish")
    world.peer.expect_nothing()
    if confirming:
        world.peer.ack(1)  # its number, since the others have none
        world.settle()
    assert right.result is True
    assert fate.pending


class Octets(bytes):
    """Bytes of a class of the program's own."""


@pytest.mark.parametrize("confirms", [False, True])
@pytest.mark.parametrize("body", [b"body", "body", bytearray(b"body"), memoryview(b"body"), Octets(b"body")], ids=type)
def test_a_body_of_each_type_arrives_and_the_call_says_that_the_channel_is_writable(body: Any, confirms: bool) -> None:
    world = opened()
    channel = world.confirming() if confirms else world.channel()
    assert channel.basic_publish("", "q", body) is True
    message = world.peer.expect("basic.publish")
    assert message.body == b"body"
    world.peer.clog()
    answers = [channel.basic_publish("", "q", bytes(200_000)) for _ in range(4)]
    assert answers[0] is True
    assert answers[-1] is False


@pytest.mark.parametrize("state", ["sent", "held"])
def test_a_publish_whose_channel_is_shut_by_the_link_is_settled_once(state: str) -> None:
    """The channel's end is told at once; its close-ok comes later, and tells nobody again."""
    world = opened()
    channel, fate = world.confirming(), Done()
    if state == "held":
        world.peer.send(1, "channel.flow", active=False)
        world.settle()
        world.peer.expect("channel.flow-ok")
    states: list[bool] = []
    channel.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    channel.basic_publish("", "q", "m", block_on_flow_control=True, on_done=fate)
    channel._fail_and_close(cpspika.ProtocolSyntaxError("a mistake of the broker's"))
    world.settle()
    assert isinstance(fate.error, cpspika.ChannelClosed)
    channel._on_close_ok(None)
    world.settle()
    assert len(fate.calls) == 1
    assert states == [False]
