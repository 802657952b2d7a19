"""What several threads share, after an exception of a signal handler at each place where Python may run one."""

from __future__ import annotations

import threading
from contextlib import suppress

from cpspika.adapters.shared_reactor import SharedReactor
from tests.support.injector import Injector, Interrupt

SECONDS = 20.0


def use(reactor: SharedReactor, made: threading.Event) -> None:
    reactor.inside(reactor.call_soon, made.set)
    reactor.call_soon_threadsafe(made.set)


def test_no_interrupt_leaves_a_lock_behind() -> None:
    number, wheres = 0, set()
    while True:
        number += 1
        reactor = SharedReactor()
        injector = Injector(number)
        with injector.block(), suppress(Interrupt):
            use(reactor, threading.Event())
        if not injector.where:
            break
        wheres.add(injector.where)
        assert reactor.thread is None, injector.where
        made = threading.Event()
        other = threading.Thread(target=use, args=(reactor, made), daemon=True)
        other.start()
        other.join(SECONDS)
        assert not other.is_alive(), f"another thread does not get in after {injector.where}"
        reactor.inside(reactor.run_ready)
        assert made.is_set()
        reactor.close()
    assert len(wheres) > 10, "nothing was interrupted"
