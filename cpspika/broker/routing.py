"""Routing: one matcher for each type of exchange.

A matcher holds the bindings of an exchange and finds the destinations of a message. Its cost depends on the bindings
that match, not on all bindings: a direct exchange looks the routing key up, and a topic exchange walks a trie along the
words of the routing key, past all bindings that share no words with it. A headers exchange alone tests every binding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

Destination = Any  # the kind and name of a queue or exchange; a matcher only compares and returns it
Headers = Callable[[], Mapping[str, Any]]  # returns the message's headers, which are decoded only when it is called


class Matcher(Protocol):
    """The bindings of one exchange. A binding is its key, arguments and destination; equal ones are bound once."""

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None: ...
    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None: ...
    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        """The destinations of a message with this routing key; a destination may come more than once."""


class _Counted(dict[Any, int]):
    """Destinations, each with the number of its bindings.

    Several bindings may look alike to a matcher, since they differ only in a part that it doesn't use.
    """

    def add(self, destination: Destination) -> None:
        self[destination] = self.get(destination, 0) + 1

    def discard(self, destination: Destination) -> None:
        left = self[destination] - 1
        if left:
            self[destination] = left
        else:
            del self[destination]


class Direct:
    """Matches where the routing key equals the binding's key (0-9-1 §3.1.3.1)."""

    def __init__(self) -> None:
        self._by_key: dict[str, _Counted] = {}

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._by_key.setdefault(key, _Counted()).add(destination)

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._by_key[key].discard(destination)
        if not self._by_key[key]:
            del self._by_key[key]

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        return self._by_key.get(key, ())


class Fanout:
    """Matches every binding (0-9-1 §3.1.3.2)."""

    def __init__(self) -> None:
        self._all = _Counted()

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._all.add(destination)

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._all.discard(destination)

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        return self._all


class _Node:
    """A node of the trie. `bound`: the destinations of the pattern that ends here. `words`: the next nodes, by word."""

    __slots__ = ("bound", "words")

    def __init__(self) -> None:
        self.bound = _Counted()
        self.words: dict[str, _Node] = {}


class Topic:
    """Matches the words of the routing key, separated by dots, with a pattern (0-9-1 §3.1.3.3).

    In a pattern `*` matches one word, and `#` matches any number of words, also none.
    """

    def __init__(self) -> None:
        self._root = _Node()

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        node = self._root
        for word in _words(key):
            node = node.words.setdefault(word, _Node())
        node.bound.add(destination)

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        path = [self._root]
        words = _words(key)
        for word in words:
            path.append(path[-1].words[word])
        path[-1].bound.discard(destination)
        for parent, word, node in zip(reversed(path[:-1]), reversed(words), reversed(path[1:]), strict=True):
            if node.bound or node.words:
                break
            del parent.words[word]

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        """Visits each node of the trie at most once, so the time is bounded by the words of all patterns.

        A node is visited with the set of all positions that its pattern can have reached in the routing key: an integer
        whose bit `i` says that the first `i` words match. `#` reaches all positions from the first one on.
        """
        found: dict[Destination, None] = {}
        words = _words(key)
        end = 1 << len(words)
        masks: dict[str, int] = {}  # for each word, the positions before it
        for at, word in enumerate(words):
            masks[word] = masks.get(word, 0) | 1 << at
        todo = [(self._root, 1)]
        while todo:
            node, reached = todo.pop()
            if reached & end and node.bound:
                found.update(dict.fromkeys(node.bound))
            after = node.words
            if not after:
                continue
            many = after.get("#")
            if many is not None:
                todo.append((many, end * 2 - (reached & -reached)))
            one = after.get("*")
            if one is not None and reached != end:
                todo.append((one, (reached & ~end) << 1))
            # The shorter of both is searched: the words of the routing key, or those of the patterns.
            for word in masks if len(masks) < len(after) else after:
                if word in masks and word in after and word not in _WILD and reached & masks[word]:
                    todo.append((after[word], (reached & masks[word]) << 1))
        return found


_WILD = frozenset("*#")


def _words(key: str) -> list[str]:
    """The words of a key; an empty key has no words."""
    return key.split(".") if key else []


class HeadersMatch:
    """Matches where the message's headers contain the binding's arguments (0-9-1 §3.1.3.4).

    The argument x-match says whether all or any of the arguments must be there. Arguments that begin with "x-" are
    ignored, unless x-match ends with "-with-x", as in RabbitMQ.
    """

    def __init__(self) -> None:
        self._bindings: list[tuple[str, dict[str, Any], Destination]] = []

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._bindings.append((key, dict(arguments), destination))

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._bindings.remove((key, dict(arguments), destination))

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        given = headers()
        return [destination for _, wanted, destination in self._bindings if _holds(wanted, given)]


def _holds(wanted: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    how = str(wanted.get("x-match", "all"))
    counted = [
        (name, value)
        for name, value in wanted.items()
        if name != "x-match" and (how.endswith("-with-x") or not name.startswith("x-"))
    ]
    # An argument without a value matches a header with any value.
    hits = (name in given and (value is None or _same(given[name], value)) for name, value in counted)
    return any(hits) if how.startswith("any") else all(hits)


def _same(one: Any, other: Any) -> bool:
    """Whether values and types are equal. Python's == alone would take True for 1, and 1 for 1.0."""
    return type(one) is type(other) and bool(one == other)


X_MATCHES = ("all", "any", "all-with-x", "any-with-x")

MATCHERS: dict[str, Callable[[], Matcher]] = {
    "direct": Direct,
    "fanout": Fanout,
    "topic": Topic,
    "headers": HeadersMatch,
}
