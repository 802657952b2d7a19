"""Peer properties: the field tables in which client and server describe themselves (0-9-1 §1.4.2.1, §1.4.2.2).

A program that connects again and again meets the same few tables. Each is encoded or decoded once, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import ProtocolSyntaxError
from . import fields

ARGUMENTS = frozenset(("client_properties", "server_properties"))
"""The arguments of methods that hold peer properties."""

_KEPT = 16  # tables; a peer's is no larger than a frame before connection.tune, 4096 bytes


def encode(properties: Mapping[str, str], capabilities: Mapping[str, bool], version: str) -> fields.EncodedTable:
    """The field table of a peer's own properties and capabilities, in the dialect of a version, "0-9-1" or "0-8"."""
    return _encoded(tuple(properties.items()), tuple(capabilities.items()), version)


@lru_cache(_KEPT)
def _encoded(
    properties: tuple[tuple[str, str], ...], capabilities: tuple[tuple[str, bool], ...], version: str
) -> fields.EncodedTable:
    table = {"capabilities": dict(capabilities), **dict(properties)}
    return fields.EncodedTable(fields.encode_table("properties", table, version))


def decode(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """As `fields.decode_table`. Each call returns a dict of its own."""
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    try:
        table = _decoded(data[at:end])
    except ProtocolSyntaxError:
        return fields.decode_table(data, at)  # raises the error again, with the offset in this method
    return _copied(table), end


@lru_cache(_KEPT)
def _decoded(data: bytes) -> dict[str, Any]:
    return fields.decode_table(data, 0)[0]


def _copied(value: Any) -> Any:
    """A copy with copies of the tables and arrays in it."""
    if value.__class__ is dict:
        return {name: _copied(item) if item.__class__ in _CONTAINERS else item for name, item in value.items()}
    return [_copied(item) if item.__class__ in _CONTAINERS else item for item in value]


_CONTAINERS = frozenset((dict, list))
