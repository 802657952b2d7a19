"""AMQP as one table: every class, method, argument, property and constant of 0-8 and 0-9-1.

The table below is the only definition of the protocol's classes, methods and arguments. `codec` compiles it, `errors`
makes a class of each reply code, `states` and `link` use its names. The table has both versions together, with the
extensions of RabbitMQ. A row or an argument is marked with a version only where the versions differ.

Syntax of the table::

    class NAME INDEX [property:type ...]
        INDEX NAME SENDER [content] [argument:type ...] [-> reply ...]

- SENDER is the role that may send the method: C the client, S the server, B both.
- `content` marks a method after which a content header and a body follow.
- `{0-8}` or `{0-9-1}` before a row or an argument: only that version has it.
- 0-9-1 renamed some arguments to "reserved-N". They have the name of 0-8 here. Position and type on the wire are the
  same in both versions, and a 0-9-1 peer sends them empty.
- A row that the specification of a version doesn't have is RabbitMQ's own (confirm, basic.nack, queue.unbind on
  0-8...).
"""

# ruff: noqa: E501 (a row of the table is a line)

from __future__ import annotations

from functools import cache
from typing import NamedTuple

__all__ = ["CONSTANTS", "REPLY_CODES", "VERSIONS", "Argument", "Class", "Method", "ReplyCode", "load"]

VERSIONS = ("0-9-1", "0-8")

TABLE = """
class connection 10
    10 start            S  version-major:octet version-minor:octet server-properties:table mechanisms:longstr locales:longstr -> start-ok
    11 start-ok         C  client-properties:table mechanism:shortstr response:longstr locale:shortstr
    20 secure           S  challenge:longstr -> secure-ok
    21 secure-ok        C  response:longstr
    30 tune             S  channel-max:short frame-max:long heartbeat:short -> tune-ok
    31 tune-ok          C  channel-max:short frame-max:long heartbeat:short
    40 open             C  virtual-host:shortstr capabilities:shortstr insist:bit -> open-ok {0-8}redirect
    41 open-ok          S  known-hosts:shortstr
    {0-8} 50 redirect   S  host:shortstr known-hosts:shortstr
    {0-8} 60 close      B  reply-code:short reply-text:shortstr class-id:short method-id:short -> close-ok
    {0-8} 61 close-ok   B
    {0-9-1} 50 close    B  reply-code:short reply-text:shortstr class-id:short method-id:short -> close-ok
    {0-9-1} 51 close-ok B
    {0-9-1} 60 blocked            S  reason:shortstr
    {0-9-1} 61 unblocked          S
    {0-9-1} 70 update-secret      C  new-secret:longstr reason:shortstr -> update-secret-ok
    {0-9-1} 71 update-secret-ok   S

class channel 20
    10 open             C  out-of-band:shortstr -> open-ok
    11 open-ok          S  {0-9-1}channel-id:longstr
    20 flow             B  active:bit -> flow-ok
    21 flow-ok          B  active:bit
    {0-8} 30 alert      S  reply-code:short reply-text:shortstr details:table
    40 close            B  reply-code:short reply-text:shortstr class-id:short method-id:short -> close-ok
    41 close-ok         B

class access 30
    10 request          C  realm:shortstr exclusive:bit passive:bit active:bit write:bit read:bit -> request-ok
    11 request-ok       S  ticket:short

class exchange 40
    10 declare          C  ticket:short exchange:shortstr type:shortstr passive:bit durable:bit auto-delete:bit internal:bit no-wait:bit arguments:table -> declare-ok
    11 declare-ok       S
    20 delete           C  ticket:short exchange:shortstr if-unused:bit no-wait:bit -> delete-ok
    21 delete-ok        S
    {0-9-1} 30 bind       C  ticket:short destination:shortstr source:shortstr routing-key:shortstr no-wait:bit arguments:table -> bind-ok
    {0-9-1} 31 bind-ok    S
    {0-9-1} 40 unbind     C  ticket:short destination:shortstr source:shortstr routing-key:shortstr no-wait:bit arguments:table -> unbind-ok
    {0-9-1} 51 unbind-ok  S

class queue 50
    10 declare          C  ticket:short queue:shortstr passive:bit durable:bit exclusive:bit auto-delete:bit no-wait:bit arguments:table -> declare-ok
    11 declare-ok       S  queue:shortstr message-count:long consumer-count:long
    20 bind             C  ticket:short queue:shortstr exchange:shortstr routing-key:shortstr no-wait:bit arguments:table -> bind-ok
    21 bind-ok          S
    30 purge            C  ticket:short queue:shortstr no-wait:bit -> purge-ok
    31 purge-ok         S  message-count:long
    40 delete           C  ticket:short queue:shortstr if-unused:bit if-empty:bit no-wait:bit -> delete-ok
    41 delete-ok        S  message-count:long
    50 unbind           C  ticket:short queue:shortstr exchange:shortstr routing-key:shortstr arguments:table -> unbind-ok
    51 unbind-ok        S

class basic 60 content-type:shortstr content-encoding:shortstr headers:table delivery-mode:octet priority:octet correlation-id:shortstr reply-to:shortstr expiration:shortstr message-id:shortstr timestamp:timestamp type:shortstr user-id:shortstr app-id:shortstr cluster-id:shortstr
    10 qos              C  prefetch-size:long prefetch-count:short global:bit -> qos-ok
    11 qos-ok           S
    20 consume          C  ticket:short queue:shortstr consumer-tag:shortstr no-local:bit no-ack:bit exclusive:bit no-wait:bit {0-9-1}arguments:table -> consume-ok
    21 consume-ok       S  consumer-tag:shortstr
    30 cancel           B  consumer-tag:shortstr no-wait:bit -> cancel-ok
    31 cancel-ok        B  consumer-tag:shortstr
    40 publish          C  content ticket:short exchange:shortstr routing-key:shortstr mandatory:bit immediate:bit
    50 return           S  content reply-code:short reply-text:shortstr exchange:shortstr routing-key:shortstr
    60 deliver          S  content consumer-tag:shortstr delivery-tag:longlong redelivered:bit exchange:shortstr routing-key:shortstr
    70 get              C  ticket:short queue:shortstr no-ack:bit -> get-ok get-empty
    71 get-ok           S  content delivery-tag:longlong redelivered:bit exchange:shortstr routing-key:shortstr message-count:long
    72 get-empty        S  cluster-id:shortstr
    80 ack              B  delivery-tag:longlong multiple:bit
    90 reject           C  delivery-tag:longlong requeue:bit
    {0-8} 100 recover       C  requeue:bit
    {0-8} 110 recover-sync  C  requeue:bit -> recover-ok
    {0-9-1} 100 recover-async  C  requeue:bit
    {0-9-1} 110 recover        C  requeue:bit -> recover-ok
    111 recover-ok             S
    {0-9-1} 120 nack           B  delivery-tag:longlong multiple:bit requeue:bit

{0-8} class file 70 content-type:shortstr content-encoding:shortstr headers:table priority:octet reply-to:shortstr message-id:shortstr filename:shortstr timestamp:timestamp cluster-id:shortstr
    10 qos              C  prefetch-size:long prefetch-count:short global:bit -> qos-ok
    11 qos-ok           S
    20 consume          C  ticket:short queue:shortstr consumer-tag:shortstr no-local:bit no-ack:bit exclusive:bit no-wait:bit -> consume-ok
    21 consume-ok       S  consumer-tag:shortstr
    30 cancel           C  consumer-tag:shortstr no-wait:bit -> cancel-ok
    31 cancel-ok        S  consumer-tag:shortstr
    40 open             B  identifier:shortstr content-size:longlong -> open-ok
    41 open-ok          B  staged-size:longlong -> stage
    50 stage            B  content
    60 publish          C  ticket:short exchange:shortstr routing-key:shortstr mandatory:bit immediate:bit identifier:shortstr
    70 return           S  content reply-code:short reply-text:shortstr exchange:shortstr routing-key:shortstr
    80 deliver          S  consumer-tag:shortstr delivery-tag:longlong redelivered:bit exchange:shortstr routing-key:shortstr identifier:shortstr
    90 ack              C  delivery-tag:longlong multiple:bit
    100 reject          C  delivery-tag:longlong requeue:bit

{0-8} class stream 80 content-type:shortstr content-encoding:shortstr headers:table priority:octet timestamp:timestamp
    10 qos              C  prefetch-size:long prefetch-count:short consume-rate:long global:bit -> qos-ok
    11 qos-ok           S
    20 consume          C  ticket:short queue:shortstr consumer-tag:shortstr no-local:bit exclusive:bit no-wait:bit -> consume-ok
    21 consume-ok       S  consumer-tag:shortstr
    30 cancel           C  consumer-tag:shortstr no-wait:bit -> cancel-ok
    31 cancel-ok        S  consumer-tag:shortstr
    40 publish          C  content ticket:short exchange:shortstr routing-key:shortstr mandatory:bit immediate:bit
    50 return           S  content reply-code:short reply-text:shortstr exchange:shortstr routing-key:shortstr
    60 deliver          S  content consumer-tag:shortstr delivery-tag:longlong exchange:shortstr queue:shortstr

{0-9-1} class confirm 85
    10 select           C  no-wait:bit -> select-ok
    11 select-ok        S

class tx 90
    10 select           C  -> select-ok
    11 select-ok        S
    20 commit           C  -> commit-ok
    21 commit-ok        S
    30 rollback         C  -> rollback-ok
    31 rollback-ok      S

{0-8} class dtx 100
    10 select           C  -> select-ok
    11 select-ok        S
    20 start            C  dtx-identifier:shortstr -> start-ok
    21 start-ok         S

{0-8} class tunnel 110 headers:table proxy-name:shortstr data-name:shortstr durable:octet broadcast:octet
    10 request          C  content meta-data:table

{0-8} class test 120
    10 integer          B  integer-1:octet integer-2:short integer-3:long integer-4:longlong operation:octet -> integer-ok
    11 integer-ok       B  result:longlong
    20 string           B  string-1:shortstr string-2:longstr operation:octet -> string-ok
    21 string-ok        B  result:longstr
    30 table            B  table:table integer-op:octet string-op:octet -> table-ok
    31 table-ok         B  integer-result:longlong string-result:longstr
    40 content          B  content -> content-ok
    41 content-ok       B  content content-checksum:long
"""

# Frame types and sizes (0-9-1 §4.2.3, §4.2.5). The oob and trace frames of 0-8 are here only for error messages.
CONSTANTS = {
    "frame-method": 1,
    "frame-header": 2,
    "frame-body": 3,
    "frame-oob-method": 4,
    "frame-oob-header": 5,
    "frame-oob-body": 6,
    "frame-trace": 7,
    "frame-heartbeat": 8,
    "frame-min-size": 4096,
    "frame-end": 206,
    "reply-success": 200,
}


class ReplyCode(NamedTuple):
    """A reply code of channel.close, connection.close or basic.return (0-9-1 §1.2).

    hard: True if the code closes the connection. Other codes close the channel, or come with a returned message."""

    code: int
    name: str
    hard: bool


REPLY_CODES = {
    row.code: row
    for row in (
        ReplyCode(310, "not-delivered", False),  # 0-8 only
        ReplyCode(311, "content-too-large", False),
        ReplyCode(312, "no-route", False),  # RabbitMQ's, with basic.return
        ReplyCode(313, "no-consumers", False),
        ReplyCode(320, "connection-forced", True),
        ReplyCode(402, "invalid-path", True),
        ReplyCode(403, "access-refused", False),
        ReplyCode(404, "not-found", False),
        ReplyCode(405, "resource-locked", False),
        ReplyCode(406, "precondition-failed", False),
        ReplyCode(501, "frame-error", True),
        ReplyCode(502, "syntax-error", True),
        ReplyCode(503, "command-invalid", True),
        ReplyCode(504, "channel-error", True),
        ReplyCode(505, "unexpected-frame", True),
        ReplyCode(506, "resource-error", True),
        ReplyCode(530, "not-allowed", True),
        ReplyCode(540, "not-implemented", True),
        ReplyCode(541, "internal-error", True),
    )
}


class Argument(NamedTuple):
    """An argument of a method, or a property of a class. name: as a Python identifier, "no_ack". type: a field type of
    the specification, "shortstr"."""

    name: str
    type: str


class Method(NamedTuple):
    """A method: a row of the table.

    name: the whole name, "queue.declare-ok". sender: "C", "S" or "B". content: whether a content follows. replies:
    whole names of the methods that answer it."""

    name: str
    class_index: int
    method_index: int
    sender: str
    content: bool
    arguments: tuple[Argument, ...]
    replies: tuple[str, ...]


class Class(NamedTuple):
    """A class, with the properties of its contents and its methods."""

    name: str
    class_index: int
    properties: tuple[Argument, ...]
    methods: tuple[Method, ...]


@cache
def load(version: str) -> tuple[Class, ...]:
    """The classes of one version ("0-9-1" or "0-8"), in the order of the table."""
    (other,) = (f"{{{name}}}" for name in VERSIONS if name != version)
    classes = []
    for paragraph in TABLE.strip().replace(f"{{{version}}}", "").split("\n\n"):
        head, *rows = (
            [word for word in line.split() if not word.startswith(other)] for line in _lines(paragraph, other)
        )
        if head:
            _, name, index, *properties = head
            methods = tuple(_method(name, int(index), row) for row in rows)
            classes.append(Class(name, int(index), _arguments(properties), methods))
    return tuple(classes)


def _lines(paragraph: str, other: str) -> list[str]:
    """The lines of a class without those marked with the other version. [""] if the class itself is marked so."""
    lines = [line.strip() for line in paragraph.splitlines()]
    return [""] if lines[0].startswith(other) else [line for line in lines if not line.startswith(other)]


def _method(class_name: str, class_index: int, row: list[str]) -> Method:
    index, name, sender, *rest = row
    arrow = rest.index("->") if "->" in rest else len(rest)
    content = rest[:1] == ["content"]
    return Method(
        name=f"{class_name}.{name}",
        class_index=class_index,
        method_index=int(index),
        sender=sender,
        content=content,
        arguments=_arguments(rest[content:arrow]),
        replies=tuple(f"{class_name}.{reply}" for reply in rest[arrow + 1 :]),
    )


def _arguments(words: list[str]) -> tuple[Argument, ...]:
    pairs = (word.split(":") for word in words)
    return tuple(Argument(name.replace("-", "_"), kind) for name, kind in pairs)
