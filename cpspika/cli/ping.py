"""The command `ping`: whether a broker answers, and how it is reached."""

from __future__ import annotations

import argparse
import time
from typing import Any

from ..blocking import SelectConnection  # noqa: F401 (imported here, so that the time to connect has no part of it)
from ..errors import AMQPError
from ..parameters import ConnectionParameters
from . import shared, terminal
from .terminal import Coloured


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = shared.add_command(
        commands,
        "ping",
        "say whether a broker answers: connection, login, virtual host, versions, limits, round-trip times",
        "  cpspika ping amqp://guest:guest@localhost/\n  cpspika ping --quiet && echo up",
    )
    parser.add_argument("--count", type=shared.count, default=5, metavar="N", help="round trips (default: 5)")
    parser.add_argument("--quiet", action="store_true", help="print nothing: the exit status says it")
    shared.add_broker_options(parser, positional=True, json="print the result as a JSON object")
    parser.set_defaults(run=run_ping)


def run_ping(arguments: argparse.Namespace) -> int:
    """Returns 0. AMQPError: the broker does not answer, or refuses."""
    parameters = shared.parameters_of(arguments)
    try:
        result = _measure(arguments, parameters)
    except Exception as error:
        if arguments.quiet:
            return 1
        if arguments.json:
            text = shared.told(error) if isinstance(error, AMQPError) else shared.masked(str(error))
            terminal.say_json({"ok": False, "url": shared.shown(parameters), "error": text})
        raise
    if arguments.quiet:
        return 0
    if arguments.json:
        terminal.say_json(result)
    else:
        _say(result)
    return 0


def _measure(arguments: argparse.Namespace, parameters: ConnectionParameters) -> dict[str, Any]:
    began = time.perf_counter()
    with shared.connected(arguments, parameters) as connection:
        opened = time.perf_counter()
        channel = connection.channel()
        trips = []
        for _ in range(arguments.count):
            asked = time.perf_counter()
            channel.basic_qos()  # the cheapest question that every broker answers
            trips.append(1000 * (time.perf_counter() - asked))
        properties = connection.server_properties
        return {
            "ok": True,
            "url": shared.shown(parameters),
            "tls": tls_of(parameters),
            "user": getattr(parameters.credentials, "username", None),
            "mechanism": parameters.credentials.mechanism,
            "virtual_host": parameters.virtual_host,
            "protocol": parameters.protocol,
            "product": properties.get("product"),
            "version": properties.get("version"),
            "platform": properties.get("platform"),
            "cluster_name": properties.get("cluster_name"),
            "frame_max": connection.frame_max,
            "channel_max": connection.channel_max,
            "heartbeat": connection.heartbeat,
            "connect_ms": round(1000 * (opened - began), 3),
            "round_trip_ms": {
                "min": round(min(trips), 3),
                "mean": round(sum(trips) / len(trips), 3),
                "max": round(max(trips), 3),
            },
        }


def tls_of(parameters: ConnectionParameters) -> str | None:
    """How the link is protected; None: not at all."""
    if parameters.ssl is None:
        return None
    verified = {0: "not verified", 1: "verified if there is a certificate", 2: "certificate verified"}
    checks_name = ", host name too" if parameters.ssl.check_hostname else ""
    return verified[parameters.ssl.verify_mode] + checks_name


def _say(result: dict[str, Any]) -> None:
    trip = result["round_trip_ms"]
    broker = [result["product"] or "a broker without a name", result["version"]]
    platform = f" ({result['platform']})" if result["platform"] else ""
    cluster = f", cluster {result['cluster_name']}" if result["cluster_name"] else ""
    heartbeat = f"heartbeat {result['heartbeat']} s" if result["heartbeat"] else "no heartbeats"
    rows = [
        ("reached", f"in {result['connect_ms']:.1f} ms"),
        ("TLS", result["tls"] or "no"),
        ("login", f"{result['user'] or 'no user name'}, {result['mechanism']}"),
        ("virtual host", result["virtual_host"]),
        ("broker", " ".join(filter(None, broker)) + platform + cluster),
        ("protocol", f"AMQP {result['protocol']}"),
        ("limits", f"frame_max {result['frame_max']}, channel_max {result['channel_max']}, {heartbeat}"),
        ("round trip", f"min {trip['min']:.2f}, mean {trip['mean']:.2f}, max {trip['max']:.2f} ms"),
    ]
    terminal.say(Coloured(result["url"], "bold"), " ", Coloured("answers", "green"))
    for name, text in rows:
        terminal.say_wrapped(f"  {name:<13} ", text=str(text))
