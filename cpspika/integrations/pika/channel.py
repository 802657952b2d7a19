"""pika's module of callback channels. `Channel` is here for annotations and mocks."""

from __future__ import annotations

from ._absent import absent_class
from .connection import MAX_CHANNELS

__all__ = ["MAX_CHANNELS", "Channel"]

_METHODS = [
    "add_callback",
    "add_on_cancel_callback",
    "add_on_close_callback",
    "add_on_flow_callback",
    "add_on_return_callback",
    "basic_ack",
    "basic_cancel",
    "basic_consume",
    "basic_get",
    "basic_nack",
    "basic_publish",
    "basic_qos",
    "basic_recover",
    "basic_reject",
    "close",
    "confirm_delivery",
    "consumer_tags",
    "exchange_bind",
    "exchange_declare",
    "exchange_delete",
    "exchange_unbind",
    "flow",
    "is_closed",
    "is_closing",
    "is_open",
    "is_opening",
    "open",
    "queue_bind",
    "queue_declare",
    "queue_delete",
    "queue_purge",
    "queue_unbind",
    "tx_commit",
    "tx_rollback",
    "tx_select",
]

Channel = absent_class("Channel", "cpspika.Channel, whose operations take on_done(err, result)", _METHODS)
