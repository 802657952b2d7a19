"""The publishes of one channel: sent or held, and then confirmed, refused, returned, or unknown.

On a confirming channel each publish waits in a window, under its number, until an ack or nack of the broker names that
number. A returned message (basic.return) has no number, so it is paired with its publish by content. RabbitMQ returns
messages in the order of publishing, and before the ack. So the message belongs to the oldest mandatory publish that
waits and has the same exchange, routing key and body (and the same header bytes, where several agree in the rest).
Nobody can tell two waiting publishes apart that agree in all of these; the older one is taken. The user's properties
are not changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import (
    AMQPError,
    ContentTransmissionForbidden,
    InvalidArgument,
    InvalidArgumentType,
    MessageNacked,
    MessageReturned,
    unknown_fate,
)
from ..wire.delivery_tags import Window
from ..wire.message import NO_PROPERTIES, Message, encode_properties
from .channel_sender import ChannelSender, Held
from .continuations import Call, Continuation, OnDone, PendingCalls, Request, refuse
from .hooks import HookedPublisher, is_of

if TYPE_CHECKING:
    from ..wire.message import Properties


class Owner(Protocol):
    """The parts of a channel that its publisher uses."""

    number: int
    is_open: bool

    @property
    def writable(self) -> bool: ...
    def _closed_error(self) -> AMQPError: ...
    def _emit(self, kind: str, *details: Any) -> None: ...
    def _has_handlers(self, kind: str) -> bool: ...
    def _in_turn(self, calls: Iterable[Call | PendingCalls]) -> None: ...
    def _tell_writable(self) -> None: ...
    def _unexpected(self, text: str) -> None: ...


class Content(NamedTuple):
    """An encoded message, to be sent now or later."""

    exchange: str
    routing_key: str
    mandatory: bool
    immediate: bool
    properties: bytes
    body: bytes

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(zip(self._fields[:4], self, strict=False))


class Publish(Continuation):
    """A publish that waits for the broker's decision."""

    __slots__ = ()

    method = "basic.publish"
    content: Content | None = None
    returned: Message | None = None
    undecided = True  # it was sent, and the broker will decide


class Watched(Publish):
    """A publish that needs more state: it is held until the flow resumes, or the broker may return it, and `content`
    then tells which it was."""

    __slots__ = ("content", "convert", "returned", "undecided")

    def __init__(self, on_done: OnDone[bool] | None, content: Content | None):
        super().__init__(on_done)
        self.content = content
        self.convert = None
        self.returned = None
        self.undecided = False


def encode_body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(
                "the body has characters that UTF-8 cannot encode; encode it yourself, and pass bytes"
            ) from None
    if isinstance(body, (bytearray, memoryview)):
        return bytes(body)  # a copy, since it goes out later and may change until then
    raise InvalidArgumentType(f"body takes bytes or str, not {type(body).__name__}")


class Publisher:
    """Publishes the messages of one channel, and settles their continuations."""

    __slots__ = (
        "_channel",
        "_held",
        "_last_returned",
        "_mandatory",
        "_sender",
        "_window",
        "decided",
        "is_fire_and_forget",
        "permitted",
    )

    _hooked_by = HookedPublisher

    def __init__(self, channel: Owner, sender: ChannelSender):
        self._channel = channel
        self._sender = sender
        self.permitted = True
        self.is_fire_and_forget = True  # permitted, and not confirming: done with the call
        self._window: Window[Publish] | None = None
        self._mandatory: dict[Watched, None] = {}
        self._last_returned = -1
        self._held: Held | None = None  # publishes that the flow holds, and what waits behind them
        self.decided: PendingCalls = iter(
            ()
        )  # publishes that an ack or nack of many decided, and whose on_done is not called yet

    @property
    def is_confirming(self) -> bool:
        return self._window is not None

    def confirm(self) -> None:
        """From here on publishes are numbered, and wait for the broker's decision."""
        if self._window is None:
            self._window = Window()
            self.is_fire_and_forget = False

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: str | bytes,
        properties: Properties | None,
        mandatory: bool,
        immediate: bool,
        block_on_flow_control: bool,
        on_done: OnDone[bool] | None,
    ) -> bool:
        octets = body if body.__class__ is bytes else encode_body(body)
        if mandatory or immediate or not self.permitted or not self._channel.is_open:
            content = Content(exchange, routing_key, mandatory, immediate, encode_properties(properties), octets)
            return self._publish_watched(content, block_on_flow_control, on_done)
        # Nearly every publish: without flags, on an open channel whose flow is on.
        encoded = NO_PROPERTIES if properties is None else encode_properties(properties)
        window = self._window
        if window is not None:
            # Before anything is sent: it checks on_done. 4: this function is called by a function of the library.
            publish = Publish(on_done, 4)
            try:
                writable = self._sender.send_publish(exchange, routing_key, encoded, octets)
                window.add(publish)
            except BaseException as error:
                self._sender.failed(error)
                raise
            return writable
        if on_done is None:
            return self._sender.send_publish(exchange, routing_key, encoded, octets)
        written = Request("basic.publish", on_done, convert=_handed_over)
        writable = self._sender.send_publish(exchange, routing_key, encoded, octets)
        self._sender.when_written(written)
        return writable

    def _publish_watched(self, content: Content, block_on_flow_control: bool, on_done: OnDone[bool] | None) -> bool:
        if not self._channel.is_open:
            refuse(on_done, self._channel._closed_error(), "basic.publish", self._sender.call_soon)
            return False
        publish = Watched(on_done, content if content.mandatory or content.immediate else None)
        if self.permitted:
            self._send(publish, content)
        elif block_on_flow_control:
            self._hold(publish, content)
        else:
            self._refuse_stopped(on_done)
        return self._channel.writable

    def _refuse_stopped(self, on_done: OnDone[bool] | None) -> None:
        stopped = ContentTransmissionForbidden(
            f"the broker stopped the flow of channel {self._channel.number}; wait for the flow change handler, "
            "or publish with block_on_flow_control=True"
        )
        refuse(on_done, stopped, "basic.publish", self._sender.call_soon)

    def _send(self, publish: Watched, content: Content) -> None:
        try:
            self._sender.send_content("basic.publish", content.arguments, content.properties, content.body)
            if self._window is not None:
                publish.undecided = True
                self._window.add(publish)
                if content.mandatory or content.immediate:
                    self._mandatory[publish] = None
        except BaseException as error:
            self._sender.failed(error)
            raise
        if self._window is not None:
            return
        if publish.on_done is not None:
            publish.convert = _handed_over
            self._sender.when_written(publish)

    # --- flow ---------------------------------------------------------------------------------------------------------

    def _hold(self, publish: Watched, content: Content) -> None:
        self._sender.check_thread()
        # Encoding checks the arguments. A mistake must raise at the call, not when the flow resumes.
        self._sender.check("basic.publish", content.arguments, content.properties)
        if self._held is None:
            self._held = deque()
        self._held.append((publish, partial(self._send, publish, content)))

    def hold_what_follows(self) -> None:
        """Has what the channel sends from here on wait behind the publishes that are held, if any are."""
        if self._held and self._channel.is_open:
            self._sender.hold(self._held)

    def on_flow(self, active: bool) -> None:
        changed, self.permitted = self.permitted != active, active
        self.is_fire_and_forget = active and self._window is None
        if active and self._held:
            self._sender.let_go()
            while self._held:
                _, send = self._held.popleft()
                send()
        if changed:
            channel = self._channel
            channel._in_turn((lambda: channel._emit("flow", channel, active), channel._tell_writable))

    # --- the broker decides -------------------------------------------------------------------------------------------

    def on_settled(self, acked: bool, tag: int, multiple: bool) -> None:
        publishes: list[Publish] | None = None
        try:
            if self._window is not None:
                publishes = self._window.settle(tag, multiple)
        except KeyError:
            if self._window is not None and 0 < tag < self._window.next_tag:
                return  # settled already: RabbitMQ may confirm twice
        if publishes is None:
            name = "basic.ack" if acked else "basic.nack"
            self._channel._unexpected(f"{name} of publish {tag} on channel {self._channel.number}, which isn't waiting")
            return
        if self._mandatory:
            for publish in publishes:
                self._mandatory.pop(publish, None)  # type: ignore[call-overload]
        decide = self._settle_acked if acked else self._settle_nacked
        if len(publishes) == 1:
            decide(publishes[0])
        else:
            self.decided = zip(repeat(decide), publishes, strict=False)
            self._channel._in_turn([self.decided])

    def _settle_acked(self, publish: Publish) -> None:
        if publish.returned is not None:
            self._fail_publish(publish, _returned(publish.returned))
        else:
            on_done = publish.on_done
            if on_done is not None:
                publish.on_done = None  # as in Continuation.done
                on_done(None, True)

    def _settle_nacked(self, publish: Publish) -> None:
        refused = MessageNacked("the broker refused the message (basic.nack)")
        self._fail_publish(publish, refused if publish.returned is None else _returned(publish.returned))

    def _fail_publish(self, publish: Publish, error: AMQPError) -> None:
        if publish.on_done is not None:
            publish.fail(error)
        elif publish.returned is None or not self._channel._has_handlers("return"):
            self._sender.report(publish.told(error))

    def on_return(self, message: Message) -> None:
        publish = self._returned_one(message)
        if publish is not None:
            publish.returned = message
            self._last_returned = publish.order
        if self._channel._has_handlers("return"):
            self._channel._emit("return", message)
        elif publish is None:
            self._sender.report(_returned(message))

    def _returned_one(self, message: Message) -> Watched | None:
        alike = [publish for publish in self._mandatory if publish.returned is None and _is_of(message, publish)]
        # Publishes before the last one that was returned were routed, since RabbitMQ returns in order.
        alike = [publish for publish in alike if publish.order > self._last_returned] or alike
        exact = (p for p in alike if p.content is not None and p.content.properties == message.encoded)
        return next(exact, alike[0] if alike else None)

    # --- the end ------------------------------------------------------------------------------------------------------

    def only(self) -> Publish | None:
        """The publish that waits, if there is exactly one."""
        if self._window is None or len(self._window) != 1:
            return None
        return next(iter(self._window))[1]

    def awaits(self, on_done: OnDone[bool]) -> bool:
        """Whether the publish with this on_done waits here. It looks at all that wait."""
        waiting: Iterable[Any] = (publish for _, publish in self._window or ())
        held = (continuation for continuation, _ in self._held or () if continuation is not None)
        return any(is_of(each, on_done) for each in chain(waiting, held))

    def unsettled(self) -> list[Continuation]:
        """Every publish that waits."""
        waiting: list[Continuation] = [publish for _, publish in self._window or ()]
        return waiting + [continuation for continuation, _ in self._held or () if continuation is not None]

    def forget(self) -> None:
        """Removes every publish that waits. The broker will not decide any more."""
        self._window = self._held = None
        self._mandatory = {}

    def fate(self, continuation: Continuation, reason: AMQPError) -> AMQPError:
        """The error of a continuation whose channel has ended."""
        if not isinstance(continuation, Publish) or not continuation.undecided:
            return reason
        if continuation.returned is not None:
            return _returned(continuation.returned)
        return unknown_fate(reason)


def _handed_over(reply: None) -> bool:
    return True


def _returned(message: Message) -> MessageReturned:
    return MessageReturned(
        f"{message.reply_code} {message.reply_text}: the message came back",
        code=message.reply_code,
        message=message,
    )


def _is_of(message: Message, publish: Publish) -> bool:
    if publish.content is None:
        return False
    content = publish.content
    return (
        content.routing_key == message.routing_key
        and content.exchange == message.exchange
        and content.body == message.body
    )
