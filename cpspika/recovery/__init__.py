"""Recovery: a connection that outlives its links, above the client's core, which doesn't know of it.

`options` has what a program chooses and sees. `connection` owns the links and decides what becomes of what was in
flight; `channel` keeps what waits and what is made again; `opening` is one channel on one link, and translates delivery
tags; `operations` and `policies` say what each operation becomes; `journal` and `restoring` make the topology again;
`probe` asks until the broker says yes; `transaction` tells of what a lost link breaks.
"""

from __future__ import annotations

from ..client.connection import Connection, OnClose
from ..reactor import Reactor
from .options import Recovery, RecoveryEvent, Resent, options_of

Recovering = Recovery | bool | None
"""The type of the option `recovery=`."""


def new_connection(reactor: Reactor, on_close: OnClose | None, recovery: Recovering) -> Connection:
    """A Connection that is still to dial: of the core, or with `recovery` one that recovers. InvalidArgumentType:
    `recovery` is neither True, a Recovery nor None."""
    options = options_of(recovery)
    if options is None:
        return Connection(reactor, on_close)
    from .connection import RecoveringConnection

    return RecoveringConnection(reactor, on_close, options)


__all__ = ["Recovering", "Recovery", "RecoveryEvent", "Resent", "new_connection"]
