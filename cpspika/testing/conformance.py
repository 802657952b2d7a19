"""The conformance tests: they check that a reactor obeys the contract in `cpspika.reactor`.

For a reactor of your own, inherit from `ReactorConformance` in a test module, and let pytest collect the class::

    class TestMyReactor(ReactorConformance):
        def make_reactor(self):
            return MyReactor()

Each test waits for an event, ten seconds at most. If the event doesn't come, the test fails and names it. The peers are
plain sockets of the test's own; for one round trip the peer is the embedded broker. `Play` has the methods and flags
that a subclass may override: how to drive the loop, and what the adapter cannot do.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ..broker import serve
from ..client.connection import Connection
from ..connecting import connect
from ..errors import ConcurrentUse
from ..parameters import ConnectionParameters
from ..reactor import Endpoint, Transport
from .conformance_edges import EdgeConformance
from .conformance_play import Owner, Peer, Play, Steps, needs

MUCH = b"0123456789abcdef" * (4 * 1024 * 1024 // 16)  # more than the buffers of a socket hold


class ReactorConformance(EdgeConformance):
    """The tests of the contract in `cpspika.reactor`. A subclass must override `make_reactor`."""

    # --- calls and time -----------------------------------------------------------------------------------------------

    @needs()
    def test_calls_come_in_order_and_never_inside_call_soon(self) -> Steps[None]:
        log: Any = []
        self.reactor.call_soon(lambda: (log.append(1), self.reactor.call_soon(lambda: log.append(3)), log.append(1.5)))
        self.reactor.call_soon(lambda: log.append(2))
        assert log == [], "call_soon made the call at once"
        yield from self.until("call of call_soon made in a call", lambda: 3 in log)
        assert log == [1, 1.5, 2, 3], f"the calls came in the order {log}"

    @needs()
    def test_timers_come_in_the_order_of_time(self) -> Steps[None]:
        log: Any = []
        began = self.reactor.time()
        for seconds in (0.06, 0, 0.03):
            self.reactor.call_later(seconds, lambda seconds=seconds: log.append(seconds))
        assert log == [], "call_later made the call at once"
        yield from self.until("third timer", lambda: len(log) == 3)
        assert log == [0, 0.03, 0.06], f"timers of these seconds came in the order {log}"
        assert self.reactor.time() > began

    @needs()
    def test_a_cancelled_timer_never_comes(self) -> Steps[None]:
        log: Any = []
        timers = [self.reactor.call_later(0.01, lambda n=n: log.append(n)) for n in range(2)]
        self.reactor.call_later(0.03, lambda: log.append("last"))
        timers[0].cancel()
        timers[0].cancel()
        yield from self.until("last timer", lambda: "last" in log)
        timers[1].cancel()  # after its call was made, this does nothing
        assert log == [1, "last"], "a cancelled timer came"

    @needs("sockets")
    def test_another_thread_wakes_the_wait(self) -> Steps[None]:
        called: list[Any] = []
        waiting = threading.Event()

        def call(by: str) -> None:
            called.append((by, threading.get_ident()))
            if self.runs:
                self.reactor.stop()

        def other() -> None:
            if waiting.wait(self.deadline):
                time.sleep(0.01)  # so that the reactor is waiting by now; if it isn't, the test proves less, but passes
                self.reactor.call_soon_threadsafe(lambda: call("another thread"))

        late = self.reactor.call_later(self.deadline, lambda: call("a timer, since nothing else ended the wait"))
        self.reactor.call_soon(waiting.set)
        thread = threading.Thread(target=other, daemon=True)
        thread.start()
        if self.runs:
            self.run()
        yield from self.until("call of call_soon_threadsafe", lambda: called)
        late.cancel()
        thread.join(self.deadline)
        by, thread_id = called[0]
        assert by == "another thread", f"the wait was ended by {by}"
        assert thread_id == threading.get_ident(), "it was not called in the reactor's thread"

    @needs("sockets")
    def test_a_far_off_timer_does_no_harm(self) -> Steps[None]:
        """Epoll and poll wait for at most 2**31 - 1 milliseconds, 25 days."""
        called: list[str] = []

        def call(by: str) -> None:
            called.append(by)
            if self.runs:
                self.reactor.stop()

        # The wait has no other end than the far-off timers. So the thread is started before it, and is not waited for.
        far = [self.reactor.call_later(2**bits / 1000 + 5, lambda: call("a far-off timer")) for bits in (31, 32, 41)]
        thread = threading.Timer(0.02, lambda: self.reactor.call_soon_threadsafe(lambda: call("another thread")))
        thread.daemon = True
        thread.start()
        if self.runs:
            self.run()
        yield from self.until("call of call_soon_threadsafe", lambda: called)
        for timer in far:
            timer.cancel()
        thread.join(self.deadline)
        assert called == ["another thread"], f"the wait was ended by {called}"

    @needs()
    def test_a_callbacks_exception_goes_to_on_error_and_the_loop_goes_on(self) -> Steps[None]:
        log: Any = []
        self.reactor.call_soon(lambda: 1 / 0)
        self.reactor.call_soon(lambda: log.append("call"))
        self.reactor.call_later(0, lambda: 1 / 0)
        self.reactor.call_later(0.01, lambda: log.append("timer"))
        yield from self.until("calls after those that raise", lambda: len(log) == 2)
        assert [type(error) for error in self.errors] == [ZeroDivisionError] * 2, f"on_error received {self.errors}"
        self.errors.clear()

    @needs()
    def test_thread_says_who_is_inside(self) -> Steps[None]:
        inside: list[Any] = []
        self.reactor.call_soon(lambda: inside.append(self.reactor.thread))
        self.reactor.call_later(0, lambda: inside.append(self.reactor.thread))
        yield from self.until("call and timer", lambda: len(inside) == 2)
        assert inside == [threading.get_ident()] * 2, f"`thread` was {inside} in a call and in a timer"

    # --- run and stop -------------------------------------------------------------------------------------------------

    @needs("runs")
    def test_run_ends_when_nothing_is_left(self) -> Steps[None]:
        log: Any = []
        self.run()
        self.reactor.call_later(0.01, lambda: self.reactor.call_soon(lambda: log.append("call of a timer")))
        self.run()
        assert log == ["call of a timer"], "run ended too early"
        yield from ()

    @needs("runs")
    def test_stop_ends_run_and_the_rest_waits(self) -> Steps[None]:
        log: Any = []
        late = self.reactor.call_later(3600, lambda: log.append("late"))
        self.reactor.stop()  # outside run, this does nothing
        self.reactor.call_soon(lambda: log.append("call"))
        self.reactor.call_soon(self.reactor.stop)
        self.run()
        assert log == ["call"]
        late.cancel()
        yield from ()

    @needs("runs", "sockets")
    def test_hold_keeps_run_from_ending(self) -> Steps[None]:
        log: Any = []
        release = self.reactor.hold()
        self.reactor.call_later(0.01, lambda: log.append("timer"))
        work = threading.Timer(0.03, lambda: self.reactor.call_soon_threadsafe(lambda: (log.append("work"), release())))
        work.start()
        self.run()
        release()  # the second call does nothing
        work.join(self.deadline)
        assert sorted(log) == ["timer", "work"], "run ended before the hold was released"
        yield from ()

    @needs("runs")
    def test_without_on_error_an_exception_leaves_run_which_can_be_called_again(self) -> Steps[None]:
        log: Any = []
        self.reactor.on_error = None
        self.reactor.call_soon(lambda: 1 / 0)
        self.reactor.call_soon(lambda: log.append("call"))
        raised = False
        try:
            self.run()
        except ZeroDivisionError:
            raised = True
        assert raised, "run did not raise the exception of a callback"
        self.run()
        assert log == ["call"]
        yield from ()

    @needs("runs")
    def test_two_threads_in_it_is_an_error(self) -> Steps[None]:
        raised: list[type] = []

        def other() -> None:
            try:
                self.reactor.run_once(0)
            except Exception as error:
                raised.append(type(error))

        yield from self._in_another_thread(other)
        assert raised == [ConcurrentUse], f"run_once in another thread raised {raised}, not ConcurrentUse"

    def _in_another_thread(self, call: Callable[[], object]) -> Steps[None]:
        """Makes a call in another thread while this thread is inside the reactor."""
        thread = threading.Thread(target=call, daemon=True)
        ended: list[bool] = []

        def inside() -> None:
            thread.start()
            thread.join(self.deadline)
            ended.append(not thread.is_alive())

        self.reactor.call_soon(inside)
        yield from self.until("call", lambda: ended)
        assert ended == [True], "the call in the other thread did not return"

    # --- connecting ---------------------------------------------------------------------------------------------------

    @needs("sockets")
    def test_resolve(self) -> Steps[None]:
        for host in ("127.0.0.1", "localhost"):
            error, addresses = yield from self.found(Endpoint(host, 5672))
            assert error is None
            assert addresses
        error, addresses = yield from self.found(Endpoint("no-such-host.invalid", 5672))
        assert isinstance(error, Exception)

    @needs("sockets")
    def test_a_refused_connection_is_told_and_not_raised(self) -> Steps[None]:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # without listen, so a connection is refused
            owner = yield from self.opened(Endpoint("127.0.0.1", bound.getsockname()[1]))
        ((lost, error),) = owner.heard
        assert lost == "lost"
        assert isinstance(error, Exception), "transport_lost of a refused connection had no error"

    # --- bytes --------------------------------------------------------------------------------------------------------

    @needs("sockets")
    def test_bytes_go_both_ways_in_order(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        owner.transport.write([b"one ", memoryview(b"two ")])
        owner.transport.write([b"three"])
        yield from self.until("bytes at the peer", lambda: peer.has(13))
        assert peer.data == b"one two three"
        peer.send(b"four ")
        peer.send(b"five")
        yield from self.until("bytes of the peer", lambda: len(owner.data) >= 9)
        assert owner.data == b"four five"

    @needs("sockets")
    def test_a_large_write_is_counted_and_told(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        transport = owner.transport
        before = transport.queued
        transport.write([MUCH, b"and a little"])
        assert transport.queued - before == len(MUCH) + 12
        yield from self.turn()
        assert transport.written <= transport.queued
        yield from self.until("last of many bytes", lambda: peer.has(len(MUCH) + 12))
        assert peer.data == MUCH + b"and a little"
        yield from self.until("bytes_written for the last of them", lambda: owner.told == transport.queued)
        assert transport.written == transport.queued, "all bytes were sent, but `written` is less than `queued`"

    @needs("sockets")
    def test_flush_sends_before_the_end_of_the_turn(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        owner.transport.write([b"at once"])
        owner.transport.flush()
        assert owner.transport.written == owner.transport.queued, "flush sent nothing"
        yield from self.until("bytes at the peer", lambda: peer.has(7))

    @needs("sockets")
    def test_reading_pauses_and_goes_on(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        owner.transport.pause_reading(True)
        peer.send(b"held back")
        owner.transport.write([b"still writes"])
        yield from self.until("bytes at the peer", lambda: peer.has(12))
        yield from self.turn()
        assert owner.data == b"", "the transport read while it was paused"
        owner.transport.pause_reading(False)
        yield from self.until("bytes that were held back", lambda: owner.data == b"held back")

    @needs("sockets", "many")
    def test_several_transports_at_once(self) -> Steps[None]:
        links = []
        for _ in range(3):
            links.append((yield from self.linked()))
        for n, (owner, peer) in enumerate(links):
            owner.transport.write([b"to %d" % n])
            peer.send(b"from %d" % n)
        yield from self.until(
            "bytes of each", lambda: all(peer.has(4) and len(owner.data) == 6 for owner, peer in links)
        )
        for n, (owner, peer) in enumerate(links):
            assert (bytes(peer.data), bytes(owner.data)) == (b"to %d" % n, b"from %d" % n)

    @needs("sockets", "listens")
    def test_listen(self) -> Steps[None]:
        owner = Owner()

        def accept(transport: Transport) -> Owner:
            owner.transport = transport
            self._open.append(transport.abort)
            return owner

        listener = self.reactor.listen("127.0.0.1", 0, accept)
        self._open.append(listener.close)
        peer = Peer(listener.port)
        self._open.append(peer.close)
        peer.send(b"knock")
        yield from self.until("bytes of the peer that connected", lambda: owner.data == b"knock")
        assert owner.heard == ["ready"]
        owner.transport.write([b"come in"])
        yield from self.until("answer", lambda: peer.has(7))

    # --- the end ------------------------------------------------------------------------------------------------------

    @needs("sockets")
    def test_close_sends_what_is_queued_and_then_hangs_up(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        owner.transport.write([MUCH])
        owner.transport.close()
        owner.transport.write([b"too late"])
        yield from self.until("end of the stream", peer.hung_up)
        assert peer.data == MUCH
        assert owner.heard == ["ready"], "the owner was called after it closed the transport"

    @needs("sockets")
    def test_abort_hangs_up_now(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        peer.send(b"unheard")
        owner.transport.abort()
        yield from self.until("end of the stream", peer.hung_up)
        yield from self.turn()
        assert (owner.heard, bytes(owner.data)) == (["ready"], b""), (
            "the owner was called after it aborted the transport"
        )

    @needs("sockets")
    def test_the_peers_hanging_up_is_told(self) -> Steps[None]:
        owner, peer = yield from self.linked()
        peer.send(b"last words")
        peer.close()
        yield from self.until("transport_lost", lambda: len(owner.heard) > 1)
        assert owner.heard == ["ready", ("lost", None)], f"the owner heard {owner.heard}"
        assert owner.data == b"last words"
        owner.transport.write([b"to nobody"])  # does nothing
        yield from self.turn()

    # --- the whole of it ----------------------------------------------------------------------------------------------

    @needs("sockets")
    def test_a_round_trip(self) -> Steps[None]:
        log: Any = []
        tell = lambda error, result: log.append(error or result)  # noqa: E731
        with serve() as broker:
            connection = connect(broker.url, reactor=self.reactor, on_done=tell)
            yield from self.until("opened connection", lambda: log)
            assert log == [connection]
            channel: Any = connection.channel()
            channel.confirm_select()
            ok: list[Any] = []
            channel.queue_declare(exclusive=True, on_done=lambda error, result: ok.append(error or result))
            yield from self.until("declared queue", lambda: ok)
            log.clear()
            channel.basic_consume(ok[0].queue, lambda message: (log.append(message.body), message.ack()))
            channel.basic_publish(routing_key=ok[0].queue, body=b"there and back", on_done=tell)
            yield from self.until("message and its confirm", lambda: len(log) == 2)
            assert b"there and back" in log
            yield from self._used_by_two(connection)
            log.clear()
            connection.close(on_done=tell)
            yield from self.until("end of close", lambda: log)
            assert log == [None]

    def _used_by_two(self, connection: Connection) -> Steps[None]:
        raised: list[type] = []

        def other() -> None:
            try:
                connection.channel()
            except Exception as error:
                raised.append(type(error))

        yield from self._in_another_thread(other)
        assert raised == [ConcurrentUse], "a call in another thread did not raise ConcurrentUse: is `thread` wrong?"

    @needs("sockets")
    def test_a_heartbeat_goes_out_by_itself(self) -> Steps[None]:
        transports: list[Transport] = []
        opened: list[Any] = []
        with serve() as broker:
            endpoint = Endpoint(broker.host, broker.port)
            _, addresses = yield from self.found(endpoint)

            def via(reactor: Any, owner: Any) -> Transport:
                transports.append(reactor.open(endpoint, addresses[0], owner))
                return transports[0]

            target = ConnectionParameters(heartbeat=1, via=via)
            connection = connect(target, reactor=self.reactor, on_done=lambda error, _: opened.append(error))
            yield from self.until("opened connection", lambda: opened)
            assert opened == [None]
            before = transports[0].queued
            yield from self.until("heartbeat", lambda: transports[0].written > before)
            assert connection.is_open
            closed: list[Any] = []
            connection.close(on_done=lambda error, _: closed.append(error))
            yield from self.until("end of close", lambda: closed)


__all__ = ["Play", "ReactorConformance", "Steps"]
