"""Peer properties: the field tables in which client and server describe themselves (0-9-1 §1.4.2.1, §1.4.2.2).

A program that connects again and again meets the same few tables. Each is encoded or decoded once, and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
        table, inner = _decoded(data[at:end])
    except ProtocolSyntaxError:
        return fields.decode_table(data, at)  # raises the error again, with the offset in this method
    return _copied(table, inner), end


Inner = tuple[tuple[Any, "Inner"], ...]
"""The tables and arrays in a table or array: the name or index of each, and those in it."""


@lru_cache(_KEPT)
def _decoded(data: bytes) -> tuple[dict[str, Any], Inner]:
    table, _ = fields.decode_table(data, 0)
    return table, _inner(table)


def _inner(container: dict[str, Any] | list[Any]) -> Inner:
    items: Iterable[tuple[Any, Any]] = container.items() if isinstance(container, dict) else enumerate(container)
    return tuple((place, _inner(item)) for place, item in items if isinstance(item, (dict, list)))


def _copied(container: Any, inner: Inner) -> Any:
    copy = container.copy()
    for place, deeper in inner:
        copy[place] = _copied(copy[place], deeper)
    return copy
