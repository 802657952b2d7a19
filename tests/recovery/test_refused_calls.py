"""A call from another thread while one is inside, and a call with a mistake, on a connection that recovers: it raises,
and nothing has changed (clause 5 of the law). Every operation, in each state of a link, a channel and a connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

import cpspika
from tests.client.test_wrong_thread import plain
from tests.support.recovering import RecoveryWorld
from tests.support.scripted import Done
from tests.support.unchanged import (
    ARGUMENTS,
    NOBODY,
    OF_CONNECTION,
    differences,
    mistakes,
    refused_in_another_thread,
    snapshot,
    told_or_not,
)


class Scene(RecoveryWorld):
    """A connection with a channel, a queue "q" and a message of it that is unsettled. `view`: what on_ready got."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.view: Any = None
        self.channel_ = self.channel(None)
        self.ask(self.channel_.queue_declare, "q")
        self.ask(self.channel_.exchange_declare, "e")
        self.ask(self.channel_.basic_publish, "", "q", "m")
        self.settle()
        self.ask(self.channel_.basic_get, "q")
        self.settle()

    def subject(self) -> Any:
        return self.channel_ if self.view is None else self.view

    def state(self) -> Any:
        connection = self.connection
        return snapshot([connection, self.reactor, self.channel_, self.subject()])


def is_open(world: Scene) -> None:
    pass


def is_confirming(world: Scene) -> None:
    world.ask(world.channel_.confirm_select)
    world.settle()


def consumer_starts(world: Scene) -> None:
    world.channel_.basic_consume("q", print, consumer_tag="starting")


def stops_flow(world: Scene) -> None:
    world.broker.flow(False)
    world.settle()


def link_lost(world: Scene) -> None:
    world.down()
    world.cut()


def link_lost_and_operations_wait(world: Scene) -> None:
    consumer_starts(world)
    world.settle()
    link_lost(world)
    world.ask(world.channel_.queue_declare, "later")
    world.ask(world.channel_.basic_publish, "", "q", "later")
    world.ask(world.channel_.drain)


def is_restored(world: Scene) -> None:
    consumer_starts(world)
    world.settle()
    world.cut()
    world.step_until(lambda: world.channel_._opening is not None, "the new opening")
    assert not world.channel_._ready


def was_restored(world: Scene) -> None:
    consumer_starts(world)
    world.settle()
    world.cut()
    world.restored()


def in_transaction(world: Scene) -> None:
    world.ask(world.channel_.tx_select)
    world.settle()


def transaction_is_broken(world: Scene) -> None:
    in_transaction(world)
    world.channel_.basic_publish("", "q", "x")
    world.cut()
    world.restored()


def transaction_without_link(world: Scene) -> None:
    in_transaction(world)
    link_lost(world)


def on_ready_asks(world: Scene) -> None:
    world.channel(lambda view: setattr(world, "view", view))
    assert world.view is not None


def on_ready_asks_in_transaction(world: Scene) -> None:
    on_ready_asks(world)
    channel = world.connection._opened_channels[-1]
    world.ask(channel.tx_select)
    world.settle()


def channel_closes(world: Scene) -> None:
    world.channel_.close()


def channel_closed(world: Scene) -> None:
    world.channel_.close()
    world.settle()


def connection_closes(world: Scene) -> None:
    world.connection.close()


def connection_closes_without_link(world: Scene) -> None:
    link_lost(world)
    world.connection.close()


def connection_closed(world: Scene) -> None:
    world.connection.close()
    world.settle()


OPEN = [
    is_open,
    is_confirming,
    consumer_starts,
    stops_flow,
    link_lost,
    link_lost_and_operations_wait,
    is_restored,
    was_restored,
    in_transaction,
    transaction_is_broken,
    transaction_without_link,
    on_ready_asks,
    on_ready_asks_in_transaction,
]
QUICK, SLOW = [is_open, link_lost, transaction_is_broken, on_ready_asks], pytest.mark.slow
ENDING = [
    channel_closes,
    channel_closed,
    connection_closes,
    connection_closes_without_link,
    connection_closed,
]


def named(state: Any) -> str:
    return str(state.__name__)


def has_the_consumer(channel: Any) -> bool:
    known = getattr(channel, "_has_consumer", channel._consumers.__contains__)
    return bool(known("starting"))


@pytest.mark.parametrize("state", [*OPEN, *ENDING], ids=named)
def test_each_operation_in_another_thread_is_refused_and_changes_nothing(state: Callable[[Scene], None]) -> None:
    world = Scene()
    state(world)
    channel = world.subject()
    refused = partial(refused_in_another_thread, world.reactor, world.state)
    tag = channel._opening._sender.base if getattr(channel, "_opening", None) is not None else 0
    for told in (True, False):
        for name, arguments in ARGUMENTS.items():
            if name == "basic_cancel" and channel.is_open and not has_the_consumer(channel):
                continue  # there is no such consumer
            refused(told_or_not(getattr(channel, name), arguments, told), told)
        for name in ("basic_ack", "basic_nack", "basic_reject"):
            for delivery_tag in (tag + 1, 1 << 60):  # of this opening, of one that is over
                refused(told_or_not(getattr(channel, name), (delivery_tag,), told), told)
        for options in ({"mandatory": True}, {"block_on_flow_control": True}):
            refused(told_or_not(partial(channel.basic_publish, "", "q", "x", **options), (), told), told)
        for name, arguments in OF_CONNECTION.items():
            if name != "abort" or not told:
                refused(told_or_not(getattr(world.connection, name), arguments, told), told)
    world.settle()


def test_a_stale_acknowledgement_without_on_done_is_refused_too() -> None:
    """It would be dropped and counted: the count is the connection's."""
    world = Scene()
    link_lost(world)
    for call in (world.channel_.basic_ack, world.channel_.basic_nack, world.channel_.basic_reject):
        world.reactor.thread = NOBODY
        with pytest.raises(cpspika.ConcurrentUse):
            call(1)
        world.reactor.thread = None
    assert world.connection._stale == 0


def test_a_connection_that_dials_is_left_alone() -> None:
    world = RecoveryWorld(connect=False)
    for call in (world.connection.close, world.connection.abort):
        refused_in_another_thread(world.reactor, lambda: snapshot(world.connection), call, True)
    world.settle()
    assert world.connected.result is world.connection


@pytest.mark.parametrize("recovery", [None, True])
def test_no_thread_connects_while_another_is_inside_the_reactor(recovery: Any) -> None:
    world = RecoveryWorld()

    def connect() -> None:
        cpspika.connect("amqp://broker", reactor=world.reactor, on_done=Done(), recovery=recovery)

    refused_in_another_thread(world.reactor, lambda: snapshot(world.reactor), connect, True)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def subjects(world: Scene) -> list[tuple[Any, type, Any]]:
    of_connection = OF_CONNECTION.keys() - {"abort"}
    return [
        (world.subject, cpspika.Channel, ARGUMENTS),
        (lambda: world.connection, cpspika.Connection, of_connection),
    ]


def refusals_of_the_core() -> dict[str, type[Exception]]:
    """What a connection without recovery raises for each mistake, by the repr of the call."""
    found = {}
    for of, names in ((cpspika.Channel, ARGUMENTS), (cpspika.Connection, OF_CONNECTION.keys() - {"abort"})):
        world, channel = plain()
        for name, arguments in mistakes(names, of):
            thing = channel if of is cpspika.Channel else world.connection
            try:
                getattr(thing, name)(**arguments)
            except cpspika.LocalError as error:
                found[of.__name__ + name + told(arguments)] = type(error)
            else:
                world, channel = plain()
    return found


def told(arguments: dict[str, Any]) -> str:
    return str({name: repr(value).partition(" at 0x")[0] for name, value in arguments.items()})


PARTS = ("basic_publish", "basic_ack", "basic_nack", "basic_reject", "tx_commit")
# What fails in a state whatever its arguments are, and is told to on_done.
FAILING = {
    stops_flow: ("basic_publish",),
    transaction_is_broken: PARTS,
}
CORE = refusals_of_the_core()


@pytest.mark.parametrize(
    "state", [each if each in QUICK else pytest.param(each, marks=SLOW) for each in OPEN], ids=named
)
def test_a_call_with_a_mistake_is_refused_as_without_recovery_and_changes_nothing(
    state: Callable[[Scene], None],
) -> None:
    world = Scene()
    state(world)
    count, before, decided = 0, world.state(), FAILING.get(state, ())
    for number, (_, of, names) in enumerate(subjects(world)):
        for name, arguments in mistakes(names, of):
            expected = CORE.get(of.__name__ + name + told(arguments))
            if expected is None or name in decided or expected is cpspika.UnknownConsumerTag:
                continue
            if name == "basic_cancel" and not has_the_consumer(world.subject()):
                continue
            call = getattr(subjects(world)[number][0](), name)
            for known in ({}, {"on_done": Done()})[: 1 if "on_done" in arguments else 2]:
                raised = None
                try:
                    call(**{**known, **arguments})
                except cpspika.LocalError as error:
                    raised = type(error)
                assert raised is expected, f"{name}({told(arguments)})"
                assert differences(before, world.state()) == [], f"{name}({told(arguments)})"
                count += 1
    assert count > 400
    world.settle()


def test_a_table_is_copied_whatever_mapping_it_is() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    table: dict[str, Any] = {"x-max-length": 5, "x-list": [memoryview(b"a"), bytearray(b"b")], "x-more": {"k": [1]}}
    declared = world.ask(channel.queue_declare, "q", arguments=MappingProxyType(table))
    table["x-max-length"] = 6
    table["x-list"].clear()
    table["x-more"]["k"].append(2)
    world.settle()
    assert declared.result.queue == "q"
    world.broker.queues.clear()  # what it declares again must be what it has declared
    world.cut()
    world.restored()
    again = world.ask(world.channel().queue_declare, "q", arguments={"x-max-length": 5})
    world.settle()
    assert again.result.queue == "q"


def test_a_refused_declare_does_not_change_which_queue_was_declared_last() -> None:
    world = RecoveryWorld()
    channel = world.channel()
    world.ask(channel.queue_declare, "q")
    world.settle()
    with pytest.raises(cpspika.InvalidArgument):
        channel.queue_declare("x" * 300)
    bound = world.ask(channel.queue_bind, "", "amq.direct", "key")
    world.settle()
    assert bound.result is None
    world.cut()
    world.restored()
    assert not [event for event in world.events if event.kind == "entity_failed"]
    world.channel().basic_publish("amq.direct", "key", "m")
    world.settle()
    assert world.bodies("q") == [b"m"]
