"""`cli/certificates`: dates and names, as OpenSSL reads them."""

from __future__ import annotations

import ssl
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika.cli.certificates import read

trustme = pytest.importorskip("trustme")
BEGIN, END = datetime(2026, 1, 31, 12, tzinfo=timezone.utc), datetime(2049, 12, 31, 23, 59, 59, tzinfo=timezone.utc)


def der(certificate: Any) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())


@pytest.fixture(scope="module")
def authority() -> Any:
    return trustme.CA(organization_name="An Authority")


def test_names_and_dates(authority: Any) -> None:
    made = authority.issue_cert(
        "a.example", "*.b.example", "::1", "10.0.0.1", not_before=BEGIN, not_after=END, common_name="the name"
    )
    found = read(der(made))
    assert found.names == ["a.example", "*.b.example", "::1", "10.0.0.1"]
    assert found.subject == "the name"
    assert "An Authority" in found.issuer
    assert (found.begin, found.end) == (BEGIN, END)


def test_a_date_beyond_2050_is_written_otherwise(authority: Any) -> None:
    end = datetime(2150, 6, 1, tzinfo=timezone.utc)
    assert read(der(authority.issue_cert("a.example", not_after=end))).end == end


def test_the_same_as_openssl(authority: Any) -> None:
    found = read(der(authority.issue_cert("a.example", common_name="x")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.cert_pem.bytes().decode())
    (theirs,) = context.get_ca_certs()
    ours = read(ssl.PEM_cert_to_DER_cert(authority.cert_pem.bytes().decode()))
    assert ours.begin.timestamp() == ssl.cert_time_to_seconds(str(theirs["notBefore"]))
    assert ours.end.timestamp() == ssl.cert_time_to_seconds(str(theirs["notAfter"]))
    assert found.issuer == ours.subject


@given(st.data())
def test_bytes_that_are_no_certificate(data: Any) -> None:
    good = der(_MADE)
    cut = data.draw(st.integers(0, len(good) - 1))
    octet = data.draw(st.integers(0, 255))
    for wrong in (good[:cut], good[:cut] + bytes([octet]) + good[cut + 1 :], data.draw(st.binary(max_size=50))):
        try:
            read(wrong)
        except ValueError:
            pass


_MADE = trustme.CA().issue_cert("a.example", "::1")
