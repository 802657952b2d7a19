"""One connection and more than one process or thread: what is refused, what is said, and what works."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest

import cpspika
from cpspika.adapters import AsyncoreReactor, BlockingReactor, SelectReactor
from cpspika.parameters import ConnectionParameters
from cpspika.styles import sync
from cpspika.styles.sync import SyncConnection
from tests.support.forking import forking
from tests.support.scripted import Done, SocketBroker, run_until, using
from tests.support.waiting import DEADLINE

REACTORS = ["SelectReactor", "BlockingReactor", "AsyncoreReactor"]
reactors = pytest.mark.parametrize(
    "reactor", [REACTORS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in REACTORS[1:])]
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


# --- fork -------------------------------------------------------------------------------------------------------------


@reactors
def test_a_core_connection_used_after_fork_says_so_and_the_parents_works_on(reactor: str) -> None:
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            connection, channel = open_core()

            def body():
                return {
                    "channel()": told(lambda: connection.channel()),
                    "channel(on_done)": told(lambda: ask(connection.channel)),
                    "declare": told(lambda: channel.queue_declare("q")),
                    "declare(on_done)": told(lambda: ask(channel.queue_declare, queue="q")),
                    "publish": told(lambda: channel.basic_publish(body=b"from the child")),
                    "is_open": [connection.is_open, channel.is_open],
                }

            report = in_child(body)
            report["parent"] = ask(channel.queue_declare, queue="mine").queue
            ask(connection.close)
            reactor.run()
            print(json.dumps(report))
            """,
            broker,
        )
        assert report.pop("parent") == "mine"
        assert report.pop("is_open") == [False, False]
        for what, (kind, text) in report.items():
            assert kind == "ConnectionForked", f"{what}: {kind} {text}"
            assert "fork" in text, what
        assert b"from the child" not in broker.peers[0].raw


@reactors
def test_a_facade_used_after_fork_says_so_and_the_parents_works_on(reactor: str) -> None:
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            connection, channel = open_facade()

            def body():
                return {
                    "channel": told(connection.channel),
                    "declare": told(lambda: channel.queue_declare("q")),
                    "publish": told(lambda: channel.basic_publish(body=b"from the child")),
                    "drain": told(lambda: connection.drain_events(1)),
                }

            report = in_child(body)
            report["parent"] = channel.queue_declare("mine").queue
            connection.close()
            print(json.dumps(report))
            """,
            broker,
        )
        assert report.pop("parent") == "mine"
        for what, (kind, text) in report.items():
            assert kind == "ConnectionForked", f"{what}: {kind} {text}"
            assert "fork" in text, what
        assert b"from the child" not in broker.peers[0].raw


@reactors
def test_a_child_that_ends_says_nothing_to_the_broker(reactor: str) -> None:
    """Closing what belongs to the parent, or collecting it as garbage, must not close it for the parent."""
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            import gc
            connection, channel = open_facade()

            def body():
                global connection, channel
                closed = told(connection.close)
                connection = channel = None
                gc.collect()
                return closed

            child = in_child(body)
            print(json.dumps([child, channel.queue_declare("mine").queue]))
            connection.close()
            """,
            broker,
        )
        assert report[1] == "mine"


@reactors
def test_a_child_may_make_a_connection_of_its_own(reactor: str) -> None:
    """On a reactor of its own, and on the one it was born with."""
    with SocketBroker() as broker:
        report = forking(
            reactor,
            f"""
            connection, channel = open_facade()

            def body():
                global reactor
                _, mine = open_facade()
                first = mine.queue_declare("same reactor").queue
                reactor = adapters.{reactor}()
                _, other = open_facade()
                return [first, other.queue_declare("new reactor").queue]

            child = in_child(body)
            print(json.dumps([*child, channel.queue_declare("mine").queue]))
            connection.close()
            """,
            broker,
        )
        assert report == ["same reactor", "new reactor", "mine"]
        assert len(broker.peers) == 3


@reactors
def test_parent_and_child_do_not_share_what_wakes_their_reactors(reactor: str) -> None:
    """A wake-up that the other process takes is lost, and then a reactor sleeps for ever."""
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            connection, channel = open_facade()
            fired = []

            def body():
                reactor.call_soon_threadsafe(lambda: None)
                return "woken"

            child = in_child(body)
            reactor.call_later(0.2, lambda: fired.append(True))
            turns = 0
            while not fired:
                reactor.run_once(5)
                turns += 1
            print(json.dumps([child, turns]))
            """,
            broker,
        )
        assert report[0] == "woken"
        assert report[1] == 1, "the parent was woken by its child"


@reactors
def test_timers_and_calls_of_the_parent_do_not_run_in_the_child(reactor: str) -> None:
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            connection, channel = open_core()
            ran = []
            reactor.call_later(0, lambda: ran.append("timer"))
            reactor.call_soon(lambda: ran.append("call"))

            def body():
                told(lambda: ask(connection.channel))
                reactor.run_once(0)
                return list(ran)

            child = in_child(body)
            reactor.run_once(0)
            reactor.run_once(0)
            print(json.dumps([child, sorted(ran)]))
            """,
            broker,
        )
        assert report == [[], ["call", "timer"]]


def test_a_fork_while_connecting_leaves_the_parents_attempt_alone() -> None:
    with SocketBroker() as broker:
        report = forking(
            "SelectReactor",
            """
            done = Done()
            connection = cpspika.connect(url, reactor=reactor, on_done=done)
            child = in_child(lambda: told(connection.channel))
            run_until(reactor, lambda: not done.pending)
            print(json.dumps([child, done.result.is_open]))
            """,
            broker,
        )
        assert report[0][0] == "ConnectionForked"
        assert report[1] is True


@reactors
def test_the_embedded_broker_of_a_child_is_its_own(reactor: str) -> None:
    with SocketBroker() as broker:
        report = forking(
            reactor,
            """
            mine = cpspika.BlockingConnection("embedded://", timeout=10)
            channel = mine.channel()
            channel.queue_declare("of the parent")

            def body():
                for _ in range(2):
                    with cpspika.BlockingConnection("embedded://", timeout=10) as other:
                        found = told(lambda: other.channel().queue_declare("of the parent", passive=True))
                return found

            child = in_child(body)
            print(json.dumps([child, channel.queue_declare("of the parent", passive=True).queue]))
            mine.close()
            """,
            broker,
        )
        assert report[0][0] == "NotFound"
        assert report[1] == "of the parent"


# --- threads ----------------------------------------------------------------------------------------------------------


def in_thread(call: Any) -> Any:
    """What a call returns or raises in another thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    assert outcome, "the call in the other thread did not end"
    return outcome[0]


class Facade:
    """A facade, and a thread that is inside it, waiting for a reply that the broker keeps back."""

    def __init__(self, broker: SocketBroker, reactor: Any):
        self.reactor = reactor
        self.connection = SyncConnection(reactor, [ConnectionParameters("127.0.0.1", broker.port, heartbeat=0)])
        self.channel = self.connection.channel()
        self.peer = broker.peers[0]
        self.asked = threading.Event()
        self.peer.when("queue.purge", lambda peer, number, method: self.asked.set())
        self.purged: list[Any] = []
        self.thread = threading.Thread(target=self.purge, daemon=True)

    def purge(self) -> None:
        try:
            self.purged.append(self.channel.queue_purge("q"))
        except BaseException as error:
            self.purged.append(error)

    def wait_inside(self) -> None:
        self.thread.start()
        assert self.asked.wait(DEADLINE), "the thread did not get inside"

    def let_out(self) -> Any:
        self.peer.send(1, "queue.purge-ok", message_count=4)
        self.thread.join(DEADLINE)
        return self.purged[0]


types = pytest.mark.parametrize("reactor_type", [SelectReactor, BlockingReactor, AsyncoreReactor])


def a_reactor(reactor_type: Any) -> Any:
    return AsyncoreReactor({}) if reactor_type is AsyncoreReactor else reactor_type()


@types
def test_two_threads_inside_a_facade_is_an_error_that_says_so(
    reactor_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "GRACE", 0.05)
    with SocketBroker() as broker, using(a_reactor(reactor_type)) as reactor:
        world = Facade(broker, reactor)
        world.wait_inside()
        calls = (
            lambda: world.channel.queue_declare("other"),
            lambda: world.connection.channel(),
            lambda: world.connection.drain_events(0),
            lambda: world.channel.start_consuming(),
            lambda: next(world.channel.consume("q")),
        )
        for call in calls:
            with pytest.raises(cpspika.ConcurrentUse, match="thread"):
                call()
        assert world.let_out() == 4, "the thread that was inside got its answer"
        assert world.channel.queue_declare("after").queue == "after", "the connection is whole"
        world.connection.close()


@types
def test_threads_that_hold_the_lock_share_a_facade(reactor_type: Any) -> None:
    with SocketBroker() as broker, using(a_reactor(reactor_type)) as reactor:
        connection = SyncConnection(reactor, [ConnectionParameters("127.0.0.1", broker.port, heartbeat=0)])
        channel = connection.channel()
        names: list[str] = []

        def work(thread: int) -> None:
            for i in range(20):
                with connection.lock:
                    names.append(channel.queue_declare(f"{thread}-{i}").queue)
                    channel.basic_publish(body=b"m")

        threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        assert sorted(names) == sorted(f"{thread}-{i}" for thread in range(4) for i in range(20))
        with connection.lock:
            connection.close()


@pytest.mark.parametrize("facade", [cpspika.BlockingConnection, cpspika.SelectConnection])
def test_threads_with_a_connection_each_need_not_know_of_each_other(facade: Any, embedded: Any) -> None:
    """All are open at once, and each gets what the next one sends it."""
    count = 16
    meeting = threading.Barrier(count)
    queues = [f"{facade.__name__}-{number}" for number in range(count)]
    got: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        with facade(embedded.url, timeout=DEADLINE) as connection:
            channel = connection.channel()
            channel.queue_declare(queues[number], exclusive=True)
            meeting.wait(DEADLINE)
            for message in range(20):
                channel.basic_publish(routing_key=queues[number - 1], body=b"%d" % message)
            got[number] = [message.body for message in itertools.islice(channel.consume(queues[number]), 20)]
            meeting.wait(DEADLINE)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert got == {number: [b"%d" % message for message in range(20)] for number in range(count)}


def test_a_facade_made_in_one_thread_may_be_used_in_another() -> None:
    """One at a time is all that is asked."""
    with SocketBroker() as broker:
        connection = cpspika.BlockingConnection(broker.url)
        channel = in_thread(connection.channel)
        assert channel.queue_declare("q").queue == "q"
        assert in_thread(connection.close) is None


class Running:
    """A core connection whose reactor another thread runs; `inside` holds it amid a turn."""

    def __init__(self, broker: SocketBroker, reactor: Any):
        self.reactor = reactor
        done, channel = Done(), Done()
        self.connection = cpspika.connect(broker.url, reactor=reactor, on_done=done, heartbeat=0)
        run_until(reactor, lambda: not done.pending)
        self.connection.channel(on_done=channel)
        run_until(reactor, lambda: not channel.pending)
        self.channel = channel.result
        self._inside, self._leave = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        def stay() -> None:
            self._inside.set()
            self._leave.wait(DEADLINE)

        self.reactor.call_soon(stay)
        self.reactor.run_once(0)

    def __enter__(self) -> Running:
        self._thread.start()
        assert self._inside.wait(DEADLINE)
        return self

    def __exit__(self, *_: object) -> None:
        self._leave.set()
        self._thread.join(DEADLINE)


@types
@pytest.mark.parametrize(
    "name", ["declare", "publish", "ack", "confirm", "channel", "channel close", "close", "update_secret", "run_once"]
)
def test_the_core_used_while_another_thread_runs_it_is_an_error_and_harms_nothing(reactor_type: Any, name: str) -> None:
    """The call raises, and nothing has changed: afterwards the connection does all of it."""
    with SocketBroker() as broker, using(a_reactor(reactor_type)) as reactor:
        world = Running(broker, reactor)
        connection, channel, done = world.connection, world.channel, Done(name)
        calls = {
            "declare": lambda: channel.queue_declare("q", on_done=done),
            "publish": lambda: channel.basic_publish(body=b"from outside", on_done=done),
            "ack": lambda: channel.basic_ack(1, on_done=done),
            "confirm": lambda: channel.confirm_select(on_done=done),
            "channel": lambda: connection.channel(on_done=done),
            "channel close": lambda: channel.close(on_done=done),
            "close": lambda: connection.close(on_done=done),
            "update_secret": lambda: connection.update_secret("s", on_done=done),
            "run_once": lambda: world.reactor.run_once(0),
        }
        with world, pytest.raises(cpspika.ConcurrentUse, match="thread"):
            calls[name]()
        assert connection.is_open
        assert channel.is_open
        second, declared, published, closed = Done("channel"), Done("declare"), Done("publish"), Done("close")
        connection.channel(on_done=second)
        channel.queue_declare("q", on_done=declared)
        channel.basic_publish(body=b"m", on_done=published)
        run_until(world.reactor, lambda: not second.pending and not declared.pending and not published.pending)
        assert second.result.number == 2, "no number was used up"
        assert declared.result.queue == "q"
        assert published.result is True
        channel.close(on_done=closed)
        run_until(world.reactor, lambda: not closed.pending)
        assert closed.result is None
        ended = Done("connection close")
        connection.close(on_done=ended)
        run_until(world.reactor, lambda: not ended.pending)
        assert ended.result is None
        assert done.pending, "an operation that raised must not tell its on_done as well"
        assert b"from outside" not in broker.peers[0].raw


@types
def test_call_soon_threadsafe_is_the_way_in_from_another_thread(reactor_type: Any) -> None:
    with SocketBroker() as broker, using(a_reactor(reactor_type)) as reactor:
        world = Running(broker, reactor)
        done = Done()

        def from_outside() -> None:
            world.reactor.call_soon_threadsafe(lambda: world.channel.queue_declare("q", on_done=done))

        threading.Thread(target=from_outside, daemon=True).start()
        run_until(world.reactor, lambda: not done.pending)
        assert done.result.queue == "q"
        closed = Done()
        world.connection.close(on_done=closed)
        run_until(world.reactor, lambda: not closed.pending)
