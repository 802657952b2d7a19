"""One connection and many threads: ThreadedConnection, and what it promises beyond the shared scenarios."""

from __future__ import annotations

import contextlib
import gc
import inspect
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

import cpspika
from cpspika.broker import Served, serve
from cpspika.client.connection import HIGH_WATER
from cpspika.styles.lifting import operations, registrations
from cpspika.threads import ThreadedChannel, ThreadedConnection
from tests.support.forking import forking
from tests.support.scripted import SocketBroker, content, deliver_three
from tests.support.waiting import DEADLINE, until


class Opened(ThreadedConnection):
    """With a timeout, and with a list of the errors that nobody else was told."""

    def __init__(self, target: str, **options: Any):
        self.errors: list[BaseException] = []
        options.setdefault("timeout", DEADLINE)
        options.setdefault("on_error", self.errors.append)
        super().__init__(target, **options)

    def end(self) -> None:
        """Closes it; none of its threads may be left."""
        self.close()
        with contextlib.suppress(cpspika.AMQPError):
            assert self.join(DEADLINE), "its threads did not end"
        assert not own_threads(), own_threads()


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("cpspika worker", "cpspika reactor"))]


@pytest.fixture
def local() -> Iterator[Served]:
    with serve() as running:
        yield running


@pytest.fixture
def connection(local: Served) -> Iterator[Opened]:
    opened = Opened(local.url)
    yield opened
    opened.end()
    assert not opened.errors


@pytest.fixture
def ch(connection: Opened) -> ThreadedChannel:
    return connection.channel()


@pytest.fixture
def queue(ch: ThreadedChannel) -> str:
    return ch.queue_declare(exclusive=True).queue


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What work(number) returns in each of so many threads, or the exception that it raises."""

    def outcome(number: int) -> Any:
        start.wait(DEADLINE)
        try:
            return work(number)
        except Exception as error:
            return error

    start = threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(outcome, range(count), timeout=60))


# --- the operations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "facade"), [(cpspika.Connection, ThreadedConnection), (cpspika.Channel, ThreadedChannel)]
)
def test_every_operation_is_lifted(core: type, facade: type) -> None:
    for name, operation in (operations(core) | registrations(core)).items():
        shown = inspect.signature(operation)
        without = [parameter for name, parameter in shown.parameters.items() if name != "on_done"]
        lifted = list(inspect.signature(getattr(facade, name)).parameters.values())
        assert lifted[: len(without)] == without
        assert [parameter.name for parameter in lifted[len(without) :]] == ["timeout"] * (name in operations(core))
        assert inspect.getdoc(getattr(facade, name)).partition("\n")[0] == inspect.getdoc(operation).partition("\n")[0]


def test_calls_of_many_threads_get_their_own_answers(connection: Opened, ch: ThreadedChannel) -> None:
    def work(number: int) -> list[str]:
        mine = connection.channel() if number % 2 else ch
        found = []
        for count in range(20):
            name = mine.queue_declare(f"{number}-{count}", exclusive=True).queue
            mine.basic_publish(routing_key=name, body=name)
            message = mine.basic_get(name)
            assert message is not None
            message.ack()
            found.append(message.body.decode())
        return found

    for number, found in enumerate(together(8, work)):
        assert found == [f"{number}-{count}" for count in range(20)]


def test_errors_are_raised_in_the_thread_that_asked_and_tell_where(connection: Opened) -> None:
    def work(number: int) -> Any:
        return connection.channel().queue_declare(f"nothing-{number}", passive=True)

    for number, error in enumerate(together(6, work)):
        assert isinstance(error, cpspika.NotFound)
        assert f"nothing-{number}" in str(error)
        assert error.method == "queue.declare"
        assert "test_threads.py" in str(error.asked_at)
        assert str(error.asked_at).endswith("in work")


@pytest.mark.parametrize(
    "mistake",
    [
        lambda ch: ch.basic_publish(body=object()),
        lambda ch: ch.basic_publish(routing_key="x" * 300),
        lambda ch: ch.basic_publish(properties={"colour": "red"}),
        lambda ch: ch.basic_publish(properties={"headers": {"a": object()}}),
        lambda ch: ch.basic_ack("one"),
        lambda ch: ch.basic_nack(-1),
        lambda ch: ch.basic_reject(2**64),
        lambda ch: ch.basic_consume("q", None),
        lambda ch: ch.basic_cancel("nobody's"),
        lambda ch: ch.add_return_handler("no handler"),
    ],
)
def test_a_mistake_raises_at_the_call_and_harms_nothing(ch: ThreadedChannel, queue: str, mistake: Any) -> None:
    with pytest.raises(cpspika.LocalError):
        mistake(ch)
    assert ch.queue_declare(queue, passive=True).message_count == 0


def test_on_done_is_no_argument_here(ch: ThreadedChannel) -> None:
    for call in (ch.queue_declare, ch.basic_publish, lambda on_done: ch.basic_ack(1, on_done=on_done)):
        with pytest.raises(TypeError, match="on_done"):
            call(on_done=print)


def test_what_has_no_answer_does_not_wait_for_the_reactor(ch: ThreadedChannel, queue: str) -> None:
    """Its thread is kept in its nap meanwhile."""
    for _ in range(4):
        ch.basic_publish(routing_key=queue)
    messages = [ch.basic_get(queue) for _ in range(4)]
    reactor = ch.connection.reactor
    awake, select = threading.Event(), reactor._selector.select
    napping = threading.Event()

    def nap(timeout: float | None = None) -> Any:
        napping.set()
        assert awake.wait(DEADLINE), "the calls wait for the reactor"
        return select(timeout)

    reactor._selector.select = nap
    reactor.call_soon_threadsafe(lambda: None)  # out of the nap that it is in
    assert napping.wait(DEADLINE)
    try:
        for number in range(100):
            assert ch.basic_publish(routing_key=queue, body=str(number)) is True
        messages[0].ack()
        messages[1].nack(requeue=False)
        messages[2].reject(requeue=False)
        ch.basic_ack(messages[3].delivery_tag)
        assert not awake.is_set()
    finally:
        awake.set()
        reactor._selector.select = select
    got = [ch.basic_get(queue, no_ack=True) for _ in range(100)]
    assert [int(message.body) for message in got] == list(range(100))
    assert ch.basic_get(queue) is None


def test_the_calls_of_one_thread_keep_their_order() -> None:
    with SocketBroker() as broker:
        connection = Opened(broker.url)
        channel = connection.channel()

        def work(number: int) -> None:
            for count in range(0, 30, 3):
                channel.basic_publish(body=f"{number} {count}")
                channel.queue_declare(f"{number} {count + 1}")
                channel.basic_publish(body=f"{number} {count + 2}")

        assert together(4, work) == [None] * 4
        connection.end()  # so that all has arrived
        raw = broker.peers[0].raw
        for number in range(4):
            places = [raw.index(f"{number} {count}".encode()) for count in range(30)]
            assert places == sorted(places)


def test_a_publisher_waits_while_the_link_takes_no_more(local: Served, connection: Opened, ch: ThreadedChannel) -> None:
    """So its memory is bounded; what it had published goes out when the broker reads again."""
    queue = ch.queue_declare(exclusive=True).queue
    body, count = b"x" * 65536, 400  # more than the kernel's buffers hold
    local.stall()
    published: list[int] = []

    def publish() -> None:
        for number in range(count):
            ch.basic_publish(routing_key=queue, body=body)
            published.append(number)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    transport: Any = connection.core._backlog.transport
    until(lambda: transport._stuck and connection._answers, "the publisher to wait for the kernel")
    assert transport.queued - transport.written < HIGH_WATER + 2 * len(body)
    assert len(published) < count
    local.stall(False)
    thread.join(DEADLINE)
    assert len(published) == count, "the publisher did not go on"
    until(lambda: ch.queue_declare(queue, passive=True).message_count == count, "all messages")


def test_a_blocked_connection_holds_publishers_back_and_lets_acks_through(
    local: Served, connection: Opened, ch: ThreadedChannel, queue: str
) -> None:
    ch.basic_publish(routing_key=queue)
    message = ch.basic_get(queue)
    local.block("no memory")
    until(lambda: connection.is_blocked, "connection.blocked")
    connection.timeout = 0.05
    with pytest.raises(cpspika.OperationTimeout) as caught:
        ch.basic_publish(routing_key=queue)
    assert "basic_publish" in str(caught.value)
    connection.timeout = DEADLINE
    assert message is not None
    message.ack()
    local.unblock()
    ch.basic_publish(routing_key=queue, body="after")
    got = ch.basic_get(queue, no_ack=True)
    assert got is not None
    assert got.body == b"after", "the publish that was refused had been sent"


def test_flow_control(local: Served, ch: ThreadedChannel, queue: str) -> None:
    changes: list[tuple[Any, bool]] = []
    ch.add_flow_change_handler(lambda channel, permitted: changes.append((channel, permitted)))
    local.flow(False)
    until(lambda: changes, "the flow handler")
    assert changes == [(ch, False)]
    with pytest.raises(cpspika.ContentTransmissionForbidden):
        ch.basic_publish(routing_key=queue, body="refused")
    done = threading.Event()

    def publish() -> None:
        ch.basic_publish(routing_key=queue, body="held", block_on_flow_control=True)
        done.set()

    thread = threading.Thread(target=publish)
    thread.start()
    assert ch.queue_declare(queue, passive=True).message_count == 0, "other calls go on"
    assert not done.is_set()
    local.flow(True)
    thread.join(DEADLINE)
    assert done.is_set()
    message = ch.basic_get(queue, no_ack=True)
    assert message is not None
    assert message.body == b"held"


def test_a_publish_on_a_channel_that_closes_while_it_waits_for_room_raises(
    local: Served, connection: Opened, ch: ThreadedChannel
) -> None:
    local.block()
    until(lambda: connection.is_blocked, "connection.blocked")
    outcome: list[Any] = []

    def publish() -> None:
        try:
            outcome.append(ch.basic_publish(body="x"))
        except cpspika.AMQPError as error:
            outcome.append(error)

    thread = threading.Thread(target=publish)
    thread.start()
    until(lambda: ch.core._draining, "the publisher to wait")
    local.close_channels(406, "PRECONDITION_FAILED - by hand")
    thread.join(DEADLINE)
    assert isinstance(outcome[0], cpspika.ChannelClosed)
    assert outcome[0].method == "basic.publish"
    local.unblock()


def test_a_timeout_names_the_operation_and_gives_back_what_comes_late() -> None:
    with SocketBroker() as broker:
        connection = Opened(broker.url, timeout=0.05)
        channel = connection.channel()
        peer = broker.peers[0]
        asked = threading.Event()
        peer.when("basic.get", lambda peer, number, method: asked.set())
        with pytest.raises(cpspika.OperationTimeout) as caught:
            channel.basic_get("q")
        assert caught.value.method == "basic_get"
        assert "test_a_timeout_names" in str(caught.value.asked_at)
        assert asked.wait(DEADLINE)
        rejected: list[Any] = []
        peer.when("basic.nack", lambda peer, number, method: rejected.append(method))
        got = {"delivery_tag": 7, "redelivered": False, "exchange": "", "routing_key": "q", "message_count": 0}
        peer.send_content(1, "basic.get-ok", b"late", **got)
        until(lambda: rejected, "the late message's rejection")
        assert (rejected[0].delivery_tag, rejected[0].requeue) == (7, True)
        connection.timeout = DEADLINE
        connection.end()


# --- callbacks --------------------------------------------------------------------------------------------------------


def test_messages_of_one_consumer_come_in_order_and_one_at_a_time(ch: ThreadedChannel, queue: str) -> None:
    got: list[int] = []
    inside = threading.Lock()

    def on_message(message: cpspika.Message) -> None:
        assert inside.acquire(blocking=False), "two at once"
        got.append(int(message.body))
        message.ack()
        inside.release()

    ch.basic_consume(queue, on_message)
    for number in range(300):
        ch.basic_publish(routing_key=queue, body=str(number))
    until(lambda: len(got) == 300, "all messages")
    assert got == list(range(300))


def test_consumers_run_beside_each_other(connection: Opened, ch: ThreadedChannel, queue: str) -> None:
    """Each waits for the other: two on one channel, and one on another."""
    rendezvous = threading.Barrier(3)
    names: set[str] = set()

    def on_message(message: cpspika.Message) -> None:
        rendezvous.wait(DEADLINE)
        message.ack()
        names.add(threading.current_thread().name)  # the last: then the test may close the connection

    other = connection.channel()
    for channel in (ch, ch, other):
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume(queue, on_message)
    for _ in range(3):
        ch.basic_publish(routing_key=queue)
    until(lambda: len(names) == 3, "three consumers at once")
    assert all(name.startswith("cpspika worker") for name in names)


def test_no_more_threads_than_workers(local: Served) -> None:
    connection = Opened(local.url, workers=2)
    ch = connection.channel()
    now, most, done = [0], [0], [0]
    lock = threading.Lock()

    def on_message(message: cpspika.Message) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.005)
        with lock:
            now[0] -= 1
            done[0] += 1

    for _ in range(6):
        queue = ch.queue_declare(exclusive=True).queue
        ch.basic_consume(queue, on_message, no_ack=True)
        for _ in range(4):
            ch.basic_publish(routing_key=queue)
    until(lambda: done[0] == 24, "all messages")
    assert most[0] == 2
    connection.end()


@pytest.mark.parametrize("workers", [0, -1, "8", None])
def test_workers_that_are_none_are_refused_before_anything_begins(workers: Any) -> None:
    with pytest.raises(cpspika.InvalidArgument, match="workers"):
        ThreadedConnection("amqp://127.0.0.1:1", workers=workers)
    assert not own_threads()


def test_a_callback_may_call_and_wait(connection: Opened, ch: ThreadedChannel, queue: str) -> None:
    """With one worker for all, too: the answers are brought by the reactor's thread."""
    found: list[Any] = []

    def on_message(message: cpspika.Message) -> None:
        assert message.channel is ch
        mine = connection.channel()
        mine.confirm_select()
        declared = mine.queue_declare(exclusive=True).queue
        mine.basic_publish(routing_key=declared, body=message.body)
        found.append(mine.basic_get(declared, no_ack=True))
        message.ack()
        mine.close()

    ch.basic_consume(queue, on_message)
    ch.basic_publish(routing_key=queue, body="there and back")
    until(lambda: found, "the callback")
    assert found[0].body == b"there and back"
    until(lambda: ch.queue_declare(queue, passive=True).message_count == 0, "the ack")


def test_a_callback_may_close_the_connection(local: Served) -> None:
    connection = Opened(local.url)
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_consume(queue, lambda message: connection.close())
    ch.basic_publish(routing_key=queue)
    assert connection.join(DEADLINE)
    connection.end()


@pytest.mark.long
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_heartbeats_go_on_while_every_worker_works(broker: Any) -> None:
    """The broker hangs up on whom it hears nothing of for 2 heartbeats, RabbitMQ after 3 s at the latest."""
    connection = Opened(broker.url(heartbeat=1), workers=1)
    assert connection.heartbeat == 1
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    outcome: list[Any] = []

    def on_message(message: cpspika.Message) -> None:
        time.sleep(3.3)  # the work
        message.ack()
        outcome.append(ch.queue_declare(queue, passive=True))

    ch.basic_consume(queue, on_message)
    ch.basic_publish(routing_key=queue)
    until(lambda: outcome or not connection.is_open, "the worker")
    assert connection.is_open
    assert outcome[0].queue == queue
    connection.end()
    assert not connection.errors


def test_on_cancel_comes_behind_the_consumers_messages(connection: Opened, ch: ThreadedChannel, queue: str) -> None:
    events: list[str] = []
    go = threading.Event()

    def on_message(message: cpspika.Message) -> None:
        go.wait(DEADLINE)
        events.append(message.body.decode())

    for number in range(3):
        ch.basic_publish(routing_key=queue, body=str(number))
    ch.basic_consume(queue, on_message, no_ack=True, on_cancel=lambda tag: events.append("cancelled"))
    connection.channel().queue_delete(queue)
    go.set()
    until(lambda: len(events) == 4, "the cancel")
    assert events == ["0", "1", "2", "cancelled"]


def test_messages_of_a_channel_that_closed_are_not_handled(ch: ThreadedChannel, queue: str) -> None:
    """They are the broker's again, and could not be acknowledged."""
    got: list[bytes] = []
    go, entered = threading.Event(), threading.Event()

    def on_message(message: cpspika.Message) -> None:
        got.append(message.body)
        entered.set()
        go.wait(DEADLINE)

    for number in range(3):
        ch.basic_publish(routing_key=queue, body=str(number))
    ch.basic_consume(queue, on_message)
    assert entered.wait(DEADLINE)
    ch.close()
    go.set()
    assert ch.connection._workers.put("after", entered.clear) is None
    until(lambda: not entered.is_set() and not ch.connection._workers._calls, "the workers")
    assert got == [b"0"]


def test_what_a_callback_raises_goes_to_on_error_and_the_rest_goes_on(ch: ThreadedChannel, queue: str) -> None:
    connection: Any = ch.connection
    got: list[bytes] = []

    def on_message(message: cpspika.Message) -> None:
        if message.body == b"1":
            raise KeyError("a mistake of the user's")
        got.append(message.body)

    ch.basic_consume(queue, on_message, no_ack=True)
    for number in range(3):
        ch.basic_publish(routing_key=queue, body=str(number))
    until(lambda: len(got) == 2 and connection.errors, "the error")
    assert got == [b"0", b"2"]
    error = connection.errors.pop()
    assert isinstance(error, KeyError)
    assert error.__traceback__ is not None


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    told: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    return told


def test_without_on_error_it_goes_to_the_threads_excepthook(local: Served, hooked: list[Any]) -> None:
    connection = Opened(local.url, on_error=None)
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_consume(queue, lambda message: 1 / 0, no_ack=True)
    ch.basic_publish(routing_key=queue)
    until(lambda: hooked, "the hook")
    assert hooked[0].exc_type is ZeroDivisionError
    assert hooked[0].thread.name.startswith("cpspika worker")
    connection.end()


def test_an_on_error_that_raises_is_told_to_the_hook(local: Served, hooked: list[Any]) -> None:
    def on_error(error: BaseException) -> None:
        raise LookupError("what do I do with it?") from error

    connection = Opened(local.url, on_error=on_error)
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    ch.basic_consume(queue, lambda message: 1 / 0, no_ack=True)
    ch.basic_publish(routing_key=queue)
    until(lambda: hooked, "the hook")
    assert isinstance(hooked[0].exc_value.__cause__, ZeroDivisionError)
    connection.end()


@pytest.mark.parametrize("told", ["on_error", "state handler"])
def test_what_the_world_makes_of_a_handed_over_ack_is_told(local: Served, told: str) -> None:
    connection = Opened(local.url)
    ch = connection.channel()
    states: list[bool] = []
    if told == "state handler":
        ch.add_state_change_handler(lambda channel, is_open: states.append(is_open))
    ch.basic_ack(17)
    until(lambda: states or connection.errors, "somebody to be told")
    assert isinstance(ch.close_reason, cpspika.PreconditionFailed)
    assert len(connection.errors) == (told == "on_error")
    with pytest.raises(cpspika.ChannelClosed, match="17"):
        ch.basic_ack(18)
    connection.end()


def test_handlers_under_pikas_names_are_called_at_once_and_before_what_comes_meanwhile(
    local: Served, ch: ThreadedChannel
) -> None:
    calls: list[tuple[str, bool]] = []

    def handler(channel: Any, permitted: bool) -> None:
        assert channel is ch
        if not calls:
            local.flow(False)
            until(lambda: not ch.transmission_permitted, "the flow to stop")
        calls.append((threading.current_thread().name, permitted))

    ch.addFlowChangeHandler(handler)
    assert calls[0] == (threading.current_thread().name, True)
    until(lambda: len(calls) == 2, "the change")
    assert calls[1][1] is False
    assert calls[1][0].startswith("cpspika worker")
    local.flow(True)


def test_a_handler_that_is_taken_away_is_called_no_more(local: Served, ch: ThreadedChannel) -> None:
    calls: list[bool] = []
    others: list[bool] = []
    remove = ch.add_flow_change_handler(lambda channel, permitted: calls.append(permitted))
    ch.add_flow_change_handler(lambda channel, permitted: others.append(permitted))
    local.flow(False)
    until(lambda: others == [False], "the first change")
    remove()
    remove()
    local.flow(True)
    until(lambda: others == [False, True], "the second change")
    assert calls == [False]


def test_a_malformed_header_that_a_worker_reads_closes_the_connection() -> None:
    with SocketBroker() as broker:
        ended: list[Any] = []
        connection = Opened(broker.url, on_close=lambda connection, error: ended.append(error))
        channel = connection.channel()
        caught: list[Any] = []

        def on_message(message: cpspika.Message) -> None:
            try:
                message.properties  # noqa: B018
            except cpspika.ProtocolSyntaxError as error:
                caught.append(error)

        tag = channel.basic_consume("q", on_message)
        peer = broker.peers[0]
        arguments = {"consumer_tag": tag, "delivery_tag": 1, "redelivered": False, "exchange": "", "routing_key": ""}
        peer.send_raw(content(1, "basic.deliver", b"x", b"\x80\x00\xff", **arguments))
        until(lambda: ended, "the end of the connection")
        assert isinstance(ended[0], cpspika.ProtocolSyntaxError)
        until(lambda: caught, "the error in the worker")
        connection.end()


def test_a_call_that_would_wait_in_the_reactors_thread_is_an_error(connection: Opened, ch: ThreadedChannel) -> None:
    outcomes: list[Any] = []
    queue = ch.queue_declare(exclusive=True).queue

    def in_the_reactor() -> None:
        ch.basic_publish(routing_key=queue, body="from there")  # waits for nothing
        for call in (ch.queue_declare, connection.channel, connection.close, connection.join):
            try:
                call()
            except cpspika.ConcurrentUse as error:
                outcomes.append(str(error))

    connection.reactor.call_soon_threadsafe(in_the_reactor)
    until(lambda: len(outcomes) == 4, "four refusals")
    assert "queue_declare would wait for ever" in outcomes[0]
    message = ch.basic_get(queue, no_ack=True)
    assert message is not None
    assert message.body == b"from there"


def test_the_core_below_is_nobodys_to_use_from_outside(connection: Opened, ch: ThreadedChannel) -> None:
    """While the reactor naps just as while it works."""
    with pytest.raises(cpspika.ConcurrentUse):
        ch.core.basic_publish(body="x")
    with pytest.raises(cpspika.ConcurrentUse):
        connection.reactor.run_once(0)


# --- iterators --------------------------------------------------------------------------------------------------------


def test_threads_share_the_messages_of_one_iterator(ch: ThreadedChannel, queue: str) -> None:
    messages = ch.consume(queue)
    rendezvous = threading.Barrier(4)

    def work(number: int) -> list[int]:
        found = []
        for message in messages:
            if not found:
                rendezvous.wait(DEADLINE)  # each gets one
            found.append(int(message.body))
            message.ack()
            if message.body == b"99":
                messages.close()
        return found

    for number in range(100):
        ch.basic_publish(routing_key=queue, body=str(number))
    shares = together(4, work)
    assert sorted(number for share in shares for number in share) == list(range(100))
    assert all(shares)
    assert all(share == sorted(share) for share in shares)
    assert ch.queue_declare(queue, passive=True) == (queue, 0, 0)


def fill(ch: ThreadedChannel, queue: str, count: int) -> None:
    for number in range(count):
        ch.basic_publish(routing_key=queue, body=str(number))


def left(ch: ThreadedChannel, queue: str, count: int) -> list[int]:
    """What is in the queue again, when nobody consumes it any more."""
    until(lambda: ch.queue_declare(queue, passive=True) == (queue, count, 0), "the queue to get back its messages")
    found = [ch.basic_get(queue, no_ack=True) for _ in range(count)]
    return [int(message.body) for message in found if message is not None]


def test_the_iterator_ends_when_nothing_came_for_a_while(ch: ThreadedChannel, queue: str) -> None:
    fill(ch, queue, 10)
    bodies = []
    for message in ch.consume(queue, inactivity_timeout=0.2):
        bodies.append(int(message.body))
        message.ack()
    assert bodies == list(range(10))
    assert ch.queue_declare(queue, passive=True) == (queue, 0, 0)


@pytest.mark.parametrize("way", ["close", "with", "garbage"])
def test_an_iterator_that_is_left_gives_back_the_rest(ch: ThreadedChannel, queue: str, way: str) -> None:
    fill(ch, queue, 10)
    messages: Any = ch.consume(queue)
    for _ in range(4):
        next(messages).ack()
    if way == "close":
        messages.close()
        messages.close()
        with pytest.raises(StopIteration):
            next(messages)
    elif way == "with":
        with messages:
            pass
    else:
        del messages
        gc.collect()
    assert left(ch, queue, 6) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(("no_ack", "rejected"), [(True, []), (False, [2, 3])])
@pytest.mark.parametrize("way", ["close", "garbage"])
def test_an_iterator_that_is_left_rejects_only_what_was_to_be_acknowledged(
    way: str, no_ack: bool, rejected: list[int]
) -> None:
    with SocketBroker() as broker:
        connection = Opened(broker.url)
        ch, peer = connection.channel(), broker.peers[0]
        peer.when("basic.consume", deliver_three)
        messages: Any = ch.consume("q", no_ack=no_ack)
        assert next(messages).body == b"0"
        ch.queue_declare("q")  # behind its answer the others are here, too
        if way == "close":
            messages.close()
        else:
            del messages
            gc.collect()
            until(lambda: peer.came("basic.cancel"), "the end of the consumer")
            ch.queue_declare("q")  # behind cancel-ok
        ch.queue_declare("q")
        assert [reject.delivery_tag for reject in peer.came("basic.nack")] == rejected
        connection.end()
        assert not connection.errors


def test_the_iterator_raises_what_ends_it(connection: Opened, ch: ThreadedChannel, local: Served, queue: str) -> None:
    ch.add_state_change_handler(lambda channel, is_open: None)  # somebody to tell, when all are closed
    one, two = connection.channel(), connection.channel()
    ended = one.consume(queue)
    one.queue_delete(queue)
    for _ in range(2):
        with pytest.raises(cpspika.ConsumerCancelled):
            next(ended)
    with pytest.raises(cpspika.NotFound):
        one.consume("nothing")
    other = two.queue_declare(exclusive=True).queue
    waiting = two.consume(other)
    raised: list[Any] = []

    def iterate() -> None:
        try:
            next(waiting)
        except cpspika.AMQPError as error:
            raised.append(error)

    threads = [threading.Thread(target=iterate) for _ in range(3)]
    for thread in threads:
        thread.start()
    local.close_channels(406, "PRECONDITION_FAILED - by hand")
    for thread in threads:
        thread.join(DEADLINE)
    assert [type(error).__mro__[1] for error in raised] == [cpspika.PreconditionFailed] * 3, raised


# --- the end ----------------------------------------------------------------------------------------------------------


def test_nothing_lingers_after_a_close(local: Served) -> None:
    before = set(threading.enumerate())
    with Opened(local.url) as connection, connection.channel() as ch:
        queue = ch.queue_declare(exclusive=True).queue
        done = threading.Event()
        ch.basic_consume(queue, lambda message: done.set(), no_ack=True)
        ch.basic_publish(routing_key=queue)
        assert done.wait(DEADLINE)
        names = {thread.name for thread in set(threading.enumerate()) - before}
        assert names == {"cpspika reactor", "cpspika worker 1"}
    assert connection.join(DEADLINE)
    assert set(threading.enumerate()) == before
    assert connection.reactor._selector.get_map() is None, "the selector is closed"
    for call in (connection.channel, ch.queue_declare, lambda: ch.basic_publish(body="x"), lambda: ch.basic_ack(1)):
        with pytest.raises((cpspika.ConnectionClosed, cpspika.ChannelClosed)):
            call()
    assert connection.close() is None
    assert ch.close() is None


@pytest.mark.parametrize("how", ["refused", "silent", "mistake"])
def test_nothing_lingers_after_a_failure_to_connect(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}"
        if how == "refused":
            with pytest.raises(cpspika.ConnectError):
                ThreadedConnection("amqp://127.0.0.1:1")
        elif how == "silent":
            with pytest.raises(cpspika.OperationTimeout, match="connect"):
                ThreadedConnection(url, timeout=0.05)
        else:
            with pytest.raises(cpspika.InvalidArgument):
                ThreadedConnection(url, colour="red")
        until(lambda: not own_threads(), "the threads to end")


def test_a_lost_link_settles_every_waiting_call_and_join_raises_it(local: Served) -> None:
    ended: list[Any] = []
    connection = Opened(local.url, on_close=lambda *arguments: ended.append(arguments))
    channel = connection.channel()
    channel.confirm_select()
    assert connection.join(0.01) is False
    local.stall()

    def work(number: int) -> Any:
        return channel.basic_publish(body="x") if number % 2 else connection.channel()

    cut = threading.Timer(0.2, local.drop_links)
    cut.start()
    outcomes = together(8, work)
    cut.join()
    for number, outcome in enumerate(outcomes):
        assert isinstance(outcome, cpspika.DeliveryUnknown if number % 2 else cpspika.ConnectionClosed), outcome
    with pytest.raises(cpspika.ConnectionLost):
        connection.join(DEADLINE)
    assert [(who, type(error)) for who, error in ended] == [(connection, cpspika.ConnectionLost)]
    assert not own_threads()


def test_a_worker_that_still_works_ends_when_it_is_done(local: Served) -> None:
    connection = Opened(local.url)
    ch = connection.channel()
    queue = ch.queue_declare(exclusive=True).queue
    entered, go = threading.Event(), threading.Event()
    raised: list[Any] = []

    def on_message(message: cpspika.Message) -> None:
        entered.set()
        go.wait(DEADLINE)
        try:
            message.ack()
        except cpspika.ConnectionClosed as error:
            raised.append(error)

    ch.basic_consume(queue, on_message)
    ch.basic_publish(routing_key=queue)
    assert entered.wait(DEADLINE)
    connection.close()
    assert connection.join(0.05) is False
    go.set()
    connection.end()
    assert raised


def test_the_death_of_the_reactors_thread_is_told_to_everybody(local: Served, hooked: list[Any]) -> None:
    ended: list[Any] = []
    connection = Opened(local.url, on_error=None, on_close=lambda connection, error: ended.append(error))
    channel = connection.channel()
    messages = channel.consume(channel.queue_declare(exclusive=True).queue)
    local.stall()

    def work(number: int) -> Any:
        if number == 0:
            until(lambda: len(connection._answers) == 2, "two to wait")
            connection.reactor.call_soon_threadsafe(die)
            return None
        return next(messages) if number == 1 else channel.queue_declare()

    def die() -> None:
        raise SystemExit("of what no program expects")

    outcomes = together(4, work)
    assert isinstance(outcomes[1], cpspika.ConnectionClosed)
    assert all(isinstance(outcome, cpspika.ConnectionClosed) for outcome in outcomes[2:]), outcomes[2:]
    assert "SystemExit" in str(outcomes[1])
    with pytest.raises(cpspika.ConnectionLost, match="thread"):
        connection.join(DEADLINE)
    assert isinstance(ended[0], cpspika.ConnectionLost)
    assert any(isinstance(told.exc_value.__cause__, SystemExit) for told in hooked)
    with pytest.raises(cpspika.ConnectionClosed, match="SystemExit"):
        connection.channel()
    assert connection.close() is None
    assert not own_threads()


def test_used_after_a_fork_it_says_so_and_the_parents_works_on() -> None:
    with SocketBroker() as broker:
        report = forking(
            "SelectReactor",
            """
            from cpspika.threads import ThreadedConnection
            connection = ThreadedConnection(url, timeout=10, heartbeat=0)
            channel = connection.channel()
            messages = channel.consume("q")

            def body():
                report = {
                    "channel": told(connection.channel),
                    "declare": told(lambda: channel.queue_declare("q")),
                    "publish": told(lambda: channel.basic_publish(body=b"from the child")),
                    "ack": told(lambda: channel.basic_ack(1)),
                    "next": told(lambda: next(messages)),
                    "join": told(connection.join),
                }
                mine = ThreadedConnection(url, timeout=10, heartbeat=0)
                report["mine"] = mine.channel().queue_declare("the child's").queue
                mine.close()
                return report

            stop = []
            import threading

            def be_busy():
                while not stop:
                    channel.queue_declare("busy")

            thread = threading.Thread(target=be_busy)
            thread.start()
            reports = [in_child(body) for _ in range(5)]
            stop.append(True)
            thread.join()
            reports.append(channel.queue_declare("mine").queue)
            connection.close()
            print(json.dumps(reports))
            """,
            broker,
        )
        assert report.pop() == "mine"
        for child in report:
            assert child.pop("mine") == "the child's"
            for what, (kind, text) in child.items():
                assert kind == "ConnectionForked", f"{what}: {kind} {text}"
        assert b"from the child" not in broker.peers[0].raw


# --- stress -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rounds", "seed"), [(3, 0), *(pytest.param(25, seed, marks=pytest.mark.long) for seed in range(1, 6))]
)
def test_every_call_settles_once_whatever_breaks(local: Served, rounds: int, seed: int) -> None:
    """16 threads publish with confirms, declare, get, consume and acknowledge, while the broker breaks things."""
    dice = random.Random(seed)
    fates: Counter[str] = Counter()
    for _ in range(rounds):
        connection = Opened(local.url, timeout=30)
        settled = together(17, partial(_work_or_break, connection, local, dice))
        assert not [outcome for outcome in settled if isinstance(outcome, Exception)], settled
        for outcome in settled[:16]:
            fates += outcome
        connection.end()
        assert not connection._answers
        assert all(isinstance(error, cpspika.AMQPError) for error in connection.errors), connection.errors
    assert fates["OperationTimeout"] == 0
    assert fates["result"] > rounds * 16
    print(dict(fates))


def _work_or_break(connection: Opened, local: Served, dice: random.Random, number: int) -> Counter[str]:
    return _work(connection, number) if number < 16 else _break(local, dice)


def _break(local: Served, dice: random.Random) -> Counter[str]:
    try:
        for _ in range(3):
            time.sleep(dice.random() / 10)
            what = dice.choice(["close channels", "nack", "flow"])
            if what == "close channels":
                with contextlib.suppress(cpspika.LocalError):  # one of them was closing just then
                    local.close_channels(406, "PRECONDITION_FAILED - stress")
            elif what == "nack":
                local.nack_next(20)
            else:
                local.flow(False)
                local.flow(True)
        time.sleep(dice.random() / 10)
    finally:
        local.drop_links()  # which ends the others
    return Counter()


def _work(connection: Opened, number: int) -> Counter[str]:
    """What became of each call of one thread."""
    fates: Counter[str] = Counter()

    def ask(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            result = call(*args, **kwargs)
        except cpspika.AMQPError as error:
            fates[type(error).__name__] += 1
            return None
        fates["result"] += 1
        return result

    while connection.is_open:
        channel = ask(connection.channel)
        if channel is None:
            continue
        if number % 2:
            ask(channel.confirm_select)
        queue = f"stress-{number}"
        ask(channel.queue_declare, queue)
        ask(channel.basic_consume, queue, lambda message: ask(message.ack))
        for count in range(50):
            if not channel.is_open:
                break
            ask(channel.basic_publish, routing_key=queue, body=b"%d" % count, mandatory=count % 7 == 0)
            if count % 10 == 0 and (message := ask(channel.basic_get, queue)) is not None:
                ask(message.nack)
        ask(channel.close)
    return fates
