"""A proxy between clients and a broker, in threads of its own, that cuts and silences links as its dice say."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from random import Random
from types import TracebackType

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the peer gets a reset


class _Link:
    """One client's link. `left`: bytes in each direction after which it ends; None: it stays."""

    def __init__(self, client: socket.socket, broker: socket.socket, left: tuple[int | None, int | None], silent: bool):
        self.client, self.broker = client, broker
        self.left: list[int | None] = list(left)
        self.silent = silent  # at its end it is half-open: nothing passes any more, and nobody is told
        self.is_deaf = False
        self.is_over = False

    def sockets(self, direction: int) -> tuple[socket.socket, socket.socket]:
        return (self.client, self.broker) if direction == 0 else (self.broker, self.client)

    def end(self, *ends: socket.socket) -> None:
        for each in ends or (self.client, self.broker):
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class CuttingProxy:
    """Listens at (`host`, `port`). While `faults` is set, each link ends after a number of bytes in one direction: it
    is cut, or falls silent, and now and then the proxy then refuses connections. `cuts`, `silences`, `refusals`: how
    many there were."""

    host = "127.0.0.1"

    def __init__(self, broker: tuple[str, int], seed: int | str, most: int = 20_000, silent: float = 0.1):
        self._broker = broker
        self._dice = Random(f"cutting {seed}")
        self._most, self._silent = most, silent
        self.faults = True
        self.cuts = self.silences = self.refusals = 0
        self._refuse = 0
        self._lock = threading.Lock()
        self._links: list[_Link] = []
        self._listener = socket.create_server((self.host, 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_over = False
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self._links:
            link.end()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def calm(self) -> None:
        """No more faults. Links that are silent already end by their heartbeats."""
        with self._lock:
            self.faults = False
            self._refuse = 0

    def cut_at_the_client_alone(self) -> None:
        """Cuts every link of now at the client's end. The broker is told nothing: its ends stay open, and silent."""
        for link in list(self._links):
            if not link.is_over:
                link.is_deaf = link.is_over = True
                link.end(link.client)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                refused = self._refuse > 0
                self._refuse -= refused
                self.refusals += refused
                left: tuple[int | None, int | None] = (None, None)
                silent = False
                if self.faults:
                    bytes_left = self._dice.randrange(600, self._most)
                    left = (bytes_left, None) if self._dice.random() < 0.5 else (None, bytes_left)
                    silent = self._dice.random() < self._silent
            if refused:
                client.close()
                continue
            try:
                broker = socket.create_connection(self._broker)
            except OSError:
                client.close()
                continue
            link = _Link(client, broker, left, silent)
            self._links.append(link)
            for direction in (0, 1):
                thread = threading.Thread(target=self._pump, args=(link, direction), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, link: _Link, direction: int) -> None:
        source, sink = link.sockets(direction)
        try:
            while True:
                data = source.recv(4096)
                if not data:
                    break
                if link.is_deaf:
                    continue
                left = link.left[direction]
                if left is None or not self.faults:
                    sink.sendall(data)
                    continue
                sink.sendall(data[:left])
                link.left[direction] = left - len(data)
                if left <= len(data):
                    with self._lock:
                        if link.silent:
                            self.silences += 1
                            link.is_deaf = True
                            continue
                        self.cuts += 1
                        if self._dice.random() < 0.2:
                            self._refuse = self._dice.randrange(1, 5)
                    break
        except OSError:
            pass
        if not link.is_over:
            link.is_over = True
            link.end()
