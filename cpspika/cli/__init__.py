"""The command line: `cpspika COMMAND`, or `python -m cpspika COMMAND`. Each family of commands is a module.

A module has `add_parser`, which adds its commands with `run` set to a function of the arguments. That returns the exit
status, or None for 0. `shared` says what a command may raise.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ..errors import AMQPError
from ..version import __version__
from . import terminal
from .shared import STATUS, URL, Failure, Parser, masked, one_line, program_name, told

INTERRUPTED, CLOSED_PIPE = 130, 141  # as a shell shows the end by SIGINT and by SIGPIPE

# The commands, and the module of each. Only the module of the command that was asked for is imported.
COMMANDS = {
    "ping": "ping",
    "doctor": "doctor",
    "declare": "topology",
    "bind": "topology",
    "unbind": "topology",
    "purge": "topology",
    "delete": "topology",
    "publish": "publish",
    "get": "consume",
    "consume": "consume",
    "tail": "consume",
    "dump": "transfer",
    "load": "transfer",
    "bench": "bench",
    "broker": "broker",
    "simulate": "simulate",
}
EPILOG = f"""\
The broker's URL is given by --url, or by the environment variable {URL}; without both it is
amqp://guest:guest@localhost/. "COMMAND --help" shows an example of each.

{STATUS}"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command. argv: the arguments; by default those of the process. SystemExit: with the status, if that is not
    0."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a text that the terminal's encoding lacks is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    terminal.note_log()
    try:
        try:
            status = _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = CLOSED_PIPE
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status:
        sys.exit(status)


def _run(argv: list[str]) -> int:
    name = argv[0] if argv else ""
    arguments = _parser(name).parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except Failure as failure:
        text = str(failure)
    except BrokenPipeError:
        raise
    except AMQPError as error:
        text = told(error)
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    terminal.note(f"cpspika {arguments.command}: {one_line(masked(text))}")
    return 1


def _parser(name: str) -> argparse.ArgumentParser:
    """The parser of a command; of all commands, if there is none of this name."""
    parser = Parser(
        prog=program_name(),
        description="AMQP 0-9-1 and 0-8: tools for RabbitMQ and other brokers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cpspika {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module_name in [COMMANDS[name]] if name in COMMANDS else dict.fromkeys(COMMANDS.values()):
        module: Any = import_module(f".{module_name}", __name__)
        module.add_parser(commands)
    return parser
