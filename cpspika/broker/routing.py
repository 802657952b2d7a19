"""Where an exchange sends a message: one matcher for each type of exchange.

A matcher holds bindings, each a key and arguments to a destination, and says which destinations a message goes to. What
it costs depends on what matches: direct and default ones look a key up, topic ones walk a trie along the words of the
routing key, and pass by whatever bindings share no words with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

Destination = Any  # a queue or an exchange; the matcher only keeps it
Headers = Callable[[], Mapping[str, Any]]  # the message's headers, decoded when somebody asks


class Matcher(Protocol):
    """The bindings of one exchange. The same key, arguments and destination are one binding."""

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None: ...
    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None: ...
    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        """The destinations, perhaps some of them more than once."""


class _Counted(dict[Any, int]):
    """Destinations, and how many bindings (that differ in what this matcher doesn't look at) lead to each."""

    def add(self, destination: Destination) -> None:
        self[destination] = self.get(destination, 0) + 1

    def discard(self, destination: Destination) -> None:
        left = self[destination] - 1
        if left:
            self[destination] = left
        else:
            del self[destination]


class Direct:
    """The routing key equals the binding's (0-9-1 §3.1.3.1)."""

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
    """Everything goes everywhere (§3.1.3.2)."""

    def __init__(self) -> None:
        self._all = _Counted()

    def bind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._all.add(destination)

    def unbind(self, key: str, arguments: Mapping[str, Any], destination: Destination) -> None:
        self._all.discard(destination)

    def match(self, key: str, headers: Headers) -> Iterable[Destination]:
        return self._all


class _Node:
    """A place in the trie: what is bound here, and what follows each word."""

    __slots__ = ("bound", "words")

    def __init__(self) -> None:
        self.bound = _Counted()
        self.words: dict[str, _Node] = {}


class Topic:
    """Words parted by dots; in a binding `*` is one word, and `#` any number of them (§3.1.3.3)."""

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
        found: dict[Destination, None] = {}
        words = _words(key)
        # A place in the trie and one in the key; a pair is visited once, however many `#` lead to it.
        todo = [(self._root, 0)]
        seen = set()
        while todo:
            node, at = todo.pop()
            if (id(node), at) in seen:
                continue
            seen.add((id(node), at))
            many = node.words.get("#")
            if many is not None:
                todo += [(many, place) for place in range(at, len(words) + 1)]
            if at == len(words):
                found.update(dict.fromkeys(node.bound))
                continue
            for word in (words[at], "*"):
                after = node.words.get(word)
                if after is not None and word != "#":
                    todo.append((after, at + 1))
        return found


def _words(key: str) -> list[str]:
    """The words of a key; the empty key has none."""
    return key.split(".") if key else []


class HeadersMatch:
    """The message's headers hold the binding's arguments, all of them or any, as its x-match says (§3.1.3.4). Arguments
    that begin with "x-" don't count, unless x-match ends with "-with-x" (RabbitMQ)."""

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
    # An argument without a value asks only that the header be there.
    hits = (name in given and (value is None or _same(given[name], value)) for name, value in counted)
    return any(hits) if how.startswith("any") else all(hits)


def _same(one: Any, other: Any) -> bool:
    """Equal, and of one type: True is not 1, nor 1 1.0."""
    return type(one) is type(other) and bool(one == other)


X_MATCHES = ("all", "any", "all-with-x", "any-with-x")

MATCHERS: dict[str, Callable[[], Matcher]] = {
    "direct": Direct,
    "fanout": Fanout,
    "topic": Topic,
    "headers": HeadersMatch,
}
