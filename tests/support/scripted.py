"""A scripted peer: the server's end of a link, which says what a test tells it to say, lies and silence included.

Over memory, in virtual time and in the test's own thread::

    world = opened()                                   # a MemoryReactor, a MemoryBroker, an open connection
    channel = world.channel()
    channel.queue_declare("q", on_done=done)
    world.peer.expect("queue.declare")
    world.peer.send(1, "queue.declare-ok", queue="q")
    world.reactor.settle()

Over a real socket, in a thread of its own, for what needs one::

    with SocketBroker() as broker:                     # opens connections and channels, and answers everything
        cpspika.BlockingConnection(broker.url)

`expect` waits: in memory until nothing more can happen (or for `within` seconds of virtual time), on a socket until a
deadline; then it says what was missing and what came instead. What the peer sends goes through its own `Link` where
that allows it, so that the states follow, and as plain bytes where it doesn't: a test may say what no broker may.

Run as a program it is a broker on a free port, which it prints; it ends with its standard input.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cpspika
import cpspika.client.connection
from cpspika.adapters import MemoryReactor
from cpspika.errors import AMQPError, LocalError
from cpspika.wire import frames
from cpspika.wire.codec import Codec
from cpspika.wire.handshake import Host, Negotiated, server
from cpspika.wire.link import Link
from cpspika.wire.message import NO_PROPERTIES, Message, encode_properties
from tests.support.waiting import DEADLINE

PROPERTIES = {"product": "scripted", "capabilities": {"publisher_confirms": True, "basic.nack": True}}

# --- bytes, right and wrong -------------------------------------------------------------------------------------------


def frame(kind: int, number: int, payload: bytes, size: int | None = None, end: bytes = frames.END) -> bytes:
    """A frame; `size` and `end` may be lies."""
    return struct.pack(">BHI", kind, number, len(payload) if size is None else size) + payload + end


def method_frame(number: int, name: str, version: str = "0-9-1", **arguments: Any) -> bytes:
    return frame(frames.METHOD, number, Codec.of(version).encode(name, arguments))


def header_frame(number: int, size: int, properties: bytes = NO_PROPERTIES, class_index: int = 60) -> bytes:
    return frame(frames.HEADER, number, struct.pack(">HHQ", class_index, 0, size) + properties)


def body_frame(number: int, body: bytes) -> bytes:
    return frame(frames.BODY, number, body)


def content(number: int, name: str, body: bytes = b"", properties: bytes = NO_PROPERTIES, **arguments: Any) -> bytes:
    """Method, header and body of one content, as they should be."""
    rest = body_frame(number, body) if body else b""
    return method_frame(number, name, **arguments) + header_frame(number, len(body), properties) + rest


DELIVERY = {"consumer_tag": "c", "delivery_tag": 1, "exchange": "", "routing_key": "q"}


# --- the peer ---------------------------------------------------------------------------------------------------------


class Peer:
    """The server's end of one link. `inbox`: what came and wasn't expected yet, as (channel, Method, Message or error).
    `received`: all that ever came. `hung_up`: the client closed the link. With handshake=False the script says the
    handshake itself, step by step, after `expect_header`. `properties`: what it says of itself."""

    properties: dict[str, Any] = PROPERTIES

    def __init__(self, handshake: bool = True, mechanisms: str = "PLAIN AMQPLAIN EXTERNAL", **tune: int):
        self.link = Link("server", None, None)
        self.version: str | None = None
        self.inbox: deque[tuple[int, Any]] = deque()
        self.received: list[tuple[int, Any]] = []
        self.raw = bytearray()  # everything that came, as bytes
        self.hung_up = False
        self.answering = True  # close is answered by close-ok at once
        self.opened = False
        self.confirmed: dict[int, int] = {}  # publishes confirmed by `serve`, of each channel that confirms
        self._handshake = handshake
        self._mechanisms = mechanisms
        self._tune = {"frame_max": 131072, "channel_max": 2047, "heartbeat": 0, **tune}
        self._unanswered: list[bytes] = []
        self._reactions: dict[str, Callable[[Peer, int, Any], object]] = {}

    # What a kind of link says for itself:

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def hang_up(self) -> None:
        """Sends what is queued, then closes the link without a word."""
        raise NotImplementedError

    def wait(self, ready: Callable[[], bool], within: float | None) -> None:
        """Lets happen what can until `ready`, or for as long as a wait may take."""
        raise NotImplementedError

    # --- in -----------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self.raw += data
        if self.version is None:
            found = self.link.greet_back(data)
            if found is None:
                return
            self.version, data = found
            self.link.begin(self.version, server(self._host()) if self._handshake else None)
        if data:
            for number, event in self.link.events(data):
                self._answer()
                self._take(number, event)
        self._answer()

    def _answer(self) -> None:
        """Says what the link says by itself."""
        if self.link.answers:
            answers = self.link.take_answers()
            if self.answering:
                self.write(answers)
            else:
                self._unanswered.append(answers)

    def _host(self) -> Host:
        limits = Negotiated(virtual_host="", peer_properties={}, **self._tune)
        assert self.version is not None
        return Host(
            self.version, self.properties, self._mechanisms, limits, lambda mechanism, answers: "user", lambda *_: None
        )

    def _take(self, number: int, event: Any) -> None:
        self.received.append((number, event))
        if isinstance(event, Negotiated):
            self.opened = True
            return
        reaction = self._reactions.get(getattr(event, "name", ""))
        if reaction is not None:
            reaction(self, number, event)
        else:
            self.inbox.append((number, event))

    # --- the script: waiting ------------------------------------------------------------------------------------------

    def expect(self, name: str, number: int | None = None, within: float | None = None) -> Any:
        """Takes the next that came, which must be the method `name`; returns it (a Message, where it has a content)."""
        self.wait(lambda: bool(self.inbox), within)
        what = f"{name} on channel {number}" if number is not None else name
        if not self.inbox:
            came = ", ".join(_told(event) for event in self.received[-5:]) or "nothing"
            ended = " and hung up" if self.hung_up else ""
            raise AssertionError(f"the client should have sent {what}, and sent nothing more; last came {came}{ended}")
        at, event = self.inbox.popleft()
        if isinstance(event, AMQPError):
            raise AssertionError(f"the client should have sent {what}, and broke the protocol: {event}") from event
        if event.name != name or number not in (None, at):
            raise AssertionError(f"the client should have sent {what}, and sent {_told((at, event))}")
        return event

    def expect_header(self, within: float | None = None) -> str:
        """Waits for the client's protocol header; returns its version."""
        self.wait(lambda: self.version is not None, within)
        assert self.version is not None, f"the client should have sent a protocol header, and sent {bytes(self.raw)!r}"
        return self.version

    def expect_open(self, within: float | None = None) -> None:
        """Waits for the end of the handshake."""
        self.wait(lambda: self.opened, within)
        assert self.opened, f"the client should have opened the connection, and sent {self.received}"

    def expect_hang_up(self, within: float | None = None) -> None:
        """Waits until the client has closed the link."""
        self.wait(lambda: self.hung_up, within)
        assert self.hung_up, f"the client should have hung up; last came {self.received[-3:]}"

    def expect_nothing(self) -> None:
        self.wait(lambda: bool(self.inbox), None)
        assert not self.inbox, f"the client should have sent nothing, and sent {[_told(event) for event in self.inbox]}"

    def came(self, name: str) -> list[Any]:
        """All of this name that ever came."""
        return [event for _, event in self.received if getattr(event, "name", "") == name]

    # --- the script: saying -------------------------------------------------------------------------------------------

    def send(self, number: int, name: str, **arguments: Any) -> None:
        """Sends a method, whether it may come now or not."""
        try:
            self.write(self.link.send(number, name, arguments))
        except LocalError:  # the link's states forbid it; the bytes say it all the same
            self.write(method_frame(number, name, self.version or "0-9-1", **arguments))

    def send_raw(self, data: bytes) -> None:
        self.write(data)

    def send_content(self, number: int, name: str, body: bytes = b"", properties: Any = None, **arguments: Any) -> None:
        chunks = self.link.send_content(number, name, arguments, encode_properties(properties), body)
        self.write(b"".join(chunks))

    def deliver(self, number: int = 1, body: bytes = b"", properties: Any = None, **arguments: Any) -> None:
        self.send_content(number, "basic.deliver", body, properties, **{**DELIVERY, **arguments})

    def give_back(self, number: int, message: Message, code: int = 312, text: str = "NO_ROUTE") -> None:
        """Returns a publish, as the broker does: with the header that came."""
        properties = message.encoded
        reason = {"reply_code": code, "reply_text": text}
        route = {"exchange": message.exchange, "routing_key": message.routing_key}
        chunks = self.link.send_content(number, "basic.return", {**reason, **route}, properties, message.body)
        self.write(b"".join(chunks))

    def ack(self, tag: int, multiple: bool = False, number: int = 1) -> None:
        self.send(number, "basic.ack", delivery_tag=tag, multiple=multiple)

    def nack(self, tag: int, multiple: bool = False, number: int = 1) -> None:
        self.send(number, "basic.nack", delivery_tag=tag, multiple=multiple)

    def open_channel(self, number: int = 1) -> None:
        self.expect("channel.open", number)
        self.send(number, "channel.open-ok")

    def close_channel(self, code: int, text: str, class_id: int = 0, method_id: int = 0, number: int = 1) -> None:
        self.send(number, "channel.close", reply_code=code, reply_text=text, class_id=class_id, method_id=method_id)

    def close_connection(self, code: int = 320, text: str = "CONNECTION_FORCED - node going down") -> None:
        self.send(0, "connection.close", reply_code=code, reply_text=text)

    def heartbeat(self) -> None:
        self.write(frames.HEARTBEAT_FRAME)

    def silent(self) -> None:
        """From here on nothing is answered, closes included (`answer` says what was held back)."""
        self.answering = False
        self._reactions.clear()

    def answer(self) -> None:
        self.answering = True
        self.write(b"".join(self._unanswered))
        self._unanswered.clear()

    # --- the script: reacting by itself -------------------------------------------------------------------------------

    def when(self, name: str, reaction: Callable[[Peer, int, Any], object]) -> None:
        """reaction(peer, channel, method) for each `name` that comes, instead of the inbox."""
        self._reactions[name] = reaction

    def serve(self) -> None:
        """Answers every request from here on, as a broker does that has everything and delivers nothing."""
        assert self.version is not None
        for row in Codec.of(self.version).by_name.values():
            if row.sender != "S" and row.replies and row.name not in ("connection.close", "channel.close"):
                self.when(row.name, _reply_to(row.replies[0]))
        self.when("basic.get", _reply_to("basic.get-empty"))
        for name in ("basic.ack", "basic.nack", "basic.reject"):
            self.when(name, lambda peer, number, method: None)
        self.when("confirm.select", _confirm)
        self.when("basic.publish", lambda peer, number, message: None)


def _reply_to(reply: str) -> Callable[[Peer, int, Any], object]:
    def react(peer: Peer, number: int, method: Any) -> None:
        row = Codec.of(peer.version or "0-9-1").by_name[reply]
        asked = method.arguments
        told = {argument.name: asked[argument.name] for argument in row.arguments if argument.name in asked}
        if "consumer_tag" in told:
            told["consumer_tag"] = told["consumer_tag"] or f"tag-{len(peer.received)}"
        if reply == "queue.declare-ok":
            told["queue"] = told["queue"] or f"queue-{len(peer.received)}"
        peer.send(number, reply, **told)

    return react


def deliver_three(peer: Peer, number: int, consume: Any) -> None:
    """A reaction to basic.consume: its consume-ok, and behind it the messages "0", "1" and "2" with the tags 1 to 3."""
    peer.send(number, "basic.consume-ok", consumer_tag="c")
    for tag in (1, 2, 3):
        peer.deliver(number, b"%d" % (tag - 1), delivery_tag=tag)


def _confirm(peer: Peer, number: int, method: Any) -> None:
    peer.send(number, "confirm.select-ok")
    peer.confirmed[number] = 0

    def confirm(peer: Peer, number: int, message: Any) -> None:
        if number in peer.confirmed:
            peer.confirmed[number] += 1
            peer.ack(peer.confirmed[number], number=number)

    peer.when("basic.publish", confirm)


def _told(event: tuple[int, Any]) -> str:
    number, what = event
    return f"{getattr(what, 'name', what)!s} on channel {number}"


# --- over memory ------------------------------------------------------------------------------------------------------


class MemoryPeer(Peer):
    def __init__(self, reactor: MemoryReactor, transport: Any, **options: Any):
        super().__init__(**options)
        self.reactor = reactor
        self.transport = transport

    def write(self, data: bytes) -> None:
        self.transport.write([data])

    def hang_up(self) -> None:
        self.transport.close()

    def cut(self, error: Exception | None = None) -> None:
        """The network fails: in the next turn both ends lose the link, with what was under way."""
        client, self.transport.peer = self.transport.peer, None
        self.transport.abort()
        if client is not None:
            # No function of the program's, in which an interrupt would be taken for its own exception.
            self.reactor.call_soon(partial(client.lost, error or ConnectionResetError("the network failed")))

    def clog(self) -> None:
        """From here on the client's kernel takes no more bytes."""
        self.transport.peer._flushing = True

    def unclog(self) -> None:
        """The client's kernel takes what waits, and takes bytes again."""
        self.transport.peer._flush()

    def transport_ready(self) -> None:
        pass

    def bytes_written(self) -> None:
        pass

    def transport_lost(self, error: Exception | None) -> None:
        self.hung_up = True

    def wait(self, ready: Callable[[], bool], within: float | None) -> None:
        self.reactor.settle()
        until = self.reactor.time() + (within or 0)
        while not ready() and self.reactor.time() < until:
            self.reactor.run_once(until - self.reactor.time())
            self.reactor.settle()


class MemoryBroker:
    """Listens on a MemoryReactor; each link becomes a Peer. `peer`: the newest."""

    def __init__(self, reactor: MemoryReactor, host: str = "broker", port: int = 5672, **options: Any):
        self.reactor = reactor
        self.peers: list[MemoryPeer] = []
        self.times: list[float] = []  # when each link came
        self._options = options
        self.script: Callable[[MemoryPeer], object] | None = options.pop("script", None)
        reactor.listen(host, port, self._accept)

    def _accept(self, transport: Any) -> MemoryPeer:
        peer = MemoryPeer(self.reactor, transport, **self._options)
        self.peers.append(peer)
        self.times.append(self.reactor.time())
        script = self.script
        if script is not None:
            self.reactor.call_soon(lambda: script(peer))
        return peer

    @property
    def peer(self) -> MemoryPeer:
        if not self.peers:
            self.reactor.settle()
        assert self.peers, "no client has connected"
        return self.peers[-1]


class Done:
    """An on_done that remembers. `log`: shared by several, gets (name, error, result) in the order of calling."""

    def __init__(self, name: Any = None, log: list[Any] | None = None):
        self.name = name
        self.calls: list[tuple[Any, Any]] = []
        self._log = log
        self.forbidden = False

    def __call__(self, error: Any, result: Any) -> None:
        assert not self.forbidden, "on_done was called inside the call that took it"
        assert error is None or result is None, "on_done gets an error or a result, not both"
        assert error is None or isinstance(error, AMQPError), f"on_done got {error!r}"
        self.calls.append((error, result))
        if self._log is not None:
            self._log.append((self.name, error, result))

    @contextlib.contextmanager
    def not_inside(self) -> Iterator[None]:
        """For the call that takes it."""
        self.forbidden = True
        try:
            yield
        finally:
            self.forbidden = False

    @property
    def pending(self) -> bool:
        assert len(self.calls) <= 1, f"on_done was called {len(self.calls)} times: {self.calls}"
        return not self.calls

    @property
    def result(self) -> Any:
        assert not self.pending, f"on_done {self.name or ''} was not called"
        assert self.calls[0][0] is None, f"on_done got an error: {self.calls[0][0]!r}"
        return self.calls[0][1]

    @property
    def error(self) -> Any:
        assert not self.pending, f"on_done {self.name or ''} was not called"
        assert self.calls[0][0] is not None, f"on_done got a result: {self.calls[0][1]!r}"
        return self.calls[0][0]


def said(error: BaseException | None) -> str:
    """All that an error and its causes say."""
    parts = []
    while error is not None:
        parts.append(str(error))
        error = error.__cause__
    return " / ".join(parts)


class World:
    """A client and its scripted broker in memory. `closed`: what on_close was told."""

    def __init__(self, tune: dict[str, Any] | None = None, **options: Any):
        self.reactor = MemoryReactor()
        self.broker = MemoryBroker(self.reactor, **(tune or {}))
        self.connected = Done("connect")
        self.closed: list[AMQPError | None] = []
        self._on_close = options.pop("on_close", lambda connection, error: self.closed.append(error))
        options.setdefault("heartbeat", 0)
        self.connection = cpspika.connect(
            "amqp://broker", reactor=self.reactor, on_done=self.connected, on_close=self._on_close, **options
        )

    @property
    def peer(self) -> MemoryPeer:
        return self.broker.peer

    def channel(self) -> cpspika.Channel:
        """An open channel."""
        done = Done("channel")
        number = self.connection.channel(on_done=done).number
        self.peer.open_channel(number)
        self.reactor.settle()
        channel: cpspika.Channel = done.result
        return channel

    def confirming(self) -> cpspika.Channel:
        """An open channel that confirms."""
        channel, done = self.channel(), Done("confirm_select")
        channel.confirm_select(on_done=done)
        self.peer.expect("confirm.select", channel.number)
        self.peer.send(channel.number, "confirm.select-ok")
        self.reactor.settle()
        assert done.result is None
        return channel

    def consume(self, channel: cpspika.Channel, on_message: Callable[[Message], object], tag: str = "c") -> None:
        channel.basic_consume("q", on_message, consumer_tag=tag)
        self.peer.expect("basic.consume", channel.number)
        self.peer.send(channel.number, "basic.consume-ok", consumer_tag=tag)
        self.reactor.settle()

    def settle(self) -> None:
        self.reactor.settle()


def opened(tune: dict[str, Any] | None = None, **options: Any) -> World:
    """A world whose connection is open. `tune`: options of the peer; the others are connect's."""
    world = World(tune, **options)
    world.peer.expect_open()
    world.settle()
    assert world.connected.result is world.connection
    return world


def run_until(reactor: Any, ready: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Turns a reactor until `ready`; by its own clock no longer than `seconds`."""
    until = reactor.time() + seconds
    while not ready():
        left = until - reactor.time()
        assert left > 0, f"what was waited for did not happen within {seconds} s"
        reactor.run_once(left)


@contextlib.contextmanager
def using(reactor: Any) -> Iterator[Any]:
    """A reactor with real sockets, for the length of a block: at its end all is closed, whatever happened in it."""
    try:
        yield reactor
    finally:
        reactor.on_error = lambda error: None
        mine = [c for c in list(cpspika.client.connection._connections) if c.reactor is reactor]
        for connection in mine:
            with contextlib.suppress(LocalError):
                connection.close()
        with contextlib.suppress(AssertionError):
            run_until(reactor, lambda: all(c._backlog.transport is None for c in mine), 2)
        for connection in mine:
            connection._abort()
        for _ in range(3):
            reactor.run_once(0)
        reactor.forget()
        reactor.run_once(0)
        if hasattr(reactor, "close"):
            reactor.close()


# --- over sockets -----------------------------------------------------------------------------------------------------


class SocketPeer(Peer):
    def __init__(self, sock: socket.socket, **options: Any):
        super().__init__(**options)
        self.socket = sock

    def write(self, data: bytes) -> None:
        self.socket.settimeout(DEADLINE)
        self.socket.sendall(data)

    def hang_up(self) -> None:
        self.socket.close()

    def wait(self, ready: Callable[[], bool], within: float | None) -> None:
        until = time.monotonic() + (DEADLINE if within is None else within)
        while not ready() and not self.hung_up:
            left = until - time.monotonic()
            if left <= 0:
                return
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return
            except OSError:
                data = b""
            if data:
                self.data_received(data)
            else:
                self.hung_up = True


def answer_everything(peer: SocketPeer) -> None:
    """A script: answers until the client hangs up."""
    peer.expect_header()
    peer.serve()
    peer.expect_hang_up()


class SocketBroker:
    """Listens on a free port of 127.0.0.1, in a thread. script(peer) runs in a thread for each link; without one the
    broker answers everything, all links in one thread. A script that fails fails the test, at the end of the block.
    tls: the context of a broker with TLS, or None."""

    def __init__(self, script: Callable[[SocketPeer], object] | None = None, tls: Any = None, **options: Any):
        self._script = script or (answer_everything if tls is not None else None)
        self._tls = tls
        self._options = options
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"amqp://127.0.0.1:{self.port}"
        self.peers: list[SocketPeer] = []
        self.errors: list[BaseException] = []
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> SocketBroker:
        self._start(self._serve)
        return self

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stop_writer.send(b"\0")
        for thread in list(self._threads):
            thread.join(DEADLINE)
        stuck = [thread for thread in self._threads if thread.is_alive()]
        for sock in (self._listener, self._stop_reader, self._stop_writer, *(peer.socket for peer in self.peers)):
            sock.close()
        if error is None:
            assert not self.errors, f"the broker's script failed: {self.errors[0]!r}"
            assert not stuck, "the broker's script did not end"

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, self._accept)
            selector.register(self._stop_reader, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    key.data(selector, key.fileobj)

    def _accept(self, selector: selectors.BaseSelector, _: Any) -> None:
        sock, _address = self._listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = SocketPeer(sock, **self._options)
        self.peers.append(peer)
        if self._script is not None:
            self._start(self._run_script, peer)
        else:
            selector.register(sock, selectors.EVENT_READ, lambda selector, sock: self._feed(selector, sock, peer))

    def _run_script(self, peer: SocketPeer) -> None:
        assert self._script is not None
        try:
            if self._tls is not None:
                peer.socket.settimeout(DEADLINE)
                try:
                    peer.socket = self._tls.wrap_socket(peer.socket, server_side=True)
                except OSError:  # the client doesn't trust the certificate, or doesn't speak TLS
                    peer.hung_up = True
                    return
            self._script(peer)
        except BaseException as error:
            self.errors.append(error)

    def _feed(self, selector: selectors.BaseSelector, sock: Any, peer: SocketPeer) -> None:
        try:
            data = sock.recv(65536)
            if data:
                begins = peer.version is None
                peer.data_received(data)
                if begins and peer.version is not None:
                    peer.serve()
                return
        except OSError:
            pass
        selector.unregister(sock)
        sock.close()
        peer.hung_up = True


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    with SocketBroker() as broker:
        print(broker.port, flush=True)
        sys.stdin.read()
