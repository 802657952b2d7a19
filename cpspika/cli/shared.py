"""The common parts of the commands that speak to a broker: options, the connection, and how a failure is told.

A command raises `Failure`, or lets an AMQPError or OSError pass; `cpspika.cli.main` tells each in one line and ends
with the status of `STATUS`. No text here contains a password.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from ..connecting import all_targets
from ..errors import AMQPError, ConnectError, InvalidArgument, InvalidArgumentType, LoginError, VirtualHostRefused
from ..parameters import ConnectionParameters
from ..reactor import Endpoint
from .terminal import harmless

if TYPE_CHECKING:
    from ..blocking import SelectConnection
    from ..threads import ThreadedConnection

URL = "CPSPIKA_URL"  # the environment variable with the broker's URL
DEFAULT_URL = "amqp://guest:guest@localhost/"
FAREWELL = 2.0  # seconds to wait for the answer to a close
ANSWER = 15.0  # seconds to wait for the broker, where --timeout does not say otherwise

STATUS = """\
exit status: 0, done; 1, it failed, and standard error says why; 2, wrong arguments; 130, Ctrl-C; 141, the reader of
standard output is gone."""


class Failure(Exception):
    """A command failed; the text says in one line what happened and what to do."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and show no password: a URL may stand where none belongs."""

    def error(self, message: str) -> NoReturn:
        text = harmless(one_line(masked(message)))
        self.exit(2, f"{self.prog}: error: {text} ('{self.prog} --help' shows the arguments)\n")


def masked(text: str) -> str:
    """The text with what stands between the name and the host of a URL replaced."""
    return re.sub(r"(:/+[^\s:/@]*):\S*@", r"\1:***@", text)


def one_line(text: str) -> str:
    return " ".join(text.split())


def told(error: AMQPError, hint: bool = True) -> str:
    """An error of the library in one line: what happened, to which operation. hint: name the command that says more."""
    text = error.plain() + (f" ({error.method})" if error.method not in (None, "connect") else "")
    if hint and isinstance(error, ConnectError) and not isinstance(error, (LoginError, VirtualHostRefused)):
        text += "; 'cpspika doctor' looks at each step of connecting"
    return one_line(masked(text))


# --- options ----------------------------------------------------------------------------------------------------------


def add_command(commands: Any, name: str, summary: str, example: str, details: str = "") -> Any:
    """Adds a command to the subparsers, and returns its parser. summary: in the list of commands; details: after it in
    the command's own help, before the example."""
    epilog = f"{details.strip()}\n\nexample:\n{example.rstrip()}\n\n{STATUS}".lstrip()
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(parser=parser)  # for errors in its arguments
    return parser


def add_broker_options(parser: Any, json: str, positional: bool = False, timeout: float | None = None) -> None:
    """Adds the options that name the broker. json: the help of --json. positional: the URL is the command's argument
    too. timeout: the default of --timeout; None: that of the URL to connect, and ANSWER for each answer."""
    group = parser.add_argument_group("broker")
    if positional:
        parser.add_argument("target", nargs="?", metavar="URL", help="as --url")
    group.add_argument(
        "--url",
        help=f"amqp://user:password@host:port/vhost, or amqps://; by default the environment variable {URL}, where "
        "other users of the machine do not see it, else amqp://guest:guest@localhost/",
    )
    group.add_argument(
        "--timeout",
        type=seconds,
        default=timeout,
        metavar="SECONDS",
        help=f"time to wait for the broker: to connect, and for each answer (default: {timeout or ANSWER:g})",
    )
    parser.add_argument("--json", action="store_true", help=json)


def seconds(text: str) -> float:
    """The type of an option: seconds above 0."""
    return _above_zero(text, "number of seconds")


def positive(text: str) -> float:
    """The type of an option: a number above 0."""
    return _above_zero(text, "number")


def _above_zero(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no {what} above 0")
    return number


def count(text: str) -> int:
    """The type of an option: a whole number from 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def whole(text: str) -> int:
    """The type of an option: a whole number from 0."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return number


# --- connecting -------------------------------------------------------------------------------------------------------


def given_url(arguments: argparse.Namespace) -> str:
    """The URL of the broker: of the command line, of the environment, or the default."""
    positional, option = getattr(arguments, "target", None), arguments.url
    if positional and option:
        arguments.parser.error("give the URL once, as the argument or as --url")
    return positional or option or os.environ.get(URL) or DEFAULT_URL


def parameters_of(arguments: argparse.Namespace) -> ConnectionParameters:
    """The parameters of the connection that the arguments ask for. Ends with a usage error if the URL is wrong."""
    options: dict[str, Any] = {"client_properties": {"connection_name": f"cpspika {arguments.command}"}}
    if arguments.timeout is not None:
        options["connection_timeout"] = arguments.timeout
    try:
        return all_targets(given_url(arguments), options)[0]
    except (InvalidArgument, InvalidArgumentType) as error:
        text = told(error)
    arguments.parser.error(text)  # does not return
    raise AssertionError


def shown(parameters: ConnectionParameters) -> str:
    """The broker as a URL without its password."""
    if parameters.via is not None:
        return "embedded://"
    user = getattr(parameters.credentials, "username", None)
    who = f"{quote(user, safe='', errors='surrogateescape')}@" if user is not None else ""
    vhost = quote(parameters.virtual_host, safe="", errors="surrogateescape")
    return f"{'amqps' if parameters.ssl else 'amqp'}://{who}{Endpoint(parameters.host, parameters.port)}/{vhost}"


def answer_time(arguments: argparse.Namespace) -> float:
    """Seconds to wait for an answer of the broker."""
    return ANSWER if arguments.timeout is None else float(arguments.timeout)


@contextmanager
def connected(
    arguments: argparse.Namespace, parameters: ConnectionParameters | None = None
) -> Iterator[SelectConnection]:
    """A connection in this thread: for commands that only wait for the broker. parameters: those of `parameters_of`, if
    the command has them already."""
    from ..adapters import SelectReactor
    from ..blocking import SelectConnection

    parameters = parameters or parameters_of(arguments)
    connection = SelectConnection(parameters, timeout=answer_time(arguments), reactor=SelectReactor())
    try:
        yield connection
    finally:
        close(connection)


def close(connection: SelectConnection) -> None:
    """Closes a connection whose work is done; an error of the close is ignored. A broker that blocks publishers may not
    read the close: its link is dropped at once."""
    core = connection.core
    try:
        if not core.is_blocked:
            connection.close(timeout=FAREWELL)
    except AMQPError:
        pass
    finally:
        core.abort()


@contextmanager
def connected_in_background(arguments: argparse.Namespace) -> Iterator[ThreadedConnection]:
    """A connection whose heartbeats go on while the command waits for a slow reader of its output. An error
    that belongs to no call is raised at the end."""
    from ..threads import ThreadedConnection

    strays: list[BaseException] = []
    parameters = parameters_of(arguments)
    with ThreadedConnection(parameters, timeout=answer_time(arguments), workers=1, on_error=strays.append) as made:
        yield made
    if strays:
        raise strays[0]


@contextmanager
def without_ctrl_c() -> Iterator[None]:
    """Ctrl-C goes to every process. Those that are started meanwhile inherit that they ignore it."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def missing_extra(what: str, error: ImportError) -> Failure:
    """The failure of a feature that needs the extra `cli`."""
    return Failure(f"{what} needs {error.name}, which is not installed: pip install 'cpspika[cli]'")


def program_name() -> str:
    """How the user called the program."""
    return "python -m cpspika" if os.path.basename(sys.argv[0]) == "__main__.py" else "cpspika"
