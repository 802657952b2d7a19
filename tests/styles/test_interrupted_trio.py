"""An exception of a signal handler at every place of the library's code where Python may run one, on trio: the block
that connected ends with it, and no task waits for ever (clauses 4 and 10 of the law)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from cpspika.broker import Broker
from tests.styles.test_interrupted_asyncio import asks
from tests.styles.test_interrupted_calls import broker as broker
from tests.styles.test_interrupted_recovery import RECOVERY, interrupt_everywhere
from tests.support.injector import Alarm, Injector

trio: Any = pytest.importorskip("trio")

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

SECONDS = 10.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # raised while a generator is closed
]


def raised(error: BaseException) -> list[BaseException]:
    """The exceptions in an exception, which may be a group of groups."""
    return (
        [each for one in error.exceptions for each in raised(one)] if isinstance(error, BaseExceptionGroup) else [error]
    )


@pytest.mark.parametrize("step", [pytest.param(11, marks=pytest.mark.long), 61])
@pytest.mark.parametrize("recovery", [None, RECOVERY], ids=["plain", "recovery"])
def test_the_block_ends(broker: Broker, monkeypatch: Any, recovery: Any, step: int) -> None:
    from cpspika.adapters import trio_adapter

    monkeypatch.setattr(trio_adapter, "GRACE", 0.2)
    queue = f"trio {recovery is None} {step}"

    def run(injector: Injector) -> str:
        async def work() -> None:
            with trio.fail_after(SECONDS):
                async with trio_adapter.connect(broker.url, recovery=recovery, heartbeat=0) as connection:
                    channel = await connection.channel()
                    await channel.confirm_select()
                    await channel.queue_declare(queue)
                    with injector.block():
                        for promise in asks(broker, connection, channel, queue).values():
                            await promise
                        await (await connection.channel()).close()

        try:
            trio.run(work)
        except BaseException as error:
            if injector.where.startswith("loop in adapters/trio_adapter.py") and injector.where.endswith("_rest"):
                return ""  # the injector takes the end of its `with` for a jump back; no signal handler runs there
            kinds = {type(each) for each in raised(error)}
            return "" if Alarm in kinds and trio.TooSlowError not in kinds else repr(error)
        return "the exception was lost" if injector.where else ""

    interrupt_everywhere(step, run)
