"""The marks for the fast paths (see docs/benchmarks.md), and whether each is met."""

from __future__ import annotations

from collections.abc import Iterator

from .clients import C_CLIENT, CLIENTS
from .plan import CELERY, CELERY_PY_AMQP, CORE, FACADE, KOMBU, KOMBU_PY_AMQP, MIB, POOLS, PY_AMQP
from .results import Results
from .tables import Table, number, throughput

FLAT = 1.1  # the most that the last may be over the first


def table(results: Results) -> Table:
    rows = []
    for what, value, limit, at_least in _marks(results):
        if value is None:
            verdict, shown = "not measured", "–"
        else:
            met = value >= limit if at_least else value <= limit
            verdict, shown = "met" if met else "**not met**", number(value)
        rows.append([what, shown, f"{'≥' if at_least else '≤'} {limit:g}", verdict])
    return Table("Marks", ["", "measured", "mark", ""], rows)


Mark = tuple[str, float | None, float, bool]  # name, value, limit, whether the limit is a minimum


def _marks(results: Results) -> Iterator[Mark]:
    cpu = results.cpu
    yield "publish: CPU, × rabbitmq-c", _over(cpu("publish", CORE), cpu("publish", C_CLIENT)), 0.6, False
    yield "publish: best Python peer's CPU over ours", _under_best(results, "publish"), 10, True
    yield "confirm, pipelined: CPU, µs", cpu("confirm", CORE), 5, False
    yield "confirm, pipelined: best Python peer's CPU over ours", _under_best(results, "confirm"), 7, True
    yield "confirm, pipelined, facade: CPU, µs", cpu("confirm", FACADE), 6, False
    yield "consume no_ack: CPU, × rabbitmq-c", _over(cpu("consume", CORE), cpu("consume", C_CLIENT)), 1.2, False
    acked = _over(cpu("consume+ack", CORE), cpu("consume+ack", C_CLIENT))
    yield "consume + ack: CPU, × rabbitmq-c", acked, 1.0, False
    for what, of in (("declare", "cpu"), ("declare", "wall"), ("get", "cpu"), ("connect", "cpu")):
        quartiles = results.beside(f"beside {what}", FACADE, PY_AMQP, of)
        ratio = quartiles[1] if quartiles else None
        yield f"{what}, facade, by turns: {of}, × py-amqp", ratio, 1.0 if what == "connect" else 0.95, False
    faster = _over(results.wall("declare", CORE), results.wall("pipelined", CORE))
    yield "1000 queue_declare pipelined: × faster in wall time", faster, 8, True
    yield from _styles(results)
    yield from _large(results)
    channels = _over(cpu("channels 1000", CORE), cpu("channels 1", CORE))
    yield "cost a message with 1000 channels in use, × with one", channels, FLAT, False
    yield from _soak(results)
    yield from _celery(results)


def _styles(results: Results) -> Iterator[Mark]:
    cpu = results.cpu
    for style, client, core in (("tasks", "cpspika-tasks", CORE), ("asyncio", "cpspika-asyncio", "cpspika-on-asyncio")):
        for scenario in ("publish", "consume"):
            told = f"{style}, {scenario}: CPU, × callbacks on the same reactor"
            yield told, _over(cpu(scenario, client), cpu(scenario, core)), 1.15, False
    for style, most in (("asyncio", (0.15, 1.5)), ("tasks", (0.25, 1.5))):
        for what, limit in zip(("publish", "confirm"), most, strict=True):
            ours, core = cpu(f"alone {what}", f"cpspika-alone-{style}"), cpu(f"alone {what}", "cpspika-alone")
            added = ours - core if ours and core else None
            yield f"{style} adds to a {what}, without a socket: CPU, µs", added, limit, False
    for peer, times in (("aio-pika", 8), ("aiormq", 4)):
        for scenario in ("publish", "consume"):
            theirs = _over(cpu(scenario, peer), cpu(scenario, "cpspika-asyncio"))
            yield f"asyncio, {scenario}: {peer}'s CPU over ours", theirs, times, True


def _large(results: Results) -> Iterator[Mark]:
    for size, name in ((MIB, "1 MiB"), (64 * MIB, "64 MiB")):
        for action in ("publish", "consume"):
            scenario = f"{action} {name}"
            best = results.best_peer(scenario, "wall")
            theirs = throughput(results, scenario, best[0], size) if best else None
            if action == "publish":
                each = [throughput(results, scenario, client.name, size) for client in CLIENTS.values() if client.ours]
                ours, whose = min((speed for speed in each if speed), default=None), ", the slowest style"
            else:
                ours, whose = throughput(results, scenario, CORE, size), ""
            yield f"{scenario}{whose}: throughput, × the best Python peer's", _over(ours, theirs), 1.0, True
    for action in ("publish", "consume"):
        scenario = f"{action} 64 MiB"
        yield f"{scenario}: peak memory, × the body", _over(results.memory(scenario, CORE), 64.0 * MIB), 1.25, False


def _soak(results: Results) -> Iterator[Mark]:
    outcome = results.find("soak", CORE)
    samples = outcome.measures[0].samples if outcome and outcome.measures else []
    cost = memory = None
    if len(samples) > 2:
        first, before, last = samples[0], samples[-2], samples[-1]
        cost = _over((last.cpu - before.cpu) / (last.count - before.count), first.cpu / first.count)
        memory = _over(float(last.memory), float(first.memory))
    yield "soak: cost a message, the last tenth × the first", cost, FLAT, False
    yield "soak: memory at the end × after the first tenth", memory, FLAT, False


def _celery(results: Results) -> Iterator[Mark]:
    for scenario, most in (("kombu publish", 0.85), ("kombu consume+ack", 0.5)):
        ratio = _over(results.cpu(scenario, KOMBU), results.cpu(scenario, KOMBU_PY_AMQP))
        yield f"{scenario}: CPU, × py-amqp", ratio, most, False
    for pool in POOLS:
        faster = _over(results.wall(f"celery {pool}", CELERY_PY_AMQP), results.wall(f"celery {pool}", CELERY))
        yield f"Celery, pool {pool}: tasks a second, × py-amqp", faster, 1.3 if pool == "threads" else 1.0, True


def _over(value: float | None, other: float | None) -> float | None:
    return value / other if value and other else None


def _under_best(results: Results, scenario: str) -> float | None:
    best = results.best_peer(scenario)
    return _over(best[1] if best else None, results.cpu(scenario, CORE))
