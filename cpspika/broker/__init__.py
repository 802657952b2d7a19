"""The embedded broker: AMQP 0-9-1 and 0-8 in the process, with nothing to set up.

    with cpspika.broker.serve() as broker:
        connection = cpspika.BlockingConnection(broker.url)

`Broker` is the thing itself, on any reactor; `serve` runs one in a thread, behind a socket on loopback; `embedded` is
the process's own, which `embedded://` connects to in memory. Nothing is kept on disk, and everything is in one process:
it is for trying out and for tests, not for keeping messages safe.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote

from ..adapters.memory_reactor import MemoryTransport
from ..adapters.select_reactor import SelectReactor
from ..reactor import Reactor, TransportOwner
from .server import MEMORY_HIGH, Broker

__all__ = ["Broker", "Served", "embedded", "serve"]


logger = logging.getLogger(__name__)


class _Home:
    """A reactor in a thread of its own, for a broker to live in."""

    def __init__(self, broker_of: Callable[[SelectReactor], Broker], name: str):
        self.reactor = SelectReactor()
        self.broker = broker_of(self.reactor)
        self.reactor.on_error = lambda error: logger.error("the broker goes on after a fault", exc_info=error)
        self._release = self.reactor.hold()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        started = threading.Event()
        self.reactor.call_soon(started.set)
        self._thread.start()
        started.wait()

    def _run(self) -> None:
        self.broker.live_in(threading.get_ident())
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
    """A broker that `serve` runs: `url`, `host` and `port` say where. A context manager; `stop` ends it."""

    host: str
    port: int
    _home: _Home

    @property
    def url(self) -> str:
        """For the first of its users."""
        name, password = next(iter(self.users.items()))
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amqp://{quote(name, safe='')}:{quote(password, safe='')}@{host}:{self.port}/%2F"

    def stop(self) -> None:
        """Cuts every link, and ends."""
        self._home.stop()

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
) -> Served:
    """Runs a broker in a thread, listening at host and port (0: a free one): for clients in this process and in others.
    It is the broker's own object, so a test can look into it, and do to it what `Broker` offers."""
    home = _Home(lambda reactor: Served(reactor, users, vhosts, memory_high), "cpspika broker")
    served: Any = home.broker
    served._home = home
    served.host = host
    try:
        listener = served.call(lambda: served.listen(host, port))
    except OSError:
        home.stop()
        raise
    served.port = listener.port
    broker: Served = served
    return broker


_lock = threading.Lock()
_embedded: list[_Home] = []


def embedded() -> Broker:
    """The process's own broker, in memory; it is started when it is first asked for."""
    with _lock:
        if not _embedded:
            _embedded.append(_Home(Broker, "cpspika embedded broker"))
        return _embedded[0].broker


def connect_embedded(reactor: Reactor, owner: TransportOwner) -> MemoryTransport:
    """A link in memory to the process's own broker."""
    broker = embedded()
    return MemoryTransport.connect(reactor, owner, broker.accept, broker.reactor)
