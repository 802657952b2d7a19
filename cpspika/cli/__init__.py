"""The command line, `python -m cpspika COMMAND`. Each command is a module."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..version import __version__
from . import broker, simulate


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command. argv: the arguments; by default those of the process. SystemExit: the arguments are wrong, or the
    command failed."""
    parser = argparse.ArgumentParser(prog="python -m cpspika", description="AMQP in continuation-passing style.")
    parser.add_argument("--version", action="version", version=f"cpspika {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    broker.add_parser(commands)
    simulate.add_parser(commands)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
