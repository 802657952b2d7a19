"""Fixtures for tests of programs that speak AMQP: a broker for each test, with nothing to set up.

def test_my_program(amqp_url): ...           # amqp://guest:guest@127.0.0.1:PORT/
def test_its_fate(amqp_broker): ...          # the broker itself: .url, .queues, .flow(False), .drop_links()...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..broker import Served


@pytest.fixture
def amqp_broker() -> Iterator[Served]:
    """An embedded broker of the test's own, on a free port of loopback; see `cpspika.broker.Broker`."""
    from ..broker import serve

    with serve() as broker:
        yield broker


@pytest.fixture
def amqp_url(amqp_broker: Served) -> str:
    """The URL of `amqp_broker`."""
    return amqp_broker.url
