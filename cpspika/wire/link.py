"""The link: one end of an AMQP connection without its socket.

Bytes that arrived go into `receive` (or `events`) and come out as events; what shall be sent goes into `send` and comes
out as bytes. It does no input or output, has no clock, and knows of its role only what `spec` says about senders. The
client's connection and the broker's session stand on the same one, which is why tests can let two of them talk in a
loop.

An event is (channel, what): a `Method`, a `Message` (method, header and body of one content), a `Negotiated` when the
handshake is done, or an error of the peer's. What the protocol itself demands in answer (the steps of the handshake,
close-ok, the close that follows the peer's mistake) the link says by itself: those bytes wait in `answers` and go out
before whatever the events cause.

A mistake of the peer ends the connection, or the channel where the reply code is a soft one. It is an event, not an
exception: the good frames before it are events too, and come first. From then on the link is deaf to everything but
the close handshake.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

from ..errors import (
    AMQPError,
    BodyTooLongError,
    ChannelClosed,
    HeartbeatTimeout,
    InvalidArgument,
    InvalidFrameError,
    LocalError,
    ProtocolSyntaxError,
    UnexpectedFrameError,
    UnexpectedMethodError,
    UnopenedChannelError,
    closed,
)
from . import frames
from .codec import Codec, Method
from .fast_receive import FastReceiver
from .fast_send import FastDeliverer, FastSender
from .handshake import Handshake, Negotiated
from .message import PROPERTIES_AT, Message
from .states import CHANNEL, CONNECTION, CONTENT, follow

Event = Method | Message | Negotiated | AMQPError
Role = Literal["client", "server"]

UNTUNED_FRAME_MAX = 131072  # what a peer may send before tune-ok: capability tables and tokens grow past 4096
BODY_MAX = 2**31 - 1  # bytes of one body; brokers refuse less (RabbitMQ: 512 MiB at most)
SILENT_TICKS = 4  # of half an interval each

_content_header = struct.Struct(">HHQ")


class _Channel:
    """A channel's place in its state tables, and the content that is arriving on it."""

    __slots__ = ("body", "content", "header", "left", "method", "peer_closed", "size", "state")

    def __init__(self) -> None:
        self.state = "closed"
        self.peer_closed = False  # the peer has sent channel.close
        self.content = "none"
        self.method: Method | None = None
        self.header = b""
        self.body: BytesIO | None = None
        self.size = self.left = 0


class Link:
    """One end of a connection. `handshake` is the generator of this end's role (see `handshake`); a server's is made
    once the client's protocol header told the version."""

    def __init__(self, role: Role, version: str | None, handshake: Handshake | None):
        self.role = role
        self.version = ""
        self.state = self.before_close = "begun"
        self.answers: list[bytes] = []
        self.frame_max = UNTUNED_FRAME_MAX
        self._peer = "S" if role == "client" else "C"
        self._channels: dict[int, _Channel] = {}
        self._reader = frames.FrameReader(UNTUNED_FRAME_MAX, in_parts=True)
        self._closed_by_peer: dict[int, None] = {}  # for a client; until a channel.open on the number is answered
        self.publish_frames: dict[Any, bytes] = {}
        self._fast_receiver = FastReceiver(self._channels, self._peer)
        self._fast_receiver.set_limit(UNTUNED_FRAME_MAX)
        self._blamed = b""  # class and method of the last method that arrived
        self._deaf = False
        self._lost = False
        self._heard = True
        self._silent = 0
        self._sent = 0
        self._greeting: bytes | None = b""
        self._handshake: Handshake | None = None
        if version is not None:
            self.begin(version, handshake)

    def begin(self, version: str, handshake: Handshake | None) -> None:
        """Starts the handshake: a client's with the protocol header, a server's with connection.start."""
        self.version = version
        self.codec = Codec.of(version)
        self._fast_receiver.speak(self.codec)
        self._handshake = handshake
        if self.role == "client":
            self.answers.append(frames.PROTOCOL_HEADERS[version])
        if handshake is not None:
            self._say(next(handshake))

    def take_answers(self) -> bytes:
        """What the protocol made us say since the last time."""
        said = b"".join(self.answers)
        self.answers.clear()
        return said

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[tuple[int, Event]]:
        """Takes bytes as they arrived, cut anywhere; returns the events that they complete, in order. Never raises for
        what the peer sent."""
        return list(self.events(data))

    def events(self, data: bytes) -> Iterator[tuple[int, Event]]:
        """`receive`, an event at a time: a frame is read when the event before it has been dealt with, and not earlier,
        so that what its owner sends for one goes out before the close-ok that a later frame of the same piece calls
        for. `answers` are to be looked at after each."""
        for number, event in self.runs(data):
            if event.__class__ is list:
                for message in event:
                    yield number, message
            else:
                yield number, event  # type: ignore[misc]

    def runs(self, data: bytes) -> Iterator[tuple[int, Event | list[Message]]]:
        """`events`, but messages that came one after another for one consumer, or alike for a server, are one list."""
        self._heard = True
        if self._lost or self.state == "closed":
            return
        events: list[tuple[int, Event]] = []
        buffer, at, need = b"", 0, 0
        read, reader = self._fast_receiver.read, self._reader
        try:
            buffer = self._reader.feed(data) if self._greeting is None else self._greet(data)
            end = len(buffer)
            while at < end and self.state != "closed":
                taken = read(buffer, at, end) if not (self._deaf or reader.left) else None
                if isinstance(taken, int):
                    need = taken
                    break
                if taken is not None:
                    self._blamed = buffer[at + 7 : at + 11]
                    number, event, at = taken
                    yield number, event
                    continue
                found = reader.next(buffer, at)
                if found is None:
                    break
                kind, number, payload, at = found
                self._receive_frame(kind, number, payload, events)
                if events:
                    yield from events
                    events.clear()
        except ProtocolSyntaxError as error:
            self._fail(0, error, events)
            self._lost = isinstance(error, InvalidFrameError)
            yield from events
        else:
            if at < len(buffer):
                self._reader.keep(buffer, at, need)

    def _receive_frame(self, kind: int, number: int, payload: bytes, events: list[tuple[int, Event]]) -> None:
        try:
            if kind == frames.METHOD:
                method = self.codec.decode(payload)
                if number in self._closed_by_peer and self._is_late(number, method.name):
                    return
                self._blamed = payload[:4]
                self._receive_method(number, method, events)
            elif kind == frames.HEARTBEAT:
                if number or payload:
                    raise InvalidFrameError(f"a heartbeat frame of {len(payload)} bytes on channel {number}")
            elif not self._deaf and number not in self._closed_by_peer:
                self._receive_content(kind, number, payload, events)
        except AMQPError as error:
            self._fail(number, error, events)

    def _greet(self, data: bytes) -> bytes:
        """A client's first bytes: frames, which are returned, or the protocol header of a server that refuses ours.
        Empty while there are too few to tell."""
        self._greeting = begun = (self._greeting or b"") + data
        if begun[:1] == _FRAME_BEGINS:
            self._greeting = None
            return begun
        if _may_be_header(begun):
            return b""
        raise frames.mismatch(begun[: frames.HEADER_SIZE], self.version)

    def greet_back(self, data: bytes) -> tuple[str, bytes] | None:
        """For a server: the version that the client's first 8 bytes ask for, and what came after them; None while there
        are too few. ProtocolVersionMismatch, InvalidProtocolHeader: refuse it with a header of ours, and hang up."""
        self._greeting = begun = (self._greeting or b"") + data
        if _may_be_header(begun):
            return None
        version = frames.version_of(begun[: frames.HEADER_SIZE])
        self._greeting = None
        return version, begun[frames.HEADER_SIZE :]

    def _receive_method(self, number: int, method: Method, events: list[tuple[int, Event]]) -> None:
        name = method.name
        if self._deaf and not name.startswith("connection.close"):
            return
        row = self.codec.by_name[name]
        if row.sender not in (self._peer, "B"):
            raise UnexpectedMethodError(f"{name} on channel {number} is never sent by a {_ROLES[self._peer]}")
        if number == 0:
            self._receive_for_connection(method, events)
            return
        channel = self._channel(number, name)
        if channel.content != "none" and channel.state == "closing":
            channel.content, channel.body = "none", None  # the peer gave up sending what nobody waits for any more
        if channel.content != "none":
            raise UnexpectedFrameError(
                f"{name} on channel {number} amid the content of {channel.method and channel.method.name}"
            )
        self._step_channel(number, channel, "<", name)
        if row.content:
            channel.content, channel.method = CONTENT["none"]["content method"], method
            return
        if name == "channel.close":
            self.answers.append(self.send(number, "channel.close-ok", {}))
        events.append((number, method))

    def _is_late(self, number: int, name: str) -> bool:
        """Whether a method belongs to a channel that the broker closed. RabbitMQ goes on sending deliveries, and even
        its channel.close, until it has our close-ok. If the number is in use again, the answer to our channel.open
        comes behind all of that."""
        if name == "channel.open-ok" and number in self._channels:
            del self._closed_by_peer[number]
            return False
        return True

    def was_closed_by_peer(self, number: int) -> bool:
        """Whether frames of an earlier channel with this number may still arrive."""
        return number in self._closed_by_peer

    def _channel(self, number: int, name: str) -> _Channel:
        channel = self._channels.get(number)
        if channel is None:
            if name != "channel.open" or self.state != "open":
                raise UnopenedChannelError(
                    f"CHANNEL_ERROR - expected 'channel.open': {name} came on channel {number}, which is not open"
                )
            channel = _Channel()
        return channel

    def _receive_for_connection(self, method: Method, events: list[tuple[int, Event]]) -> None:
        self._step_connection("<", method.name)
        if method.name == "connection.close":
            self.answers.append(self.send(0, "connection.close-ok", {}))
        if self._handshake is not None and method.name not in _NOT_THE_HANDSHAKES:
            self._converse(self._handshake, method, events)
        else:
            events.append((0, method))

    def _converse(self, handshake: Handshake, method: Method, events: list[tuple[int, Event]]) -> None:
        """Hands the handshake the method that came, and says what it answers."""
        try:
            self._say(handshake.send(method))
            if self.role == "server" and self.state == "open":
                next(handshake)
        except StopIteration as done:
            agreed: Negotiated = done.value
            self._handshake = None
            self.frame_max = agreed.frame_max
            # Some clients take frame_max for the payload's size. RabbitMQ lets them, and so does a server here.
            leniency = frames.OVERHEAD if self.role == "server" and agreed.frame_max else 0
            self._reader.limit = agreed.frame_max + leniency
            self._fast_receiver.set_limit(self._reader.limit)
            events.append((0, agreed))

    def _say(self, methods: tuple[Method, ...]) -> None:
        self.answers.extend(self.send(0, method.name, method.arguments) for method in methods)

    def _receive_content(self, kind: int, number: int, payload: bytes, events: list[tuple[int, Event]]) -> None:
        channel = self._channel(number, "a content frame")
        if kind == frames.HEADER:
            self._receive_header(number, channel, payload)
        else:
            self._receive_body(number, channel, payload)
        if channel.content == "none":
            method, channel.method = channel.method, None
            body = channel.body.getvalue() if channel.body is not None else b""
            header, channel.header, channel.body = channel.header, b"", None
            if method is not None:
                events.append((number, Message.of(method, header[PROPERTIES_AT:], body)))

    def _receive_header(self, number: int, channel: _Channel, payload: bytes) -> None:
        if channel.content != "header":
            raise UnexpectedFrameError(f"a content header on channel {number} without a method that has a content")
        if len(payload) < _content_header.size + 2:
            raise ProtocolSyntaxError(f"a content header of {len(payload)} bytes on channel {number}; the least is 14")
        class_index, _, size = _content_header.unpack_from(payload)
        method = channel.method
        wanted = self.codec.by_name[method.name].class_index if method else class_index
        if class_index != wanted:
            raise UnexpectedFrameError(
                f"a content header of class {class_index} on channel {number}; class {wanted} was due"
            )
        channel.header, channel.size, channel.left = payload, size, size
        channel.content = CONTENT["header"]["header, part" if size else "header, whole"]
        if size > BODY_MAX:
            channel.method = None  # its body is let pass, not kept
            raise closed(ChannelClosed, 311, f"CONTENT_TOO_LARGE - a body of {size} bytes; we take {BODY_MAX}")

    def _receive_body(self, number: int, channel: _Channel, payload: bytes) -> None:
        if channel.content != "body":
            raise UnexpectedFrameError(f"a body frame on channel {number} without a content header")
        channel.left -= len(payload)
        if channel.left < 0:
            raise BodyTooLongError(
                f"a body on channel {number} is {-channel.left} bytes longer than the {channel.size} announced"
            )
        channel.content = CONTENT["body"]["body, part" if channel.left else "body, whole"]
        if channel.method is None:
            return
        if channel.body is None:
            channel.body = BytesIO()
        channel.body.write(payload)

    def _fail(self, number: int, error: AMQPError, events: list[tuple[int, Event]]) -> None:
        """The peer made a mistake: say so, and tell of it."""
        if isinstance(error, ChannelClosed):
            if ">channel.close" in CHANNEL[self._channels[number].state]:  # else its close is under way
                self.answers.append(self.send(number, "channel.close", self._close_for(error)))
                events.append((number, error))
            return
        if (
            ">connection.close" in CONNECTION[self.state]
            and self.state != "asked to close"
            and (self._handshake is None or (self.role == "server" and not error.unspoken))
        ):
            self.answers.append(self.send(0, "connection.close", self._close_for(error)))
        if not self._deaf:
            events.append((0, error))
        self._deaf = True

    def fault(self, error: ProtocolSyntaxError) -> None:
        """For a mistake of the peer that shows above the link (a reply that nobody asked for): as if it had shown here,
        but for the event."""
        self._fail(0, error, [])

    def _close_for(self, error: AMQPError) -> dict[str, Any]:
        """The close for what the last method that arrived, or its content, brought with it."""
        blamed = (
            self._blamed if isinstance(error, (UnexpectedMethodError, UnopenedChannelError, ChannelClosed)) else b""
        )
        ids = {"class_id": int.from_bytes(blamed[:2], "big"), "method_id": int.from_bytes(blamed[2:], "big")}
        return {**self.close_arguments(error), **ids}

    @staticmethod
    def close_arguments(error: AMQPError) -> dict[str, Any]:
        text = error.text.encode("utf-8", "replace")[:255].decode("utf-8", "ignore")
        return {"reply_code": error.code or 541, "reply_text": text}

    # --- states -------------------------------------------------------------------------------------------------------

    def _step_connection(self, direction: str, name: str) -> None:
        after = follow("connection", self.state, direction, name)
        if after is None:
            raise self._out_of_order(0, self.state, direction, name)
        if after in ("closing", "asked to close") and self.state not in ("closing", "asked to close"):
            self.before_close = self.state
        self.state = after

    def _step_channel(self, number: int, channel: _Channel, direction: str, name: str) -> None:
        after = follow("channel", channel.state, direction, name)
        if after is None and direction + name == "<channel.open":
            raise UnopenedChannelError(f"CHANNEL_ERROR - second 'channel.open' seen: channel {number} is open")
        if after is None:
            state = "not channel 0" if name.startswith("connection.") else channel.state
            raise self._out_of_order(number, state, direction, name)
        if after == channel.state and name != "channel.close":
            return  # as nearly always
        if direction + name == "<channel.close":
            channel.peer_closed = True
        channel.state = after
        if after == "closed":
            self._channels.pop(number, None)
            if channel.peer_closed and self.role == "client":
                self._closed_by_peer[number] = None
        else:
            self._channels[number] = channel

    @staticmethod
    def _out_of_order(number: int, state: str, direction: str, name: str) -> AMQPError:
        cls = UnexpectedMethodError if direction == "<" else LocalError
        what = f"channel {number}" if number else "the connection"
        return cls(f"{name} cannot be {'received' if direction == '<' else 'sent'} now: {what} is {state}")

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, number: int, name: str, arguments: dict[str, Any]) -> bytes:
        """The frame of a method. InvalidArgument, InvalidArgumentType: it cannot be encoded; LocalError: it cannot be
        sent now. Nothing has changed then."""
        payload = self._sized(name, self.codec.encode(name, arguments))
        if number == 0:
            self._step_connection(">", name)
        else:
            channel = self._channels.get(number)
            if channel is None:
                if name != "channel.open":
                    raise self._out_of_order(number, "closed", ">", name)
                channel = _Channel()
            self._step_channel(number, channel, ">", name)
        return frames.frame(frames.METHOD, number, payload)

    def send_content(
        self, number: int, name: str, arguments: dict[str, Any], properties: bytes, body: bytes
    ) -> list[bytes | memoryview]:
        """The frames of a content, as chunks to be written in order; errors as of `send`. `properties`: encoded flags
        and values. The body isn't copied."""
        header = _content_header.pack(self.codec.by_name[name].class_index, 0, len(body)) + properties
        self._sized("the header of " + name, header)
        head = self.send(number, name, arguments) + frames.frame(frames.HEADER, number, header)
        return [head, *frames.body(number, body, self.frame_max)]

    def fast_sender(self, number: int) -> FastSender:
        """The lane of a channel that has been opened: `send_content` of its publishes without flags and `send` of its
        acks, made to be fast."""
        return FastSender(number, self._channels[number], self)

    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer:
        """The lane of a consumer's deliveries: `send_content` of them, made to be fast."""
        return FastDeliverer(number, self._channels[number], self, consumer_tag)

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        """Raises what `send_content` would raise for these."""
        self._sized(name, self.codec.encode(name, arguments))
        self._sized("the header of " + name, _content_header.pack(0, 0, 0) + properties)

    def _sized(self, what: str, payload: bytes) -> bytes:
        if self.frame_max and len(payload) + frames.OVERHEAD > self.frame_max:
            raise InvalidArgument(
                f"{what} takes {len(payload)} bytes; a frame of this connection takes {self.frame_max}"
            )
        return payload

    # --- liveness -----------------------------------------------------------------------------------------------------

    def tick(self, sent: int) -> bytes:
        """To be called each half of a heartbeat interval, with the count of bytes sent so far: returns the heartbeat
        that is due, or nothing. HeartbeatTimeout: nothing came for two intervals (0-9-1 §4.2.7). It counts its own
        calls instead of seconds, so that a process that slept finds what came meanwhile before it despairs."""
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        if self._silent >= SILENT_TICKS:
            raise HeartbeatTimeout("nothing was heard from the peer for two heartbeat intervals")
        idle, self._sent = sent == self._sent, sent
        return frames.HEARTBEAT_FRAME if idle else b""

    def excuse(self) -> None:
        """Counts the peer as heard: we didn't listen."""
        self._heard = True


_FRAME_BEGINS = bytes([frames.METHOD])


def _may_be_header(begun: bytes) -> bool:
    """Whether this may yet become a protocol header, which begins with "AMQP" and takes 8 bytes."""
    return len(begun) < frames.HEADER_SIZE and begun[:4] == b"AMQP"[: len(begun)]


_ROLES = {"S": "server", "C": "client"}
_NOT_THE_HANDSHAKES = frozenset(("connection.close", "connection.close-ok", "connection.redirect"))
