"""The measures as tables: title, header and rows of text, for the terminal and the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .clients import C_CLIENT, CLIENTS, Client
from .plan import (
    BESIDE,
    CELERY,
    CELERY_PY_AMQP,
    CHANNELS,
    CORE,
    FACADE,
    KOMBU,
    KOMBU_PY_AMQP,
    MIB,
    PIKA,
    POOLS,
    PY_AMQP,
    RATES,
)
from .results import Results

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    title: str
    header: Sequence[str]
    rows: list[list[str]]


def all_tables(results: Results) -> list[Table]:
    made = [
        _costs(results),
        _calls(results),
        _connecting(results),
        _by_turns(results),
        _sizes(results, "publish"),
        _sizes(results, "consume"),
        _large(results),
        _channels(results),
        _latencies(results),
        _kombu(results),
        _celery(results),
        _alone(results),
        _soak(results),
        _brokers(results),
        _failures(results),
    ]
    return [table for table in made if table.rows]


def number(value: float | None) -> str:
    """With three significant figures."""
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _cell(results: Results, scenario: str, client: Client, show: Callable[[str, str], str]) -> str:
    """The median, and how many rounds failed, if any."""
    outcome = results.find(scenario, client.name)
    if outcome is None:
        return NOTHING
    failed = f"{len(outcome.failures)} of {len(outcome.failures) + len(outcome.measures)} failed"
    if not outcome.measures:
        return failed
    return show(scenario, client.name) + (f" ({failed})" if outcome.failures else "")


def _by_client(
    results: Results, scenarios: Iterable[str], show: Callable[[str, str], str], clients: Iterable[Client] = ()
) -> list[list[str]]:
    rows = []
    for client in clients or CLIENTS.values():
        cells = [_cell(results, scenario, client, show) for scenario in scenarios]
        if set(cells) != {NOTHING}:
            rows.append([client.label, *cells])
    return rows


def _ratios(results: Results, scenarios: Sequence[str], of: str, ours: Sequence[str]) -> list[list[str]]:
    """Rows with the ratios of cpspika to the C client and to the best Python peer."""
    rows = []
    for client in ours:
        to_c, to_best = [], []
        for scenario in scenarios:
            mine, c = getattr(results, of)(scenario, client), getattr(results, of)(scenario, C_CLIENT)
            best = results.best_peer(scenario, of)
            to_c.append(f"{mine / c:.2f} ×" if mine and c else NOTHING)
            to_best.append(f"{mine / best[1]:.2f} × {best[0]}" if mine and best else NOTHING)
        label = CLIENTS[client].label
        rows += [[f"{label} : rabbitmq-c", *to_c], [f"{label} : best Python peer", *to_best]]
    return [row for row in rows if set(row[1:]) != {NOTHING}]


def _costs(results: Results) -> Table:
    scenarios = ["publish", "confirm", "confirm each", "consume", "consume+ack"]
    header = ["", "publish", "confirm, pipelined", "confirm, one by one", "consume no_ack", "consume + ack"]
    rows = _by_client(results, scenarios, lambda scenario, client: number(results.cpu(scenario, client)))
    rows += _ratios(results, scenarios, "cpu", [CORE])
    return Table("Client CPU, µs a message of 100 bytes", header, rows)


def _calls(results: Results) -> Table:
    scenarios = ["declare", "get", "pipelined"]

    def show(scenario: str, client: str) -> str:
        return f"{number(results.cpu(scenario, client))} ({number(results.wall(scenario, client))})"

    rows = _by_client(results, scenarios, show)
    for of in ("cpu", "wall"):
        for row in _ratios(results, scenarios[:2], of, [FACADE]):
            rows.append([f"{row[0]}, {of}", *row[1:], NOTHING])
    one, many = results.wall("declare", CORE), results.wall("pipelined", CORE)
    if one and many:
        rows.append(["cpspika: pipelined is faster by", NOTHING, NOTHING, f"{one / many:.1f} ×"])
    title = "A call and its answer: client CPU, and in brackets wall time, µs"
    return Table(title, ["", "queue_declare passive", "basic_get of nothing", "1000 queue_declare pipelined"], rows)


def _connecting(results: Results) -> Table:
    def show(of: str) -> Callable[[str, str], str]:
        return lambda scenario, client: number(getattr(results, of)(scenario, client))

    rows = [
        [client.label, *(_cell(results, "connect", client, show(of)) for of in ("cpu", "wall"))]
        for client in CLIENTS.values()
        if results.find("connect", client.name)
    ]
    return Table("Connect, open a channel, close: µs a round", ["", "client CPU", "wall time"], rows)


def _by_turns(results: Results) -> Table:
    rows = []
    for what in BESIDE:
        cells = []
        for of in ("cpu", "wall"):
            found = results.beside(f"beside {what}", FACADE, PY_AMQP, of)
            cells.append(f"{found[1]:.2f} ({found[0]:.2f} to {found[2]:.2f})" if found else NOTHING)
        if set(cells) != {NOTHING}:
            rows.append([what, *cells])
    title = "cpspika BlockingConnection over py-amqp, by turns: median, and in brackets the quartiles"
    return Table(title, ["", "client CPU", "wall time"], rows)


def _sizes(results: Results, action: str) -> Table:
    scenarios = [f"{action} 0 B", action, f"{action} 4 KiB", f"{action} 1 MiB"]
    rule = "no_ack" if action == "consume" else "no confirms"
    title, header = f"{action.capitalize()} ({rule}): client CPU, µs a message", ["", "0 B", "100 B", "4 KiB", "1 MiB"]
    if not any(results.find(scenario, client) for scenario in scenarios if scenario != action for client in CLIENTS):
        return Table(title, header, [])  # 100 bytes alone are in the first table
    rows = _by_client(results, scenarios, lambda scenario, client: number(results.cpu(scenario, client)))
    rows += _ratios(results, scenarios, "cpu", [CORE])
    return Table(title, header, rows)


def throughput(results: Results, scenario: str, client: str, size: int) -> float | None:
    """MiB a second."""
    wall = results.wall(scenario, client)
    return size / MIB / wall * 1e6 if wall else None


def _large(results: Results) -> Table:
    scenarios = ["publish 1 MiB", "consume 1 MiB", "publish 64 MiB", "consume 64 MiB"]

    def show(scenario: str, client: str) -> str:
        speed = throughput(results, scenario, client, 64 * MIB if "64" in scenario else MIB)
        memory = results.memory(scenario, client)
        return f"{number(speed)}, {number((memory or 0) / MIB)}"

    title = "Large bodies: MiB a second, and by how many MiB the client's peak memory rose (its own body included)"
    return Table(title, ["", *scenarios], _by_client(results, scenarios, show))


def _channels(results: Results) -> Table:
    scenarios = [f"channels {count}" for count in CHANNELS]
    clients = [CLIENTS[CORE], CLIENTS[PIKA]]
    rows = _by_client(results, scenarios, lambda scenario, name: number(results.cpu(scenario, name)), clients)
    title = "Channels in use: client CPU, µs a message that is published and consumed"
    return Table(title, ["", *map(str, CHANNELS)], rows)


def _latencies(results: Results) -> Table:
    def show(scenario: str, client: str) -> str:
        return " / ".join(number((results.latency(scenario, client, p) or 0) * 1e3) for p in ("50", "99", "99.9"))

    rows = _by_client(results, [f"latency {rate}" for rate in RATES], show)
    title = "Latency at a fixed rate, from when a message was due to its delivery: ms, p50 / p99 / p99.9"
    return Table(title, ["", *(f"{rate:,} a second" for rate in RATES)], rows)


def _beside(ours: float | None, theirs: float | None) -> str:
    return f"{ours / theirs:.2f} ×" if ours and theirs else NOTHING


def _kombu(results: Results) -> Table:
    scenarios = ["kombu publish", "kombu consume+ack"]
    rows = _by_client(results, scenarios, lambda scenario, client: number(results.cpu(scenario, client)))
    ratios = [_beside(results.cpu(scenario, KOMBU), results.cpu(scenario, KOMBU_PY_AMQP)) for scenario in scenarios]
    rows += [["cpspika : py-amqp", *ratios]] if rows else []
    return Table("kombu: client CPU, µs a message of 100 bytes", ["", "publish", "consume + ack"], rows)


def _celery(results: Results) -> Table:
    scenarios = [f"celery {pool}" for pool in POOLS]

    def show(scenario: str, client: str) -> str:
        wall = results.wall(scenario, client)
        return f"{number(results.cpu(scenario, client))} ({number(1e6 / wall if wall else None)})"

    rows = _by_client(results, scenarios, show)
    cpu = [_beside(results.cpu(scenario, CELERY), results.cpu(scenario, CELERY_PY_AMQP)) for scenario in scenarios]
    speed = [_beside(results.wall(scenario, CELERY_PY_AMQP), results.wall(scenario, CELERY)) for scenario in scenarios]
    ratios = [f"{one} ({other})" for one, other in zip(cpu, speed, strict=True)]
    rows += [["cpspika : py-amqp", *ratios]] if rows else []
    title = "Celery, tasks that do nothing: the worker's CPU, µs a task, and in brackets tasks a second"
    return Table(title, ["", *(f"pool {pool}" for pool in POOLS)], rows)


def _alone(results: Results) -> Table:
    """The cost of the core by itself. The other tables add the kernel's calls and the waking up."""
    scenarios = {
        "a publish": "alone publish",
        "a publish and its confirm": "alone confirm",
        "a delivery": "alone consume",
        "a delivery and its ack": "alone consume+ack",
        "a call and its answer": "alone call",
        **{f"a delivery, {count} channels taking turns": f"alone, channels {count}" for count in CHANNELS[1:]},
    }
    clients = ("cpspika-alone", "cpspika-alone-asyncio", "cpspika-alone-tasks")
    costs = {what: [results.cpu(scenario, client) for client in clients] for what, scenario in scenarios.items()}
    rows = [[what, *map(number, cost)] for what, cost in costs.items() if any(cost)]
    title = "By itself, fed from memory, without a socket and another process: CPU, µs"
    return Table(title, ["", "callbacks", "asyncio", "tasks"], rows)


def _soak(results: Results) -> Table:
    outcome = results.find("soak", CORE)
    rows = []
    for measure in outcome.measures if outcome else ():
        count, cpu = 0, 0.0
        for sample in measure.samples:
            cost = (sample.cpu - cpu) / (sample.count - count) * 1e6
            rows.append([f"{sample.count:,}", number(cost), f"{sample.memory / MIB:.1f}"])
            count, cpu = sample.count, sample.cpu
    title = (
        "Over time, cpspika: messages published and consumed, client CPU (µs a message since the row before), memory"
    )
    return Table(title, ["messages", "µs a message", "resident MiB"], rows)


def _brokers(results: Results) -> Table:
    rows = []
    for outcome in results.outcomes:
        if outcome.scenario == "broker":
            wall = results.wall("broker", outcome.client, outcome.broker)
            cost = results.broker_cpu("broker", outcome.client, outcome.broker)
            version = results.about["brokers"].get(outcome.broker, "")
            speed = number(1e6 / wall) if wall else f"{len(outcome.failures)} failed"
            rows.append([f"{outcome.broker} ({version})", speed, number(cost)])
    title = "Brokers: 100-byte messages through one queue, by one cpspika client that publishes and consumes"
    return Table(title, ["", "messages a second", "broker CPU, µs a message"], rows)


def _failures(results: Results) -> Table:
    rows = [[o.scenario, o.client, why] for o in results.outcomes for why in o.failures]
    rows += [["all", name, why] for name, why in results.missing.items()]
    return Table("Not measured", ["scenario", "client", "why"], rows)
