"""Bytes to frames and back, and a body cut by frame_max."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika.errors import AMQPConnectionError, InvalidFrameError, InvalidProtocolHeader, ProtocolVersionMismatch
from cpspika.wire import frames

Frame = tuple[int, int, bytes]

kinds = st.sampled_from([frames.METHOD, frames.HEADER, frames.BODY, frames.HEARTBEAT])
some_frames = st.lists(st.tuples(kinds, st.integers(0, 65535), st.binary(max_size=40)), max_size=6)


def read_all(reader: frames.FrameReader, data: bytes) -> list[Frame]:
    """What the link does: every whole frame of what came, and the rest kept."""
    found = []
    buffer, at = reader.feed(data), 0
    while (one := reader.next(buffer, at)) is not None:
        found.append(one[:3])
        at = one[3]
    reader.keep(buffer, at)
    return found


def test_a_frame_is_type_channel_size_payload_and_end() -> None:
    assert frames.frame(frames.METHOD, 0x0102, b"abc") == b"\x01\x01\x02\0\0\0\x03abc\xce"
    assert frames.HEARTBEAT_FRAME == b"\x08\0\0\0\0\0\0\xce"


@given(wanted=some_frames, data=st.data())
def test_frames_come_back_however_the_stream_is_cut(wanted: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(frames.frame(*one) for one in wanted)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    reader = frames.FrameReader(0)
    assert [one for piece in pieces for one in read_all(reader, piece)] == wanted


def test_frames_come_back_byte_by_byte() -> None:
    wanted = [(frames.METHOD, 1, b"abc"), (frames.HEARTBEAT, 0, b""), (frames.BODY, 65535, bytes(300))]
    reader = frames.FrameReader(4096)
    stream = b"".join(frames.frame(*one) for one in wanted)
    assert [one for n in range(len(stream)) for one in read_all(reader, stream[n : n + 1])] == wanted


@given(
    size=st.integers(frames.PART - 2, frames.PART + 2) | st.integers(1, 5 * frames.PART),
    cuts=st.lists(st.integers(0, 6 * frames.PART), max_size=6),
    slow_end=st.booleans(),
    more=st.booleans(),
)
def test_a_large_body_comes_in_parts_however_the_stream_is_cut(
    size: int, cuts: list[int], slow_end: bool, more: bool
) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    wanted = [(frames.METHOD, 1, b"before"), (frames.BODY, 7, body[:size])]
    wanted += [(frames.METHOD, 1, b"behind")] if more else []
    stream = b"".join(frames.frame(*one) for one in wanted)
    end = len(b"".join(frames.frame(*one) for one in wanted[:2]))
    at = sorted({0, *(cut for cut in cuts if cut < len(stream)), *((end - 2, end - 1, end) if slow_end else ())})
    reader = frames.FrameReader(0, in_parts=True)
    found: list[Frame] = []
    for begin, stop in zip(at, [*at[1:], len(stream)], strict=True):
        for kind, number, payload in read_all(reader, stream[begin:stop]):
            if found and kind == frames.BODY == found[-1][0]:
                payload = found.pop()[2] + bytes(payload)
            found.append((kind, number, bytes(payload)))
    assert found == wanted
    assert reader.left == 0


def test_a_part_comes_before_the_frame_is_complete() -> None:
    stream = frames.frame(frames.BODY, 7, bytes(3 * frames.PART))
    reader = frames.FrameReader(0, in_parts=True)
    assert read_all(reader, stream[: frames.PART]) == []  # its own beginning takes seven bytes of these
    ((kind, number, part),) = read_all(reader, stream[frames.PART : 2 * frames.PART])
    assert (kind, number, len(part)) == (frames.BODY, 7, 2 * frames.PART - 7)
    assert reader.left == frames.PART + 7


@given(st.binary(max_size=60), st.integers(0, 5))
def test_any_bytes_give_frames_or_a_frame_error(data: bytes, limit: int) -> None:
    reader = frames.FrameReader(limit * 8)
    try:
        found = read_all(reader, data)
    except InvalidFrameError as error:
        assert error.code == 501  # noqa: PT017 (no error is as right)
    else:
        assert data.startswith(b"".join(frames.frame(*one) for one in found))


def test_a_frame_of_frame_max_is_taken_and_one_byte_more_is_not() -> None:
    reader = frames.FrameReader(4096)
    assert len(read_all(reader, frames.frame(frames.BODY, 1, bytes(4096 - 8)))) == 1
    with pytest.raises(InvalidFrameError, match=r"a frame of 4097 bytes arrived on channel 1; frame_max is 4096"):
        read_all(reader, frames.frame(frames.BODY, 1, bytes(4096 - 7)))


def test_a_size_over_frame_max_is_refused_before_the_frame_is_there() -> None:
    with pytest.raises(InvalidFrameError, match="frame_max is 4096"):
        read_all(frames.FrameReader(4096), struct.pack(">BHI", frames.BODY, 1, 2**32 - 1))


def test_a_claim_of_4_gib_allocates_nothing() -> None:
    reader = frames.FrameReader(0)
    tracemalloc.start()
    try:
        assert read_all(reader, struct.pack(">BHI", frames.BODY, 1, 2**32 - 1) + b"x" * 10) == []
        assert read_all(reader, b"more") == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("kind", [0, 4, 5, 6, 7, 9, 255])
def test_an_unknown_type_is_refused_at_the_first_seven_bytes(kind: int) -> None:
    with pytest.raises(InvalidFrameError, match=f"unknown type {kind} .*channel 7"):
        read_all(frames.FrameReader(4096), struct.pack(">BHI", kind, 7, 0))


@pytest.mark.parametrize("end", [0, 0xCD, 0xCF, 0xFF])
def test_a_wrong_end_is_refused_and_shown(end: int) -> None:
    with pytest.raises(InvalidFrameError, match=f"a body frame on channel 7 ends with {end:#04x}, not 0xce"):
        read_all(frames.FrameReader(4096), frames.frame(frames.BODY, 7, b"abc")[:-1] + bytes([end]))


def test_a_large_frame_in_small_pieces_is_joined_once() -> None:
    """Joining at each piece would copy half the frame for each: gigabytes for this one."""
    reader = frames.FrameReader(0)
    stream = frames.frame(frames.BODY, 1, bytes(1_000_000))
    joined = 0
    found = []
    for at in range(0, len(stream), 500):
        buffer = reader.feed(stream[at : at + 500])
        joined += len(buffer)
        if buffer:
            one = reader.next(buffer, 0)
            if one is None:
                reader.keep(buffer, 0)
            else:
                found.append(one)
    assert len(found) == 1
    assert joined < 2 * len(stream)


# --- bodies -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=400), st.integers(9, 60))
def test_a_body_is_cut_into_full_frames_and_a_rest(octets: bytes, frame_max: int) -> None:
    found = read_all(frames.FrameReader(frame_max), b"".join(frames.body(3, octets, frame_max)))
    assert b"".join(payload for _, _, payload in found) == octets
    assert all((kind, channel) == (frames.BODY, 3) for kind, channel, _ in found)
    assert all(len(payload) == frame_max - 8 for _, _, payload in found[:-1])
    assert all(payload for _, _, payload in found)


@pytest.mark.parametrize(("size", "count"), [(0, 0), (1, 1), (4088, 1), (4089, 2), (8176, 2), (8177, 3)])
def test_a_body_of_an_exact_multiple_has_no_empty_frame(size: int, count: int) -> None:
    stream = b"".join(frames.body(1, bytes(size), 4096))
    assert len(read_all(frames.FrameReader(4096), stream)) == count
    assert len(stream) == size + 8 * count


def test_without_a_frame_max_a_body_is_one_frame() -> None:
    assert len(read_all(frames.FrameReader(0), b"".join(frames.body(1, bytes(300_000), 0)))) == 1


def test_a_large_body_is_not_copied() -> None:
    octets = bytes(1_000_000)
    tracemalloc.start()
    try:
        chunks = list(frames.body(1, octets, 131072))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, chunks)) == len(octets) + 8 * 8
    assert peak < 50_000


# --- protocol headers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "version"),
    [
        (b"AMQP\0\0\x09\x01", "0-9-1"),
        (b"AMQP\x01\x01\x08\0", "0-8"),
        (b"AMQP\x01\x01\x09\x01", "0-8"),
        (b"AMQP\x01\x01\0\x09", "0-9-1"),
    ],
)
def test_a_clients_header_asks_for_a_version(header: bytes, version: str) -> None:
    assert frames.version_of(header) == version


@pytest.mark.parametrize("header", [b"AMQP\0\1\0\0", b"AMQP\0\0\x09\x00", b"AMQP\x01\x01\0\x0a", b"AMQP\3\1\0\0"])
def test_another_version_is_refused_by_the_names_of_both(header: bytes) -> None:
    spoken = "-".join(map(str, header[5:]))
    with pytest.raises(ProtocolVersionMismatch, match=f"speaks AMQP {spoken} .*we speak 0-9-1 and 0-8"):
        frames.version_of(header)


@pytest.mark.parametrize("version", frames.PROTOCOL_HEADERS)
def test_a_servers_refusal_names_what_it_wants_and_what_we_asked_for(version: str) -> None:
    error = frames.mismatch(b"AMQP\0\1\0\0", version)
    assert isinstance(error, ProtocolVersionMismatch)
    header = b"AMQP" + bytes([0, 1, 0, 0])
    assert str(error).startswith(
        f"the broker wants AMQP 1-0-0 (header {header!r}); we asked for {version} (parameter protocol)"
    )
    assert ("since 4.0: write protocol='0-9-1'" in str(error)) == (version == "0-8")
    assert "the broker wants AMQP 0-9-1; we asked for 0-8" in str(frames.mismatch(b"AMQP\0\0\x09\x01", "0-8"))


@pytest.mark.parametrize("header", [b"HTTP/1.1", b"\x16\x03\x01\x02\0\x01\0\x01", b"AMQ", b""])
def test_what_is_no_amqp_is_shown(header: bytes) -> None:
    with pytest.raises(InvalidProtocolHeader) as caught:
        frames.version_of(header)
    for error in (caught.value, frames.mismatch(header, "0-9-1")):
        assert isinstance(error, InvalidProtocolHeader)
        assert isinstance(error, AMQPConnectionError)
        assert repr(header) in str(error)
