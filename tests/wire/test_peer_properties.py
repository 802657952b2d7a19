"""The field tables in which client and server describe themselves: each connection has its own, whatever is kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from cpspika.errors import ProtocolSyntaxError
from cpspika.spec import VERSIONS
from cpspika.wire import fields, peer_properties
from cpspika.wire.codec import Codec
from cpspika.wire.handshake import CAPABILITIES
from tests.support.linked import Pair
from tests.wire.test_fields import tables

PROPERTIES: dict[str, Any] = {"product": "p", "capabilities": {"basic.nack": True}, "hosts": ["a", {"b": [1, None]}]}


def start(properties: dict[str, Any]) -> bytes:
    return Codec.of("0-9-1").encode("connection.start", {"server_properties": properties, "mechanisms": "PLAIN"})


def test_each_connection_may_change_its_own() -> None:
    first, second = (Codec.of("0-9-1").decode(start(PROPERTIES)).server_properties for _ in range(2))
    assert first == second == PROPERTIES
    first["hosts"][1]["b"].append(2)
    first["capabilities"].clear()
    first["more"] = 1
    assert second == PROPERTIES
    assert Codec.of("0-9-1").decode(start(PROPERTIES)).server_properties == PROPERTIES


@given(tables)
def test_any_table_is_what_it_is_in_other_methods(table: dict[str, Any]) -> None:
    encoded = b"??" + fields.encode_table("a table", table)
    for _ in range(2):  # decoded, and copied
        assert repr(peer_properties.decode(encoded, 2)) == repr(fields.decode_table(encoded, 2))


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_malformed_one_is_refused_at_each_connection_and_says_where(cut: int) -> None:
    payload = start({"product": "some"})[: 6 + 4 + 8 + 5 - cut]
    with pytest.raises(ProtocolSyntaxError) as plain:
        fields.decode_table(payload, 6)
    for _ in range(2):
        with pytest.raises(ProtocolSyntaxError) as error:
            Codec.of("0-9-1").decode(payload)
        assert error.value.text == f"connection.start is malformed: {plain.value.text}"


@pytest.mark.parametrize("version", VERSIONS)
def test_the_clients_own_are_the_same_whether_kept_or_not(version: str) -> None:
    kept, anew = (
        Pair(version, client_properties=mine).talk().heard["server"][0][1].peer_properties
        for mine in ({}, {"connection_name": "me"})
    )
    assert anew.pop("connection_name") == "me"
    assert kept == anew


def test_other_capabilities_are_another_table() -> None:
    for able in (True, False):
        capabilities = {**CAPABILITIES, "basic.nack": able}
        table = peer_properties.encode({"product": "p"}, capabilities, "0-9-1")
        assert fields.decode_table(table, 0)[0] == {"product": "p", "capabilities": capabilities}
