"""The long ones: a soak and a chaos. They are not run by default; `pytest -m long` does."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

import pytest

import cpspika
from cpspika.adapters import SelectReactor
from cpspika.broker import serve

pytestmark = pytest.mark.long

MESSAGES = 100_000
WINDOW = 500


def test_memory_stays_flat_over_many_messages() -> None:
    """Published with confirms and consumed with acks, on one connection; past the first tenth nothing may pile up."""
    reactor = SelectReactor()
    counts = {"sent": 0, "confirmed": 0, "consumed": 0}
    weights: list[int] = []

    def publish(channel: cpspika.Channel) -> None:
        while counts["sent"] < MESSAGES and counts["sent"] - counts["consumed"] < WINDOW:
            counts["sent"] += 1
            channel.basic_publish(routing_key="q", body=b"x" * 100, on_done=confirmed)

    def confirmed(err: Any, result: Any) -> None:
        assert err is None
        counts["confirmed"] += 1

    def on_message(message: cpspika.Message) -> None:
        message.ack()
        counts["consumed"] += 1
        if counts["consumed"] % (MESSAGES // 10) == 0:
            weights.append(tracemalloc.get_traced_memory()[0])
        if counts["consumed"] % (WINDOW // 2) == 0:
            publish(message.channel)
        if counts["consumed"] == MESSAGES:
            connection.close()

    def connected(err: Any, connection: Any) -> None:
        assert err is None
        channel = connection.channel()
        channel.confirm_select()
        channel.queue_declare("q")
        channel.basic_qos(prefetch_count=WINDOW)
        channel.basic_consume("q", on_message)
        publish(channel)

    tracemalloc.start()
    try:
        with serve() as broker:
            connection = cpspika.connect(broker.url, reactor=reactor, on_done=connected)
            reactor.run()
    finally:
        tracemalloc.stop()
        reactor.close()
    assert counts == {"sent": MESSAGES, "confirmed": MESSAGES, "consumed": MESSAGES}
    print("bytes held at each tenth:", weights)
    assert max(weights) < weights[0] + 512 * 1024


@pytest.mark.parametrize("seed", range(20))
def test_every_publish_is_told_its_fate_once_whatever_breaks(seed: int) -> None:
    """The broker drops links, closes channels and connections and nacks, at random; the client comes back each time."""
    dice = random.Random(seed)
    reactor = SelectReactor()
    told: dict[int, int] = {}
    fates: dict[str, int] = {}
    asked = 0

    def publish_some(channel: cpspika.Channel) -> None:
        nonlocal asked
        for _ in range(dice.randrange(1, 60)):
            number = asked
            asked += 1
            told[number] = 0
            key = "q" if dice.random() < 0.8 else "nobody"
            channel.basic_publish(routing_key=key, body=b"%d" % number, mandatory=True, on_done=fate_of(number))

    def fate_of(number: int) -> Any:
        def on_done(err: Any, result: Any) -> None:
            told[number] += 1
            name = type(err).__name__
            fates[name] = fates.get(name, 0) + 1

        return on_done

    with serve() as broker:
        for _ in range(30):
            connection = cpspika.connect(broker.url, reactor=reactor, on_close=lambda connection, err: None)
            while not connection.is_open:
                reactor.run_once(5)
            channel = connection.channel()
            assert channel is not None
            channel.add_state_change_handler(lambda channel, is_open: None)
            channel.add_return_handler(lambda message: None)
            channel.confirm_select()
            channel.queue_declare("q", arguments={"x-max-length": 1000})
            for _ in range(dice.randrange(1, 5)):
                if channel.is_open:
                    publish_some(channel)
                reactor.run_once(0)
            what = dice.choice(["drop", "close connection", "close channel", "nack", "nothing"])
            if what == "drop":
                broker.drop_links()
            elif what == "close connection":
                broker.close_connections(320, "CONNECTION_FORCED - chaos")
            elif what == "close channel":
                broker.close_channels(406, "PRECONDITION_FAILED - chaos")
            elif what == "nack":
                broker.nack_next(dice.randrange(50))
            if channel.is_open:
                publish_some(channel)
            for _ in range(dice.randrange(3)):
                reactor.run_once(0)
            connection.close()
            reactor.run()
    reactor.close()
    assert set(told.values()) == {1}, f"{asked} publishes, {fates}"
    print(asked, "publishes:", fates)
