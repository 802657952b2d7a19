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
    model = BrokerServices()
    model.queue("q")
    model.bind("amq.headers", "q", "", wanted)
    assert model.reached("amq.headers", "", headers=headers) == (["q"] if matches else [])


def test_an_unknown_x_match_is_refused() -> None:
    model = BrokerServices()
    model.queue("q")
    with pytest.raises(PreconditionFailed):
        model.bind("amq.headers", "q", "", {"x-match": "some", "a": 1})


def test_a_message_without_headers_matches_only_what_asks_for_none() -> None:
    model = BrokerServices()
    model.queue("none"), model.queue("one")
    model.bind("amq.headers", "none")
    model.bind("amq.headers", "one", "", {"a": 1})
    assert model.reached("amq.headers", "") == ["none"]


def test_bindings_that_differ_in_arguments_are_unbound_by_their_own() -> None:
    model = BrokerServices()
    model.queue("q")
    model.bind("amq.headers", "q", "", {"a": 1})
    model.bind("amq.headers", "q", "", {"a": 2})
    model.unbind("amq.headers", "q", "", {"a": 1})
    assert model.reached("amq.headers", "", headers={"a": 1}) == []
    assert model.reached("amq.headers", "", headers={"a": 2}) == ["q"]


# --- direct and fanout ------------------------------------------------------------------------------------------------


def test_direct_goes_by_the_key_and_fanout_everywhere() -> None:
    model = BrokerServices()
    model.queue("one"), model.queue("two")
    model.bind("amq.direct", "one", "k")
    model.bind("amq.direct", "two", "other")
    model.bind("amq.fanout", "one")
    model.bind("amq.fanout", "two", "ignored")
    assert model.reached("amq.direct", "k") == ["one"]
    assert model.reached("amq.direct", "") == []
    assert model.reached("amq.fanout", "k") == ["one", "two"]


def test_two_bindings_to_one_queue_deliver_once() -> None:
    model = BrokerServices()
    model.queue("q")
    model.bind("amq.topic", "q", "a.*")
    model.bind("amq.topic", "q", "a.#")
    assert model.publish("amq.topic", "a.b", "x") == (True, True)
    assert model.bodies("q") == ["x"]


def test_the_same_binding_twice_is_one() -> None:
    model = BrokerServices()
    model.queue("q")
    for _ in range(2):
        model.bind("amq.direct", "q", "k")
    model.unbind("amq.direct", "q", "k")
    assert model.reached("amq.direct", "k") == []
    model.unbind("amq.direct", "q", "k")  # of nothing: no error


def test_the_default_exchange_leads_to_each_queue_by_name() -> None:
    model = BrokerServices()
    model.queue("q")
    assert model.reached("", "q") == ["q"]
    assert model.publish("", "nowhere") == (False, True)


@pytest.mark.parametrize("exchange", ["", "amq.direct"])
def test_other_queues_cost_a_route_nothing(exchange: str) -> None:
    def lookups(others: int) -> int:
        model = BrokerServices()
        counted = CountingDict(model.vhost.queues)
        model.vhost.queues = counted
        for number in range(others):
            model.queue(f"other{number}")
            model.bind("amq.direct", f"other{number}", f"other{number}")
        model.queue("q")
        model.bind("amq.direct", "q", "q")
        counted.looks = 0
        assert model.reached(exchange, "q") == ["q"]
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
    model = BrokerServices()
    model.exchange("in", "direct"), model.exchange("middle", "topic"), model.queue("q")
    model.join("in", "middle", "a.b")
    model.bind("middle", "q", "a.*")
    assert model.reached("in", "a.b") == ["q"]
    model.part("in", "middle", "a.b")
    assert model.reached("in", "a.b") == []


def test_a_circle_of_exchanges_ends() -> None:
    model = BrokerServices()
    for name in ("a", "b", "c"):
        model.exchange(name)
        model.queue(f"of {name}")
        model.bind(name, f"of {name}")
    for source, destination in (("a", "b"), ("b", "c"), ("c", "a"), ("a", "a")):
        model.join(source, destination)
    assert model.reached("b", "") == ["of a", "of b", "of c"]


def test_a_long_chain_of_exchanges_is_followed() -> None:
    model = BrokerServices()
    for number in range(2000):
        model.exchange(f"e{number}")
        if number:
            model.join(f"e{number - 1}", f"e{number}")
    model.queue("q")
    model.bind("e1999", "q")
    assert model.reached("e0", "") == ["q"]


def test_the_alternate_exchange_gets_what_goes_nowhere_else() -> None:
    model = BrokerServices()
    model.exchange("main", "direct", {"alternate-exchange": "spare"})
    model.exchange("spare")
    model.queue("q"), model.queue("rest")
    model.bind("main", "q", "k")
    model.bind("spare", "rest")
    assert model.reached("main", "k") == ["q"]
    assert model.reached("main", "other") == ["rest"]


def test_alternates_of_alternates_and_alternates_in_a_circle() -> None:
    model = BrokerServices()
    model.exchange("one", "direct", {"alternate-exchange": "two"})
    model.exchange("two", "direct", {"alternate-exchange": "one"})
    assert model.reached("one", "k") == []
    model.queue("q")
    model.bind("two", "q", "k")
    assert model.reached("one", "k") == ["q"]


def test_an_alternate_that_is_not_there_is_as_none() -> None:
    model = BrokerServices()
    model.exchange("main", "direct", {"alternate-exchange": "missing"})
    assert model.publish("main", "k") == (False, True)


def test_cc_and_bcc_are_further_keys_and_bcc_is_taken_out() -> None:
    model = BrokerServices()
    for name in ("q", "copy", "blind"):
        model.queue(name)
    model.publish("", "q", "x", headers={"CC": ["copy", "nowhere"], "BCC": ["blind"], "mine": 1})
    for name in ("q", "copy", "blind"):
        (message,) = model.vhost.queues[name].messages
        assert message.properties.headers == {"CC": ["copy", "nowhere"], "mine": 1}


def test_a_cc_that_is_no_list_is_refused() -> None:
    model = BrokerServices()
    model.queue("q")
    with pytest.raises(PreconditionFailed) as caught:
        model.publish("", "q", headers={"CC": "copy"})
    assert 'invalid message: {unacceptable_type_in_header,"CC",longstr}' in caught.value.text


# --- what goes when what it hung on goes ------------------------------------------------------------------------------


def test_an_auto_delete_exchange_goes_with_its_last_binding() -> None:
    model = BrokerServices()
    model.exchange("e", "direct", auto_delete=True)
    model.queue("q")
    model.bind("e", "q", "1"), model.bind("e", "q", "2")
    model.unbind("e", "q", "1")
    assert "e" in model.vhost.exchanges
    model.unbind("e", "q", "2")
    assert "e" not in model.vhost.exchanges


def test_an_auto_delete_exchange_that_was_never_bound_stays() -> None:
    model = BrokerServices()
    model.exchange("e", auto_delete=True)
    model.queue("q")
    model.unbind("e", "q")
    assert "e" in model.vhost.exchanges


def test_a_deleted_queue_takes_its_bindings_along() -> None:
    model = BrokerServices()
    model.exchange("e", auto_delete=True)
    queue = model.queue("q")
    model.bind("amq.direct", "q", "k"), model.bind("e", "q")
    model.vhost.delete_queue(queue)
    assert model.vhost.bindings == []
    assert "e" not in model.vhost.exchanges


def test_auto_delete_exchanges_in_a_chain_go_one_after_the_other() -> None:
    model = BrokerServices()
    chain = 1000  # deeper than Python's stack: it must not be walked by recursion
    for number in range(chain):
        model.exchange(f"e{number}", auto_delete=True)
        if number:
            model.join(f"e{number - 1}", f"e{number}")
    queue = model.queue("q")
    model.bind(f"e{chain - 1}", "q")
    model.vhost.delete_queue(queue)
    assert not [name for name in model.vhost.exchanges if name.startswith("e")]


def test_a_deleted_exchange_takes_its_bindings_along() -> None:
    model = BrokerServices()
    model.exchange("in"), model.exchange("out"), model.queue("q")
    model.join("in", "out"), model.bind("out", "q")
    model.vhost.delete_exchange("out", if_unused=False)
    assert model.vhost.bindings == []
    model.vhost.delete_exchange("out", if_unused=False)  # it is no error in RabbitMQ


@pytest.mark.parametrize("name", ["in", "out"])
def test_an_exchange_in_use_is_deleted_only_without_if_unused(name: str) -> None:
    """In use is one that something is bound to; to be bound to something is no use (RabbitMQ)."""
    model = BrokerServices()
    model.exchange("in"), model.exchange("out")
    model.join("in", "out")
    if name == "in":
        with pytest.raises(PreconditionFailed, match=r"exchange 'in' in vhost '/' in use"):
            model.vhost.delete_exchange(name, if_unused=True)
    else:
        model.vhost.delete_exchange(name, if_unused=True)
