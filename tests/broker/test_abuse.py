"""One client's load and the others' wait: bounds, with a factor for a loaded machine.

Most bounds are counted in steps elsewhere (`test_model`, `test_queues`). Here is what only a clock shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.support.broker_model import BrokerServices

pytestmark = pytest.mark.long

BOUND = 2.0  # seconds; on an idle machine each takes less than 0.1


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def test_topics_of_many_wild_words() -> None:
    """It took 44 s once: each `#` multiplied the positions to go on from."""
    model = BrokerServices()
    model.exchange("topics", "topic")
    model.queue("q")
    for number in range(150):
        model.bind("topics", "q", ".".join(["#", "*"] * 31 + [f"x{number}", "#"]))
        model.bind("topics", "q", ".".join([f"x{number}"] + ["#", "*"] * 31))
        model.bind("topics", "q", ".".join(["*"] * (number % 60) + ["#", "*"] * ((64 - number % 60) // 2)))
    assert seconds(lambda: model.publish("topics", ".".join(["a"] * 127))) < BOUND
    assert model.bodies("q") == [""]


def test_the_end_of_many_queues_beside_many_exchanges() -> None:
    """It took 33 s once: each queue was looked for in each exchange."""
    model = BrokerServices()
    for number in range(5000):
        model.exchange(f"e{number}")
        model.queue(f"q{number}", exclusive=True)

    def end() -> None:
        for queue in list(model.vhost.queues.values()):
            model.vhost.delete_queue(queue)

    assert seconds(end) < BOUND
    assert model.vhost.queues == {}


def test_many_bindings_of_a_headers_exchange() -> None:
    """A publish took 0.3 s once: each binding was tested."""
    model = BrokerServices()
    model.exchange("headers", "headers")
    model.queue("q")
    for number in range(20_000):
        model.bind("headers", "q", "", {"x-match": "all", "type": "same", "number": number})

    def publish() -> None:
        for number in range(100):
            model.publish("headers", "", headers={"type": "same", "number": number})

    assert seconds(publish) < BOUND
    assert len(model.bodies("q")) == 100


def test_a_long_chain_of_dead_letter_queues_lets_others_in() -> None:
    model = BrokerServices()
    length = 400
    for number in range(length):
        to_next = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"q{number + 1}"}
        model.queue(f"q{number}", {"x-message-ttl": 0, **to_next})
    model.queue(f"q{length}")
    turns = [seconds(lambda: model.publish("", "q0", "x"))]
    while not model.bodies(f"q{length}"):
        turns.append(seconds(lambda: model.clock.run_once(0)))
        assert len(turns) < 10 * length, "the dead letter did not arrive"
    assert max(turns) < BOUND
