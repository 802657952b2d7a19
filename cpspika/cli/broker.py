"""The command `python -m cpspika broker`: runs the embedded broker, for AMQP clients in any language."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import Any

from ..adapters import SelectReactor
from ..broker import Broker
from ..broker.rules import PRETENDED, VERSIONS
from ..broker.server import MEMORY_HIGH

LIMITS = """\
This broker is for tests and first steps. It stores nothing on disk: all messages, queues and exchanges are lost when it
ends, durable ones too. It is one process, without a cluster, plugins or management. For production use RabbitMQ.
"""


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = commands.add_parser(
        "broker",
        help="run the embedded broker",
        description="Runs an AMQP 0-9-1 and 0-8 broker in memory.",
        epilog=LIMITS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; for any other than loopback, set --user"
    )
    parser.add_argument("--port", type=_port, default=5672, help="port to listen at; 0: a free port")
    parser.add_argument(
        "--user",
        action="append",
        metavar="NAME:PASSWORD",
        help="a user that may log in; may be repeated; without it guest:guest",
    )
    parser.add_argument("--vhost", action="append", metavar="NAME", help="a virtual host besides /; may be repeated")
    parser.add_argument(
        "--memory",
        type=int,
        default=MEMORY_HIGH >> 20,
        metavar="MIB",
        help="size of all messages, in MiB, from which on publishers are stopped",
    )
    parser.add_argument(
        "--pretend",
        action="append",
        choices=PRETENDED,
        default=[],
        help="accept queues of this type without their promises, as one copy in memory",
    )
    parser.add_argument("--like", choices=VERSIONS, default="3.10", help="version of RabbitMQ to answer as")
    parser.set_defaults(run=run_broker)


def run_broker(arguments: argparse.Namespace) -> None:
    """Listens, prints the URL, and runs until SIGINT or SIGTERM. SystemExit: the address cannot be used."""
    users = dict(pair.partition(":")[::2] for pair in arguments.user or ["guest:guest"])
    reactor = SelectReactor()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.call_soon_threadsafe(reactor.stop))
    reactor.on_error = lambda error: logging.error("an internal error of the broker; it continues", exc_info=error)
    vhosts = ["/", *(arguments.vhost or [])]
    options = {"pretend": arguments.pretend, "like": arguments.like}
    broker = Broker(reactor, users, vhosts, arguments.memory << 20, **options)
    try:
        listener = broker.listen(arguments.host, arguments.port)
    except OSError as error:
        sys.exit(f"the broker cannot listen at {arguments.host}:{arguments.port}: {error.strerror or error}")
    where = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    print(f"cpspika broker, listening at amqp://{where}:{listener.port} (in memory; Ctrl-C ends it)", flush=True)
    reactor.run()
    broker.end()
    reactor.close()
    print("cpspika broker, ended", flush=True)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port
