"""Compiles the rows of `spec` into encoders and decoders of one version.

For each method, the source of an encoder and of a decoder is generated, as somebody would write it by hand for this one
method; Python compiles it. Adjacent numbers and bits are read by one call of `struct`. A run of bits shares octets
(0-9-1 §4.2.5.2). An encoder is made for the arguments that are given, in their order; the other arguments are part of
constants. The functions are generated when a method is first used, because a program uses few methods, and import stays
cheap.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from .. import spec
from ..errors import InvalidArgument, NotInThisVersion, ProtocolSyntaxError, UnknownMethodError
from . import fields, peer_properties

SECRETS = frozenset(("response", "new_secret"))  # arguments whose values no repr may show

_DEFAULTS: dict[str, Any] = {"shortstr": "", "longstr": b"", "table": None}  # of the others: 0
_DECODE: dict[str, fields.FieldDecoder] = {
    "octet": fields.decode_octet,  # the numbers of a method are decoded together: see `_LAYOUT`
    "shortstr": fields.decode_shortstr,
    "longstr": fields.decode_longstr,
    "table": fields.decode_table,
    "timestamp": fields.decode_timestamp,
}
_ENCODE: dict[str, fields.FieldEncoder] = {
    "octet": fields.encode_octet,
    "short": fields.encode_short,
    "long": fields.encode_long,
    "longlong": fields.encode_longlong,
    "shortstr": fields.encode_shortstr,
    "longstr": fields.encode_longstr,
    "table": fields.encode_table,
    "timestamp": fields.encode_timestamp,
}


class Method:
    """A method with its arguments as attributes: `ok.message_count`. The names are those of the specification, with
    underscores.

    name: the whole name, "queue.declare-ok". arguments: the arguments by name."""

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
    """The encoders and decoders of one version of the protocol, "0-9-1" or "0-8".

    classes: rows of `spec` by class index. by_name: rows of methods by whole name. by_index: rows of methods by (class
    index, method index)."""

    def __init__(self, version: str):
        self.version = version
        self.classes = {row.class_index: row for row in spec.load(version)}
        self.by_name = {method.name: method for row in self.classes.values() for method in row.methods}
        self.by_index = {(method.class_index, method.method_index): method for method in self.by_name.values()}
        self._encoders: dict[tuple[str, ...], Encoder] = {}  # by the method's name and those of the arguments given
        self._decoders: dict[str, Decoder] = {}
        self._decoders_by_index: dict[bytes, Decoder] = {}  # by the first 4 bytes of a payload

    @staticmethod
    @cache
    def of(version: str) -> Codec:
        """The codec of a version; the same object each time."""
        return Codec(version)

    def method_name(self, class_index: int, method_index: int) -> str | None:
        """The name of a method, or None if the version has none with these numbers."""
        row = self.by_index.get((class_index, method_index))
        return row.name if row else None

    def row(self, name: str) -> spec.Method:
        """The row of a method. NotInThisVersion: this version has no such method."""
        row = self.by_name.get(name)
        if row is None:
            raise NotInThisVersion(f"AMQP {self.version} has no {name}")
        return row

    def encode(self, name: str, arguments: dict[str, Any]) -> bytes:
        """The payload of a method frame. An argument that isn't given is sent empty: 0, False, "" or an empty table.

        InvalidArgument, InvalidArgumentType: an argument cannot be encoded. NotInThisVersion: as of `row`."""
        names = (name, *arguments)
        encoder = self._encoders.get(names)
        if encoder is None:
            encoder = self._encoders[names] = self._encoder(self.row(name), names[1:])
        return encoder(*arguments.values())

    def decode(self, payload: bytes) -> Method:
        """The method in the payload of a method frame. UnknownMethodError: this version has no such method.
        ProtocolSyntaxError: the payload is malformed."""
        decoder = self._decoders_by_index.get(payload[:4])
        if decoder is None:
            decoder = self._decoders_by_index[payload[:4]] = self.decoder(self._row_of(payload).name)
        return decoder(payload, 4, len(payload))

    def decoder(self, name: str) -> Decoder:
        """The decoder of a method: decode(data, at, end) returns the method whose arguments are data[at:end].
        ProtocolSyntaxError: the arguments are malformed. The bytes behind `end` change neither result nor error."""
        decoder = self._decoders.get(name)
        if decoder is None:
            decoder = self._decoders[name] = _decoder(self.row(name))
        return decoder

    def _row_of(self, payload: bytes) -> spec.Method:
        if len(payload) < 4:
            raise ProtocolSyntaxError(
                f"a method frame has a payload of {len(payload)} bytes; class and method index alone have 4"
            )
        index = _index.unpack_from(payload)
        row = self.by_index.get(index)
        if row is None:
            raise UnknownMethodError(f"AMQP {self.version} has no method {index[1]} in class {index[0]}")
        return row

    def _encoder(self, row: spec.Method, given: tuple[str, ...]) -> Encoder:
        """Generates and compiles the encoder of a method for these arguments, in this order."""
        known = {argument.name for argument in row.arguments}
        if not known.issuperset(given):
            raise InvalidArgument(
                f"{row.name} of AMQP {self.version} has no argument {', '.join(sorted(set(given) - known))}; its "
                f"arguments are {', '.join(argument.name for argument in row.arguments) or 'none'}"
            )
        scope: dict[str, Any] = {
            **_ENCODE,
            "table": partial(fields.encode_table, dialect=self.version),
            "octets": _OCTETS,
        }
        variables = {name: f"v{index}" for index, name in enumerate(given)}
        layout, parts = _index.pack(row.class_index, row.method_index), []  # no index has a byte "%"
        for run in _runs(row.arguments):
            if isinstance(run, list):
                empty, value = b"\0", _bits(run, variables)
            else:
                empty = scope[run.type](run.name, _DEFAULTS.get(run.type, 0))
                value = _value(run, variables, empty)
            layout += b"%b" if value else empty
            parts.append(value)
        exec(_ENCODER.format(given=", ".join(variables.values()), layout=layout, parts="".join(parts)), scope)
        encode: Encoder = scope["encode"]
        return encode


Encoder = Callable[..., bytes]
Decoder = Callable[[bytes, int, int], Method]

_ENCODER = """
def encode({given}):
    return {layout} % ({parts})
"""


def _bits(run: list[str], variables: dict[str, str]) -> str:
    """The expression of the octet that holds a run of bits; "" if none is given. Mostly none is set."""
    masks = {variables[name]: 1 << bit for bit, name in enumerate(run) if name in variables}
    if not masks:
        return ""
    octet = " | ".join(f"({mask} if {variable} else 0)" for variable, mask in masks.items())
    return f"octets[{octet}] if {' or '.join(masks)} else octets[0], "


def _value(argument: spec.Argument, variables: dict[str, str], empty: bytes) -> str:
    """The expression of an encoded argument; "" if it is not given. Mostly a short string is short and ASCII, and there
    is no table."""
    if argument.name not in variables:
        return ""
    variable = variables[argument.name]
    encoded = f"{argument.type}({argument.name!r}, {variable})"
    if argument.type == "shortstr":
        is_plain = f"{variable}.__class__ is str and {variable}.isascii() and len({variable}) < 256"
        return f"octets[len({variable})] + {variable}.encode() if {is_plain} else {encoded}, "
    return f"{encoded} if {variable} is not None else {empty!r}, " if argument.type == "table" else f"{encoded}, "


_index = struct.Struct(">HH")
_OCTETS = [bytes([octet]) for octet in range(256)]  # each holds a run of up to 8 bits; no method has a longer run


def _runs(arguments: tuple[spec.Argument, ...]) -> list[spec.Argument | list[str]]:
    """The arguments of a method, with each run of bits as one list of names."""
    runs: list[spec.Argument | list[str]] = []
    for argument in arguments:
        if argument.type != "bit":
            runs.append(argument)
        elif runs and isinstance(runs[-1], list):
            runs[-1].append(argument.name)
        else:
            runs.append([argument.name])
    return runs


_LAYOUT = {"octet": "B", "short": "H", "long": "I", "longlong": "Q"}


_DECODER = """
def decode(data, at, end):
    try:
        {steps}
    except Exception as error:
        raise malformed(error) from None
    if at != end:
        raise surplus(end - at)
    return Method({name!r}, {{{found}}})
"""


def _decoder(row: spec.Method) -> Decoder:
    """Generates and compiles the decoder of a method."""
    scope: dict[str, Any] = {**_DECODE, "Method": Method, "peer_properties": peer_properties.decode}
    steps: list[str] = []
    found: list[str] = []
    layout, numbers = "", list[str]()  # format and variables of adjacent numbers that no step decodes yet

    def add_numbers() -> None:
        nonlocal layout, numbers
        if layout:
            adjacent = struct.Struct(">" + layout)
            scope["unpack_" + layout] = adjacent.unpack_from
            steps.append(f"{', '.join(numbers)}, = unpack_{layout}(data, at); at += {adjacent.size}")
            layout, numbers = "", []

    for index, run in enumerate(_runs(row.arguments)):
        variable = f"v{index}"
        if isinstance(run, list):
            found += [f"{name!r}: {variable} & {1 << bit} != 0" for bit, name in enumerate(run)]
        else:
            found.append(f"{run.name!r}: {variable}")
        code = "B" if isinstance(run, list) else _LAYOUT.get(run.type)
        if code is not None:
            layout, numbers = layout + code, [*numbers, variable]
        elif isinstance(run, spec.Argument):
            add_numbers()
            decoder = "peer_properties" if run.name in peer_properties.ARGUMENTS else run.type
            if decoder == "shortstr":  # mostly whole
                steps.append("if at < end and (stop := at + 1 + data[at]) <= end:")
                steps.append(f"    {variable} = data[at + 1 : stop].decode('utf-8', 'surrogateescape'); at = stop")
                steps.append(f"else: {variable}, at = shortstr(data, at)")
            else:
                steps.append(f"{variable}, at = {decoder}(data, at)")
    add_numbers()

    def malformed(error: Exception) -> Exception:
        if isinstance(error, ProtocolSyntaxError):
            return type(error)(f"{row.name} is malformed: {error.text}")
        return surplus(-1) if isinstance(error, struct.error) else error

    def surplus(size: int) -> ProtocolSyntaxError:
        fault = f"{size} bytes follow its last argument" if size > 0 else "it ends before its last argument does"
        return ProtocolSyntaxError(f"{row.name} is malformed: {fault}")

    scope.update(malformed=malformed, surplus=surplus)
    source = _DECODER.format(steps="\n        ".join(steps or ["pass"]), name=row.name, found=", ".join(found))
    exec(source, scope)
    decode: Decoder = scope["decode"]
    return decode


# --- content headers (0-9-1 §4.2.6.1) ---------------------------------------------------------------------------------


class PropertyCodec:
    """Encodes the properties of one class as the flags and values of a content header, and decodes them.

    names: the properties, in the order of their flags."""

    def __init__(self, properties: tuple[spec.Argument, ...]):
        # The first property has the highest flag. Bit 0 would announce more flags; no class has enough properties.
        self._steps = [
            (1 << 15 - index, name, _DECODE[kind], _ENCODE[kind]) for index, (name, kind) in enumerate(properties)
        ]
        self.names = [name for name, _ in properties]

    def encode(self, values: dict[str, Any]) -> bytes:
        """Flags and values of these properties; None: the property is not present."""
        flags, parts = 0, [b""]
        for flag, name, _, encode in self._steps:
            value = values.get(name)
            if value is not None:
                flags |= flag
                parts.append(encode(name, value))
        parts[0] = fields.encode_short("flags", flags)
        return b"".join(parts)

    def decode(self, payload: bytes, at: int) -> dict[str, Any]:
        """The properties that are present, from the flags at offset `at` to the end of the payload.
        ProtocolSyntaxError: they are malformed."""
        flags, at = fields.decode_short(payload, at)
        if flags & 1:
            raise ProtocolSyntaxError("a content header has more property flags than its class has properties")
        found = {}
        for flag, name, decode, _ in self._steps:
            if flags & flag:
                found[name], at = decode(payload, at)
        if at != len(payload):
            raise ProtocolSyntaxError(f"{len(payload) - at} bytes follow the last property of a content header")
        return found


@cache
def property_codec(class_index: int) -> PropertyCodec:
    """The codec of the properties of a class. All versions that have the class have the same properties."""
    for version in spec.VERSIONS:
        for row in spec.load(version):
            if row.class_index == class_index:
                return PropertyCodec(row.properties)
    raise UnknownMethodError(f"AMQP has no class {class_index}, so no properties of it")
