"""The embedded broker: AMQP 0-9-1 and 0-8 in the program's own process, without installation or setup.

    with cpspika.broker.serve() as broker:
        connection = cpspika.BlockingConnection(broker.url)

- `serve` runs a broker in a thread and listens on a socket of the loopback interface.
- `embedded` returns the broker of this process, in memory; the URL `embedded://` connects to it.
- `Broker` is the broker itself, for any reactor.

The broker is made for trials and tests, not for keeping messages safe: it stores nothing on disk, and it is one
process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ..adapters.memory_reactor import MemoryTransport
from ..adapters.select_reactor import SelectReactor
from ..logs import get_logger
from ..reactor import Reactor, TransportOwner
from ..registry import Registry
from .ack_timeouts import CONSUMER_TIMEOUT
from .server import MEMORY_HIGH, Broker

__all__ = ["Broker", "Served", "embedded", "serve"]

logger = get_logger(__name__)


class _BrokerThread:
    """A thread with a reactor, and a broker on it."""

    def __init__(self, make_broker: Callable[[SelectReactor], Broker], name: str):
        self.reactor = SelectReactor()
        try:
            self.broker = make_broker(self.reactor)
        except BaseException:
            self.reactor.close()
            raise
        self.reactor.on_error = lambda error: logger.error("an error in the broker; it goes on", exc_info=error)
        self._release = self.reactor.hold()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        started = threading.Event()
        self.reactor.call_soon(started.set)
        self._thread.start()
        started.wait()

    def _run(self) -> None:
        self.broker.set_thread(threading.get_ident())
        self.reactor.run()

    def stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True

        def end() -> None:
            self.broker.end()
            self._release()
            self.reactor.stop()

        self.reactor.call_soon_threadsafe(end)
        self._thread.join(10)
        self.reactor.close()


class Served(Broker):
    """A broker that `serve` runs in a thread. As a context manager it stops at the end.

    `host`, `port`: the address at which it listens. See `Broker` for the rest.
    """

    host: str
    port: int
    _broker_thread: _BrokerThread

    @property
    def url(self) -> str:
        """The URL of the virtual host "/", with name and password of the first user."""
        name, password = next(iter(self.users.items()))
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amqp://{quote(name, safe='')}:{quote(password, safe='')}@{host}:{self.port}/%2F"

    def stop(self) -> None:
        """Stops listening, cuts every link without connection.close, and ends the thread. Does nothing the second time.

        It waits for the thread, for 10 seconds at most.
        """
        self._broker_thread.stop()

    def _detach(self) -> None:
        """Closes this process's copies of the sockets, and tells no client. For the child of a fork: the broker is the
        parent's."""
        for listener in self._listeners:
            on_sockets: Any = listener
            on_sockets.detach()
        self._listeners.clear()
        for session in list(self.sessions):
            transport = session.backlog.transport
            if transport is not None:
                transport.detach()
        self.sessions.clear()

    def __enter__(self) -> Served:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    host: str = "127.0.0.1",
    port: int = 0,
    users: Mapping[str, str] | None = None,
    vhosts: Iterable[str] = ("/",),
    memory_high: int = MEMORY_HIGH,
    pretend: Iterable[str] = (),
    like: str = "3.10",
    allow_remote_guest: bool = False,
    consumer_timeout: float | None = CONSUMER_TIMEOUT,
) -> Served:
    """Runs a broker in a thread, for clients in this process and in others.

    host: address to listen at. Default: "127.0.0.1".
    port: number; 0 for a free one. Default: 0.
    users: passwords by user name. Default: {"guest": "guest"}.
    vhosts: names of the virtual hosts. Default: "/" alone.
    memory_high: bytes of messages above which publishers are told to stop. Default: 512 MiB.
    pretend: types of queues to accept without their promises: "quorum" takes quorum queues as one copy. Default: none.
    like: version of RabbitMQ to answer as, "3.10" or "4.3". Default: "3.10".
    allow_remote_guest: True lets the user "guest" log in from any address. Default: False, from loopback alone.
    consumer_timeout: seconds for which a client may hold a delivery without acknowledging it; None for no limit.
        Default: 1800.

    Returns the running broker itself, so a test can read its state and call the methods of `Broker`. Raises OSError if
    the address can't be used; InvalidArgument for another type of queue or version, or a consumer_timeout of 0 or less.
    """

    def make(reactor: SelectReactor) -> Served:
        return Served(
            reactor,
            users,
            vhosts,
            memory_high,
            pretend=pretend,
            like=like,
            allow_remote_guest=allow_remote_guest,
            consumer_timeout=consumer_timeout,
        )

    thread = _BrokerThread(make, "cpspika broker")
    served: Any = thread.broker
    served._broker_thread = thread
    served.host = host
    try:
        listener = served.call(lambda: served.listen(host, port))
    except BaseException:
        thread.stop()
        raise
    served.port = listener.port
    _all_served.add(served)
    broker: Served = served
    return broker


_all_served: Registry[Served] = Registry()
_lock = threading.Lock()
_embedded: list[_BrokerThread] = []


def embedded() -> Broker:
    """Returns the broker of this process, which the URL `embedded://` connects to.

    The first call starts it in a thread of its own. It listens at no socket, and it ends with the process.
    """
    with _lock:
        if not _embedded:
            _embedded.append(_BrokerThread(Broker, "cpspika embedded broker"))
        return _embedded[0].broker


def _after_fork() -> None:
    """The child of a fork has no thread of the parent's, so it starts a broker of its own. A served broker is the
    parent's: the child closes its copies of the sockets, so that clients see the end of the parent's."""
    for served in _all_served:
        served._detach()
    global _lock
    _lock = threading.Lock()  # a thread of the parent may have held it
    _embedded.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def connect_embedded(reactor: Reactor, owner: TransportOwner) -> MemoryTransport:
    """Returns a transport in memory to the broker of this process.

    reactor: the client's. owner: the client's connection, which the transport calls.
    """
    broker = embedded()
    return MemoryTransport.connect(reactor, owner, broker.accept, broker.reactor)
