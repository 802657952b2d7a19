"""The command `publish`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import MessageReturned
from . import shared, terminal
from .forms import add_property_options, properties_of
from .outbox import Outbox, lines_of

DETAILS = """\
The body is BODY, or the content of --file, or standard input; with --lines each line of these is a message. By default
each message is persistent and must be confirmed by the broker and reach a queue; else the status is 1."""


def add_parser(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    parser = shared.add_command(
        commands,
        "publish",
        "publish messages",
        "  cpspika publish --routing-key tasks 'hello'\n"
        "  tail -F app.log | cpspika publish --exchange logs --routing-key app.web --lines",
        DETAILS,
    )
    parser.add_argument("body", nargs="?", metavar="BODY", help="the body of the message, as UTF-8")
    parser.add_argument("--routing-key", required=True, metavar="KEY", help="without --exchange the name of a queue")
    parser.add_argument("--exchange", default="", help="default: the exchange that routes to the queue named KEY")
    parser.add_argument("--file", metavar="F", help="take the body from this file; -: standard input")
    parser.add_argument("--lines", action="store_true", help="each line is a message")
    parser.add_argument("--count", type=shared.count, metavar="N", help="publish the message so many times")
    parser.add_argument("--allow-unroutable", action="store_true", help="a message need not reach a queue")
    parser.add_argument(
        "--no-confirm", action="store_true", help="do not ask the broker to confirm; also a lost message counts"
    )
    add_property_options(parser)
    shared.add_broker_options(parser, json="print the number of messages as a JSON object")
    parser.set_defaults(run=run_publish)


def run_publish(arguments: argparse.Namespace) -> None:
    """Failure: a message was not confirmed. OSError: of the file."""
    if arguments.body is not None and (arguments.file is not None or arguments.lines):
        arguments.parser.error("BODY cannot be given together with --file or --lines")
    if arguments.count is not None and arguments.lines:
        arguments.parser.error("--count cannot be given together with --lines")
    properties = properties_of(arguments)
    with ExitStack() as stack:
        file = None
        if arguments.body is None:
            from_file = arguments.file not in (None, "-")
            file = stack.enter_context(Path(arguments.file).open("rb")) if from_file else sys.stdin.buffer
        body = b"" if arguments.lines else _body(arguments, file)
        connection = stack.enter_context(shared.connected(arguments))
        # Where lines are typed, their echo is the progress.
        has_progress = not terminal.is_terminal(file) if arguments.lines else arguments.count is not None
        progress = stack.enter_context(terminal.Progress("published", arguments.count, shown=has_progress))
        outbox = Outbox(
            connection,
            progress,
            shared.answer_time(arguments),
            patient=arguments.timeout is None,
            confirms=not arguments.no_confirm,
            mandatory=not (arguments.allow_unroutable or arguments.no_confirm),
        )
        bodies: Iterator[bytes] = iter([body] * (arguments.count or 1))
        if arguments.lines:
            bodies = lines_of(file, outbox)
        for number, one in enumerate(bodies, 1):
            if outbox.failed:
                break
            outbox.publish(number, arguments.exchange, arguments.routing_key, one, properties)
        outbox.finish()
    if outbox.failed:
        returned = any(isinstance(error, MessageReturned) for error, _ in outbox.failed.values())
        hint = "; --allow-unroutable permits that" if returned else ""
        raise shared.Failure(outbox.first_failure(_noun(arguments)) + hint)
    _tell(arguments, outbox.confirmed)


def _noun(arguments: argparse.Namespace) -> str | None:
    """The word for a message among others."""
    return "line" if arguments.lines else "message" if arguments.count else None


def _body(arguments: argparse.Namespace, file: Any) -> bytes:
    if file is not None:
        content: bytes = file.read()
        return content
    body: str = arguments.body
    return body.encode("utf-8", "surrogateescape")


def _tell(arguments: argparse.Namespace, number: int) -> None:
    if arguments.json:
        terminal.say_json({"published": number, "confirmed": 0 if arguments.no_confirm else number})
    else:
        verb = "sent, unconfirmed" if arguments.no_confirm else "published and confirmed"
        terminal.say(f"{terminal.messages(number)} {verb}")
