"""pika's module of callback channels. `Channel` is here for annotations."""

from __future__ import annotations

from ._absent import absent_class
from .connection import MAX_CHANNELS

__all__ = ["MAX_CHANNELS", "Channel"]

Channel = absent_class("Channel", "cpspika.Channel, whose operations take on_done(err, result)")
