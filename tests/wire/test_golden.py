"""Bytes of others: frames captured from RabbitMQ and from pika (golden/capture.py), a frame an entry.

Two ends that share a codec share its faults; these bytes were made without it.
"""

from __future__ import annotations

import json
import struct
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cpspika.spec import VERSIONS
from cpspika.wire import frames
from cpspika.wire.codec import Codec, property_codec
from cpspika.wire.link import Link
from cpspika.wire.message import PROPERTIES_AT, BasicProperties, Message


class Golden(NamedTuple):
    version: str
    name: str
    direction: str
    octets: bytes

    @property
    def what(self) -> str:
        """The name without its number: "basic.deliver header"."""
        return self.name.partition(" (")[0]

    @property
    def frame(self) -> tuple[int, int, bytes]:
        found = frames.FrameReader(0).next(self.octets, 0)
        assert found is not None
        assert found[3] == len(self.octets)
        return found[:3]


def _load(version: str) -> list[Golden]:
    path = Path(__file__).parent / "golden" / f"rabbitmq-{version}.json"
    entries = json.loads(path.read_text("utf-8"))
    return [Golden(version, entry["name"], entry["direction"], bytes.fromhex(entry["hex"])) for entry in entries]


ALL = [golden for version in VERSIONS for golden in _load(version)]
HEADERS = [golden for golden in ALL if golden.what.endswith(" header") and golden.what != "protocol header"]
BODIES = [golden for golden in ALL if golden.what.endswith(" body")]
OTHERS = ("heartbeat", "protocol header")
METHODS = [golden for golden in ALL if golden not in HEADERS + BODIES and golden.what not in OTHERS]


def each(some: list[Golden]) -> Any:
    ids = [f"{golden.version} {golden.direction} {golden.name}" for golden in some]
    return pytest.mark.parametrize("golden", some, ids=ids)


def test_every_kind_of_frame_is_among_them() -> None:
    assert len(METHODS) > 80
    assert len(HEADERS) > 8
    assert len(BODIES) > 4


@each([golden for golden in ALL if golden.what != "protocol header"])
def test_a_frame_is_read_and_written_back(golden: Golden) -> None:
    assert frames.frame(*golden.frame) == golden.octets


@each(METHODS)
def test_a_method_decodes_and_encodes_to_the_same_bytes(golden: Golden) -> None:
    codec = Codec.of(golden.version)
    kind, channel, payload = golden.frame
    method = codec.decode(payload)
    assert kind == frames.METHOD
    assert method.name == golden.what
    assert bool(channel) != method.name.startswith("connection.")
    assert codec.encode(method.name, method.arguments) == payload


@each(METHODS)
def test_a_method_is_sent_by_who_may_send_it(golden: Golden) -> None:
    sender = Codec.of(golden.version).row(golden.what).sender
    assert sender in ("B", "S" if golden.direction == "server" else "C")


@each(HEADERS)
def test_the_properties_of_a_header_decode_and_encode(golden: Golden) -> None:
    kind, _, payload = golden.frame
    assert kind == frames.HEADER
    assert struct.unpack_from(">HH", payload) == (60, 0)
    codec = property_codec(60)
    values = codec.decode(payload, PROPERTIES_AT)
    encoded = BasicProperties(**values).encode()
    again = codec.decode(encoded, 0)
    assert again == values
    assert encoded[:2] == payload[PROPERTIES_AT : PROPERTIES_AT + 2]
    # Headers may come back as other types for the same values: we write integers as two of the nine there are.
    if "headers" not in values:
        assert encoded == payload[PROPERTIES_AT:]


EVERY_TYPE = {  # of golden/capture.py, as Python's values
    "t": True,
    "b": -5,
    "B": 251,
    "s": -2,
    "u": 65534,
    "I": -2,
    "i": 2**32 - 2,
    "l": -2,
    "L": 5,
    "f": 1.5,
    "d": -2.25,
    "D": Decimal("3.14"),
    "T": datetime(2001, 9, 9, 1, 46, 40, tzinfo=timezone.utc),
    "S": "text",
    "A": [1, "two"],
    "F": {"k": None},
    "V": None,
    "x": b"\0\xff",
}


@each([golden for golden in HEADERS if golden.name in ("basic.deliver header", "basic.get-ok header")])
def test_headers_of_every_type_have_the_values_that_were_put_in(golden: Golden) -> None:
    headers = property_codec(60).decode(golden.frame[2], PROPERTIES_AT)["headers"]
    assert {name: headers.get(name) for name in EVERY_TYPE} == EVERY_TYPE
    assert {name: type(headers.get(name)) for name in EVERY_TYPE} == {k: type(v) for k, v in EVERY_TYPE.items()}


@each([golden for golden in ALL if golden.what in OTHERS])
def test_heartbeat_and_protocol_header_are_ours(golden: Golden) -> None:
    assert golden.octets in (frames.HEARTBEAT_FRAME, frames.PROTOCOL_HEADERS[golden.version])


@pytest.mark.parametrize("version", VERSIONS)
def test_a_delivery_of_rabbitmqs_is_a_message(version: str) -> None:
    """The three frames through a link, as they would arrive."""
    found = {golden.name: golden for golden in ALL if golden.version == version and golden.direction == "server"}
    names = ("basic.deliver", "basic.deliver header", "basic.deliver body")
    _, channel, _ = found["basic.deliver"].frame
    link = Link("client", version, None)
    link.state = "open"
    link.send(channel, "channel.open", {})
    events = link.receive(b"".join(found[name].octets for name in names))
    ((number, message),) = events
    assert number == channel
    assert isinstance(message, Message)
    assert message.name == "basic.deliver"
    assert message.body == found["basic.deliver body"].frame[2]
    assert message.properties.headers
