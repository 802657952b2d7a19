"""`declare`, `bind`, `unbind`, `purge`, `delete`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import cpspika
from tests.cli.conftest import CommandLine

Connect = Callable[[str], Any]


def test_a_queue_from_declaration_to_deletion(cli: CommandLine, name: str, connected: Connect) -> None:
    declare = ("declare", "queue", name, "--durable", "--argument", "x-max-length=5")
    assert cli(*declare, "--json").json == {"queue": name, "message_count": 0, "consumer_count": 0}
    channel = connected(cli.url)
    for _ in range(7):
        channel.basic_publish("", name, b"m")
    assert "5 messages ready" in cli(*declare).out, "x-max-length must be a number"
    assert "406" in cli("declare", "queue", name, status=1).err
    assert cli("declare", "queue", name, "--passive", "--json").json["message_count"] == 5
    assert cli("purge", name, "--json").json == {"queue": name, "message_count": 5}
    channel.basic_publish("", name, b"m")
    channel.basic_qos()
    assert "406" in cli("delete", "queue", name, "--if-empty", status=1).err
    assert cli("delete", "queue", name, "--json").json == {"queue": name, "message_count": 1}
    assert "404" in cli("purge", name, status=1).err
    assert "404" in cli("delete", "queue", name, status=1).err


def test_an_exchange_and_its_bindings(cli: CommandLine, queue: str, name: str, connected: Connect) -> None:
    cli("declare", "exchange", name, "--type", "topic", "--durable")
    bind = ("bind", queue, name, "--routing-key", "*.error")
    assert cli(*bind, "--json").json == {"queue": queue, "exchange": name, "routing_key": "*.error"}
    channel = connected(cli.url)
    channel.basic_publish(name, "disk.error", b"full")
    assert cli("get", queue).out == "full\n"
    assert "406" in cli("delete", "exchange", name, "--if-unused", status=1).err
    cli("unbind", queue, name, "--routing-key", "*.error")
    channel.basic_publish(name, "disk.error", b"full")
    cli("get", queue, status=1)
    assert cli("delete", "exchange", name, "--json").json == {"exchange": name}
    with pytest.raises(cpspika.NotFound):
        channel.exchange_declare(name, passive=True)
    assert "404" in cli("delete", "exchange", name, status=1).err


def test_an_exchange_is_bound_to_an_exchange(cli: CommandLine, queue: str, name: str, connected: Connect) -> None:
    cli("declare", "exchange", name, "--type", "headers", "--auto-delete")
    cli("bind", queue, name, "--argument", "x-match=all", "--argument", "n=1")
    cli("bind", name, "amq.fanout", "--to-exchange")
    cli("publish", "--exchange", "amq.fanout", "--routing-key", "", "--header", "n:=1", "yes")
    cli("publish", "--exchange", "amq.fanout", "--routing-key", "", "--header", "n=1", "no", "--allow-unroutable")
    assert cli("get", queue, "--count", "2").out == "yes\n"
    cli("unbind", name, "amq.fanout", "--to-exchange")
    cli("delete", "exchange", name)


def test_the_broker_chooses_a_name(cli: CommandLine) -> None:
    chosen = cli("declare", "queue", "", "--durable", "--json").json["queue"]
    assert chosen.startswith("amq.gen-")
    cli("delete", "queue", chosen)


@pytest.mark.rabbitmq
def test_a_quorum_queue_is_durable_without_saying(node: Any, capsys: Any, monkeypatch: Any, name: str) -> None:
    cli = CommandLine(node.url, capsys)
    monkeypatch.setenv("CPSPIKA_URL", node.url)
    cli("declare", "queue", name, "--type", "quorum")
    cli("delete", "queue", name)
