"""A program that uses pika's names here is told ours, in every style."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import cpspika
from cpspika.adapters.asyncio_adapter import AsyncioConnection
from cpspika.client.hints import HintsNames
from cpspika.pika_names import ARGUMENTS, MODULE, NAMES, OPTIONS
from cpspika.recovery.channel import RecoveringChannel
from cpspika.threads import ThreadedConnection
from tests.support.styles import Scenario, Style, scenario


@scenario()
def test_arguments_of_pika(s: Style) -> Scenario:
    ch = yield from s.channel()
    ok = yield ch.queue_declare(exclusive=True)
    with pytest.raises(TypeError, match="pika's auto_ack is no_ack here"):
        yield ch.basic_get(ok.queue, auto_ack=True)
    with pytest.raises(TypeError, match="pika's auto_ack is no_ack here"):
        yield ch.basic_consume(ok.queue, print, auto_ack=True)
    with pytest.raises(TypeError, match="pika's on_message_callback is on_message, which gets one argument") as caught:
        yield ch.basic_consume(queue=ok.queue, on_message_callback=print, auto_ack=True)
    assert "pika's auto_ack is no_ack here" in str(caught.value)
    with pytest.raises(TypeError, match="pika's exchange_type is type here"):
        yield ch.exchange_declare("x", exchange_type="topic")
    with pytest.raises(TypeError, match="pika's global_qos is global_ here"):
        yield ch.basic_qos(global_qos=True)
    with pytest.raises(TypeError) as caught:
        yield ch.basic_qos(nonsense=True)
    assert "pika" not in str(caught.value)
    yield ch.queue_declare(ok.queue, passive=True)  # the channel works on


@scenario()
def test_the_iterators_arguments(s: Style) -> Scenario:
    ch = yield from s.channel()
    if hasattr(ch, "consume"):
        with pytest.raises(TypeError, match="pika's auto_ack is no_ack here"):
            ch.consume("tasks", auto_ack=True)


@scenario()
def test_names_of_pika(s: Style) -> Scenario:
    connection = yield s.connect()
    ch = yield connection.channel()
    for name, ours in NAMES.items():
        for subject in (connection, ch):
            if not hasattr(subject, name):
                with pytest.raises(AttributeError) as caught:
                    getattr(subject, name)
                assert str(caught.value).endswith(f"; pika's {name} is {ours} here")
    with pytest.raises(AttributeError, match="has no attribute 'confirm_delivery'; pika's confirm_delivery is confirm"):
        _ = ch.confirm_delivery
    with pytest.raises(AttributeError) as caught:
        _ = ch.nonsense
    assert str(caught.value).endswith("has no attribute 'nonsense'")


def test_the_names_are_pikas() -> None:
    blocking: Any = pytest.importorskip("pika.adapters.blocking_connection")
    from pika.channel import Channel

    known = {*dir(blocking.BlockingConnection), *dir(blocking.BlockingChannel), *dir(Channel)}
    assert known >= NAMES.keys()
    code = [
        getattr(blocking.BlockingChannel, name).__code__ for name in ("basic_consume", "exchange_declare", "basic_qos")
    ]
    assert {name for each in code for name in each.co_varnames} >= ARGUMENTS.keys()


def own_classes(cls: type) -> Iterator[type]:
    for below in cls.__subclasses__():
        yield below
        yield from own_classes(below)


def test_no_attribute_is_slower_for_the_hints() -> None:
    """`__getattr__` in a class makes every attribute of its objects slower, on the fast paths too."""
    classes = {cls for cls in own_classes(HintsNames) if cls.__module__.startswith("cpspika.")}
    assert classes >= {cpspika.Channel, cpspika.Connection, RecoveringChannel, ThreadedConnection, AsyncioConnection}
    for cls in classes:
        assert not hasattr(cls, "__getattr__")
        assert cls.__getattribute__ is object.__getattribute__


def test_dir_has_no_names_of_pika() -> None:
    with cpspika.BlockingConnection("embedded://") as connection:
        for subject in (connection, connection.channel(), cpspika.Channel, cpspika.Connection):
            assert all(hasattr(subject, name) for name in dir(subject) if name in NAMES)


def test_options_and_the_modules_names_of_pika() -> None:
    for name, ours in OPTIONS.items():
        with pytest.raises(cpspika.InvalidArgument) as refused:
            cpspika.ConnectionParameters(**{name: 1})  # type: ignore[arg-type]
        assert str(refused.value).startswith(f"unknown option {name!r}; pika's {name} is {ours} here; the options are ")
    for name, ours in MODULE.items():
        with pytest.raises(AttributeError) as absent:
            getattr(cpspika, name)
        assert str(absent.value) == f"module 'cpspika' has no attribute {name!r}; pika's {name} is {ours} here"
    with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'$"):
        _ = cpspika.nonsense
