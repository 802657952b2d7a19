"""Frames in words: cut anywhere, broken anyhow, and without a secret."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cpspika.wire.frames import HEARTBEAT_FRAME, PROTOCOL_HEADERS, FrameReader
from cpspika.wire.message import BasicProperties
from cpspika.wire.words import FrameTeller
from tests.support.scripted import body_frame, content, frame, header_frame, method_frame

SECRET = "swordfish"


def told(*pieces: bytes, version: str = "0-9-1") -> list[str]:
    teller = FrameTeller(version)
    return [each.text for piece in pieces for each in teller.tell([piece])]


STREAM = (
    PROTOCOL_HEADERS["0-9-1"]
    + method_frame(0, "connection.start-ok", mechanism="PLAIN", response=f"\0guest\0{SECRET}")
    + method_frame(3, "queue.declare", queue="q", durable=True)
    + content(3, "basic.publish", b"the body", BasicProperties(content_type="text/plain").encode(), routing_key="q")
    + content(3, "basic.publish", b"", routing_key="q")
    + body_frame(3, b"x" * 40000)
    + HEARTBEAT_FRAME
    + method_frame(0, "connection.update-secret", new_secret=SECRET, reason="renewed")
)


def test_each_kind_of_frame() -> None:
    lines = told(STREAM)
    assert [line.partition("(")[0] for line in lines] == [
        "protocol header b'AMQP\\x00\\x00\\t\\x01'",
        "connection.start-ok",
        "channel 3 queue.declare",
        "channel 3 basic.publish",
        "channel 3 header of a body of 8 bytes, content_type='text/plain'",
        "channel 3 body, 8 bytes",
        "channel 3 basic.publish",
        "channel 3 header of a body of 0 bytes",
        "channel 3 body, 40000 bytes",
        "heartbeat",
        "connection.update-secret",
    ]
    assert "queue='q'" in lines[2]
    assert "durable=True" in lines[2]
    assert "the body" not in "".join(lines)


def test_no_secret_is_told() -> None:
    assert SECRET not in "".join(told(STREAM))
    assert "response=..." in told(STREAM)[1]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_bytes_may_be_cut_anywhere(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[begin:end] for begin, end in itertools.pairwise(places)]
    assert told(*pieces) == told(STREAM)


@given(st.integers(0, len(STREAM)))
def test_one_who_looks_on_from_the_middle_knows_where_the_next_frame_begins(cut: int) -> None:
    """As a client's link reads: the rest of a frame that it has begun is not told twice, and not taken for another."""
    stream = STREAM[8:]
    reader = FrameReader(0, in_parts=True)
    buffer, at, frames = reader.feed(stream[:cut]), 0, 0
    while (found := reader.next(buffer, at)) is not None:
        at = found[3]
        frames += not reader.left
    reader.keep(buffer, at)
    begun, left = reader.begun_frame()
    teller = FrameTeller("0-9-1", begun, left)
    rest = [each.text for each in teller.tell([stream[cut:]])]
    assert rest == told(stream)[len(told(stream)) - len(rest) :]
    assert len(rest) >= len(told(stream)) - frames - (1 if left else 0)


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_no_bytes_raise(first: bytes, second: bytes) -> None:
    told(first, second)
    told(STREAM[8:200] + first, second)


def test_what_is_malformed_is_told_as_such() -> None:
    lines: list[Any] = told(
        frame(1, 1, b"\0\x3c\xff\xff"),
        frame(1, 1, b"\0"),
        frame(2, 1, b"\0\x3c"),
        header_frame(1, 5, b"\xff\xff"),
        frame(1, 1, b"\0\x3c\0\x28", end=b"\0"),
        STREAM,
    )
    assert lines == [
        "channel 1 a method that is malformed, 4 bytes",
        "channel 1 a method that is malformed, 1 bytes",
        "channel 1 a header that is malformed, 2 bytes",
        "channel 1 a header that is malformed, 14 bytes",
        "bytes that are no frame; the rest is not told",
    ]


def test_the_older_version() -> None:
    stream = PROTOCOL_HEADERS["0-8"] + method_frame(0, "connection.open", "0-8", virtual_host="/")
    lines = told(stream, version="0-8")
    assert lines[0].startswith("protocol header")
    assert lines[1].startswith("connection.open(virtual_host='/'")
