"""Operations that are cancelled, timed out or interrupted at a random moment, again and again, in every style: at the
end each message is acknowledged or in the queue, and no channel, consumer or connection is left (clause 9 of the law).
See `tests.support.cancelling`."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

import cpspika
from cpspika.threads import ThreadedConnection
from tests.styles.test_gevent import run
from tests.support.awaiting import STYLES
from tests.support.cancelling import Interrupted, Interrupts, late, play_awaited, play_called

ROUNDS = 100


def quiet(url: str, **options: Any) -> ThreadedConnection:
    return ThreadedConnection(url, on_error=lambda error: None, **options)


CALLED: dict[str, Callable[..., Any]] = {
    "BlockingConnection": cpspika.BlockingConnection,
    "SelectConnection": cpspika.SelectConnection,
    "ThreadedConnection": quiet,
}
if sys.version_info < (3, 12) or find_spec("asyncore") is not None:
    CALLED["AsyncoreConnection"] = cpspika.AsyncoreConnection

pytestmark = pytest.mark.slow
seeds = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
in_each = pytest.mark.parametrize("make", CALLED.values(), ids=CALLED.keys())


@seeds
@pytest.mark.parametrize("make", STYLES.values(), ids=STYLES.keys())
def test_awaited(broker: Any, make: Any, seed: int) -> None:
    play = make().run(lambda style: play_awaited(style, broker.url(), seed, ROUNDS))
    cut_off = ROUNDS - play.ends["done"]
    assert cut_off, f"nothing was cancelled: {play.ends}"


@seeds
@in_each
def test_timed_out(broker: Any, make: Any, seed: int) -> None:
    play = play_called(make, broker.url(), seed, ROUNDS, late)
    assert play.ends["OperationTimeout"], f"nothing was late: {play.ends}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised while a generator is closed
@seeds
@in_each
@pytest.mark.parametrize("kind", [KeyboardInterrupt, Interrupted])
def test_interrupted_by_a_signal(broker: Any, make: Any, kind: type[BaseException], seed: int) -> None:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        pytest.skip("no timer signals here")
    interrupts = Interrupts(kind)
    with interrupts.installed():
        play = play_called(make, broker.url(), seed, ROUNDS // 2, interrupts)
    assert play.ends[kind.__name__], f"nothing was interrupted: {play.ends}"


GREENLETS = """
from tests.support.cancelling import greenlets, play_called

def made(url, **options):
    return make(url, **options, **({"on_error": lambda error: None} if make is ThreadedConnection else {}))

play = play_called(made, url, count, 50, greenlets(sys.argv[4]), gevent.sleep)
print(json.dumps(play.ends))
"""


GREENLETS_AGAIN = [
    ("BlockingConnection", "timeout"),
    ("SelectConnection", "kill"),
    ("ThreadedConnection", "kill"),
]


@seeds
@pytest.mark.skipif(find_spec("gevent") is None, reason="the extra gevent is not installed")
@pytest.mark.parametrize(
    ("facade", "how"),
    [
        ("BlockingConnection", "kill"),
        ("SelectConnection", "timeout"),
        ("ThreadedConnection", "timeout"),
        *(pytest.param(*each, marks=pytest.mark.long) for each in GREENLETS_AGAIN),
    ],
)
def test_greenlets(broker: Any, facade: str, how: str, seed: int) -> None:
    ends = run(GREENLETS, broker.url(), seed, facade, how)
    assert ends["done"] < 50, f"nothing was cut off: {ends}"
