"""Recovery on RabbitMQ: behind a proxy that cuts at any byte, with a node that is killed, with locks of dead links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib.util import find_spec
from random import Random
from typing import Any

import pytest

import cpspika
from tests.support import ROOT
from tests.support.cutting import CuttingProxy
from tests.support.rabbitmq import RabbitNode
from tests.support.styles import RECOVERING, STYLES, Broker, Scenario, Style, recovering

KILLS = int(os.environ.get("CPSPIKA_KILLS", "5"))  # of the node; each takes some 8 seconds
pytestmark = [pytest.mark.long, pytest.mark.slow]

STYLED = {**RECOVERING}
for name in ("sync-select",):
    if name in STYLES:
        STYLED[f"{name}-recovering"] = recovering(STYLES[name])
QUICK = cpspika.Recovery(backoff=(0.01, 0.3))
MESSAGES, BATCH = 600, 20
MINUTE = 60.0


class Account:
    """What became of messages: `sent` by number, `confirmed`, and how often each was `handled`. `errors`: of the
    recovery handler's events."""

    def __init__(self) -> None:
        self.confirmed: set[str] = set()
        self.resent = self.unknown = 0
        self.handled: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.stale = 0
        self.errors: list[Any] = []

    def on_recovery(self, connection: Any, event: Any) -> None:
        self.kinds[event.kind] += 1
        self.stale += event.stale
        if event.error is not None:
            self.errors.append(event.error)

    def settled(self, body: str, outcome: Any) -> None:
        if isinstance(outcome, cpspika.DeliveryUnknown):
            self.unknown += 1
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            assert outcome
            self.confirmed.add(body)
            self.resent += outcome != True or isinstance(outcome, cpspika.Resent)  # noqa: E712

    def is_complete(self) -> bool:
        return self.confirmed <= self.handled.keys()

    def wrong_acks(self) -> list[Any]:
        """The broker closes a channel with 406 for an ack of a tag that it doesn't know."""
        return [error for error in self.errors if error.code == 406]

    def figures(self, faults: str) -> str:
        copies = sum(self.handled.values()) - len(self.handled)
        return (
            f"{faults}; {len(self.confirmed)} confirmed, {self.resent} of them sent again, {self.unknown} unknown; "
            f"lost {len(self.confirmed - self.handled.keys())}, handled again {copies}, stale acks {self.stale}, "
            f"wrong acks {len(self.wrong_acks())}; {dict(self.kinds)}"
        )


@pytest.mark.parametrize("named", STYLED)
def test_links_that_are_cut_at_any_byte(node: Any, named: str, capsys: Any) -> None:
    account, dice = Account(), Random("worker")
    queue = f"cpspika-cut-{os.getpid()}-{time.monotonic_ns()}"
    held: list[Any] = []

    def handle(message: Any) -> None:
        account.handled[message.body.decode()] += 1
        held.append(message)
        if dice.random() < 0.7:  # some are acknowledged later, perhaps after their link was lost
            for each in held:
                each.ack()
            held.clear()

    def steps(s: Style) -> Scenario:
        connection = yield s.connect(s.url(heartbeat=2, connection_timeout=3))  # a link may fall silent at any byte
        connection.add_recovery_handler(account.on_recovery)
        worker = yield connection.channel()
        yield worker.queue_declare(queue, durable=True)
        yield worker.basic_qos(prefetch_count=10)
        yield worker.basic_consume(queue, handle)
        publisher = yield connection.channel()
        yield publisher.confirm_select()
        bodies = [f"{number}" for number in range(MESSAGES)]
        for first in range(0, MESSAGES, BATCH):
            batch = bodies[first : first + BATCH]
            # Transient messages: RabbitMQ confirms a persistent one only when it is on the disk. Before that the
            # deliveries use up what the link lets through, and each resend makes more of them.
            outcomes = yield [publisher.basic_publish("", queue, body) for body in batch]
            for body, outcome in zip(batch, outcomes, strict=True):
                account.settled(body, outcome)
        proxy.calm()
        yield s.until(account.is_complete)
        for each in held:
            each.ack()
        held.clear()
        yield connection.close()

    with CuttingProxy((node.host, node.port), named, most=8_000) as proxy:
        made = STYLED[named](Broker("rabbitmq", proxy.host, proxy.port), "0-9-1")
        made.recovery = QUICK
        try:
            made.run(steps(made))
        finally:
            made.close()
    with cpspika.BlockingConnection(node.url) as check:
        channel = check.channel()
        left = channel.queue_declare(queue, durable=True, passive=True).message_count
        channel.queue_delete(queue)
    with capsys.disabled():
        print(f"\n{account.figures(f'{proxy.cuts} cuts, {proxy.silences} silences, {proxy.refusals} refusals')}")
    assert proxy.cuts + proxy.silences >= 2
    assert account.is_complete()
    assert account.wrong_acks() == []
    assert len(account.confirmed) + account.unknown == MESSAGES
    assert left <= 20  # copies whose acknowledgement was stale when the program ended


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import json, sys
import gevent
import cpspika
from tests.recovery.test_rabbitmq import BATCH, MESSAGES, QUICK, Account

url, queue = sys.argv[1:]
account = Account()

def open_channel():
    connection = cpspika.BlockingConnection(url, recovery=QUICK)
    connection.add_recovery_handler(account.on_recovery)
    channel = connection.channel(on_ready=lambda view: view.queue_declare(queue, durable=True))
    return connection, channel

def publish():
    connection, channel = open_channel()
    channel.confirm_select()
    for number in range(MESSAGES):
        body = f"{number}"
        account.settled(body, channel.basic_publish("", queue, body, {"delivery_mode": 2}))
    connection.close()

def work(publisher):
    connection, channel = open_channel()
    channel.basic_qos(prefetch_count=10)
    for message in channel.consume(queue, inactivity_timeout=0.5):
        account.handled[message.body.decode()] += 1
        message.ack()
    while not (publisher.dead and account.is_complete()):
        for message in channel.consume(queue, inactivity_timeout=0.5):
            account.handled[message.body.decode()] += 1
            message.ack()
    connection.close()

publisher = gevent.spawn(publish)
gevent.joinall([publisher, gevent.spawn(work, publisher)], timeout=60, raise_error=True)
print(json.dumps([account.is_complete(), len(account.confirmed), len(account.wrong_acks()), account.figures("")]))
"""


@pytest.mark.skipif(find_spec("gevent") is None, reason="the extra gevent is not installed")
def test_links_of_greenlets_that_are_cut_at_any_byte(node: Any, capsys: Any) -> None:
    queue = f"cpspika-cut-{os.getpid()}-{time.monotonic_ns()}"
    with CuttingProxy((node.host, node.port), "greenlets", most=8_000) as proxy:
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=2"
        done = subprocess.run(
            [sys.executable, "-c", GREENLETS, url, queue], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    with cpspika.BlockingConnection(node.url) as check:
        check.channel().queue_delete(queue)
    assert done.returncode == 0, done.stderr
    complete, confirmed, wrong, figures = json.loads(done.stdout)
    with capsys.disabled():
        print(f"\n{proxy.cuts} cuts, {proxy.silences} silences, {proxy.refusals} refusals{figures}")
    assert complete
    assert confirmed == MESSAGES
    assert wrong == 0
    assert proxy.cuts + proxy.silences >= 2


def test_an_exclusive_queue_of_a_half_open_link(node: Any) -> None:
    account, got = Account(), []
    with CuttingProxy((node.host, node.port), 1) as proxy:
        proxy.calm()
        url = f"amqp://guest:guest@{proxy.host}:{proxy.port}/?heartbeat=2"
        connection = cpspika.BlockingConnection(url, recovery=QUICK)
        connection.add_recovery_handler(account.on_recovery)
        channel = connection.channel()
        channel.confirm_select()
        queue = channel.queue_declare("", exclusive=True).queue
        channel.basic_consume(queue, got.append)
        for round in range(1, 3):
            proxy.cut_at_the_client_alone()
            deadline = time.monotonic() + MINUTE
            while account.kinds["restored"] < round:
                assert time.monotonic() < deadline, f"not restored: {account.kinds}"
                connection.drain_events(timeout=1.0)
            assert channel.basic_publish("", queue, f"{round}")
            while len(got) < round:
                assert time.monotonic() < deadline, "the message did not come"
                connection.drain_events(timeout=1.0)
        connection.close()
    assert [message.body for message in got] == [b"1", b"2"]
    assert account.kinds["entity_failed"] == account.kinds["consumer_failed"] == 0


def test_a_node_that_is_killed_again_and_again_under_load(capsys: Any) -> None:
    kills = KILLS
    account = Account()
    stop, failures = threading.Event(), []

    def publish(url: str) -> None:
        try:
            connection = cpspika.BlockingConnection(url, recovery=QUICK)
            channel = connection.channel()
            channel.confirm_select()
            channel.queue_declare("q", durable=True)
            number = 0
            while not stop.is_set():
                outcome = channel.basic_publish("", "q", f"{number}", {"delivery_mode": 2})
                account.settled(f"{number}", outcome)
                number += 1
            connection.close()
        except BaseException as error:
            failures.append(error)

    def work(url: str) -> None:
        def handle(message: Any) -> None:
            account.handled[message.body.decode()] += 1
            message.ack()

        try:
            connection = cpspika.BlockingConnection(url, recovery=QUICK)
            connection.add_recovery_handler(account.on_recovery)
            channel = connection.channel()
            channel.queue_declare("q", durable=True)
            channel.basic_qos(prefetch_count=50)
            channel.basic_consume("q", handle)
            while not (stop.is_set() and account.is_complete() and not publisher.is_alive()):
                connection.drain_events(timeout=0.5)
            connection.close()
        except BaseException as error:
            failures.append(error)

    with RabbitNode() as node:
        url = f"{node.url}?heartbeat=5"  # a link whose end the kernel does not tell is found within the minute
        publisher = threading.Thread(target=publish, args=(url,), daemon=True)
        worker = threading.Thread(target=work, args=(url,), daemon=True)
        publisher.start()
        worker.start()
        for _ in range(kills):
            before = len(account.confirmed)
            deadline = time.monotonic() + MINUTE
            while len(account.confirmed) < before + 20:  # each kill finds some under way
                assert not failures, failures
                assert time.monotonic() < deadline, "nothing is confirmed"
                time.sleep(0.02)
            node.kill()
            node.start()
        stop.set()
        publisher.join(MINUTE)
        worker.join(MINUTE)
        left = node.ctl("-q", "list_queues", "name", "messages_ready", "messages_unacknowledged", "consumers")
        lost = sorted(account.confirmed - account.handled.keys(), key=int)
        assert not publisher.is_alive(), "the publisher does not end"
        assert not worker.is_alive(), f"the worker does not end: {account.figures('')}; without {lost}; {left}"
    with capsys.disabled():
        print(f"\n{account.figures(f'{kills} kills')}")
    assert failures == []
    assert account.is_complete()
    assert account.wrong_acks() == []
