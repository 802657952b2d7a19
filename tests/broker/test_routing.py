"""Where exchanges send messages: the matchers by themselves, then a virtual host's routes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpspika import PreconditionFailed
from cpspika.broker import routing
from cpspika.broker.routing import Topic
from tests.support.broker_model import BrokerServices

# --- topics -----------------------------------------------------------------------------------------------------------


def words(key: str) -> list[str]:
    """RabbitMQ: the empty key has no word at all, elsewhere an empty word is a word."""
    return key.split(".") if key else []


def naive(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    if pattern[0] == "#":
        return any(naive(pattern[1:], key[skipped:]) for skipped in range(len(key) + 1))
    return bool(key) and pattern[0] in ("*", key[0]) and naive(pattern[1:], key[1:])


def keys(alphabet: list[str]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(alphabet), max_size=5).map(".".join)


@given(patterns=st.lists(keys(["a", "b", "", "*", "#"]), max_size=8), key=keys(["a", "b", "c", ""]))
def test_the_trie_finds_what_a_naive_matcher_finds(patterns: list[str], key: str) -> None:
    topic = Topic()
    for pattern in patterns:
        topic.bind(pattern, {}, pattern)
    assert set(topic.match(key, dict)) == {pattern for pattern in patterns if naive(words(pattern), words(key))}


@given(kept=st.lists(keys(["a", "*", "#"]), max_size=5), gone=st.lists(keys(["a", "b", "*", "#"]), max_size=5))
def test_what_was_unbound_is_not_found_and_leaves_nothing_behind(kept: list[str], gone: list[str]) -> None:
    topic, fresh = Topic(), Topic()
    for pattern in kept:
        topic.bind(pattern, {}, ("kept", pattern))
        fresh.bind(pattern, {}, ("kept", pattern))
    for pattern in gone:
        topic.bind(pattern, {}, ("gone", pattern))
    for pattern in gone:
        topic.unbind(pattern, {}, ("gone", pattern))
    assert tree(topic._root) == tree(fresh._root)


def tree(node: Any) -> Any:
    return dict(node.bound), {word: tree(after) for word, after in node.words.items()}


def test_a_topic_costs_nothing_for_bindings_that_do_not_match(monkeypatch: pytest.MonkeyPatch) -> None:
    assert visited(monkeypatch, strangers=1) == visited(monkeypatch, strangers=5000)


def visited(monkeypatch: pytest.MonkeyPatch, strangers: int) -> int:
    """How many places of the trie a match of one key looks at."""
    looks = []

    class Node(routing._Node):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name == "words":
                looks.append(self)
            return super().__getattribute__(name)

    monkeypatch.setattr(routing, "_Node", Node)
    topic = Topic()
    for pattern in ("stock.*.nyse", "stock.#", "#.nyse"):
        topic.bind(pattern, {}, pattern)
    for number in range(strangers):
        topic.bind(f"other{number}.#.x", {}, number)
        topic.bind(f"stock.usd.place{number}", {}, number)
    looks.clear()
    assert len(list(topic.match("stock.usd.nyse", dict))) == 3
    return len(looks)


def test_many_hashes_do_not_explode() -> None:
    topic = Topic()
    topic.bind(".".join(["#", "a"] * 20), {}, "q")
    assert list(topic.match(".".join(["a"] * 40), dict)) == ["q"]
    assert list(topic.match(".".join(["a"] * 40 + ["b"]), dict)) == []


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "headers", "matches"),
    [
        ({}, {}, True),
        ({"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"x-match": "all", "a": 1, "b": 2}, {"a": 1, "b": 3}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 9, "b": 2}, True),
        ({"x-match": "any", "a": 1, "b": 2}, {"a": 9}, False),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": None}, {"b": 1}, False),
        ({"x-match": "all", "x-kind": "y", "a": 1}, {"a": 1}, True),
        ({"x-match": "all-with-x", "x-kind": "y", "a": 1}, {"a": 1}, False),
        ({"x-match": "all-with-x", "x-kind": "y", "a": 1}, {"a": 1, "x-kind": "y"}, True),
        ({"x-match": "any", "x-kind": "y", "a": 1}, {"x-kind": "y"}, False),
        ({"x-match": "any-with-x", "x-kind": "y", "a": 1}, {"x-kind": "y"}, True),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": True}, {"a": 1}, False),
        ({"a": [1, {"b": "c"}]}, {"a": [1, {"b": "c"}]}, True),
    ],
)
def test_headers_match(wanted: dict[str, Any], headers: dict[str, Any], matches: bool) -> None:
    house = BrokerServices()
    house.queue("q")
    house.bind("amq.headers", "q", "", wanted)
    assert house.reached("amq.headers", "", headers=headers) == (["q"] if matches else [])


def test_an_unknown_x_match_is_refused() -> None:
    house = BrokerServices()
    house.queue("q")
    with pytest.raises(PreconditionFailed):
        house.bind("amq.headers", "q", "", {"x-match": "some", "a": 1})


def test_a_message_without_headers_matches_only_what_asks_for_none() -> None:
    house = BrokerServices()
    house.queue("none"), house.queue("one")
    house.bind("amq.headers", "none")
    house.bind("amq.headers", "one", "", {"a": 1})
    assert house.reached("amq.headers", "") == ["none"]


def test_bindings_that_differ_in_arguments_are_unbound_by_their_own() -> None:
    house = BrokerServices()
    house.queue("q")
    house.bind("amq.headers", "q", "", {"a": 1})
    house.bind("amq.headers", "q", "", {"a": 2})
    house.unbind("amq.headers", "q", "", {"a": 1})
    assert house.reached("amq.headers", "", headers={"a": 1}) == []
    assert house.reached("amq.headers", "", headers={"a": 2}) == ["q"]


# --- direct and fanout ------------------------------------------------------------------------------------------------


def test_direct_goes_by_the_key_and_fanout_everywhere() -> None:
    house = BrokerServices()
    house.queue("one"), house.queue("two")
    house.bind("amq.direct", "one", "k")
    house.bind("amq.direct", "two", "other")
    house.bind("amq.fanout", "one")
    house.bind("amq.fanout", "two", "ignored")
    assert house.reached("amq.direct", "k") == ["one"]
    assert house.reached("amq.direct", "") == []
    assert house.reached("amq.fanout", "k") == ["one", "two"]


def test_two_bindings_to_one_queue_deliver_once() -> None:
    house = BrokerServices()
    house.queue("q")
    house.bind("amq.topic", "q", "a.*")
    house.bind("amq.topic", "q", "a.#")
    assert house.publish("amq.topic", "a.b", "x") == (True, True)
    assert house.bodies("q") == ["x"]


def test_the_same_binding_twice_is_one() -> None:
    house = BrokerServices()
    house.queue("q")
    for _ in range(2):
        house.bind("amq.direct", "q", "k")
    house.unbind("amq.direct", "q", "k")
    assert house.reached("amq.direct", "k") == []
    house.unbind("amq.direct", "q", "k")  # of nothing: no error


def test_the_default_exchange_leads_to_each_queue_by_name() -> None:
    house = BrokerServices()
    house.queue("q")
    assert house.reached("", "q") == ["q"]
    assert house.publish("", "nowhere") == (False, True)


@pytest.mark.parametrize("exchange", ["", "amq.direct"])
def test_other_queues_cost_a_route_nothing(exchange: str) -> None:
    def lookups(others: int) -> int:
        house = BrokerServices()
        counted = CountingDict(house.vhost.queues)
        house.vhost.queues = counted
        for number in range(others):
            house.queue(f"other{number}")
            house.bind("amq.direct", f"other{number}", f"other{number}")
        house.queue("q")
        house.bind("amq.direct", "q", "q")
        counted.looks = 0
        assert house.reached(exchange, "q") == ["q"]
        return counted.looks

    assert lookups(0) == lookups(1000)


class CountingDict(dict[str, Any]):
    looks = 0

    def __getitem__(self, key: str) -> Any:
        self.looks += 1
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def values(self) -> Any:
        raise AssertionError("a route walked through all the queues")

    items = __iter__ = values  # type: ignore[assignment]


# --- through several exchanges ----------------------------------------------------------------------------------------


def test_exchanges_bound_to_exchanges_are_followed() -> None:
    house = BrokerServices()
    house.exchange("in", "direct"), house.exchange("middle", "topic"), house.queue("q")
    house.join("in", "middle", "a.b")
    house.bind("middle", "q", "a.*")
    assert house.reached("in", "a.b") == ["q"]
    house.part("in", "middle", "a.b")
    assert house.reached("in", "a.b") == []


def test_a_circle_of_exchanges_ends() -> None:
    house = BrokerServices()
    for name in ("a", "b", "c"):
        house.exchange(name)
        house.queue(f"of {name}")
        house.bind(name, f"of {name}")
    for source, destination in (("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")):
        house.join(source, destination)
    assert house.reached("b", "") == ["of a", "of b", "of c"]


def test_a_long_chain_of_exchanges_is_followed() -> None:
    house = BrokerServices()
    for number in range(2000):
        house.exchange(f"e{number}")
        if number:
            house.join(f"e{number - 1}", f"e{number}")
    house.queue("q")
    house.bind("e1999", "q")
    assert house.reached("e0", "") == ["q"]


def test_the_alternate_exchange_gets_what_goes_nowhere_else() -> None:
    house = BrokerServices()
    house.exchange("main", "direct", {"alternate-exchange": "spare"})
    house.exchange("spare")
    house.queue("q"), house.queue("rest")
    house.bind("main", "q", "k")
    house.bind("spare", "rest")
    assert house.reached("main", "k") == ["q"]
    assert house.reached("main", "other") == ["rest"]


def test_alternates_of_alternates_and_alternates_in_a_circle() -> None:
    house = BrokerServices()
    house.exchange("one", "direct", {"alternate-exchange": "two"})
    house.exchange("two", "direct", {"alternate-exchange": "one"})
    assert house.reached("one", "k") == []
    house.queue("q")
    house.bind("two", "q", "k")
    assert house.reached("one", "k") == ["q"]


def test_an_alternate_that_is_not_there_is_as_none() -> None:
    house = BrokerServices()
    house.exchange("main", "direct", {"alternate-exchange": "missing"})
    assert house.publish("main", "k") == (False, True)


def test_cc_and_bcc_are_further_keys_and_bcc_is_taken_out() -> None:
    house = BrokerServices()
    for name in ("q", "copy", "blind"):
        house.queue(name)
    house.publish("", "q", "x", headers={"CC": ["copy", "nowhere"], "BCC": ["blind"], "mine": 1})
    for name in ("q", "copy", "blind"):
        (message,) = house.vhost.queues[name].messages
        assert message.properties.headers == {"CC": ["copy", "nowhere"], "mine": 1}


def test_a_cc_that_is_no_list_is_refused() -> None:
    house = BrokerServices()
    house.queue("q")
    with pytest.raises(PreconditionFailed) as caught:
        house.publish("", "q", headers={"CC": "copy"})
    assert 'invalid message: {unacceptable_type_in_header,"CC",longstr}' in caught.value.text


# --- what goes when what it hung on goes ------------------------------------------------------------------------------


def test_an_auto_delete_exchange_goes_with_its_last_binding() -> None:
    house = BrokerServices()
    house.exchange("e", "direct", auto_delete=True)
    house.queue("q")
    house.bind("e", "q", "1"), house.bind("e", "q", "2")
    house.unbind("e", "q", "1")
    assert "e" in house.vhost.exchanges
    house.unbind("e", "q", "2")
    assert "e" not in house.vhost.exchanges


def test_an_auto_delete_exchange_that_was_never_bound_stays() -> None:
    house = BrokerServices()
    house.exchange("e", auto_delete=True)
    house.queue("q")
    house.unbind("e", "q")
    assert "e" in house.vhost.exchanges


def test_a_deleted_queue_takes_its_bindings_along() -> None:
    house = BrokerServices()
    house.exchange("e", auto_delete=True)
    queue = house.queue("q")
    house.bind("amq.direct", "q", "k"), house.bind("e", "q")
    house.vhost.delete_queue(queue)
    assert house.vhost.bindings == []
    assert "e" not in house.vhost.exchanges


def test_auto_delete_exchanges_in_a_chain_go_one_after_the_other() -> None:
    house = BrokerServices()
    chain = 1000  # deeper than Python's stack: it must not be walked by recursion
    for number in range(chain):
        house.exchange(f"e{number}", auto_delete=True)
        if number:
            house.join(f"e{number - 1}", f"e{number}")
    queue = house.queue("q")
    house.bind(f"e{chain - 1}", "q")
    house.vhost.delete_queue(queue)
    assert not [name for name in house.vhost.exchanges if name.startswith("e")]


def test_a_deleted_exchange_takes_its_bindings_along() -> None:
    house = BrokerServices()
    house.exchange("in"), house.exchange("out"), house.queue("q")
    house.join("in", "out"), house.bind("out", "q")
    house.vhost.delete_exchange("out", if_unused=False)
    assert house.vhost.bindings == []
    house.vhost.delete_exchange("out", if_unused=False)  # it is no error in RabbitMQ


@pytest.mark.parametrize("name", ["in", "out"])
def test_an_exchange_in_use_is_deleted_only_without_if_unused(name: str) -> None:
    """In use is one that something is bound to; to be bound to something is no use (RabbitMQ)."""
    house = BrokerServices()
    house.exchange("in"), house.exchange("out")
    house.join("in", "out")
    if name == "in":
        with pytest.raises(PreconditionFailed, match=r"exchange 'in' in vhost '/' in use"):
            house.vhost.delete_exchange(name, if_unused=True)
    else:
        house.vhost.delete_exchange(name, if_unused=True)
