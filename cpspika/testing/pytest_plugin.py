"""pytest fixtures for programs that use AMQP: an embedded broker for each test, without any set-up::

def test_my_program(amqp_url): ...      # amqp://guest:guest@127.0.0.1:PORT/
def test_a_lost_link(amqp_broker): ...  # the broker itself: .url, .queues, .flow(False), .drop_links()...
def test_a_crash(amqp_simulation): ...  # broker, network and clock of a simulation: .url, .reactor, .broker, .run()
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..broker import Served
    from .simulation import Simulation


@pytest.fixture
def amqp_broker() -> Iterator[Served]:
    """An embedded broker for one test, at a free port of 127.0.0.1. See `cpspika.broker.Broker` for its methods."""
    from ..broker import serve

    with serve() as broker:
        yield broker


@pytest.fixture
def amqp_url(amqp_broker: Served) -> str:
    """The URL of `amqp_broker`."""
    return amqp_broker.url


@pytest.fixture
def amqp_simulation() -> Simulation:
    """A simulation for one test, of the seed 0: a broker, a network and a virtual clock, without sockets and without
    waiting. See `cpspika.testing.Simulation`."""
    from .simulation import Simulation

    return Simulation()
