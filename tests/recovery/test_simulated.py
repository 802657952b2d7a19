"""Recovery under simulation: what the library's own simulation found, and seeds."""

from __future__ import annotations

from typing import Any

import pytest

import cpspika
from cpspika.testing import Simulation
from cpspika.testing.trial import Trial


def test_a_close_right_behind_a_publish_sends_it_once(amqp_simulation: Simulation) -> None:
    """The broker answers the close before its disk has the message."""
    simulation = amqp_simulation
    simulation.disk.sync_time = 1.0
    told: list[Any] = []
    opened: list[Any] = []
    cpspika.connect(
        simulation.url,
        reactor=simulation.reactor,
        recovery=True,
        on_done=lambda error, connection: opened.append(connection),
    )
    simulation.run(lambda: opened)
    channel = opened[0].channel()
    channel.queue_declare("q", durable=True)
    channel.confirm_select(on_done=lambda error, _: told.append("confirming"))
    simulation.run(lambda: told)
    channel.basic_publish("", "q", "once", {"delivery_mode": 2}, on_done=lambda error, _: told.append(error))
    channel.close(on_done=lambda error, _: told.append("closed"))
    for _ in range(2000):  # turns, which would not end if the message was sent again and again
        simulation.reactor.run_once(0.01)
    assert [type(each) for each in told] == [str, cpspika.DeliveryUnknown, str]
    assert [message.body for message in simulation.broker.queues["q"].messages] == [b"once"]


# 70780: a program asked five times in a row for a queue that was not there. 71060: of publishes that nobody confirms,
# one waited and one before it fell; they went out in the wrong order.
@pytest.mark.parametrize("seed", [70780, 70909, 71060, 71539])
def test_a_seed_that_failed_passes(seed: int) -> None:
    assert not Trial(seed, recovery=True).run()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 50))
def test_seeds_pass(first: int) -> None:
    failed = {seed: found for seed in range(first, first + 50) if (found := Trial(seed, recovery=True).run())}
    assert not failed, "python -m cpspika simulate --recovery --seed N --shrink shows more"
