"""The commands `get`, `consume` and `tail`: messages to standard output or to files."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from ..wire.message import Message
from . import shared, terminal
from .forms import PROPERTIES, add_argument_option, table_of, to_form

PREFETCH = 100
LOOK = 0.5  # seconds between two looks whether the reader of standard output is gone, while no message comes
TAIL_LIMIT = 10_000  # messages that wait in the broker for a terminal that stands still; older ones are dropped


def add_parser(commands: Any) -> None:
    """Adds the commands to the subparsers of the command line."""
    _add_get(commands)
    _add_consume(commands)
    _add_tail(commands)


def _add_get(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "get",
        "take messages from a queue, one by default",
        "  cpspika get tasks\n  cpspika get tasks --keep --json",
        "A message is acknowledged when it is written. An empty queue gives the status 1.",
    )
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("--count", type=shared.count, default=1, metavar="N", help="at most so many (default: 1)")
    parser.add_argument("--keep", action="store_true", help="put them back: they stay in the queue")
    _add_output_options(parser)
    shared.add_broker_options(parser, json="print each message as a JSON object in a line")
    parser.set_defaults(run=run_get)


def _add_consume(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "consume",
        "consume a queue",
        "  cpspika consume tasks --count 10 --json\n  cpspika consume images --directory ./images --timeout 5",
        "A message is acknowledged when it is written. With --count exactly so many leave the queue; with\n"
        "--no-ack the broker may have sent more, and these are lost. Without --count and --timeout it goes on until\n"
        "Ctrl-C. If --timeout passes without a message before --count have come, the status is 1.",
    )
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("--count", type=shared.count, metavar="N", help="end after so many messages")
    settling = parser.add_mutually_exclusive_group()
    settling.add_argument("--keep", action="store_true", help="acknowledge none: all go back when the command ends")
    settling.add_argument("--no-ack", action="store_true", help="the broker forgets a message when it has sent it")
    parser.add_argument(
        "--prefetch",
        type=shared.count,
        default=PREFETCH,
        metavar="N",
        help=f"messages on the way at a time (default: {PREFETCH})",
    )
    parser.add_argument("--exclusive", action="store_true", help="fail if another consumes the queue")
    add_argument_option(parser, "an argument of the consumer, as x-stream-offset=first; may be repeated")
    _add_output_options(parser)
    shared.add_broker_options(parser, json="print each message as a JSON object in a line")
    parser.set_defaults(run=run_consume)


def _add_tail(commands: Any) -> None:
    parser = shared.add_command(
        commands,
        "tail",
        "show what passes through an exchange",
        "  cpspika tail logs '*.error'",
        "A private queue is bound to the exchange, and goes when the command ends; other queues get what they got\n"
        "before. A direct exchange needs the exact KEY: of its messages '#' matches none.",
    )
    parser.add_argument("exchange", metavar="EXCHANGE")
    parser.add_argument(
        "routing_keys", metavar="KEY", nargs="*", help="routing key, or pattern of a topic exchange (default: #)"
    )
    parser.add_argument("--count", type=shared.count, metavar="N", help="end after so many messages")
    parser.add_argument("--whole", action="store_true", help="show bodies whole, in as many lines as they have")
    add_argument_option(parser, "an argument of the binding, as x-match=any and the headers; may be repeated")
    shared.add_broker_options(parser, json="print each message as a JSON object in a line")
    parser.set_defaults(run=run_tail)


def _add_output_options(parser: Any) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--raw", action="store_true", help="print bodies as they are, without a line end after each")
    where.add_argument(
        "--directory", type=Path, metavar="DIR", help="write each body to a new file there; prints the files' names"
    )


# --- running ----------------------------------------------------------------------------------------------------------


def run_get(arguments: argparse.Namespace) -> int:
    """Returns 1 if the queue is empty. Errors as of `basic_get`."""
    write = _writer(arguments)
    with shared.connected_in_background(arguments) as connection:
        channel = connection.channel()
        for done in range(arguments.count):
            message = channel.basic_get(arguments.queue)
            if message is None:
                if not done:
                    terminal.note(f"cpspika get: queue {arguments.queue!r} is empty")
                return 0 if done else 1
            write(message)
            if not arguments.keep:
                message.ack()
        # With --keep the end of the channel puts them back: earlier, the next get would bring the same one.
    return 0


def run_consume(arguments: argparse.Namespace) -> int:
    """Returns 1 if fewer messages came than were asked for. Errors as of `consume`, and OSError for a file."""
    write = _writer(arguments)
    settles = not (arguments.keep or arguments.no_ack)
    with shared.connected_in_background(arguments) as connection:
        channel = connection.channel()
        wanted = arguments.count
        prefetch = (wanted or 0) if arguments.keep else min(arguments.prefetch, wanted or arguments.prefetch)
        channel.basic_qos(prefetch_count=prefetch)
        messages = channel.consume(
            arguments.queue,
            no_ack=arguments.no_ack,
            exclusive=arguments.exclusive,
            arguments=table_of(arguments.argument),
            inactivity_timeout=arguments.timeout,
        )
        done, held = 0, None
        try:
            for message in _while_read(messages):
                write(message)
                done += 1
                # The broker sends a message for each that is acknowledged. So the last ones are acknowledged together,
                # at the end: none beyond --count leaves the queue.
                held = message if settles else None
                if held is not None and (wanted is None or done <= wanted - prefetch):
                    held.ack()
                    held = None
                if done == wanted:
                    return 0
        finally:
            if held is not None and channel.is_open:
                held.ack(multiple=True)
            messages.close()
    if wanted is None:
        return 0
    terminal.note(f"cpspika consume: {done} of {wanted} messages came; none in the last {arguments.timeout:g} s")
    return 1


def run_tail(arguments: argparse.Namespace) -> None:
    """Errors as of `queue_bind`."""
    if not arguments.exchange:
        arguments.parser.error("nothing can be bound to the default exchange, so it cannot be watched; name another")
    keys = arguments.routing_keys or ["#"]
    shows = _form_writer(None) if arguments.json else _passing_writer(arguments.whole)
    with shared.connected_in_background(arguments) as connection:
        channel = connection.channel()
        limit = {"x-max-length": TAIL_LIMIT}
        queue = channel.queue_declare("", exclusive=True, auto_delete=True, arguments=limit).queue
        for key in keys:
            channel.queue_bind(queue, arguments.exchange, key, table_of(arguments.argument))
        messages = channel.consume(queue, no_ack=True, inactivity_timeout=arguments.timeout)
        where = f"exchange {arguments.exchange!r}, {', '.join(map(repr, keys))}"
        terminal.note(f"cpspika tail: {where}; Ctrl-C ends it")
        try:
            for done, message in enumerate(_while_read(messages), 1):
                shows(message)
                if done == arguments.count:
                    return
        finally:
            messages.close()


def _while_read(messages: Any) -> Iterator[Message]:
    """The messages of a consumer. BrokenPipeError: nobody reads standard output any more; seen also while no message
    comes."""
    poll = _pipe_watch()
    if poll is None:
        yield from messages
        return
    import threading

    # The iterator waits in this thread, so another one looks. It ends the iteration as a closed consumer does.
    gone, over = threading.Event(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            if poll():
                gone.set()
                with suppress(Exception):
                    messages.close()
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield from messages
    finally:
        over.set()
    if gone.is_set():
        raise BrokenPipeError


def _pipe_watch() -> Callable[[], bool] | None:
    """A function that says whether the reader of standard output is gone; None where that cannot be seen."""
    if not hasattr(select, "poll"):
        return None
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):
        return None
    poll = select.poll()
    poll.register(number, 0)  # errors and hang-ups are reported unasked
    return lambda: any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


# --- output -----------------------------------------------------------------------------------------------------------


def _writer(arguments: argparse.Namespace) -> Callable[[Message], object]:
    """A function that writes a message, so that it may be acknowledged after it."""
    directory = arguments.directory
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
        return _file_writer(directory, arguments)
    if arguments.json:
        return _form_writer(arguments.queue)
    return _body_writer(arguments.raw)


def _form_writer(queue: str | None) -> Callable[[Message], object]:
    def write(message: Message) -> None:
        terminal.say_json(to_form(message, queue))
        sys.stdout.flush()

    return write


def _body_writer(raw: bool) -> Callable[[Message], object]:
    def write(message: Message) -> None:
        if not raw and terminal.is_terminal(sys.stdout):
            terminal.say(terminal.legible(message.body), lines=True)
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(message.body if raw else message.body + b"\n")
        sys.stdout.flush()

    return write


def _file_writer(directory: Path, arguments: argparse.Namespace) -> Callable[[Message], object]:
    """Writes bodies to new files: 000001, 000002... A file has its name when it is whole and on the disk."""
    numbers = count(1)

    def write(message: Message) -> None:
        part = directory / f".{os.getpid()}.part"
        with part.open("wb") as file:
            file.write(message.body)
            file.flush()
            os.fsync(file.fileno())
        path = _rename_to_new(part, directory, numbers)
        if arguments.json:
            form = to_form(message, arguments.queue)
            for name in ("body", "body_encoding"):
                form.pop(name, None)
            terminal.say_json({**form, "file": str(path)})
        else:
            terminal.say(str(path))
        sys.stdout.flush()

    return write


def _rename_to_new(part: Path, directory: Path, numbers: Iterator[int]) -> Path:
    """Gives a file the next name that no file has."""
    while True:
        path = directory / f"{next(numbers):06}"
        try:
            path.open("xb").close()
        except FileExistsError:
            continue
        return part.replace(path)


def _passing_writer(whole: bool) -> Callable[[Message], object]:
    """Shows a message of `tail`: when, where to, its properties, its body."""
    fits = terminal.is_terminal(sys.stdout) and not whole

    def write(message: Message) -> None:
        time = datetime.now().strftime("%H:%M:%S.%f")[:-3]
        key, about = terminal.harmless(message.routing_key), terminal.harmless(_about(message))
        body = terminal.legible(message.body)
        if fits:
            used = terminal.cells("  ".join(filter(None, [time, key, about]))) + 2
            # A terminal that has no room for both has a second line for the body.
            body = terminal.fitted(terminal.harmless(body), max(terminal.columns(sys.stdout) - used, 20))
        parts: list[str | terminal.Coloured] = [terminal.Coloured(time, "dim"), "  ", terminal.Coloured(key, "cyan")]
        if about:
            parts += ["  ", terminal.Coloured(about, "yellow")]
        if whole:
            terminal.say(*parts)
            terminal.say(body, lines=True)
        else:
            terminal.say(*parts, "  ", body)
        sys.stdout.flush()

    return write


def _about(message: Message) -> str:
    """The properties, in few words."""
    properties: list[str] = []
    for name in PROPERTIES:
        value = getattr(message.properties, name)
        if name == "headers":
            properties += [f"{key}={item!r}" for key, item in (value or {}).items()]
        elif value is not None and name != "delivery_mode":
            properties.append(f"{name}={value}")
    return " ".join(properties)
