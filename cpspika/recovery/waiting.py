"""Stands in the place of an opening while a recovering channel has none: its publishes wait, and its
acknowledgements have nothing to settle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..client.continuations import Call, OnDone
from ..client.hooks import HookedPublisher, is_of
from ..client.publisher import Content, encode_body
from ..errors import AMQPError
from ..parameters import ConnectionParameters
from ..wire.message import encode_properties
from .roles import Owner

if TYPE_CHECKING:
    from ..wire.message import Properties


class WaitingPublisher:
    """The publisher of a recovering channel that has no opening, or whose opening is being restored."""

    __slots__ = ("_channel",)

    _hooked_by = HookedPublisher
    permitted = True

    def __init__(self, channel: Owner):
        self._channel = channel

    @property
    def is_confirming(self) -> bool:
        return self._channel._confirming

    @property
    def is_fire_and_forget(self) -> bool:
        return not self._channel._confirming

    def confirm(self) -> None:
        self._channel._confirming = True

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
        octets = encode_body(body)
        content = Content(exchange, routing_key, mandatory, immediate, encode_properties(properties), octets)
        return self._channel._publish_later(content, on_done)

    def awaits(self, on_done: OnDone[bool]) -> bool:
        return any(is_of(each, on_done) for each in self._channel._waiting)


class WaitingSender:
    """A channel's way out while it has no opening: acknowledgements are of openings that are over."""

    __slots__ = ("_channel", "version")

    writable = True

    def __init__(self, channel: Owner, version: str):
        self._channel = channel
        self.version = version

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        self._channel._drop_stale("basic.ack", {"delivery_tag": delivery_tag, "multiple": multiple})

    def own_tag(self, delivery_tag: int, multiple: bool) -> int | None:
        return None

    def check(self, name: str, arguments: dict[str, Any], properties: bytes) -> None:
        self._channel._connection._check(name, arguments, properties)

    @property
    def parameters(self) -> ConnectionParameters:
        return self._channel._connection.parameters

    def check_thread(self) -> None:
        self._channel._connection._check_thread()

    def call_soon(self, call: Call) -> object:
        self.check_thread()
        return self._channel._connection.reactor.call_soon(call)

    def connection_error(self) -> AMQPError | None:
        return self._channel._connection._error_if_closed()

    def fault(self, error: Any) -> None:
        """The opening in which the broker broke the protocol is over."""
