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
