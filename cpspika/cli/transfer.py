"""The commands `dump` and `load`: the messages of a queue to a file and back.

At least once: `dump` acknowledges messages when their lines are on the disk, and `load` counts a message when the
broker has confirmed it. So an interruption loses none. It may leave some both in the file and in the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import AMQPError, InvalidArgument, InvalidArgumentType
from ..wire.message import Message
from . import shared, terminal
from .forms import FormError, Stored, from_form, to_form
from .outbox import Outbox, lines_of

BATCH = 500  # messages that one fsync is for, at most
BATCH_BYTES = 4 << 20  # size of their bodies, about


def add_parser(commands: Any) -> None:
    """Adds the commands to the subparsers of the command line."""
    parser = shared.add_command(
        commands,
        "dump",
        "move the messages of a queue to a file, one JSON object a line",
        "  cpspika dump tasks tasks.jsonl",
        "A message leaves the queue when its line is on the disk. It ends when the queue is empty. After an\n"
        "interruption some messages may be in the file and in the queue.",
    )
    parser.add_argument("queue", metavar="QUEUE")
    parser.add_argument("file", metavar="FILE", help="a new file; -: standard output")
    parser.add_argument("--append", action="store_true", help="add to a file that has messages already")
    parser.add_argument("--keep", action="store_true", help="copy: the messages go back when all are written")
    parser.add_argument("--count", type=shared.count, metavar="N", help="at most so many")
    shared.add_broker_options(parser, json="print the number of messages as a JSON object")
    parser.set_defaults(run=run_dump)

    parser = shared.add_command(
        commands,
        "load",
        "publish the messages of a file that 'dump' wrote",
        "  cpspika load tasks.jsonl\n  cpspika load tasks.jsonl --queue repaired",
        "Each message goes to the queue that it came from. It counts when the broker has confirmed it. If one fails,\n"
        "the error says its line; --from-line goes on there. 'consume --json' writes files of the same form.",
    )
    parser.add_argument("file", metavar="FILE", help="-: standard input")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--queue", metavar="Q", help="publish all to this queue")
    where.add_argument(
        "--route-again",
        action="store_true",
        help="publish to the exchange and routing key that a message had; each queue bound there gets it",
    )
    parser.add_argument("--from-line", type=shared.count, default=1, metavar="N", help="leave out the lines before")
    shared.add_broker_options(parser, json="print the number of messages as a JSON object")
    parser.set_defaults(run=run_load)


# --- dump -------------------------------------------------------------------------------------------------------------


def run_dump(arguments: argparse.Namespace) -> None:
    """Errors as of `basic_get`, and OSError of the file."""
    to_stdout = arguments.file == "-"
    if to_stdout and arguments.json:
        arguments.parser.error("--json and FILE - would both write to standard output")
    with ExitStack() as stack:
        connection = stack.enter_context(shared.connected(arguments))
        channel = connection.channel()
        total = channel.queue_declare(arguments.queue, passive=True).message_count
        if arguments.count is not None:
            total = min(total, arguments.count)
        file = sys.stdout.buffer if to_stdout else stack.enter_context(_opened(Path(arguments.file), arguments.append))
        progress = stack.enter_context(terminal.Progress("dumped", total, shown=not to_stdout))
        for messages in _batches(connection, channel, arguments):
            _write(file, [json.dumps(to_form(message, arguments.queue), allow_nan=False) for message in messages])
            if not arguments.keep:
                messages[-1].ack(multiple=True)
            progress.advance(len(messages))
        channel.close()  # answered when the broker has seen the acknowledgements
    if arguments.json:
        terminal.say_json({"queue": arguments.queue, "file": arguments.file, "messages": progress.done})
    elif not to_stdout:
        kept = ", and left in the queue" if arguments.keep else ""
        terminal.say(
            f"{terminal.messages(progress.done)} of queue {arguments.queue!r} written to {arguments.file}{kept}"
        )


@contextmanager
def _opened(path: Path, append: bool) -> Iterator[Any]:
    """The file, to add lines to. Failure: it has lines already, and they are not to be added to."""
    if path.exists() and path.stat().st_size:
        if not append:
            raise shared.Failure(f"{path} is not empty; take another file, or add to it with --append")
        _end_last_line(path)
    was_there = path.exists()
    with _removed_if_unused(None if was_there else path), path.open("ab") as file:
        if os.name == "posix":  # so that the file's name is on the disk too
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        yield file


@contextmanager
def _removed_if_unused(path: Path | None) -> Iterator[None]:
    """Removes a new file that a failure has left empty."""
    try:
        yield
    except BaseException:
        if path is not None and path.exists() and not path.stat().st_size:
            path.unlink()
        raise


def _end_last_line(path: Path) -> None:
    """Removes a last line that is cut off: a dump was interrupted in it, so its message is still in its queue."""
    with path.open("r+b") as file:
        begin = size = file.seek(0, os.SEEK_END)
        last = b""
        while begin and b"\n" not in last:
            step = min(65536, begin)
            begin = file.seek(begin - step)
            last = file.read(step) + last
        last = last[last.rfind(b"\n") + 1 :]
        if last:
            try:
                json.loads(last)
            except ValueError:
                file.truncate(size - len(last))
            else:
                file.seek(size)
                file.write(b"\n")


def _batches(connection: Any, channel: Any, arguments: argparse.Namespace) -> Iterator[list[Message]]:
    """The messages of the queue, in order, until it is empty. The next ones are on their way while a batch is worked
    on."""
    left = float("inf") if arguments.count is None else arguments.count
    size = 1
    answers = _ask(channel, arguments.queue, size)
    while size:
        messages = _take(connection, answers, size, shared.answer_time(arguments))
        left -= len(messages)
        if len(messages) < size or not left:  # the queue is empty, or these are enough
            size = 0
        else:
            mean = max(1, sum(len(message.body) for message in messages) // len(messages))
            size = int(max(1, min(BATCH, size * 4, BATCH_BYTES // mean, left)))
            answers = _ask(channel, arguments.queue, size)
        if messages:
            yield messages


def _ask(channel: Any, queue: str, number: int) -> list[Any]:
    """Asks for so many messages; the list gets the answers in order."""
    answers: list[Any] = []
    for _ in range(number):
        channel.core.basic_get(queue, on_done=lambda err, message: answers.append(err or message))
    return answers


def _take(connection: Any, answers: list[Any], number: int, timeout: float) -> list[Message]:
    """The messages among so many answers, when all have come. AMQPError: one is an error."""
    reactor = connection.reactor
    deadline = reactor.time() + timeout
    while len(answers) < number:
        left = deadline - reactor.time()
        if left <= 0:
            raise shared.Failure(f"the broker has not answered for {timeout:g} s (basic.get)")
        reactor.run_once(left)
    for answer in answers:
        if isinstance(answer, AMQPError):
            raise answer
    return [answer for answer in answers if answer is not None]


def _write(file: Any, lines: list[str]) -> None:
    """Writes lines, to the disk if the file is on one. OSError: it failed, and nothing of them is in the file, if that
    could be undone."""
    on_disk = file is not sys.stdout.buffer
    before = file.tell() if on_disk else 0
    try:
        file.write("".join(line + "\n" for line in lines).encode("ascii"))
        file.flush()
        if on_disk:
            os.fsync(file.fileno())
    except OSError:
        if on_disk:
            with suppress(OSError):
                os.ftruncate(file.fileno(), before)
        raise


# --- load -------------------------------------------------------------------------------------------------------------


def run_load(arguments: argparse.Namespace) -> None:
    """Failure: a line is no message, or a message was not confirmed; it says which. OSError: of the file."""
    with ExitStack() as stack:
        from_stdin = arguments.file == "-"
        file = sys.stdin.buffer if from_stdin else stack.enter_context(Path(arguments.file).open("rb"))
        connection = stack.enter_context(shared.connected(arguments))
        progress = stack.enter_context(terminal.Progress("loaded", shown=not terminal.is_terminal(file)))
        outbox = Outbox(connection, progress, shared.answer_time(arguments), patient=arguments.timeout is None)
        wrong = _publish_lines(arguments, file, outbox)
        outbox.finish()
    if outbox.failed:
        first = min(outbox.failed)
        raise shared.Failure(f"{arguments.file} {outbox.first_failure('line')}; --from-line {first} goes on there")
    if wrong is not None:
        number, fault = wrong
        done = f"before it {terminal.messages(outbox.confirmed)} confirmed; --from-line {number} goes on there"
        raise shared.Failure(f"{arguments.file} line {number}: {fault}; {done}")
    if arguments.json:
        terminal.say_json({"file": arguments.file, "messages": outbox.confirmed})
    else:
        terminal.say(f"{terminal.messages(outbox.confirmed)} of {arguments.file} published and confirmed")


def _publish_lines(arguments: argparse.Namespace, file: Any, outbox: Outbox) -> tuple[int, str] | None:
    """Publishes each line. Returns the number of one that is no message, and what is wrong with it; or None."""
    for number, line in enumerate(lines_of(file, outbox), 1):
        if outbox.failed:
            break
        if number < arguments.from_line or not line.strip():
            continue
        try:
            stored = _parsed(line)
            exchange, routing_key = _destination(arguments, stored)
            outbox.publish(number, exchange, routing_key, stored.body, stored.properties)
        except (FormError, InvalidArgument, InvalidArgumentType) as error:
            return number, str(error)
    return None


def _parsed(line: bytes) -> Stored:
    try:
        form = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FormError(f"no JSON: {error}; where 'dump' was interrupted, the last line may be cut off") from None
    return from_form(form)


def _destination(arguments: argparse.Namespace, stored: Stored) -> tuple[str, str]:
    """(exchange, routing key) to publish a message to."""
    if arguments.queue is not None:
        return "", arguments.queue
    if arguments.route_again or stored.queue is None:
        return stored.exchange, stored.routing_key
    return "", stored.queue
