"""Run by trial, in a process of its own (see test_twisted.py): it fails a test that leaves something in the reactor.

trial lets the reactor turn twice before it looks. These tests look at once, when the Deferred has fired.

AMQP: a URL by name of host. TLS: one that is amqps://, with the authority's certificate in CA.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

import pytest
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, DeferredList, inlineCallbacks
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, clientFromString, wrapClientTLS
from twisted.internet.interfaces import IReactorFDSet
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

import cpspika
from cpspika.adapters import twisted_adapter

AMQP, TLS, CA = (os.environ.get(name, "") for name in ("AMQP", "TLS", "CA"))
Steps = Generator[Deferred[Any], Any, Any]


def held() -> list[Any]:
    """What the reactor holds, but for its own and trial's, and the last word of another thread (of the embedded broker)
    on its way, which asyncio's reactor makes a timer of."""
    found = [*reactor.getDelayedCalls()]
    if IReactorFDSet.providedBy(reactor):
        found += [*reactor.getReaders(), *reactor.getWriters()]
    return [one for one in found if not any(name in str(one) for name in ("onTimeout", "Waker", "_from_thread"))]


def turns(count: int) -> Deferred[None]:
    """Lets the reactor turn."""
    done: Deferred[None] = Deferred()

    def turn(left: int) -> None:
        if left:
            reactor.callLater(0, turn, left - 1)
        else:
            done.callback(None)

    turn(count)
    return done


def where(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@inlineCallbacks
def use(target: str, **options: Any) -> Steps:
    """Opens a connection, and does a little of everything."""
    connection = yield twisted_adapter.connect(target, **options)
    channel = yield connection.channel()
    queue = (yield channel.queue_declare(exclusive=True)).queue
    arrived: Deferred[Any] = Deferred()
    body = b"\xce" * 1_000_000
    yield channel.basic_consume(queue, arrived.callback)
    yield channel.basic_publish(routing_key=queue, body=body)
    message = yield arrived
    assert message.body == body
    yield message.ack()
    yield connection.close()


class Clean(TestCase):
    timeout = 20

    def check(self, work: Deferred[Any]) -> Deferred[Any]:
        """Whatever came of it, the reactor holds nothing."""

        def look(result: Any) -> Any:
            assert not held(), held()
            return result

        return work.addBoth(look)

    def refused(self, kind: type[Exception], target: str, **options: Any) -> Deferred[Any]:
        return self.assertFailure(self.check(twisted_adapter.connect(target, **options)), kind)

    @inlineCallbacks
    def close_abandoned(self, **options: Any) -> Steps:
        """At each stage: looking up the name, connecting, shaking hands."""
        for count in range(12):
            work = twisted_adapter.connect(AMQP, **options)
            yield turns(count)
            if work.called:
                yield (yield work).close()
            else:
                work.cancel()
                self.failureResultOf(work, CancelledError)
            deadline = time.monotonic() + 5
            while held():  # a thread that looks up a name cannot be stopped, and reports back
                assert time.monotonic() < deadline, f"{held()}, given up after {count} turns"
                yield turns(1)


class Tcp(Clean):
    def test_a_connection(self) -> Any:
        return self.check(use(AMQP))

    def test_many_at_once(self) -> Any:
        return self.check(DeferredList([use(AMQP) for _ in range(10)], fireOnOneErrback=True))

    def test_in_memory(self) -> Any:
        return self.check(use("embedded://"))

    def test_nobody_listens(self) -> Any:
        return self.refused(cpspika.ConnectError, "amqp://localhost:1")

    def test_a_wrong_password(self) -> Any:
        return self.refused(cpspika.LoginError, AMQP.replace("guest:guest", "guest:wrong"))

    def test_an_unknown_name(self) -> Any:
        return self.refused(cpspika.ConnectError, "amqp://no-such-host.invalid")

    def test_given_up(self) -> Any:
        work = twisted_adapter.connect(AMQP)
        work.cancel()
        self.failureResultOf(work, CancelledError)

    def test_given_up_later(self) -> Any:
        return self.close_abandoned()

    @inlineCallbacks
    def test_another_thread_is_told_to_go_through_the_reactor(self) -> Steps:
        connection = yield twisted_adapter.connect(AMQP)
        channel = yield connection.channel()
        yield self.assertFailure(deferToThread(channel.basic_publish, "", "q", "body"), cpspika.ConcurrentUse)
        yield connection.close()

    @inlineCallbacks
    def test_the_reactor_runs_already(self) -> Steps:
        connection = yield twisted_adapter.connect(AMQP)
        for turn in (connection.reactor.run, connection.reactor.run_once):
            with pytest.raises(cpspika.LocalError, match="runs"):
                turn()
        yield connection.close()

    @inlineCallbacks
    def test_a_failure_in_a_callback_is_logged(self) -> Steps:
        def at_once(message: cpspika.Message) -> None:
            reactor.callLater(0, called.pop().callback, None)
            raise ZeroDivisionError

        async def in_a_coroutine(message: cpspika.Message) -> None:
            await turns(1)
            at_once(message)

        def in_a_generator(message: cpspika.Message) -> Steps:
            yield turns(1)
            at_once(message)

        connection = yield twisted_adapter.connect(AMQP)
        channel = yield connection.channel()
        for on_message in (at_once, in_a_coroutine, in_a_generator, inlineCallbacks(in_a_generator)):
            called: list[Deferred[None]] = [Deferred()]
            at_end = called[0]
            queue = (yield channel.queue_declare(exclusive=True)).queue
            yield channel.basic_consume(queue, on_message, no_ack=True)
            yield channel.basic_publish(routing_key=queue, body="body")
            yield at_end
            assert len(self.flushLoggedErrors(ZeroDivisionError)) == 1, on_message
        yield connection.close()


class Endpoint(Clean):
    def test_a_connection(self) -> Any:
        return self.check(use(AMQP, endpoint=HostnameEndpoint(reactor, *where(AMQP))))

    def test_by_address(self) -> Any:
        return self.check(use(AMQP, endpoint=TCP4ClientEndpoint(reactor, "127.0.0.1", where(AMQP)[1])))

    def test_nobody_listens(self) -> Any:
        return self.refused(cpspika.ConnectError, "amqp://broker", endpoint=TCP4ClientEndpoint(reactor, "127.0.0.1", 1))

    def test_a_wrong_password(self) -> Any:
        target = AMQP.replace("guest:guest", "guest:wrong")
        return self.refused(cpspika.LoginError, target, endpoint=HostnameEndpoint(reactor, *where(AMQP)))

    def test_given_up_later(self) -> Any:
        return self.close_abandoned(endpoint=HostnameEndpoint(reactor, *where(AMQP)))


class Tls(Clean):
    if not TLS:
        skip = "no broker with TLS was given"

    def test_by_our_own(self) -> Any:
        return self.check(use(TLS, ssl=ssl.create_default_context(cafile=CA)))

    def test_an_untrusted_certificate(self) -> Any:
        return self.refused(cpspika.ConnectError, TLS)


class TlsEndpoint(Clean):
    if not TLS:
        skip = "no broker with TLS was given"

    def setUp(self) -> None:
        try:
            from twisted.internet.ssl import Certificate, optionsForClientTLS, platformTrust
        except ImportError:
            raise SkipTest("no pyOpenSSL here, which Twisted's TLS needs") from None
        with open(CA) as authority:
            self.trusting = optionsForClientTLS("localhost", Certificate.loadPEM(authority.read()))
        self.wary = optionsForClientTLS("localhost", platformTrust())
        self.target = TLS.replace("amqps:", "amqp:")

    def endpoint(self, options: Any) -> Any:
        return wrapClientTLS(options, HostnameEndpoint(reactor, *where(TLS)))

    def test_a_connection(self) -> Any:
        return self.check(use(self.target, endpoint=self.endpoint(self.trusting)))

    def test_from_a_string(self) -> Any:
        host, port = where(TLS)
        text = f"tls:{host}:{port}:trustRoots={os.path.dirname(CA)}"
        return self.check(use(self.target, endpoint=clientFromString(reactor, text)))

    @inlineCallbacks
    def test_an_untrusted_certificate(self) -> Steps:
        error = yield self.refused(cpspika.ConnectError, self.target, endpoint=self.endpoint(self.wary))
        assert "certificate verify failed" in str(error)

    def test_a_wrong_password(self) -> Any:
        target = self.target.replace("guest:guest", "guest:wrong")
        return self.refused(cpspika.LoginError, target, endpoint=self.endpoint(self.trusting))


class Dirty(TestCase):
    """Not to be run with the others: shows that trial would have seen it."""

    def test_a_connection_that_is_left_open(self) -> Any:
        return twisted_adapter.connect(AMQP)
