"""The link: one end of an AMQP connection without its socket.

Theory of operation
===================

*Bytes and events.* `receive` (or `events`, or `runs`) takes bytes that arrived and returns events. `send` takes a
method and returns bytes. The link does no input or output and has no clock. The client's connection and the broker's
session use the same class; the link knows of its role only which methods each role sends, from `spec`. So a test can
connect two links by a loop.

*Events.* An event is (channel number, event). The event is a `Method`, a `Message` (method, header and body of one
content), a `Negotiated` at the end of the handshake, or an error that the peer made.

*Answers.* The link itself sends what the protocol demands in answer: the steps of the handshake, close-ok, and the
close after a mistake of the peer. These bytes wait in `answers`. They must go out before whatever the events cause.

*Mistakes of the peer.* A mistake closes the connection, or the channel alone if its reply code is a soft one. It is an
event, not an exception, because the valid frames before it are events too and come first. After a mistake that closes
the connection, the link discards everything but the close handshake.
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
    NotAllowed,
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
from .frames import METHOD, OVERHEAD, frame
from .handshake import Handshake, Negotiated
from .message import PROPERTIES_AT, Message
from .states import CHANNEL, CONNECTION, CONTENT, follow

Event = Method | Message | Negotiated | AMQPError
Role = Literal["client", "server"]

UNTUNED_FRAME_MAX = 131072  # bytes of a frame before tune-ok: tables of capabilities and tokens may exceed 4096
BODY_MAX = 2**31 - 1  # bytes of one body; brokers allow less (RabbitMQ: 512 MiB at most)
SILENT_TICKS = 4  # half intervals without a byte from the peer, before it counts as lost

_content_header = struct.Struct(">HHQ")


class _Channel:
    """The state of a channel, and the content that is arriving on it.

    state, content: rows of the tables CHANNEL and CONTENT. method, header, body: the content so far; method is None
    when the content is to be discarded. size, left: bytes of the body as announced, and still to come."""

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
    """One end of a connection.

    role: "client" or "server". version, handshake: as of `begin`, for a client; None for a server, which calls `begin`
    when `greet_back` has returned the version.

    state: the connection's row in the table CONNECTION. before_close: the row before the close handshake began.
    frame_max: bytes of the largest frame to send; 0: no limit."""

    def __init__(self, role: Role, version: str | None, handshake: Handshake | None):
        self.role = role
        self.version = ""
        self.state = self.before_close = "begun"
        self.answers: list[bytes] = []
        self.frame_max = UNTUNED_FRAME_MAX
        self._peer = "S" if role == "client" else "C"
        self._channels: dict[int, _Channel] = {}
        self._reader = frames.FrameReader(UNTUNED_FRAME_MAX, in_parts=True)
        self.peer_properties: dict[str, Any] = {}  # of the server, from connection.start on
        self._closed_by_peer: dict[int, None] = {}  # for a client; until a channel.open on the number is answered
        self.publish_frames: dict[Any, bytes] = {}
        self._fast_receiver = FastReceiver(self._channels, self._peer)
        self._fast_receiver.set_limit(UNTUNED_FRAME_MAX)
        self._last_method = b""  # class and method index of the last method that arrived
        self._bodies: list[_Channel] = []  # channels with a body that is arriving, and some where it has arrived
        self._discards = False  # everything but the close handshake, after a mistake of the peer
        self._unframed = False  # a frame was invalid, so the beginning of the next one is unknown
        self._heard = True  # bytes arrived since the last tick
        self._silent = 0  # ticks without bytes from the peer
        self._sent = 0  # bytes sent up to the last tick
        self._greeting: bytes | None = b""  # the peer's first bytes, or None once they have been read
        self._handshake: Handshake | None = None
        if version is not None:
            self.begin(version, handshake)

    def begin(self, version: str, handshake: Handshake | None) -> None:
        """Starts the handshake: a client's with the protocol header, a server's with connection.start.

        version: "0-9-1" or "0-8". handshake: the generator of this end's role, from `handshake`; None for a link whose
        owner handles the methods of the handshake itself."""
        self.version = version
        self.codec = Codec.of(version)
        self._fast_receiver.set_codec(self.codec)
        self._handshake = handshake
        if self.role == "client":
            self.answers.append(frames.PROTOCOL_HEADERS[version])
        if handshake is not None:
            self._answer(next(handshake))

    def take_answers(self) -> bytes:
        """Removes and returns the answers that wait to be sent."""
        answers = b"".join(self.answers)
        self.answers.clear()
        return answers

    # --- receiving ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[tuple[int, Event]]:
        """Returns the events that these bytes complete, in order. The bytes may be cut anywhere. Whatever the peer
        sent, no exception is raised."""
        return list(self.events(data))

    def events(self, data: bytes) -> Iterator[tuple[int, Event]]:
        """As `receive`, but one event at a time. A frame is read only when the owner has handled the event before it.
        So what the owner sends for one event goes out before the close-ok that a later frame in `data` may demand. The
        owner must send the `answers` after each event."""
        for number, event in self.runs(data):
            if event.__class__ is list:
                for message in event:
                    yield number, message
            else:
                yield number, event  # type: ignore[misc]

    def runs(self, data: bytes) -> Iterator[tuple[int, Event | list[Message]]]:
        """As `events`, but messages that follow one another are one list: deliveries to one consumer, or publishes with
        the same method frame."""
        self._heard = True
        if self._unframed or self.state == "closed":
            return
        events: list[tuple[int, Event]] = []
        buffer, at, need = b"", 0, 0
        read, reader = self._fast_receiver.read, self._reader
        try:
            buffer = self._reader.feed(data) if self._greeting is None else self._greet(data)
            end = len(buffer)
            while at < end and self.state != "closed":
                decoded = read(buffer, at, end) if not (self._discards or reader.left) else None
                if isinstance(decoded, int):
                    need = decoded
                    break
                if decoded is not None:
                    self._last_method = buffer[at + 7 : at + 11]
                    number, event, at = decoded
                    yield number, event
                    continue
                frame = reader.next(buffer, at)
                if frame is None:
                    break
                kind, number, payload, at = frame
                self._receive_frame(kind, number, payload, events)
                if events:
                    yield from events
                    events.clear()
        except ProtocolSyntaxError as error:
            self._fail(0, error, events)
            self._unframed = isinstance(error, InvalidFrameError)
            yield from events
        else:
            if at < len(buffer):
                self._reader.keep(buffer, at, need)

    def alone(self, data: bytes) -> tuple[int, Event | None, int] | None:
        """(channel number, event, size of the frame), if these bytes are one whole frame: of a method that has no
        content and leaves its channel open, or of a method of the connection in its handshake or close. An event of
        None: there is nothing but `answers` to send. None in place of the tuple: `runs` reads the bytes."""
        size = len(data)
        # The first test tells a delivery, and several frames.
        if size != int.from_bytes(data[3:7], "big") + 8 or self._reader.parts or self._reader.left or self._discards:
            return None
        if self.state != "open":
            return self._alone_unless_open(data)
        found = self._fast_receiver.method(data, 0, size)
        if found is None:
            return None
        self._heard = True
        self._last_method = data[7:11]
        return found

    def _alone_unless_open(self, data: bytes) -> tuple[int, Event | None, int] | None:
        """`alone`, for a method of the connection while the connection is not open."""
        if not data.startswith(_OF_CONNECTION) or data[-1] != 0xCE or self._greeting or self.state == "closed":
            return None
        if self._reader.limit and len(data) > self._reader.limit:
            return None
        self._greeting = None
        self._heard = True
        events: list[tuple[int, Event]] = []
        self._receive_frame(frames.METHOD, 0, data[7:-1], events)
        number, event = events[0] if events else (0, None)
        return number, event, len(data)

    def _receive_frame(self, kind: int, number: int, payload: bytes, events: list[tuple[int, Event]]) -> None:
        try:
            if kind == frames.METHOD:
                method = self.codec.decode(payload)
                if number in self._closed_by_peer and self._is_late(number, method.name):
                    return
                self._last_method = payload[:4]
                self._receive_method(number, method, events)
            elif kind == frames.HEARTBEAT:
                if number or payload:
                    raise InvalidFrameError(
                        f"a heartbeat frame of {len(payload)} bytes arrived on channel {number}; a valid one has no "
                        "payload, on channel 0"
                    )
            elif not self._discards and number not in self._closed_by_peer:
                self._receive_content(kind, number, payload, events)
        except AMQPError as error:
            self._fail(number, error, events)

    def _greet(self, data: bytes) -> bytes:
        """For a client: the bytes that arrived, if they begin with a frame; b"" if more bytes are needed to tell.
        ProtocolVersionMismatch, InvalidProtocolHeader: the server refuses our version by a protocol header of its own,
        or doesn't speak AMQP."""
        self._greeting = greeting = (self._greeting or b"") + data
        if greeting[:1] == _METHOD_FRAME:
            self._greeting = None
            return greeting
        if _may_be_header(greeting):
            return b""
        raise frames.mismatch(greeting[: frames.HEADER_SIZE], self.version)

    def greet_back(self, data: bytes) -> tuple[str, bytes] | None:
        """For a server: (version that the client's protocol header asks for, the bytes after the header); None if more
        bytes are needed. ProtocolVersionMismatch, InvalidProtocolHeader: the server must send a protocol header of its
        own and close the link."""
        self._greeting = greeting = (self._greeting or b"") + data
        if _may_be_header(greeting):
            return None
        version = frames.version_of(greeting[: frames.HEADER_SIZE])
        self._greeting = None
        return version, greeting[frames.HEADER_SIZE :]

    def _receive_method(self, number: int, method: Method, events: list[tuple[int, Event]]) -> None:
        name = method.name
        if self._discards and not name.startswith("connection.close"):
            return
        row = self.codec.by_name[name]
        if row.sender not in (self._peer, "B"):
            raise UnexpectedMethodError(f"{name} arrived on channel {number}; a {_ROLES[self._peer]} never sends it")
        if number == 0:
            self._receive_for_connection(method, events)
            return
        channel = self._channel(number, name)
        if channel.content != "none" and channel.state == "closing":
            # We asked to close the channel, so the peer may stop in the middle of a content.
            channel.content, channel.body = "none", None
        if channel.content != "none":
            raise UnexpectedFrameError(
                f"{name} arrived on channel {number} before the end of the content of "
                f"{channel.method and channel.method.name}"
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
                    f"CHANNEL_ERROR - expected 'channel.open': {name} arrived on channel {number}, which is not open"
                )
            channel = _Channel()
        return channel

    def _receive_for_connection(self, method: Method, events: list[tuple[int, Event]]) -> None:
        self._step_connection("<", method.name)
        if method.name == "connection.start":
            self.peer_properties = method.server_properties
        if method.name == "connection.close":
            self.answers.append(self.send(0, "connection.close-ok", {}))
        if self._handshake is not None and method.name not in _OUTSIDE_HANDSHAKE:
            self._step_handshake(self._handshake, method, events)
        else:
            events.append((0, method))

    def _step_handshake(self, handshake: Handshake, method: Method, events: list[tuple[int, Event]]) -> None:
        """Passes a method that arrived to the handshake, and sends the handshake's answers."""
        try:
            self._answer(handshake.send(method))
            if self.role == "server" and self.state == "open":
                next(handshake)
        except StopIteration as done:
            agreed: Negotiated = done.value
            self._handshake = None
            self.frame_max = agreed.frame_max
            # Some clients read frame_max as the size of the payload alone. A server allows it, as RabbitMQ does.
            leniency = frames.OVERHEAD if self.role == "server" and agreed.frame_max else 0
            self._reader.limit = agreed.frame_max + leniency
            self._fast_receiver.set_limit(self._reader.limit)
            events.append((0, agreed))

    def _answer(self, methods: tuple[Method, ...]) -> None:
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
            raise UnexpectedFrameError(
                f"a content header arrived on channel {number}, not after a method that has a content"
            )
        if len(payload) < _content_header.size + 2:
            raise ProtocolSyntaxError(
                f"a content header of {len(payload)} bytes arrived on channel {number}; the smallest has 14"
            )
        class_index, weight, size = _content_header.unpack_from(payload)
        if weight and self.role == "server":
            raise UnexpectedFrameError(f"a content header of weight {weight} arrived on channel {number}; 0 was due")
        method = channel.method
        expected = self.codec.by_name[method.name].class_index if method else class_index
        if class_index != expected:
            raise UnexpectedFrameError(
                f"a content header of class {class_index} arrived on channel {number}; class {expected} was due"
            )
        channel.header, channel.size, channel.left = payload, size, size
        channel.content = CONTENT["header"]["header, part" if size else "header, whole"]
        if size > BODY_MAX:
            channel.method = None  # the body will be discarded
            raise closed(ChannelClosed, 311, f"CONTENT_TOO_LARGE - a body has {size} bytes; the limit is {BODY_MAX}")

    def _receive_body(self, number: int, channel: _Channel, payload: bytes) -> None:
        if channel.content != "body":
            raise UnexpectedFrameError(f"a body frame arrived on channel {number} without a content header")
        channel.left -= len(payload)
        if channel.left < 0:
            raise BodyTooLongError(
                f"a body on channel {number} is {-channel.left} bytes longer than the {channel.size} bytes that its "
                "header announced"
            )
        channel.content = CONTENT["body"]["body, part" if channel.left else "body, whole"]
        if channel.method is None:
            return
        if channel.body is None:
            channel.body = BytesIO()
            self._bodies.append(channel)
        channel.body.write(payload)

    def _fail(self, number: int, error: AMQPError, events: list[tuple[int, Event]]) -> None:
        """Handles a mistake of the peer: answers with a close of the channel or connection, and adds the event."""
        if isinstance(error, ChannelClosed):
            if ">channel.close" in CHANNEL[self._channels[number].state]:  # else the close has begun
                self.answers.append(self.send(number, "channel.close", self._close_for(error)))
                events.append((number, error))
            return
        if (
            ">connection.close" in CONNECTION[self.state]
            and self.state != "asked to close"
            and (self._handshake is None or (self.role == "server" and not error.unspoken))
        ):
            self.answers.append(self.send(0, "connection.close", self._close_for(error)))
        if not self._discards:
            events.append((0, error))
        self._discards = True

    def fault(self, error: ProtocolSyntaxError) -> None:
        """Closes the connection for a mistake of the peer that only the owner can see (a reply without a request). The
        owner has the error already, so there is no event."""
        self._fail(0, error, [])

    def _close_for(self, error: AMQPError) -> dict[str, Any]:
        """The arguments of the close that answers an error. Class and method id are those of the last method that
        arrived, if the error is about that method or its content; else 0."""
        about_method = isinstance(error, _ABOUT_METHOD)
        method = self._last_method if about_method else b""
        ids = {"class_id": int.from_bytes(method[:2], "big"), "method_id": int.from_bytes(method[2:], "big")}
        return {**self.close_arguments(error), **ids}

    @staticmethod
    def close_arguments(error: AMQPError) -> dict[str, Any]:
        """Reply code (541 for an error without one) and reply text, cut to the 255 bytes of a short string."""
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
            return  # the common case
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
        owner = f"channel {number}" if number else "the connection"
        if direction == "<":
            return UnexpectedMethodError(f"{name} arrived out of order: {owner} is {state}")
        return LocalError(f"{name} cannot be sent now: {owner} is {state}")

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, number: int, name: str, arguments: dict[str, Any]) -> bytes:
        """The frame of the method `name` on channel `number`.

        InvalidArgument, InvalidArgumentType: an argument cannot be encoded. LocalError: the method cannot be sent now.
        After an error nothing has changed."""
        payload = self.codec.encode(name, arguments)
        if self.frame_max and len(payload) + OVERHEAD > self.frame_max:
            self._sized(name, payload)  # raises the error
        if number == 0:
            self._step_connection(">", name)
        else:
            channel = self._channels.get(number)
            if channel is None:
                if name != "channel.open":
                    raise self._out_of_order(number, "closed", ">", name)
                channel = _Channel()
            # Mostly the state stays as it is; this test spares the call.
            if follow("channel", channel.state, ">", name) != channel.state or name == "channel.close":
                self._step_channel(number, channel, ">", name)
        return frame(METHOD, number, payload)

    def send_content(
        self, number: int, name: str, arguments: dict[str, Any], properties: bytes, body: bytes
    ) -> list[bytes | memoryview]:
        """The frames of a method with a content, as chunks to be written in order. Errors as of `send`.

        properties: flags and values, encoded. body: is not copied."""
        header = _content_header.pack(self.codec.by_name[name].class_index, 0, len(body)) + properties
        self._sized("the header of " + name, header)
        first = self.send(number, name, arguments) + frames.frame(frames.HEADER, number, header)
        return [first, *frames.body(number, body, self.frame_max)]

    def fast_sender(self, number: int) -> FastSender:
        """The fast path of an open channel: `send_content` for publishes without flags, and `send` for acks."""
        return FastSender(number, self._channels[number], self)

    def fast_deliverer(self, number: int, consumer_tag: str) -> FastDeliverer:
        """The fast path of one consumer's deliveries: `send_content` for basic.deliver."""
        return FastDeliverer(number, self._channels[number], self, consumer_tag)

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        """Raises the error that `send_content` would raise for these arguments. Sends nothing."""
        self._sized(name, self.codec.encode(name, arguments))
        self._sized("the header of " + name, _content_header.pack(0, 0, 0) + properties)

    def _sized(self, subject: str, payload: bytes) -> bytes:
        if self.frame_max and len(payload) + frames.OVERHEAD > self.frame_max:
            raise InvalidArgument(
                f"{subject} takes {len(payload)} bytes; a frame of this connection takes {self.frame_max} (frame_max), "
                f"{frames.OVERHEAD} of them around the payload: send less, or connect with a larger frame_max"
            )
        return payload

    @property
    def unfinished(self) -> int:
        """Bytes of bodies that are still arriving."""
        if not self._bodies:
            return 0
        self._bodies = [channel for channel in self._bodies if channel.body is not None]
        return sum(channel.body.tell() for channel in self._bodies if channel.body is not None)

    def begun_frame(self) -> tuple[bytes, int]:
        """The bytes that have come of a frame that is not complete; and how many are still to come of a body frame that
        is read in parts, its end mark included."""
        return self._reader.begun_frame()

    # --- liveness -----------------------------------------------------------------------------------------------------

    def tick(self, sent: int) -> bytes:
        """The heartbeat frame that is due now, or b"". Must be called twice in each heartbeat interval.

        sent: bytes sent since the connection began. HeartbeatTimeout: no byte came for two intervals (0-9-1 §4.2.7).
        `tick` counts its own calls, not seconds. So a process that was suspended reads the bytes that came meanwhile
        before it counts the peer as lost."""
        self._silent = 0 if self._heard else self._silent + 1
        self._heard = False
        if self._silent >= SILENT_TICKS:
            raise HeartbeatTimeout("the peer sent nothing for two heartbeat intervals")
        idle = sent == self._sent
        # A heartbeat is no traffic; if it counted, it would go out at every second call.
        self._sent = sent + len(frames.HEARTBEAT_FRAME) if idle else sent
        return frames.HEARTBEAT_FRAME if idle else b""

    def excuse(self) -> None:
        """Counts the peer as heard until the next tick. For an owner that has paused reading: it cannot know."""
        self._heard = True


_METHOD_FRAME = bytes([frames.METHOD])
_OF_CONNECTION = b"%b\0\0" % _METHOD_FRAME  # the beginning of a frame with a method of the connection


def _may_be_header(data: bytes) -> bool:
    """Whether more bytes could make this a protocol header, which begins with "AMQP" and has 8 bytes."""
    return len(data) < frames.HEADER_SIZE and data[:4] == b"AMQP"[: len(data)]


_ROLES = {"S": "server", "C": "client"}
_ABOUT_METHOD = (UnexpectedMethodError, UnopenedChannelError, ChannelClosed, NotAllowed)
_OUTSIDE_HANDSHAKE = frozenset(("connection.close", "connection.close-ok", "connection.redirect"))
