"""A client that is nothing but bytes: it says what a test tells it to, wrong order and nonsense included.

    world = MemoryWorld()                        # a Broker on a MemoryReactor
    wire = world.wire().shake_hands()
    wire.say(method(1, "channel.open"), method(1, "queue.declare", queue="q"))      # in one piece
    assert wire.heard() == ["channel.open-ok", "queue.declare-ok"]

What came is in `frames`, as (channel, Method or the payload of a content frame); `hung_up`: the broker ended the link.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from cpspika import BasicProperties
from cpspika.adapters import MemoryReactor
from cpspika.adapters.memory_reactor import MemoryTransport
from cpspika.broker import Broker
from cpspika.wire.codec import Codec, Method
from cpspika.wire.fields import encode_table
from cpspika.wire.frames import METHOD, PROTOCOL_HEADERS, FrameReader
from tests.support.scripted import body_frame, header_frame, method_frame
from tests.support.waiting import DEADLINE

method = method_frame


def publish(
    number: int,
    key: str,
    body: bytes = b"",
    exchange: str = "",
    mandatory: bool = False,
    properties: bytes | None = None,
    **named: Any,
) -> bytes:
    """The frames of a publish; `properties` as bytes may be wrong ones."""
    encoded = BasicProperties(**named).encode() if properties is None else properties
    ask = method_frame(number, "basic.publish", exchange=exchange, routing_key=key, mandatory=mandatory)
    return ask + header_frame(number, len(body), encoded) + (body_frame(number, body) if body else b"")


def plain(user: str = "guest", password: str = "guest") -> bytes:
    return f"\0{user}\0{password}".encode()


def amqplain(user: str, password: str) -> bytes:
    return encode_table("", {"LOGIN": user, "PASSWORD": password})[4:]


class Wire:
    """What both kinds of link share."""

    def __init__(self, version: str = "0-9-1"):
        self.version = version
        self.hung_up = False
        self.frames: list[tuple[int, Any]] = []
        self.raw = b""
        self._codec = Codec.of(version)
        self._reader = FrameReader(0)

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def wait(self, ready: Callable[[], bool]) -> None:
        """Until `ready`, or nothing more can come."""
        raise NotImplementedError

    # --- in -----------------------------------------------------------------------------------------------------------

    def _arrived(self, data: bytes) -> None:
        self.raw += data
        buffer, at = self._reader.feed(data), 0
        if buffer.startswith(b"AMQP"):
            self.frames.append((0, buffer))
            return
        while buffer and (found := self._reader.next(buffer, at)):
            kind, number, payload, at = found
            self.frames.append((number, self._codec.decode(payload) if kind == METHOD else payload))
        self._reader.keep(buffer, at)

    def heard(self) -> list[str]:
        """The names of the methods that came, in order; they are forgotten."""
        self.wait(lambda: False)
        return self._taken()

    def _taken(self) -> list[str]:
        names = [what.name for _, what in self.frames if isinstance(what, Method)]
        self.frames.clear()
        return names

    def expect(self, name: str, number: int | None = None) -> Method:
        """Waits for a method, and returns it; what came before it is forgotten."""

        def found() -> int | None:
            for index, (channel, what) in enumerate(self.frames):
                if isinstance(what, Method) and what.name == name and number in (None, channel):
                    return index
            return None

        self.wait(lambda: found() is not None or self.hung_up)
        index = found()
        assert index is not None, f"{name} did not come; what came: {self.frames}, hung up: {self.hung_up}"
        answer: Method = self.frames[index][1]
        del self.frames[: index + 1]
        return answer

    def expect_hang_up(self) -> None:
        self.wait(lambda: self.hung_up)
        assert self.hung_up, f"the broker did not hang up; what came: {self.frames}"

    def expect_close(self, code: int, text: str) -> Method:
        """connection.close with a code and a text that begins so; answers it."""
        close = self.expect("connection.close")
        assert (close.reply_code, close.reply_text[: len(text)]) == (code, text)
        self.say(method(0, "connection.close-ok", self.version))
        self.expect_hang_up()
        return close

    # --- out ----------------------------------------------------------------------------------------------------------

    def say(self, *pieces: bytes) -> Wire:
        """Writes all at once."""
        self.write(b"".join(pieces))
        return self

    def ask(self, number: int, name: str, **arguments: Any) -> Method:
        """Says a method and waits for its -ok."""
        self.say(method(number, name, self.version, **arguments))
        return self.expect(name + "-ok", number)

    def greet(self) -> Wire:
        self.say(PROTOCOL_HEADERS[self.version])
        self.expect("connection.start")
        return self

    def log_in(
        self,
        mechanism: str = "PLAIN",
        response: bytes | None = None,
        capabilities: dict[str, bool] | None = None,
    ) -> Wire:
        able = {"consumer_cancel_notify": True, "connection.blocked": True, "authentication_failure_close": True}
        start_ok = {
            "client_properties": {"capabilities": able if capabilities is None else capabilities},
            "mechanism": mechanism,
            "response": plain() if response is None else response,
            "locale": "en_US",
        }
        return self.say(method(0, "connection.start-ok", self.version, **start_ok))

    def tune(self, frame_max: int = 131072, channel_max: int = 2047, heartbeat: int = 0) -> Wire:
        self.expect("connection.tune")
        tuned = {"frame_max": frame_max, "channel_max": channel_max, "heartbeat": heartbeat}
        return self.say(method(0, "connection.tune-ok", self.version, **tuned))

    def enter(self, vhost: str = "/") -> Wire:
        return self.say(method(0, "connection.open", self.version, virtual_host=vhost))

    def shake_hands(self, channel: int = 1, capabilities: dict[str, bool] | None = None, **tune: int) -> Wire:
        """All of it, and opens a channel (0: none)."""
        self.greet().log_in(capabilities=capabilities).tune(**tune).enter().expect("connection.open-ok")
        if channel:
            self.ask(channel, "channel.open")
        return self


class MemoryWire(Wire):
    def __init__(self, reactor: MemoryReactor, broker: Broker, version: str):
        super().__init__(version)
        self.reactor = reactor
        self.transport = MemoryTransport.connect(reactor, self, broker.accept)
        reactor.settle()

    def write(self, data: bytes) -> None:
        self.transport.write([data])

    def wait(self, ready: Callable[[], bool]) -> None:
        self.reactor.settle()

    def vanish(self) -> None:
        self.transport.abort()
        self.reactor.settle()

    def transport_ready(self) -> None:
        pass

    def data_received(self, data: bytes) -> None:
        self._arrived(data)

    def bytes_written(self) -> None:
        pass

    def transport_lost(self, error: Exception | None) -> None:
        self.hung_up = True


class MemoryWorld:
    """A broker in memory, in virtual time and in the test's own thread: what fails in the broker fails the test."""

    def __init__(self, **options: Any):
        self.reactor = MemoryReactor()
        self.broker = Broker(self.reactor, **options)
        self.reactor.listen("broker", 5672, self.broker.accept)

    def wire(self, version: str = "0-9-1") -> MemoryWire:
        return MemoryWire(self.reactor, self.broker, version)

    def opened(self, version: str = "0-9-1", **options: Any) -> MemoryWire:
        wire = self.wire(version)
        wire.shake_hands(**options)
        return wire

    def bodies(self, queue: str) -> list[bytes]:
        return [message.body for message in self.broker.queues[queue].messages]


class SocketWire(Wire):
    """Over a socket, to a broker that `serve` runs. A context manager."""

    def __init__(self, broker: Any, version: str = "0-9-1", receive_buffer: int | None = None):
        super().__init__(version)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((broker.host, broker.port))
        # Else each small write waits 40 ms for the broker's kernel to acknowledge the one before.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> SocketWire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def write(self, data: bytes) -> None:
        self.socket.settimeout(DEADLINE)
        try:
            self.socket.sendall(data)
        except OSError:
            self.hung_up = True

    def wait(self, ready: Callable[[], bool]) -> None:
        until = time.monotonic() + DEADLINE
        while not ready() and not self.hung_up:
            self.socket.settimeout(max(0.001, until - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                raise AssertionError(f"what was waited for did not come; what came: {self.frames}") from None
            except OSError:
                data = b""
            if data:
                self._arrived(data)
            else:
                self.hung_up = True

    def vanish(self) -> None:
        """Ends without a word, and without reading what is there: the broker gets a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
