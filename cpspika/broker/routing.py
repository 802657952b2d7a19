"""Routing: one matcher for each type of exchange.

A matcher holds the bindings of an exchange and finds the destinations of a message. Its cost depends on the bindings
that match, not on all bindings: a direct exchange looks the routing key up, and a topic exchange walks a trie along the
words of the routing key, past all bindings that share no words with it. A headers exchange looks its headers up, and
tests the bindings that have one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from .field_values import Key, exact_table, loose

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


class _HeadersBinding:
    """A binding of a headers exchange.

    destination: of the binding. any: True if one argument is enough. pairs: the arguments that count, as a name and the
    key of a value; ANY_VALUE where the binding wants the header with any value.
    """

    __slots__ = ("any", "destination", "pairs")

    def __init__(self, arguments: Mapping[str, Any], destination: Destination):
        how = str(arguments.get("x-match", "all"))
        self.destination = destination
        self.any = how.startswith("any")
        self.pairs = [
            (name, _ANY_VALUE if value is None else loose(value))
            for name, value in arguments.items()
            if name != "x-match" and (how.endswith("-with-x") or not name.startswith("x-"))
        ]

    def holds(self, given: Mapping[str, Key]) -> bool:
        return all(name in given and key in (_ANY_VALUE, given[name]) for name, key in self.pairs)


_ANY_VALUE: Key = "any value"  # no key of a value is this str; see `field_values`


class HeadersMatch:
    """Matches where the message's headers contain the binding's arguments (0-9-1 §3.1.3.4).

    The argument x-match says whether all or any of the arguments must be there. Arguments that begin with "x-" are
    ignored, unless x-match ends with "-with-x", as in RabbitMQ. Values of different types may be equal; see
    `field_values.loose`.

    `_by_pair` finds the bindings by one argument, or by each where any is enough. So a message is compared only with
    the bindings that have an argument in common with its headers. `_always`: bindings without an argument.
    """

    def __init__(self) -> None:
        self._bindings: dict[Key, _HeadersBinding] = {}
        self._by_pair: dict[tuple[str, Key], dict[_HeadersBinding, None]] = {}
        self._always: dict[_HeadersBinding, None] = {}

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        binding = _HeadersBinding(arguments, destination)
        self._bindings[key, exact_table(arguments), destination] = binding
        if not binding.pairs and not binding.any:
            self._always[binding] = None
        for pair in self._indexed(binding):
            self._by_pair.setdefault(pair, {})[binding] = None

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        binding = self._bindings.pop((key, exact_table(arguments), destination))
        self._always.pop(binding, None)
        for pair in binding.pairs:
            found = self._by_pair.get(pair, {})
            found.pop(binding, None)
            if not found:
                self._by_pair.pop(pair, None)

    def _indexed(self, binding: _HeadersBinding) -> list[tuple[str, Key]]:
        """The arguments by which a binding is found: the one that the fewest bindings share, or each."""
        if binding.any:
            return binding.pairs
        return sorted(binding.pairs, key=lambda pair: len(self._by_pair.get(pair, ())))[:1]

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        found = [binding.destination for binding in self._always]
        if not self._by_pair:
            return found
        given = {name: loose(value) for name, value in headers().items()}
        for pair in given.items():
            for wanted in (pair, (pair[0], _ANY_VALUE)):
                for binding in self._by_pair.get(wanted, ()):
                    if binding.any or binding.holds(given):
                        found.append(binding.destination)
        return found


X_MATCHES = ("all", "any", "all-with-x", "any-with-x")

MATCHERS: dict[str, Callable[[], Matcher]] = {
    "direct": Direct,
    "fanout": Fanout,
    "topic": Topic,
    "headers": HeadersMatch,
}
