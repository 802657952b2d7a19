"""A queue by itself: consumers in turn, limits, time, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cpspika import PreconditionFailed, ResourceLocked
from cpspika.broker.queues import Queue
from tests.support.broker_model import BrokerServices, QueueConsumer


@pytest.fixture
def model() -> BrokerServices:
    return BrokerServices()


def fill(model: BrokerServices, name: str, bodies: str, **properties: Any) -> None:
    for body in bodies:
        model.publish("", name, body, **properties)


# --- consumers --------------------------------------------------------------------------------------------------------


def test_consumers_take_fair_turns(model: BrokerServices) -> None:
    queue = model.queue("q")
    takers = [QueueConsumer(queue) for _ in range(3)]
    fill(model, "q", "abcdefg")
    assert [taker.got for taker in takers] == [["a", "d", "g"], ["b", "e"], ["c", "f"]]


def test_what_waited_goes_to_the_first_consumer_that_comes(model: BrokerServices) -> None:
    queue = model.queue("q")
    fill(model, "q", "abc")
    assert (len(queue), queue.unacknowledged) == (3, 0)
    assert QueueConsumer(queue).got == ["a", "b", "c"]
    assert (len(queue), queue.unacknowledged) == (0, 3)


def test_prefetch_bounds_each_consumer(model: BrokerServices) -> None:
    queue = model.queue("q")
    small, large = QueueConsumer(queue, prefetch=1), QueueConsumer(queue, prefetch=3)
    fill(model, "q", "abcdef")
    assert (small.got, large.got) == (["a"], ["b", "c", "d"])
    small.ack()
    assert small.got == ["a", "e"]
    large.ack(1)
    assert large.got == ["b", "c", "d", "f"]


def test_a_turn_does_not_ask_those_that_are_busy(model: BrokerServices) -> None:
    queue = model.queue("q")
    busy = [QueueConsumer(queue, prefetch=1) for _ in range(50)]
    fill(model, "q", "x" * 50)
    free = QueueConsumer(queue)
    fill(model, "q", "x")  # every busy one says that it wants no more, and is asked no further
    before = sum(taker.asked for taker in busy)
    fill(model, "q", "x" * 20)
    assert sum(taker.asked for taker in busy) == before
    assert len(free.got) == 21


def test_those_of_higher_priority_are_served_while_they_want_more(model: BrokerServices) -> None:
    queue = model.queue("q")
    low, high = QueueConsumer(queue), QueueConsumer(queue, prefetch=2, priority=5)
    fill(model, "q", "abcd")
    assert (high.got, low.got) == (["a", "b"], ["c", "d"])
    high.ack()
    fill(model, "q", "e")
    assert high.got == ["a", "b", "e"]


def test_a_single_active_consumer_is_served_alone_until_it_leaves(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-single-active-consumer": True})
    first, second = QueueConsumer(queue, prefetch=1), QueueConsumer(queue)
    fill(model, "q", "abc")
    assert (first.got, second.got) == (["a"], [])
    first.ack()
    assert (first.got, second.got) == (["a", "b"], [])
    first.prefetch = 2
    first.ack()
    queue.remove_consumer(first)
    fill(model, "q", "d")
    assert (first.got, second.got) == (["a", "b", "c"], ["d"])


def test_nothing_is_kept_of_what_a_consumer_need_not_acknowledge(model: BrokerServices) -> None:
    queue = model.queue("q")
    taker = QueueConsumer(queue, no_ack=True)
    fill(model, "q", "ab")
    assert taker.got == ["a", "b"]
    assert (queue.unacknowledged, model.load.bytes) == (0, 0)


def test_an_auto_delete_queue_goes_with_its_last_consumer(model: BrokerServices) -> None:
    queue = model.queue("q", auto_delete=True)
    one, two = QueueConsumer(queue), QueueConsumer(queue)
    one.leave()
    assert "q" in model.vhost.queues
    two.leave()
    assert "q" not in model.vhost.queues


def test_an_auto_delete_queue_without_any_consumer_yet_stays(model: BrokerServices) -> None:
    model.queue("q", auto_delete=True)
    model.turn(10_000)
    assert "q" in model.vhost.queues


# --- what comes back --------------------------------------------------------------------------------------------------


def test_what_is_requeued_goes_to_its_old_place_and_is_redelivered(model: BrokerServices) -> None:
    queue = model.queue("q")
    fill(model, "q", "abcde")
    entries = [queue.get(no_ack=False) for _ in range(4)]
    queue.ack(entries[1])
    queue.requeue([entries[3], entries[0]])
    assert model.bodies("q") == ["a", "d", "e"]
    queue.requeue([entries[2]])
    assert model.bodies("q") == ["a", "c", "d", "e"]
    again = [queue.get(no_ack=True) for _ in range(4)]
    assert [(entry.message.body, entry.redelivered) for entry in again] == [
        (b"a", True),
        (b"c", True),
        (b"d", True),
        (b"e", False),
    ]


def test_a_consumer_that_leaves_hands_on_what_it_held(model: BrokerServices) -> None:
    queue = model.queue("q")
    one = QueueConsumer(queue)
    fill(model, "q", "abc")
    two = QueueConsumer(queue)
    one.leave()
    assert two.got == ["a", "b", "c"]
    assert all(entry.redelivered for entry in two.held)


def test_what_is_requeued_counts_against_the_length_again(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-max-length": 2})
    fill(model, "q", "12")
    held = [queue.get(no_ack=False), queue.get(no_ack=False)]
    fill(model, "q", "34")
    queue.requeue(held)
    assert model.bodies("q") == ["3", "4"]


def test_requeueing_by_turns_does_not_look_at_the_whole_queue_each_time(model: BrokerServices) -> None:
    """Two consumers held every other message; one of them gives its half back into what the other gave back."""
    queue = model.queue("q")
    for number in range(4000):
        model.publish("", "q", str(number))
    held = [queue.get(no_ack=False) for _ in range(4000)]
    queue.requeue(held[0::2])
    looks = 0

    class Counted(int):
        def __lt__(self, other: int) -> bool:
            nonlocal looks
            looks += 1
            return int(self) < int(other)

    for entry in held:
        entry.position = Counted(entry.position)
    queue.requeue(held[1::2])
    assert model.bodies("q") == [str(number) for number in range(4000)]
    assert looks < 100 * 4000


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", [{}, {"x-overflow": "drop-head"}])
def test_a_full_queue_drops_its_oldest(model: BrokerServices, overflow: dict[str, Any]) -> None:
    model.queue("q", {"x-max-length": 2, **overflow})
    fill(model, "q", "abc")
    assert model.bodies("q") == ["b", "c"]


@pytest.mark.parametrize("overflow", ["reject-publish", "reject-publish-dlx"])
def test_a_full_queue_refuses_the_newest(model: BrokerServices, overflow: str) -> None:
    model.queue("dead")
    dead_letter = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"}
    model.queue("q", {"x-max-length": 2, "x-overflow": overflow, **dead_letter})
    assert [model.publish("", "q", body) for body in "abc"] == [(True, True), (True, True), (True, False)]
    assert model.bodies("q") == ["a", "b"]
    assert model.bodies("dead") == (["c"] if overflow == "reject-publish-dlx" else [])


def test_one_full_queue_of_two_refuses_for_both(model: BrokerServices) -> None:
    model.queue("small", {"x-max-length": 0, "x-overflow": "reject-publish"}), model.queue("large")
    model.bind("amq.fanout", "small"), model.bind("amq.fanout", "large")
    assert model.publish("amq.fanout", "", "a") == (True, False)
    assert model.bodies("large") == ["a"]


def test_length_in_bytes_counts_the_bodies(model: BrokerServices) -> None:
    model.queue("q", {"x-max-length-bytes": 10})
    for body in ("aaaa", "bbbb", "cc"):
        model.publish("", "q", body, headers={"not": "counted" * 10})
    assert model.bodies("q") == ["aaaa", "bbbb", "cc"]
    model.publish("", "q", "d")
    assert model.bodies("q") == ["bbbb", "cc", "d"]
    model.publish("", "q", "far too long")
    assert model.bodies("q") == []


def test_only_what_is_ready_counts_against_the_length(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-max-length": 1})
    fill(model, "q", "a")
    assert queue.get(no_ack=False) is not None
    fill(model, "q", "b")
    assert model.bodies("q") == ["b"]


def test_a_queue_of_length_0_serves_who_waits(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-max-length": 0})
    taker = QueueConsumer(queue, prefetch=1)
    fill(model, "q", "ab")
    assert (taker.got, model.bodies("q")) == (["a"], [])


# --- priorities -------------------------------------------------------------------------------------------------------


def test_priorities_are_served_highest_first_and_in_order_within(model: BrokerServices) -> None:
    model.queue("q", {"x-max-priority": 5})
    for body, priority in [("a", None), ("b", 1), ("c", 5), ("d", 1), ("e", 200), ("f", 0)]:
        model.publish("", "q", body, priority=priority)
    assert model.bodies("q") == ["c", "e", "b", "d", "a", "f"]


def test_without_x_max_priority_they_mean_nothing(model: BrokerServices) -> None:
    model.queue("q")
    model.publish("", "q", "a"), model.publish("", "q", "b", priority=9)
    assert model.bodies("q") == ["a", "b"]


def test_a_priority_survives_a_requeue(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-max-priority": 2})
    for body, priority in [("a", 0), ("b", 2), ("c", 2)]:
        model.publish("", "q", body, priority=priority)
    queue.requeue([entry for entry in (queue.get(False), queue.get(False), queue.get(False)) if entry])
    assert model.bodies("q") == ["b", "c", "a"]


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of_queue", "of_message", "lives"),
    [(None, None, 1e9), (100, None, 0.1), (None, "200", 0.2), (100, "200", 0.1), (300, "200", 0.2)],
)
def test_the_shorter_time_to_live_holds(model: BrokerServices, of_queue: Any, of_message: Any, lives: float) -> None:
    queue = model.queue("q", {"x-message-ttl": of_queue} if of_queue else {})
    model.publish("", "q", "x", expiration=of_message)
    model.turn(lives * 0.99)
    assert len(queue) == 1
    if lives < 1e9:
        model.turn(lives * 0.02)
        assert len(queue) == 0
        assert model.load.bytes == 0


@pytest.mark.parametrize("where", ["queue", "message"])
def test_a_time_to_live_of_0_is_now_or_never(model: BrokerServices, where: str) -> None:
    queue = model.queue("q", {"x-message-ttl": 0} if where == "queue" else {})
    expiration = None if where == "queue" else "0"
    taker = QueueConsumer(queue, prefetch=1)
    model.publish("", "q", "served", expiration=expiration)
    model.publish("", "q", "nobody's", expiration=expiration)
    assert taker.got == ["served"]
    assert model.bodies("q") == []


def test_time_goes_on_for_what_is_out_and_comes_back(model: BrokerServices) -> None:
    queue = model.queue("q", {"x-message-ttl": 100})
    fill(model, "q", "x")
    entry = queue.get(no_ack=False)
    model.turn(1)
    assert entry is not None
    queue.requeue([entry])
    assert model.bodies("q") == []
    assert model.load.bytes == 0


def test_one_that_expires_behind_another_goes_when_its_turn_comes(model: BrokerServices) -> None:
    """RabbitMQ looks at the head alone; but nothing that has expired is ever delivered."""
    queue = model.queue("q")
    model.publish("", "q", "long"), model.publish("", "q", "short", expiration="10")
    model.turn(1)
    first, second = queue.get(no_ack=True), queue.get(no_ack=True)
    assert first is not None
    assert (first.message.body, second) == (b"long", None)


@pytest.mark.parametrize("text", ["abc", "", "1.5", "-1", "5x", " 5", "٣"])
def test_an_expiration_that_is_no_number_is_refused(model: BrokerServices, text: str) -> None:
    model.queue("q")
    with pytest.raises(PreconditionFailed) as caught:
        model.publish("", "q", expiration=text)
    assert f"PRECONDITION_FAILED - invalid expiration '{text}': " in caught.value.text


def test_expirations_of_ten_years_do_no_harm_and_longer_ones_are_refused(model: BrokerServices) -> None:
    model.queue("q")
    model.publish("", "q", "x", expiration="315360000000")
    model.turn(1e6)
    assert model.bodies("q") == ["x"]
    with pytest.raises(PreconditionFailed, match="value_too_large"):
        model.publish("", "q", "y", expiration="9" * 200)


def test_an_unused_queue_expires(model: BrokerServices) -> None:
    model.queue("q", {"x-expires": 1000})
    fill(model, "q", "abc")
    model.turn(0.9)
    assert "q" in model.vhost.queues
    model.turn(0.2)
    assert "q" not in model.vhost.queues
    assert model.load.bytes == 0


@pytest.mark.parametrize("use", ["get", "declare", "passive"])
def test_use_begins_the_lease_anew(model: BrokerServices, use: str) -> None:
    queue = model.queue("q", {"x-expires": 1000})
    uses: dict[str, Callable[[], object]] = {
        "get": lambda: queue.get(no_ack=True),
        "declare": lambda: model.queue("q", {"x-expires": 1000}),
        "passive": lambda: model.vhost.declare_queue("q", True, False, False, False, {}, model.owner),
    }
    model.turn(0.9)
    uses[use]()
    model.turn(0.9)
    assert "q" in model.vhost.queues
    model.turn(0.2)
    assert "q" not in model.vhost.queues


def test_a_consumer_keeps_a_queue_from_expiring(model: BrokerServices) -> None:
    taker = QueueConsumer(model.queue("q", {"x-expires": 1000}))
    model.turn(10)
    taker.leave()
    model.turn(0.9)
    assert "q" in model.vhost.queues
    model.turn(0.2)
    assert "q" not in model.vhost.queues


# --- purge, delete, and what everything weighs ------------------------------------------------------------------------


def test_a_purge_takes_what_is_ready_alone(model: BrokerServices) -> None:
    queue = model.queue("q")
    fill(model, "q", "abc")
    held = queue.get(no_ack=False)
    assert held is not None
    assert queue.purge() == 2
    assert (len(queue), queue.unacknowledged, queue.bytes) == (0, 1, 0)
    queue.requeue([held])
    assert model.bodies("q") == ["a"]


def test_what_is_out_may_be_settled_after_its_queue_is_gone(model: BrokerServices) -> None:
    queue = model.queue("q")
    taker = QueueConsumer(queue, prefetch=3)
    fill(model, "q", "abcd")
    assert model.vhost.delete_queue(queue) == 1
    assert taker.was_cancelled
    queue.ack(taker.held[0]), queue.reject(taker.held[1]), queue.requeue([taker.held[2]])
    assert (queue.unacknowledged, model.load.bytes) == (0, 0)


def test_delete_if_unused_and_if_empty(model: BrokerServices) -> None:
    queue = model.queue("q")
    fill(model, "q", "a")
    with pytest.raises(PreconditionFailed, match=r"queue 'q' in vhost '/' not empty"):
        model.vhost.delete_queue(queue, if_empty=True)
    QueueConsumer(queue)
    with pytest.raises(PreconditionFailed, match=r"queue 'q' in vhost '/' in use"):
        model.vhost.delete_queue(queue, if_unused=True)
    assert model.vhost.delete_queue(queue, if_empty=True) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"x-max-length": 2},
        {"x-max-length": 2, "x-overflow": "reject-publish"},
        {"x-max-length-bytes": 3},
        {"x-message-ttl": 100},
        {"x-expires": 100},
        {"x-max-priority": 3},
        {"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead"},
    ],
)
def test_after_everything_the_load_is_nothing(model: BrokerServices, arguments: dict[str, Any]) -> None:
    queue, dead = model.queue("q", arguments), model.queue("dead")
    for number in range(6):
        model.publish("", "q", str(number), priority=number, headers={"h": number})
    assert model.load.bytes > 0
    taker = QueueConsumer(queue, prefetch=2)
    if taker.held:
        taker.ack()
    if taker.held:
        taker.requeue()
    if taker.held:
        taker.reject()
    taker.leave()
    model.turn(10)
    got = queue.get(no_ack=False) if not queue.deleted else None
    queue.purge(), dead.purge()
    model.vhost.delete_queue(queue)
    if got is not None:
        queue.requeue([got])
    assert model.load.bytes == 0


def test_a_queue_tells_what_it_is(model: BrokerServices) -> None:
    queue = model.queue("q")
    QueueConsumer(queue, prefetch=1)
    fill(model, "q", "ab")
    assert repr(queue) == "<Queue 'q': 1 ready, 1 unacknowledged, 1 consumers>"
    assert bool(model.queue("empty")), "an empty queue is still a queue"


# --- declarations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"x-message-ttl": "5"}, '"expected integer, got longstr"'),
        ({"x-max-length": True}, '"expected integer, got bool"'),
        ({"x-message-ttl": -1}, "{value_negative,-1}"),
        ({"x-expires": 0}, "{value_zero,0}"),
        ({"x-max-length": -1}, "{value_negative,-1}"),
        ({"x-max-priority": 256}, "{max_value_exceeded,256}"),
        ({"x-overflow": "bogus"}, "invalid_overflow"),
        ({"x-overflow": 3}, "{unacceptable_type,signedint}"),
        ({"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"),
        ({"x-single-active-consumer": "yes"}, "{unacceptable_type,longstr}"),
        ({"x-queue-mode": "bogus"}, "\"unsupported queue mode 'bogus'\""),
        ({"x-queue-type": "bogus"}, "\"unsupported queue type 'bogus'\""),
    ],
)
def test_a_bad_argument_is_refused(model: BrokerServices, arguments: dict[str, Any], why: str) -> None:
    """Texts as of RabbitMQ 3.10."""
    (name,) = arguments
    with pytest.raises(PreconditionFailed) as caught:
        model.queue("q", arguments)
    assert caught.value.text == f"PRECONDITION_FAILED - invalid arg '{name}' for queue 'q' in vhost '/': {why}"
    assert "q" not in model.vhost.queues


@pytest.mark.parametrize("kind", ["quorum", "stream"])
def test_what_would_promise_copies_is_refused(model: BrokerServices, kind: str) -> None:
    with pytest.raises(PreconditionFailed, match="x-queue-type"):
        model.queue("q", {"x-queue-type": kind})


def test_arguments_that_nobody_knows_are_ignored(model: BrokerServices) -> None:
    model.queue("q", {"x-unknown": 1, "mine": [1]})
    model.queue("q", {})


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ({}, {"x-message-ttl": 5}, "received the value '5' of type 'signedint' but current is none"),
        ({"x-max-length": 5}, {"x-max-length": 6}, "received '6' but current is '5'"),
        ({"x-message-ttl": 65536}, {}, "received none but current is the value '65536' of type 'signedint'"),
    ],
)
def test_a_declaration_that_differs_is_refused(
    model: BrokerServices, first: dict[str, Any], then: dict[str, Any], why: str
) -> None:
    model.queue("q", first)
    (name,) = {**first, **then}
    with pytest.raises(PreconditionFailed) as caught:
        model.queue("q", then)
    assert caught.value.text == f"PRECONDITION_FAILED - inequivalent arg '{name}' for queue 'q' in vhost '/': {why}"


def test_an_exclusive_queue_is_its_owners(model: BrokerServices) -> None:
    model.queue("q", exclusive=True)
    assert isinstance(model.queue("q", exclusive=True), Queue)
    with pytest.raises(ResourceLocked, match="cannot obtain exclusive access to locked queue 'q' in vhost '/'"):
        model.vhost.declare_queue("q", False, False, False, False, {}, object())
