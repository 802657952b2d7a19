"""The commands `declare`, `bind`, `unbind`, `purge` and `delete`: queues, exchanges and bindings."""

from __future__ import annotations

import argparse
from typing import Any

from . import shared, terminal
from .forms import add_argument_option, table_of

JSON_HELP = "print the result as a JSON object"
BINDING_ARGUMENT = "an argument of the binding, as x-match=any and the headers for a headers exchange; may be repeated"


def add_parser(commands: Any) -> None:
    """Adds the commands to the subparsers of the command line."""
    _add_declare(commands)
    _add_bindings(commands)
    _add_purge(commands)
    _add_delete(commands)


def _add_declare(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "declare",
        "declare a queue or an exchange",
        "  cpspika declare queue tasks --type quorum\n  cpspika declare exchange logs --type topic --durable",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="queue|exchange")
    queue = _add_kind(
        kinds,
        "queue",
        "declare a queue: create it, or check that it exists with these properties",
        "  cpspika declare queue tasks --durable --argument x-max-length=1000",
    )
    queue.add_argument("name", metavar="NAME", help='name of the queue; "": the broker chooses one')
    queue.add_argument("--type", choices=["classic", "quorum", "stream"], help="quorum and stream are durable too")
    queue.add_argument("--auto-delete", action="store_true", help="it is deleted with its last consumer")
    queue.set_defaults(run=run_declare_queue)
    exchange = _add_kind(
        kinds,
        "exchange",
        "declare an exchange: create it, or check that it exists with these properties",
        "  cpspika declare exchange logs --type topic --durable",
    )
    exchange.add_argument("name", metavar="NAME", help="name of the exchange")
    exchange.add_argument("--type", default="direct", help="direct (the default), fanout, topic, headers or a plugin's")
    exchange.add_argument("--auto-delete", action="store_true", help="it is deleted with its last binding")
    exchange.add_argument("--internal", action="store_true", help="only other exchanges publish to it")
    exchange.set_defaults(run=run_declare_exchange)
    for one in (queue, exchange):
        one.add_argument("--durable", action="store_true", help="it survives a restart of the broker")
        one.add_argument("--passive", action="store_true", help="only check that the name exists")
        add_argument_option(one, "an argument, as x-message-ttl=60000; NAME:=JSON for other values; may be repeated")


def _add_kind(kinds: Any, name: str, summary: str, example: str) -> Any:
    """A command of two words."""
    parser = shared.add_command(kinds, name, summary, example)
    shared.add_broker_options(parser, json=JSON_HELP)
    return parser


def _add_bindings(commands: Any) -> None:
    for name, summary, run in (
        ("bind", "bind a queue, or an exchange, to an exchange", run_bind),
        ("unbind", "remove a binding", run_unbind),
    ):
        parser = shared.add_command(commands, name, summary, f"  cpspika {name} errors logs --routing-key '*.error'")
        parser.add_argument("destination", metavar="QUEUE", help="the queue to which the messages go")
        parser.add_argument("source", metavar="EXCHANGE", help="the exchange from which they come")
        parser.add_argument("--routing-key", default="", metavar="KEY", help="key, or pattern of a topic exchange")
        parser.add_argument("--to-exchange", action="store_true", help="QUEUE is the name of an exchange")
        add_argument_option(parser, BINDING_ARGUMENT)
        shared.add_broker_options(parser, json=JSON_HELP)
        parser.set_defaults(run=run)


def _add_purge(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "purge",
        "drop the messages of a queue",
        "  cpspika purge tasks",
        "Messages that a consumer has and did not acknowledge yet stay.",
    )
    parser.add_argument("queue", metavar="QUEUE")
    shared.add_broker_options(parser, json=JSON_HELP)
    parser.set_defaults(run=run_purge)


def _add_delete(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "delete",
        "delete a queue or an exchange",
        "  cpspika delete queue tasks --if-empty",
        "RabbitMQ takes a name that does not exist for deleted.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="queue|exchange")
    queue = _add_kind(kinds, "queue", "delete a queue with its messages", "  cpspika delete queue tasks --if-empty")
    queue.add_argument("name", metavar="NAME")
    queue.add_argument("--if-unused", action="store_true", help="fail if it has consumers")
    queue.add_argument("--if-empty", action="store_true", help="fail if it has messages")
    queue.set_defaults(run=run_delete_queue)
    exchange = _add_kind(kinds, "exchange", "delete an exchange with its bindings", "  cpspika delete exchange logs")
    exchange.add_argument("name", metavar="NAME")
    exchange.add_argument("--if-unused", action="store_true", help="fail if it has bindings")
    exchange.set_defaults(run=run_delete_exchange)


# --- running ----------------------------------------------------------------------------------------------------------


def run_declare_queue(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_declare`."""
    table = dict(arguments.argument)
    if arguments.type is not None:
        table["x-queue-type"] = arguments.type
    with shared.connected(arguments) as connection:
        ok = connection.channel().queue_declare(
            arguments.name,
            passive=arguments.passive,
            durable=arguments.durable or arguments.type in ("quorum", "stream"),
            auto_delete=arguments.auto_delete,
            arguments=table or None,
        )
    _tell(
        arguments,
        ok._asdict(),
        f"queue {ok.queue!r} is there: {terminal.messages(ok.message_count)} ready, {ok.consumer_count} consumers",
    )


def run_declare_exchange(arguments: argparse.Namespace) -> None:
    """Errors as of `exchange_declare`."""
    with shared.connected(arguments) as connection:
        connection.channel().exchange_declare(
            arguments.name,
            arguments.type,
            passive=arguments.passive,
            durable=arguments.durable,
            auto_delete=arguments.auto_delete,
            internal=arguments.internal,
            arguments=table_of(arguments.argument),
        )
    _tell(arguments, {"exchange": arguments.name}, f"exchange {arguments.name!r} is there")


def run_bind(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_bind` and `exchange_bind`."""
    _change_binding(arguments, "exchange_bind" if arguments.to_exchange else "queue_bind", "is bound to")


def run_unbind(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_unbind` and `exchange_unbind`."""
    _change_binding(arguments, "exchange_unbind" if arguments.to_exchange else "queue_unbind", "is not bound to")


def _change_binding(arguments: argparse.Namespace, operation: str, verb: str) -> None:
    destination, source, key = arguments.destination, arguments.source, arguments.routing_key
    with shared.connected(arguments) as connection:
        getattr(connection.channel(), operation)(destination, source, key, table_of(arguments.argument))
    kind = "exchange" if arguments.to_exchange else "queue"
    _tell(
        arguments,
        {kind if kind == "queue" else "destination": destination, "exchange": source, "routing_key": key},
        f"{kind} {destination!r} {verb} exchange {source!r} with routing key {key!r}",
    )


def run_purge(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_purge`."""
    with shared.connected(arguments) as connection:
        dropped = connection.channel().queue_purge(arguments.queue)
    _tell(
        arguments,
        {"queue": arguments.queue, "message_count": dropped},
        f"queue {arguments.queue!r}: {terminal.messages(dropped)} dropped",
    )


def run_delete_queue(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_delete`, and NotFound: RabbitMQ answers the deletion of what is not there as any other."""
    with shared.connected(arguments) as connection, connection.channel() as channel:
        channel.queue_declare(arguments.name, passive=True)
        dropped = channel.queue_delete(arguments.name, if_unused=arguments.if_unused, if_empty=arguments.if_empty)
    _tell(
        arguments,
        {"queue": arguments.name, "message_count": dropped},
        f"queue {arguments.name!r} is deleted, with {terminal.messages(dropped)}",
    )


def run_delete_exchange(arguments: argparse.Namespace) -> None:
    """Errors as of `exchange_delete`, and NotFound, as of `run_delete_queue`."""
    with shared.connected(arguments) as connection, connection.channel() as channel:
        channel.exchange_declare(arguments.name, passive=True)
        channel.exchange_delete(arguments.name, if_unused=arguments.if_unused)
    _tell(arguments, {"exchange": arguments.name}, f"exchange {arguments.name!r} is deleted")


def _tell(arguments: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    if arguments.json:
        terminal.say_json(result)
    else:
        terminal.say(text)
