"""The scenarios: action, counts, sizes, and the clients that take part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .clients import C_CLIENT, CLIENTS, Client

KIB, MIB = 1 << 10, 1 << 20
QUICK = 0.1  # of the full counts
CORE, PIKA = "cpspika", "pika-select"
FACADE, PY_AMQP = "cpspika-blocking", "py-amqp"
CHANNELS = (1, 10, 100, 1000)
RATES = (1000, 5000)
RATE_SECONDS = 5
KOMBU, KOMBU_PY_AMQP = "kombu-cpspika", "kombu-py-amqp"
CELERY, CELERY_PY_AMQP = "celery-cpspika", "celery-py-amqp"
POOLS = ("solo", "threads")
BESIDE = {"declare": 15_000, "get": 15_000, "connect": 1500}
ALONE = ("publish", "confirm", "consume", "consume+ack", "call")


@dataclass(frozen=True)
class Scenario:
    """`count`: messages or calls of a full run, for a client whose share is 1; `least`: the minimum for any client.
    `clients`: names, empty for all that can do the action and are not apart. `samples`: readings during the section.
    `rate`: messages a second, the same for slow clients; 0 for as many as there can be. `once`: only in the first
    round. `each_broker`: the scenario measures the broker, so it runs on each. `turns`: so many times in a round, the
    clients by turns."""

    name: str
    action: str
    count: int
    least: int = 10
    size: int = 100
    channels: int = 1
    clients: tuple[str, ...] = ()
    samples: int = 0
    rate: int = 0
    once: bool = False
    each_broker: bool = False
    turns: int = 1

    @property
    def consumes(self) -> bool:
        """Whether the queue must be filled before."""
        return self.action in ("consume", "consume_ack")

    @property
    def publishes(self) -> bool:
        """Whether the messages must be in the queue afterwards."""
        return self.action in ("publish", "confirm", "confirm_each")

    def by(self, client: Client) -> bool:
        return self.action in client.actions and (client.name in self.clients if self.clients else not client.apart)

    def counts(self, client: Client, quick: bool) -> tuple[int, int]:
        """Messages or calls: (of the warm-up, measured)."""
        share = 1.0 if self.rate else client.share
        count = max(self.least, int(self.count * share * (QUICK if quick else 1)))
        return max(1, min(count // 10, 2000)), count


def scenarios(millions: float) -> list[Scenario]:
    """`millions`: millions of messages for the soak."""
    soak = max(10_000, int(millions * 1_000_000))
    return [
        Scenario("publish", "publish", 100_000, 5000),
        Scenario("confirm", "confirm", 50_000, 500),
        Scenario("confirm each", "confirm_each", 50_000, 500),
        Scenario("consume", "consume", 100_000, 5000),
        Scenario("consume+ack", "consume_ack", 50_000, 5000),
        Scenario("declare", "declare", 3_000, 300),
        Scenario("get", "get", 3_000, 300),
        Scenario("pipelined", "pipelined", 10_000, 1000),
        Scenario("connect", "connect", 500, 20),
        *(Scenario(f"beside {w}", w, n, clients=(FACADE, PY_AMQP), turns=10) for w, n in BESIDE.items()),
        *_by_size("publish"),
        *_by_size("consume"),
        *(Scenario(f"channels {n}", "through", 50_000, channels=n, clients=(CORE, PIKA)) for n in CHANNELS),
        *(Scenario(f"alone {what}", f"alone {what}", 200_000) for what in ALONE),
        *(Scenario(f"alone, channels {n}", "alone consume", 200_000, channels=n) for n in CHANNELS),
        *(Scenario(f"latency {rate}", "latency", rate * RATE_SECONDS, rate=rate) for rate in RATES),
        Scenario("kombu publish", "publish", 100_000, clients=(KOMBU, KOMBU_PY_AMQP)),
        Scenario("kombu consume+ack", "consume_ack", 50_000, clients=(KOMBU, KOMBU_PY_AMQP)),
        *(Scenario(f"celery {p}", f"celery {p}", 5000, 500, clients=(CELERY, CELERY_PY_AMQP)) for p in POOLS),
        Scenario("broker", "through", 100_000, clients=(CORE,), each_broker=True),
        Scenario("soak", "through", soak, soak, clients=(CORE,), samples=10, once=True),
    ]


def _by_size(action: str) -> Iterator[Scenario]:
    yield Scenario(f"{action} 0 B", action, 50_000, 1000, size=0)
    yield Scenario(f"{action} 4 KiB", action, 20_000, 1000, size=4 * KIB)
    yield Scenario(f"{action} 1 MiB", action, 100, 10, size=MIB)
    yield Scenario(f"{action} 64 MiB", action, 3, 2, size=64 * MIB)


def available(peers: str, missing_c: str | None) -> tuple[list[Client], dict[str, str]]:
    """The clients that can run, and for the others the reason. `peers`: "all", "none", or names with commas between."""
    named = set(peers.split(","))
    unknown = named - {"all", "none"} - CLIENTS.keys()
    if unknown:
        raise ValueError(f"no client is called {', '.join(sorted(unknown))}; there are {', '.join(CLIENTS)}")
    wanted = [c for c in CLIENTS.values() if c.ours or peers == "all" or c.name in named]
    missing: dict[str, str] = {}
    for client in wanted:
        if client.name == C_CLIENT:
            missing.update({client.name: missing_c} if missing_c else {})
        elif not client.installed():
            missing[client.name] = f"{client.package} is not installed"
    return [client for client in wanted if client.name not in missing], missing
