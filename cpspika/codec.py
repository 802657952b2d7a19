"""Compiles the rows of `spec` into encoders and decoders of one version.

A row becomes a list of steps, each the reader or writer of a type; a run of bits becomes one step, since they share
octets (0-9-1 §4.2.5.2). A row is compiled when it is first used: a program needs few of them, and import stays cheap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from . import fields, spec
from .errors import InvalidArgument, NotInThisVersion, ProtocolSyntaxError, UnknownMethodError

SECRETS = frozenset(("response", "new_secret"))  # arguments that no repr may show

_DEFAULTS: dict[str, Any] = {"bit": False, "shortstr": "", "longstr": b"", "table": None, "timestamp": 0}
_READ: dict[str, fields.Reader] = {
    "octet": fields.read_octet,
    "short": fields.read_short,
    "long": fields.read_long,
    "longlong": fields.read_longlong,
    "shortstr": fields.read_shortstr,
    "longstr": fields.read_longstr,
    "table": fields.read_table,
    "timestamp": fields.read_timestamp,
}
_WRITE: dict[str, fields.Writer] = {
    "octet": fields.write_octet,
    "short": fields.write_short,
    "long": fields.write_long,
    "longlong": fields.write_longlong,
    "shortstr": fields.write_shortstr,
    "longstr": fields.write_longstr,
    "table": fields.write_table,
    "timestamp": fields.write_timestamp,
}


class Method:
    """A method with its arguments by name: `ok.message_count`. The names are the specification's, with underscores."""

    __slots__ = ("__dict__", "name")

    def __init__(self, name: str, arguments: dict[str, Any]):
        self.name = name
        self.__dict__ = arguments

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @property
    def arguments(self) -> dict[str, Any]:
        return self.__dict__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Method) and (self.name, self.arguments) == (other.name, other.arguments)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={'...' if name in SECRETS else repr(value)}" for name, value in self.arguments.items()
        )
        return f"{self.name}({shown})"


class Codec:
    """Encoders and decoders of one version. `Codec.of(version)` makes it once."""

    def __init__(self, version: str):
        self.version = version
        self.classes = {row.class_index: row for row in spec.load(version)}
        self.by_name = {method.name: method for row in self.classes.values() for method in row.methods}
        self.by_index = {(method.class_index, method.method_index): method for method in self.by_name.values()}
        self._encoders: dict[str, Callable[[dict[str, Any]], bytes]] = {}
        self._decoders: dict[str, Callable[[bytes], dict[str, Any]]] = {}

    @staticmethod
    @cache
    def of(version: str) -> Codec:
        return Codec(version)

    def row(self, name: str) -> spec.Method:
        row = self.by_name.get(name)
        if row is None:
            raise NotInThisVersion(f"AMQP {self.version} has no {name}")
        return row

    def encode(self, name: str, arguments: dict[str, Any]) -> bytes:
        """The payload of a method frame. What isn't given is sent empty; InvalidArgument, InvalidArgumentType: what is
        given cannot be sent."""
        encoder = self._encoders.get(name)
        if encoder is None:
            encoder = self._encoders[name] = self._encoder(self.row(name))
        return encoder(arguments)

    def decode(self, payload: bytes) -> Method:
        """The method in a method frame's payload. UnknownMethodError, ProtocolSyntaxError: there is none, or it is
        malformed."""
        row = self._row_of(payload)
        decoder = self._decoders.get(row.name)
        if decoder is None:
            decoder = self._decoders[row.name] = _decoder(row.name, row.arguments, 4)
        return Method(row.name, decoder(payload))

    def _row_of(self, payload: bytes) -> spec.Method:
        if len(payload) < 4:
            raise ProtocolSyntaxError(f"a method frame of {len(payload)} bytes; its class and method alone take 4")
        index = _index.unpack_from(payload)
        row = self.by_index.get(index)
        if row is None:
            raise UnknownMethodError(f"AMQP {self.version} has no method {index[1]} in class {index[0]}")
        return row

    def _encoder(self, row: spec.Method) -> Callable[[dict[str, Any]], bytes]:
        head = _index.pack(row.class_index, row.method_index)
        steps = _write_steps(row.arguments, self.version)
        known = {argument.name for argument in row.arguments}

        def encode(arguments: dict[str, Any]) -> bytes:
            if not arguments.keys() <= known:
                unknown = ", ".join(sorted(arguments.keys() - known))
                raise InvalidArgument(f"{row.name} of AMQP {self.version} has no argument {unknown}")
            return head + b"".join([step(arguments) for step in steps])

        return encode


_index = struct.Struct(">HH")


def _write_steps(arguments: tuple[spec.Argument, ...], version: str) -> list[Callable[[dict[str, Any]], bytes]]:
    steps: list[Callable[[dict[str, Any]], bytes]] = []
    for run in _runs(arguments):
        if isinstance(run, list):
            steps.append(partial(_write_bits, run))
        else:
            write = _WRITE[run.type]
            if run.type == "table":
                write = partial(fields.write_table, dialect=version)
            steps.append(partial(_write_one, write, run.name, _DEFAULTS.get(run.type, 0)))
    return steps


def _write_one(write: fields.Writer, name: str, default: Any, arguments: dict[str, Any]) -> bytes:
    return write(name, arguments.get(name, default))


def _write_bits(names: list[str], arguments: dict[str, Any]) -> bytes:
    value = sum(1 << place for place, name in enumerate(names) if arguments.get(name))
    return value.to_bytes((len(names) + 7) // 8, "little")


def _runs(arguments: tuple[spec.Argument, ...]) -> list[spec.Argument | list[str]]:
    """The arguments, with each run of bits as one list of names."""
    runs: list[spec.Argument | list[str]] = []
    for argument in arguments:
        if argument.type != "bit":
            runs.append(argument)
        elif runs and isinstance(runs[-1], list):
            runs[-1].append(argument.name)
        else:
            runs.append([argument.name])
    return runs


def _decoder(what: str, arguments: tuple[spec.Argument, ...], begin: int) -> Callable[[bytes], dict[str, Any]]:
    steps = [
        (run, fields.read_octet) if isinstance(run, list) else (run.name, _READ[run.type]) for run in _runs(arguments)
    ]

    def decode(payload: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {}
        at = begin
        try:
            for names, read in steps:
                value, at = read(payload, at)
                if isinstance(names, list):
                    found.update((name, bool(value >> place & 1)) for place, name in enumerate(names))
                else:
                    found[names] = value
        except ProtocolSyntaxError as error:
            raise type(error)(f"{what} is malformed: {error.text}") from None
        if at != len(payload):
            raise ProtocolSyntaxError(f"{what} is malformed: {len(payload) - at} bytes follow its last argument")
        return found

    return decode


# --- content headers (0-9-1 §4.2.6.1) ---------------------------------------------------------------------------------


class PropertyCodec:
    """The properties of one class, to the flags and values of a content header and back."""

    def __init__(self, properties: tuple[spec.Argument, ...]):
        # The first property has the highest flag; bit 0 says that more flags follow, which no class needs.
        self._steps = [
            (1 << 15 - place, name, _READ[kind], _WRITE[kind]) for place, (name, kind) in enumerate(properties)
        ]
        self.names = [name for name, _ in properties]

    def encode(self, values: dict[str, Any]) -> bytes:
        flags, parts = 0, [b""]
        for flag, name, _, write in self._steps:
            value = values.get(name)
            if value is not None:
                flags |= flag
                parts.append(write(name, value))
        parts[0] = fields.write_short("flags", flags)
        return b"".join(parts)

    def decode(self, payload: bytes, at: int) -> dict[str, Any]:
        """The properties that are present, from flags and values at `at` to the end of the payload."""
        flags, at = fields.read_short(payload, at)
        if flags & 1:
            raise ProtocolSyntaxError("a content header has more property flags than its class has properties")
        found = {}
        for flag, name, read, _ in self._steps:
            if flags & flag:
                found[name], at = read(payload, at)
        if at != len(payload):
            raise ProtocolSyntaxError(f"{len(payload) - at} bytes follow the last property of a content header")
        return found


@cache
def property_codec(class_index: int) -> PropertyCodec:
    """The properties' codec of a content class; they are the same in all versions that have the class."""
    for version in spec.VERSIONS:
        for row in spec.load(version):
            if row.class_index == class_index:
                return PropertyCodec(row.properties)
    raise UnknownMethodError(f"no class {class_index} has a content")
