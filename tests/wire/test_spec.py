"""The table against the specification's own XML: every class, method, argument, property and constant.

What the XML lacks and we have is RabbitMQ's, and stands in the short lists below; anything else is a mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

from cpspika import spec

SPECS = Path("/usr/share/amqp/specs")
FILES = {
    "0-8": SPECS / "0-8/amqp0-8.stripped.xml",
    "0-9-1": SPECS / "0-9-1-rabbit/amqp0-9-1.stripped.extended.xml",
    "0-9-1 of the working group": SPECS / "0-9-1/amqp0-9-1.stripped.xml",
}
if not all(path.exists() for path in FILES.values()):
    pytest.skip("the specification's XML is not here: Debian's package amqp-specs", allow_module_level=True)

# What no XML has: RabbitMQ's own, by its documentation and its amqp-rabbitmq-0.8.json and 0.9.1.json.
ROWS_OF_RABBITMQ = {
    "0-9-1": {
        "connection.blocked",
        "connection.unblocked",
        "connection.update-secret",
        "connection.update-secret-ok",
        "access.request",
        "access.request-ok",
    },
    # RabbitMQ's second, synchronous recover (60, 110) and its answer: see golden/rabbitmq-0-8.json.
    "0-8": {"queue.unbind", "queue.unbind-ok", "basic.recover-sync", "basic.recover-ok"},
}
CLASSES_OF_RABBITMQ = {"0-9-1": {"access"}, "0-8": set()}
# The 0-8 specification knows no consumer cancel by the server and no confirms.
SENDERS_OF_RABBITMQ = {
    "0-8": {"basic.cancel": "B", "basic.cancel-ok": "B", "basic.ack": "B"},
    "0-9-1": {},
}
# The 0-9-1 XML forgot that its recover is answered.
REPLIES_FORGOTTEN = {"0-9-1": {"basic.recover": ("basic.recover-ok",)}, "0-8": {}}
# Retired arguments of methods that 0-8 doesn't have; the others have the name of the same place in 0-8.
RETIRED = {
    "channel.open-ok": ("channel_id",),
    "exchange.bind": ("ticket",),
    "exchange.unbind": ("ticket",),
    "queue.unbind": ("ticket",),
}
REPLY_CODES_OF_RABBITMQ = {312}


class Row(NamedTuple):
    class_index: int
    method_index: int
    sender: str
    content: bool
    arguments: tuple[tuple[str, str], ...]
    replies: tuple[str, ...]


def _name(text: str | None) -> str:
    name = (text or "").replace(" ", "_").replace("-", "_")
    return "no_wait" if name == "nowait" else name


class Xml:
    """One file of the specification, in the terms of our table."""

    def __init__(self, path: Path):
        self.root = ElementTree.parse(path).getroot()
        self.domains = {domain.get("name"): domain.get("type") for domain in self.root.iter("domain")}
        self.classes = {
            str(node.get("name")): (int(node.get("index", 0)), self.fields(node)) for node in self.root.iter("class")
        }
        self.rows = {
            f"{node.get('name')}.{method.get('name')}": self.row(node, method)
            for node in self.root.iter("class")
            for method in node.iter("method")
        }
        self.constants = {
            str(node.get("name")).replace(" ", "-"): (int(node.get("value", 0)), node.get("class"))
            for node in self.root.iter("constant")
        }

    def fields(self, node: ElementTree.Element) -> tuple[tuple[str, str], ...]:
        found = (
            (_name(field.get("name")), field.get("type") or field.get("domain")) for field in node.findall("field")
        )
        return tuple((name, str(self.domains.get(kind, kind))) for name, kind in found)

    def row(self, node: ElementTree.Element, method: ElementTree.Element) -> Row:
        implemented_by = frozenset(chassis.get("name") for chassis in method.findall("chassis"))
        senders = {frozenset({"client"}): "S", frozenset({"server"}): "C", frozenset({"client", "server"}): "B"}
        return Row(
            int(node.get("index", 0)),
            int(method.get("index", 0)),
            senders[implemented_by],
            method.get("content") == "1",
            self.fields(method),
            tuple(f"{node.get('name')}.{reply.get('name')}" for reply in method.findall("response")),
        )


XML = {version: Xml(path) for version, path in FILES.items()}


def _named_as_in_0_8(name: str, arguments: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """0-9-1's reserved-N under the name that the argument had in 0-8; its type must be the same there."""
    old = XML["0-8"].rows[name].arguments if name in XML["0-8"].rows else ()
    retired = iter(RETIRED.get(name, ()))
    named = []
    for place, (argument, kind) in enumerate(arguments):
        if argument.startswith("reserved"):
            before = old[place] if place < len(old) else (next(retired), kind)
            assert before[1] == kind, f"{name}: {before} was retired as {argument}:{kind}"
            argument = before[0]
        named.append((argument, kind))
    return tuple(named)


def _expected(version: str) -> dict[str, Row]:
    rows = {}
    for name, row in XML[version].rows.items():
        arguments = _named_as_in_0_8(name, row.arguments) if version == "0-9-1" else row.arguments
        sender = SENDERS_OF_RABBITMQ[version].get(name, row.sender)
        replies = row.replies + REPLIES_FORGOTTEN[version].get(name, ())
        rows[name] = row._replace(arguments=arguments, sender=sender, replies=replies)
    return rows


def _ours(version: str) -> dict[str, Row]:
    return {
        method.name: Row(
            method.class_index,
            method.method_index,
            method.sender,
            method.content,
            tuple((argument.name, argument.type) for argument in method.arguments),
            method.replies,
        )
        for row in spec.load(version)
        for method in row.methods
    }


EXPECTED = [(version, name, row) for version in spec.VERSIONS for name, row in _expected(version).items()]


@pytest.mark.parametrize(("version", "name", "row"), EXPECTED, ids=[f"{v} {name}" for v, name, _ in EXPECTED])
def test_a_method_is_as_the_specification_has_it(version: str, name: str, row: Row) -> None:
    assert _ours(version)[name] == row


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_no_method_is_ours_alone_but_those_of_rabbitmq(version: str) -> None:
    assert _ours(version).keys() - _expected(version).keys() == ROWS_OF_RABBITMQ[version]


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_the_classes_and_their_properties_are_the_specifications(version: str) -> None:
    ours = {row.name: (row.class_index, tuple(map(tuple, row.properties))) for row in spec.load(version)}
    theirs = dict(XML[version].classes)
    if version == "0-9-1":
        index, properties = theirs["basic"]
        assert properties[-1] == ("reserved", "shortstr")
        theirs["basic"] = (index, (*properties[:-1], ("cluster_id", "shortstr")))
    for name in CLASSES_OF_RABBITMQ[version]:
        theirs[name] = ours[name]
    assert ours == theirs


def test_retired_rows_of_0_9_1_are_those_of_0_8() -> None:
    old, new = _ours("0-8"), _ours("0-9-1")
    for name in ("access.request", "access.request-ok"):
        assert new[name] == old[name]


def test_queue_unbind_is_the_same_on_0_8_as_on_0_9_1() -> None:
    old, new = _ours("0-8"), _ours("0-9-1")
    for name in ("queue.unbind", "queue.unbind-ok"):
        assert old[name] == new[name]


def test_rabbitmq_adds_to_the_0_9_1_of_the_working_group_and_takes_nothing_away() -> None:
    ours = _ours("0-9-1")
    for name, row in XML["0-9-1 of the working group"].rows.items():
        assert [kind for _, kind in ours[name].arguments] == [kind for _, kind in row.arguments], name
        assert (ours[name].class_index, ours[name].method_index) == (row.class_index, row.method_index), name
        assert ours[name].sender in (row.sender, "B"), name


def test_the_constants_are_the_union_of_the_versions() -> None:
    theirs = {name: value for xml in XML.values() for name, (value, error) in xml.constants.items() if error is None}
    assert theirs == spec.CONSTANTS


@pytest.mark.parametrize("version", FILES)
def test_a_reply_code_has_the_specifications_name_and_hardness(version: str) -> None:
    codes = {value: (name, error) for name, (value, error) in XML[version].constants.items() if error}
    assert codes
    for code, (name, error) in codes.items():
        assert spec.REPLY_CODES[code] == (code, name, error.replace("-", " ") == "hard error")


def test_no_reply_code_is_ours_alone_but_rabbitmqs_no_route() -> None:
    theirs = {value for xml in XML.values() for value, error in xml.constants.values() if error}
    assert spec.REPLY_CODES.keys() - theirs == REPLY_CODES_OF_RABBITMQ


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_every_index_and_every_name_is_used_once(version: str) -> None:
    rows = [method for row in spec.load(version) for method in row.methods]
    assert len({(row.class_index, row.method_index) for row in rows}) == len(rows)
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("version", spec.VERSIONS)
def test_every_reply_is_a_method_that_the_other_side_may_send(version: str) -> None:
    rows = _ours(version)
    for name, row in rows.items():
        for reply in row.replies:
            assert {row.sender, rows[reply].sender} in ({"C", "S"}, {"B"}), f"{name} -> {reply}"
