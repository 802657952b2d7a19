"""Small functions of pika that programs import."""

from __future__ import annotations

import os
import socket
import sys
from time import monotonic as time_now

from ._absent import refusal

__all__ = [
    "HAVE_SIGNAL",
    "ON_LINUX",
    "ON_OSX",
    "ON_WINDOWS",
    "SOCKET_ERROR",
    "SOL_TCP",
    "as_bytes",
    "byte",
    "str_or_bytes",
    "time_now",
]

ON_LINUX = sys.platform.startswith("linux")
ON_OSX = sys.platform == "darwin"
ON_WINDOWS = sys.platform == "win32"
HAVE_SIGNAL = os.name == "posix"
SOCKET_ERROR = OSError
SOL_TCP = socket.IPPROTO_TCP
str_or_bytes = (str, bytes)

__getattr__ = refusal("compat", "the standard library")


def byte(*values: int) -> bytes:
    """These numbers as bytes."""
    return bytes(values)


def as_bytes(value: str | bytes) -> bytes:
    """The bytes of a text, by UTF-8."""
    return value if isinstance(value, bytes) else value.encode()
