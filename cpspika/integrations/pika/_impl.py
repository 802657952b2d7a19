"""`_impl` of a connection and a channel: in pika the callback connection and channel below, of which programs and
instrumentations read a few attributes. Here views, which have these alone."""

from __future__ import annotations

from typing import Any

from . import exceptions
from ._absent import absent
from .connection import Parameters


class _View:
    def __init__(self, viewed: Any):
        self._viewed = viewed

    @property
    def is_open(self) -> bool:
        return bool(self._viewed.is_open)

    @property
    def is_closed(self) -> bool:
        return not self._viewed.is_open

    is_closing = is_opening = False  # a call that opens or closes waits until that is done

    def __getattr__(self, name: str) -> Any:
        blocking = type(vars(self).get("_viewed")).__name__  # a copy has none at first
        raise AttributeError(str(absent(f"{blocking}._impl.{name}", f"the methods of {blocking}")))


class ConnectionView(_View):
    """Of a BlockingConnection."""

    @property
    def params(self) -> Parameters:
        """The parameters that connected, with the values that were agreed upon with the broker."""
        params: Parameters = self._viewed.link.params
        return params

    @property
    def server_properties(self) -> dict[str, Any]:
        return dict(self._viewed.link.core.server_properties)

    @property
    def server_capabilities(self) -> dict[str, Any]:
        return dict(self.server_properties.get("capabilities", {}))


class ChannelView(_View):
    """Of a BlockingChannel."""

    @property
    def channel_number(self) -> int:
        return int(self._viewed)

    @property
    def connection(self) -> Any:
        return self._viewed.connection._impl

    def _raise_if_not_open(self) -> None:
        if not self.is_open:
            raise exceptions.ChannelWrongStateError("Channel is closed.")
