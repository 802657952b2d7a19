"""Client and broker in one thread and in virtual time, with faults that a seed decides.

    simulation = Simulation(seed)
    cpspika.connect(simulation.url, reactor=simulation.reactor, on_done=...)
    simulation.run(lambda: finished)

Nothing is real: neither sockets nor time. So a run costs no waiting, and the same seed gives the same run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from ..broker.server import LIMITS, Broker
from ..errors import OperationTimeout
from .disk import SimulatedDisk
from .network import Network, SimulatedReactor

PATIENCE = 3600.0  # virtual seconds that `run` waits for a condition


class Simulation:
    """A broker, a network and a clock.

    Arguments:
        seed: an int or a str; the same one gives the same run.
        hosts: names of the hosts at which the broker can be reached. Default: "broker".
        heartbeat: seconds that the broker offers. Default: 60.
        make_broker: the class of the broker. Default: `Broker`.
        options: further arguments of the broker, such as `like`.

    Attributes:
        reactor: drives clients and broker; its clock is virtual.
        broker: see `cpspika.broker.Broker` for what a test may do to it: `drop_links`, `crash`, `restart`...
        net: the network; see `Network`.
        disk: what the broker stores; it survives `broker.crash()`.
        url, urls: of the first host, and of each.
    """

    def __init__(
        self,
        seed: int | str = 0,
        hosts: Sequence[str] = ("broker",),
        heartbeat: int = 60,
        make_broker: Callable[..., Broker] = Broker,
        **options: Any,
    ):
        self.seed = seed
        self.reactor = SimulatedReactor()
        self.net = Network(self.reactor, random.Random(f"{seed} net"))
        self.disk = SimulatedDisk(self.reactor, random.Random(f"{seed} disk"))
        options.setdefault("limits", LIMITS._replace(heartbeat=heartbeat))
        options.setdefault("store", self.disk)
        self.broker = make_broker(self.reactor, token_bytes=random.Random(f"{seed} names").randbytes, **options)
        for host in hosts:
            self.broker.listen(host, 5672)
        self.urls = [f"amqp://guest:guest@{host}" for host in hosts]
        self.url = self.urls[0]

    def run(self, until: float | Callable[[], object]) -> None:
        """Makes turns of the reactor.

        until: seconds of virtual time; or a function, and the turns end when it returns something true. Raises
        OperationTimeout if it doesn't within an hour of virtual time, or if nothing is left that could happen; and what
        a callback raises.
        """
        reactor = self.reactor
        if not callable(until):
            reactor.advance(until)
            return
        limit = reactor.time() + PATIENCE
        while not until():
            if reactor.time() >= limit:
                raise OperationTimeout(f"the condition was not met in {PATIENCE:g} s of virtual time")
            if reactor.is_idle:
                raise OperationTimeout("the condition is not met, and nothing is left that could happen")
            reactor.run_once(limit - reactor.time())
