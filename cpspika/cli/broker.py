"""The command `python -m cpspika broker`: runs the embedded broker, for AMQP clients in any language."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from ..adapters import SelectReactor
from ..broker import Broker
from ..broker.ack_timeouts import CONSUMER_TIMEOUT
from ..broker.rules import PRETENDED, VERSIONS
from ..broker.server import MEMORY_HIGH

USERS = "CPSPIKA_BROKER_USERS"  # the environment variable with users, one a line

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
    parser.add_argument("--users-file", metavar="FILE", help=f"more users, one a line; as in the variable {USERS}")
    parser.add_argument("--allow-remote-guest", action="store_true", help="let guest log in from beyond loopback")
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
    parser.add_argument(
        "--consumer-timeout",
        type=_seconds,
        default=CONSUMER_TIMEOUT,
        metavar="SECONDS",
        help="time for which a client may hold a delivery without acknowledging it; 0: no limit",
    )
    parser.set_defaults(run=run_broker, parser=parser)


def run_broker(arguments: argparse.Namespace) -> None:
    """Listens, prints the URL, and runs until SIGINT or SIGTERM. SystemExit: the address cannot be used."""
    try:
        users = _users(arguments)
    except (OSError, ValueError) as error:
        arguments.parser.error(str(error))
    logging.basicConfig(format="%(message)s")  # else what goes wrong inside the broker is not shown
    reactor = SelectReactor()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: reactor.call_soon_threadsafe(reactor.stop))
    reactor.on_error = lambda error: logging.error("an internal error of the broker; it continues", exc_info=error)
    vhosts = ["/", *(arguments.vhost or [])]
    options = {
        "pretend": arguments.pretend,
        "like": arguments.like,
        "allow_remote_guest": arguments.allow_remote_guest,
        "consumer_timeout": arguments.consumer_timeout or None,
    }
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


def _users(arguments: argparse.Namespace) -> dict[str, str]:
    """Passwords by user name: from the environment, the file and the command line. The last one of a name counts."""
    lines = os.environ.get(USERS, "").splitlines()
    if arguments.users_file is not None:
        lines += Path(arguments.users_file).read_text("utf-8").splitlines()
    lines += arguments.user or []
    users: dict[str, str] = {}
    for line in lines:
        name, colon, password = line.partition(":")
        if name.startswith("#") or not line.strip():
            continue
        if not (name and colon):
            raise ValueError(f"a user is given as NAME:PASSWORD; {name!r} has no password or no name")
        users[name] = password
    return users or {"guest": "guest"}


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return seconds


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is not between 0 and 65535")
    return port
