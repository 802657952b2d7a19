"""Reads dates and names of an X.509 certificate, also of one that cannot be trusted: the module `ssl` shows only those
that it has verified (RFC 5280, DER as of X.690)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

CONTEXT_0, CONTEXT_3, UTC_TIME = 0xA0, 0xA3, 0x17
DNS_NAME, IP_ADDRESS = 0x82, 0x87
ALTERNATIVE_NAMES = bytes.fromhex("551d11")  # 2.5.29.17
COMMON_NAME = bytes.fromhex("550403")  # 2.5.4.3


class Certificate(NamedTuple):
    """The names that a certificate is for, its issuer, and the time for which it counts."""

    names: list[str]
    subject: str
    issuer: str
    begin: datetime
    end: datetime


def read(der: bytes) -> Certificate:
    """The certificate in these bytes. ValueError: they are none."""
    try:
        return _read(der)
    except (IndexError, StopIteration, RuntimeError) as error:
        raise ValueError("the certificate is malformed") from error


def _read(der: bytes) -> Certificate:
    _, certificate = next(_parts(der))
    _, signed = next(_parts(certificate))
    fields = list(_parts(signed))
    if fields[0][0] == CONTEXT_0:  # the version
        del fields[0]
    _serial, _algorithm, issuer, validity, subject, _key, *others = fields
    begin, end = (_time(kind, content) for kind, content in _parts(validity[1]))
    names = [name for kind, content in others if kind == CONTEXT_3 for name in _alternative_names(content)]
    return Certificate(names, _common_name(subject[1]), _common_name(issuer[1]), begin, end)


def _parts(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(tag, content) of each value, one after another."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(data[at : at + octets], "big"), at + octets
        if at + size > len(data):
            raise ValueError("the certificate is cut off")
        yield tag, data[at : at + size]
        at += size


def _time(kind: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if kind == UTC_TIME:  # two digits of the year: 50 and above are of the 20th century
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)


def _common_name(name: bytes) -> str:
    """The common name; without one, all parts of the name."""
    parts = [list(_parts(pair)) for _, relative in _parts(name) for _, pair in _parts(relative)]
    texts = {kind[1]: value[1].decode("utf-8", "replace") for kind, value in parts}
    return texts.get(COMMON_NAME) or ", ".join(texts.values())


def _alternative_names(extensions: bytes) -> Iterator[str]:
    _, listed = next(_parts(extensions))
    for _, extension in _parts(listed):
        kind, *rest = _parts(extension)
        if kind[1] == ALTERNATIVE_NAMES:
            _, names = next(_parts(rest[-1][1]))
            for tag, content in _parts(names):
                if tag == DNS_NAME:
                    yield content.decode("ascii", "replace")
                elif tag == IP_ADDRESS:
                    yield str(ipaddress.ip_address(content))
