"""Threads of a program beside each other, connections that it drops, and the end of its process."""

from __future__ import annotations

import copy
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import cpspika.integrations.pika as pika
from cpspika.broker import Served
from tests.integrations.conftest import Client
from tests.integrations.test_pika_face import run
from tests.support.styles import PATIENCE
from tests.support.waiting import until


@pytest.fixture
def connection(embedded_alone: Served) -> Iterator[Any]:
    made = pika.BlockingConnection(pika.URLParameters(embedded_alone.url))
    yield made
    if made.is_open:
        made.close()


@contextmanager
def link_drops_if_it_hangs(broker: Served) -> Iterator[None]:
    """A call that would wait for ever raises StreamLostError."""
    watchdog = threading.Timer(PATIENCE, broker.drop_links)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.cancel()


def filled(channel: Any, *bodies: str) -> str:
    queue: str = channel.queue_declare("", exclusive=True).method.queue
    for body in bodies:
        channel.basic_publish("", queue, body)
    return queue


def is_in(thread: threading.Thread, function: str) -> bool:
    """Whether a thread has called a function and is in it."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return True
        frame = frame.f_back
    return False


def waits(thread: threading.Thread, function: str) -> Callable[[], bool]:
    """The condition that it waits in that function, not at its begin."""
    return lambda: is_in(thread, function) and (is_in(thread, "wait") or is_in(thread, "wait_until"))


# --- threads ----------------------------------------------------------------------------------------------------------


def test_a_thread_that_polls_longer_than_another_leaves_nothing_behind(connection: Any, embedded_alone: Served) -> None:
    polls = threading.Thread(target=connection.process_data_events, args=[0.2])

    def callback() -> None:
        polls.start()
        until(waits(polls, "process_data_events"), "a second thread that polls")

    connection.add_callback_threadsafe(callback)
    connection.process_data_events(time_limit=None)  # ends before the other thread
    polls.join()
    channel = connection.channel()
    got: list[bytes] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        where.stop_consuming()

    channel.basic_consume(filled(channel, "0"), on_message, auto_ack=True)
    with link_drops_if_it_hangs(embedded_alone):
        channel.start_consuming()
    assert got == [b"0"]


def test_consuming_beside_a_thread_that_polls_all_the_time(connection: Any, embedded_alone: Served) -> None:
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            connection.process_data_events(time_limit=1)

    polls = threading.Thread(target=poll)
    polls.start()
    until(waits(polls, "process_data_events"), "the thread that polls")
    got: list[bytes] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        if len(got) == 100:
            where.stop_consuming()

    try:
        channel = connection.channel()
        channel.basic_consume(filled(channel, *map(str, range(100))), on_message, auto_ack=True)
        with link_drops_if_it_hangs(embedded_alone):
            channel.start_consuming()
    finally:
        done.set()
        polls.join()
    assert got == [str(number).encode() for number in range(100)]


def test_a_generator_beside_a_thread_that_consumes(connection: Any, embedded_alone: Served) -> None:
    first, second = connection.channel(), connection.channel()
    queue = filled(second)
    got: list[Any] = []

    def generate() -> None:
        got.append(next(second.consume(queue, auto_ack=True))[2])
        connection.add_callback_threadsafe(first.stop_consuming)

    other = threading.Thread(target=generate)

    def begin() -> None:
        other.start()
        until(waits(other, "consume"), "a generator that waits")
        second.basic_publish("", queue, "0")

    first.basic_consume(filled(first), print)
    connection.add_callback_threadsafe(begin)
    with link_drops_if_it_hangs(embedded_alone):
        first.start_consuming()
    other.join()
    assert got == [b"0"]


def test_a_generator_in_a_callback(connection: Any, embedded_alone: Served) -> None:
    channel, inner = connection.channel(), connection.channel()
    queue = filled(inner)
    got: list[bytes] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        publishes.start()
        got.append(next(inner.consume(queue, auto_ack=True))[2])
        inner.cancel()
        where.stop_consuming()

    def publish() -> None:
        until(waits(threading.main_thread(), "consume"), "a generator that waits")
        inner.basic_publish("", queue, "inner")

    publishes = threading.Thread(target=publish)
    channel.basic_consume(filled(channel, "outer"), on_message, auto_ack=True)
    with link_drops_if_it_hangs(embedded_alone):
        channel.start_consuming()
    publishes.join()
    assert got == [b"inner"]


def test_start_consuming_in_a_callback(own_client: Client) -> None:
    channel = own_client.channel()
    told: list[str] = []

    def on_message(where: Any, method: Any, properties: Any, body: bytes) -> None:
        try:
            where.start_consuming()
        except own_client.pika.exceptions.ReentrancyError:
            told.append("refused")
        where.stop_consuming()

    channel.basic_consume(own_client.filled(channel, "0"), on_message, auto_ack=True)
    channel.start_consuming()
    assert told == ["refused"]


# --- dropped ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of pika
def test_connections_that_the_program_drops_are_closed(own_client: Client) -> None:
    def work() -> None:
        connection = own_client.pika.BlockingConnection(own_client.parameters())
        channel = connection.channel()
        channel.add_on_return_callback(print)
        connection.add_on_connection_blocked_callback(print)
        connection.call_later(3600, print)
        own_client.filled(channel, "0", "1")

    for _ in range(5):
        work()
    gc.collect()
    until(lambda: not own_client.broker.connections, "the end of each connection")


def test_a_copy_that_the_program_drops_ends_nothing(connection: Any) -> None:
    copied = copy.copy(connection)
    assert copied.channel().is_open
    del copied
    gc.collect()
    assert connection.channel().is_open


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of pika
def test_what_a_dropped_connection_has_acknowledged_goes_out(own_client: Client) -> None:
    channel = own_client.channel()
    channel.queue_declare("work")
    for number in range(100):
        channel.basic_publish("", "work", str(number))

    def work() -> None:
        dropped = own_client.pika.BlockingConnection(own_client.parameters()).channel()
        for number in range(100):
            method, _, body = own_client.get(dropped, "work", auto_ack=False)
            assert body == str(number).encode()
            dropped.basic_ack(method.delivery_tag)

    work()
    gc.collect()
    until(lambda: len(own_client.broker.connections) == 1, "the end of the dropped connection")
    assert channel.queue_declare("work", passive=True).method.message_count == 0


@pytest.mark.parametrize("end", ["close", "lost", "drop"])
def test_a_timer_does_not_keep_the_thread_of_a_connection_that_has_ended(embedded_alone: Served, end: str) -> None:
    before = set(threading.enumerate())
    connection = pika.BlockingConnection(pika.URLParameters(embedded_alone.url))
    connection.call_later(3600, print)
    connection.remove_timeout(connection.call_later(3600, print))
    (thread,) = [each for each in set(threading.enumerate()) - before if each.name == "cpspika reactor"]
    if end == "close":
        connection.close()
        assert not thread.is_alive()
    elif end == "lost":
        embedded_alone.drop_links()
    del connection
    gc.collect()
    until(lambda: not thread.is_alive(), "the end of the reactor's thread")


# --- the end of the process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("connection.close()", "done"),
        ("connection.close(); connection.close()", "ConnectionWrongStateError"),
        ("channel.close()", "done"),
        ("channel.close(); connection.close()", "done"),
        ("channel.queue_delete('q')", "ConnectionWrongStateError"),
        ("channel.basic_publish('', 'q', 'a')", "ConnectionWrongStateError"),
        ("channel.basic_cancel(tag)", "ConnectionWrongStateError"),
        ("connection.process_data_events()", "ConnectionWrongStateError"),
    ],
)
def test_the_last_call_is_in_a_finalizer(embedded_alone: Served, call: str, told: str) -> None:
    """It runs when only one thread is left: to wait for another would be for ever."""
    program = f"""
        import sys
        import cpspika.integrations.pika as pika

        class Last:
            def __init__(self):
                self.connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
                self.channel = self.connection.channel()
                self.channel.queue_declare("q")
                self.tag = self.channel.basic_consume("q", print)

            def __del__(self):
                connection, channel, tag = self.connection, self.channel, self.tag
                try:
                    {call}
                    print("done")
                except Exception as error:
                    print(type(error).__name__)

        last = Last()
    """
    assert run(program, embedded_alone.url, seconds=PATIENCE) == f"{told}\n"
    until(lambda: not embedded_alone.connections, "the end of the connection")


def test_a_call_at_exit(embedded_alone: Served) -> None:
    """Functions of `atexit` run while all threads do."""
    program = """
        import atexit, sys
        atexit.register(lambda: print(channel.queue_delete("q").method.message_count, connection.close()))
        import cpspika.integrations.pika as pika
        connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
        channel = connection.channel()
        channel.queue_declare("q")
    """
    assert run(program, embedded_alone.url, seconds=PATIENCE) == "0 None\n"
