"""The broker's model: virtual hosts with their exchanges, queues and bindings.

This module handles no bytes and no sockets. `VirtualHost.route` finds the queues of a message. A message that a queue
with a dead-letter exchange drops is published again here, with the header x-death. A refusal is raised as the error of
its reply code.
"""

from __future__ import annotations

import re
import secrets
from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from itertools import count
from typing import Any, NamedTuple

from ..logs import get_logger
from ..wire.message import Message
from .dead_letters import is_cycle, with_death
from .field_values import ABSENT, Key, difference, equivalent, exact_table, field_type, shown, term
from .queue_arguments import compared_arguments, ttl_objection
from .queues import SLICE, Clock, Entry, MemoryGauge, Queue
from .quorum_queue import QuorumQueue, check_quorum
from .refusal import not_found, precondition_failed, refusal
from .routing import MATCHERS, X_MATCHES, Matcher
from .rules import DEFAULT, Rules
from .store import NULL_STORE, Change, NullStore, Store, StoredMessage
from .stored_queue import StoredQueue, StoredQuorumQueue

_SILENT = NullStore()  # while a virtual host is restored: its queues are stored ones, and the store has it all

logger = get_logger(__name__)

UNBINDINGS = 500  # bindings that are forgotten in one turn
DEAD_LETTER_SLICE = 200  # deaths and messages that are handled in one turn
REPLY_ADDRESS = "amq.rabbitmq.reply-to."  # begins each address of direct reply-to

# Bits of the property flags. They tell that a message lacks a property without decoding its properties.
HAS_HEADERS = 1 << 13
HAS_EXPIRATION = 1 << 8
HAS_USER_ID = 1 << 4


def flags(message: Message) -> int:
    """The property flags of a message's header."""
    return int.from_bytes(message.encoded[:2], "big")


def unique_name(prefix: str, token_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """A name that the broker makes up: the prefix ("amq.gen-") and 128 random bits in base64.

    token_bytes: the source of randomness, called with the number of bytes.
    """
    return prefix + urlsafe_b64encode(token_bytes(16)).rstrip(b"=").decode()


class Destination(NamedTuple):
    """Where bindings of one exchange lead. number: tells a queue from an earlier one of its name."""

    kind: str
    name: str
    number: int


class Binding(NamedTuple):
    """A binding from the exchange `source` to a destination. kind: "queue" or "exchange", the kind of destination."""

    source: str
    destination: str
    kind: str
    routing_key: str
    arguments: dict[str, Any]


class Exchange:
    """An exchange of a virtual host. `bindings`: those from the exchange. `in_use`: whether there are any."""

    def __init__(
        self, name: str, type: str, durable: bool, auto_delete: bool, internal: bool, arguments: Mapping[str, Any]
    ):
        self.name = name
        self.type = type
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        self.arguments = dict(arguments)
        self.matcher: Matcher = MATCHERS[type]()
        self.gone: set[Destination] = set()  # destinations that are deleted, and still in the matcher
        self._bound: dict[tuple[str, str], dict[tuple[str, Key], Binding]] = {}
        self._known: dict[tuple[str, str], Destination] = {}
        self._numbers = count()

    def __repr__(self) -> str:
        return f"<Exchange {self.name!r}, {self.type}, {len(self.bindings)} bindings>"

    @property
    def bindings(self) -> list[Binding]:
        return [binding for to_one in list(self._bound.values()) for binding in list(to_one.values())]

    @property
    def in_use(self) -> bool:
        return bool(self._bound)

    def bind(self, binding: Binding) -> None:
        """Adds a binding; does nothing if an equal one exists."""
        name = binding.kind, binding.destination
        to_one = self._bound.get(name)
        if to_one is None:
            to_one = self._bound[name] = {}
            self._known[name] = Destination(*name, next(self._numbers))
        if to_one.setdefault(_identity(binding), binding) is binding:
            self.matcher.bind(binding.routing_key, binding.arguments, self._known[name])

    def unbind(self, binding: Binding) -> bool:
        """Removes a binding; returns False if it didn't exist."""
        name = binding.kind, binding.destination
        to_one = self._bound.get(name, {})
        if to_one.pop(_identity(binding), None) is None:
            return False
        self.matcher.unbind(binding.routing_key, binding.arguments, self._known[name])
        if not to_one:
            del self._bound[name], self._known[name]
        return True

    def forget(self, kind: str, name: str) -> Iterator[None]:
        """Removes all bindings to a destination at once, and in slices what the matcher has of them.

        A new queue or exchange of this name is another destination, so it doesn't get these bindings.
        """
        to_one = self._bound.pop((kind, name))
        destination = self._known.pop((kind, name))
        self.gone.add(destination)
        number = 0
        while to_one:
            _, binding = to_one.popitem()
            self.matcher.unbind(binding.routing_key, binding.arguments, destination)
            number += 1
            if not number % UNBINDINGS:
                yield
        self.gone.discard(destination)

    def dismantle(self) -> Iterator[None]:
        """Frees the bindings of a deleted exchange, in slices."""
        number = 0
        while self._bound:
            _, to_one = self._bound.popitem()
            while to_one:
                to_one.popitem()
                number += 1
                if not number % UNBINDINGS:
                    yield

    @property
    def destinations(self) -> list[tuple[str, str]]:
        """The kinds and names of the destinations."""
        return list(self._bound)

    def leads_to(self, kind: str, name: str) -> bool:
        return (kind, name) in self._bound


def _identity(binding: Binding) -> tuple[str, Key]:
    """The parts in which two bindings between the same exchange and destination differ.

    The order of the arguments is none of them: clients in Go write tables in random order.
    """
    return binding.routing_key, exact_table(binding.arguments)


PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


class VirtualHost:
    """A namespace of exchanges and queues.

    `exchanges` and `queues`: by name. `bindings`: of all exchanges, without the implicit ones of the default exchange.
    An `owner` in its methods is the session that calls; only its owner may use an exclusive queue.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        memory: MemoryGauge,
        rules: Rules = DEFAULT,
        store: Store = NULL_STORE,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ):
        self.name = name
        self.store = store
        self.token_bytes = token_bytes
        self.rules = rules
        self.clock = clock
        self.memory = memory
        self.exchanges = {
            exchange: Exchange(exchange, type, True, False, False, {}) for exchange, type in PREDECLARED.items()
        }
        self.exchanges["amq.rabbitmq.trace"] = Exchange("amq.rabbitmq.trace", "topic", True, False, True, {})
        self.queues: dict[str, Queue] = {}
        self.on_deleted: Callable[[Queue], object] | None = None  # called for every queue that is deleted
        self.on_reply: Callable[[str, Message], object] | None = None  # called for a message to direct reply-to
        self._dead_letters: deque[tuple[Entry, str]] = deque()
        self._republishing = False  # now, or in a later turn
        self._left = DEAD_LETTER_SLICE  # deaths and messages that this turn may still handle
        # For each destination, by kind and name, the exchanges that have bindings to it.
        self._sources: dict[tuple[str, str], dict[Exchange, None]] = {}

    def __repr__(self) -> str:
        return f"<VirtualHost {self.name!r}: {len(self.exchanges)} exchanges, {len(self.queues)} queues>"

    @property
    def bindings(self) -> list[Binding]:
        return [binding for exchange in list(self.exchanges.values()) for binding in list(exchange.bindings)]

    # --- exchanges ----------------------------------------------------------------------------------------------------

    def exchange(self, name: str) -> Exchange:
        """The exchange; raises NotFound if there is none."""
        exchange = self.exchanges.get(name)
        if exchange is None:
            raise not_found("exchange", name, self.name)
        return exchange

    def declare_exchange(
        self,
        name: str,
        type: str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Mapping[str, Any],
    ) -> None:
        """exchange.declare. Raises NotFound (passive), PreconditionFailed (it exists and differs), AccessRefused."""
        if not passive and type not in MATCHERS:
            raise refusal(503, f"unknown exchange type '{type}'")
        if not name:
            raise _default_exchange()
        if passive:
            self.exchange(name)
            return
        known = self.exchanges.get(name)
        described = f"exchange '{name}' in vhost '{self.name}'"
        if known is not None:
            fixed = {"type": type, "durable": durable, "auto_delete": auto_delete, "internal": internal}
            _check_equivalent(described, fixed, known, arguments, ("alternate-exchange",))
            return
        if name.startswith("amq."):
            raise refusal(403, f"exchange name '{name}' contains reserved prefix 'amq.*'")
        _check_names_exchange("alternate-exchange", arguments, described)
        self.exchanges[name] = Exchange(name, type, durable, auto_delete, internal, arguments)
        if durable:
            self._define("exchange", (name,), (type, auto_delete, internal, dict(arguments)))

    def delete_exchange(self, name: str, if_unused: bool) -> None:
        """exchange.delete. Raises PreconditionFailed if `if_unused` and the exchange has bindings; AccessRefused."""
        if not name:
            raise _default_exchange()
        if name.startswith("amq."):
            raise refusal(403, f"deletion of system exchange '{name}' in vhost '{self.name}' not allowed")
        exchange = self.exchanges.get(name)
        if exchange is None:
            return  # as in RabbitMQ: deleting an exchange that doesn't exist is no error
        if if_unused and exchange.in_use:
            raise precondition_failed(f"exchange '{name}' in vhost '{self.name}' in use")
        self._delete_exchanges([name])

    # --- queues -------------------------------------------------------------------------------------------------------

    def queue(self, name: str, owner: Any) -> Queue:
        """The queue; raises NotFound if there is none, ResourceLocked if it is exclusive to another owner."""
        queue = self.queues.get(name)
        if queue is None:
            raise not_found("queue", name, self.name)
        if queue.owner is not None and queue.owner is not owner:
            raise _locked(queue)
        return queue

    def declare_queue(
        self,
        name: str,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        arguments: Mapping[str, Any],
        owner: Any,
    ) -> Queue:
        """queue.declare; an empty name asks for a generated one.

        Raises NotFound (passive), ResourceLocked, AccessRefused, or PreconditionFailed: the queue exists and differs,
        or has a wrong argument.
        """
        if passive:
            queue = self.queue(name, owner)
            queue.touch()
            return queue
        if name.startswith("amq."):
            raise refusal(403, f"queue name '{name}' contains reserved prefix 'amq.*'")
        durable = durable and not exclusive  # an exclusive queue ends with its connection
        known = self.queues.get(name) if name else None
        described = f"queue '{name}' in vhost '{self.name}'"
        if known is not None:
            if known.owner is not (owner if exclusive else None):
                raise _locked(known)
            fixed = {"durable": durable, "auto_delete": auto_delete}
            _check_equivalent(
                described, fixed, known, arguments, compared_arguments(known.limits.type, self.rules.like)
            )
            known.touch()
            return known
        _check_names_exchange("x-dead-letter-exchange", arguments, described)
        if not (durable or exclusive or self.rules.allows_transient):
            raise refusal(541, "Feature `transient_nonexcl_queues` is deprecated and not permitted anymore")
        is_quorum = arguments.get("x-queue-type") == "quorum" and "quorum" in self.rules.pretended
        if is_quorum:
            check_quorum(described, bool(name), durable, exclusive, auto_delete)
        stored = durable and self.store is not NULL_STORE
        kind: type[Queue] = QuorumQueue if is_quorum else Queue
        if stored:
            kind = StoredQuorumQueue if is_quorum else StoredQueue
        queue = kind(
            name or unique_name("amq.gen-", self.token_bytes),
            self.name,
            self.clock,
            self.memory,
            self._dead_letter,
            self.delete_queue,
            durable,
            auto_delete,
            owner if exclusive else None,
            arguments,
            self.rules,
        )
        if isinstance(queue, (StoredQueue, StoredQuorumQueue)):
            queue.keep_in(self.store, self.name)
        self.queues[queue.name] = queue
        if durable:
            self._define("queue", (queue.name,), (auto_delete, dict(arguments)))
        return queue

    def delete_queue(self, queue: Queue, if_unused: bool = False, if_empty: bool = False) -> int:
        """queue.delete; returns the number of ready messages that are dropped.

        Raises PreconditionFailed if `if_unused` and there are consumers, or `if_empty` and there are messages.
        """
        if if_unused and queue.consumer_count:
            raise precondition_failed(f"{queue.described} in use")
        if if_empty and len(queue):
            raise precondition_failed(f"{queue.described} not empty")
        if self.queues.get(queue.name) is queue:
            del self.queues[queue.name]
            self._delete_exchanges(self._forget_destination("queue", queue.name))
            if queue.durable:
                self._define("queue", (queue.name,), None)
        if self.on_deleted is not None:
            self.on_deleted(queue)
        return queue.delete()

    # --- bindings -----------------------------------------------------------------------------------------------------

    def bind(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> None:
        binding = self._binding(source, kind, destination, key, arguments, owner)
        exchange = self.exchange(source)
        exchange.bind(binding)
        self._define_binding(exchange, binding, ())
        self._sources.setdefault((kind, destination), {})[exchange] = None

    def unbind(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> None:
        """Removes a binding. As in RabbitMQ, it is no error if the binding or one of its ends doesn't exist."""
        _check_not_default(source, kind, destination)
        queue = self.queues.get(destination) if kind == "queue" else None
        if queue is not None:
            self.queue(destination, owner)
        exchange = self.exchanges.get(source)
        if exchange is not None:
            binding = Binding(source, destination, kind, key, dict(arguments))
            self._delete_exchanges(self._unbind(exchange, [binding]))

    def _binding(
        self, source: str, kind: str, destination: str, key: str, arguments: Mapping[str, Any], owner: Any
    ) -> Binding:
        _check_not_default(source, kind, destination)
        exchange = self.exchange(source)
        if kind == "queue":
            self.queue(destination, owner)
        else:
            self.exchange(destination)
        if exchange.type == "headers":
            _check_x_match(arguments.get("x-match", "all"))
        return Binding(source, destination, kind, key, dict(arguments))

    def _unbind(self, exchange: Exchange, bindings: list[Binding]) -> list[str]:
        """Removes bindings of an exchange; returns its name if it is auto-delete and has lost the last one."""
        removed = [exchange.unbind(binding) for binding in bindings]
        for binding in bindings:
            self._define_binding(exchange, binding, None)
        for destination in {(binding.kind, binding.destination) for binding in bindings}:
            if not exchange.leads_to(*destination):
                self._forget_source(destination, exchange)
        unused = any(removed) and exchange.auto_delete and not exchange.in_use
        return [exchange.name] if unused else []

    def _forget_source(self, destination: tuple[str, str], exchange: Exchange) -> None:
        sources = self._sources.get(destination, {})
        sources.pop(exchange, None)
        if not sources:
            self._sources.pop(destination, None)

    def _delete_exchanges(self, names: list[str]) -> None:
        """Deletes exchanges, and each auto-delete exchange that loses its last binding by it.

        This is a loop and not a recursion, so that a chain of exchanges may have any length.
        """
        while names:
            name = names.pop()
            exchange = self.exchanges.pop(name, None)
            if exchange is not None:
                for destination in exchange.destinations:
                    self._forget_source(destination, exchange)
                if exchange.durable:
                    self._define("exchange", (name,), None)
                names += self._forget_destination("exchange", name)
                self._in_slices(exchange.dismantle())

    def _forget_destination(self, kind: str, name: str) -> list[str]:
        """Removes every binding to a destination; returns the auto-delete exchanges that lose their last one."""
        unused: list[str] = []
        for exchange in self._sources.pop((kind, name), ()):
            self._in_slices(exchange.forget(kind, name))
            if exchange.auto_delete and not exchange.in_use:
                unused.append(exchange.name)
        return unused

    def _in_slices(self, steps: Iterator[None]) -> None:
        """Makes one step now, and each further one in a later turn."""
        for _ in steps:
            self.clock.call_soon(partial(self._in_slices, steps))
            return

    # --- the store ----------------------------------------------------------------------------------------------------

    def _define(self, kind: str, identity: tuple[Any, ...], properties: tuple[Any, ...] | None) -> None:
        """Tells the store of a durable definition; properties None: it was deleted."""
        self.store.definitions(self.name, (kind, identity, properties))

    def _define_binding(self, exchange: Exchange, binding: Binding, properties: tuple[()] | None) -> None:
        """As `_define`, for a binding. A binding with an end that isn't durable is none of the store's."""
        if self.store is NULL_STORE or not exchange.durable:
            return
        ends: Mapping[str, Any] = self.queues if binding.kind == "queue" else self.exchanges
        end = ends.get(binding.destination)
        if properties is None or (end is not None and end.durable):
            source, destination, kind, key, arguments = binding
            self._define("binding", (source, kind, destination, key, arguments), properties)

    def restore(self, definitions: Iterable[Change], messages: Iterable[StoredMessage]) -> None:
        """Makes again what a store gave back after a restart. The virtual host is new."""
        store, self.store = self.store, _SILENT
        for kind, identity, properties in definitions:
            if kind == "exchange" and properties is not None:
                type, auto_delete, internal, arguments = properties
                self.exchanges[identity[0]] = Exchange(identity[0], type, True, auto_delete, internal, arguments)
            elif kind == "queue" and properties is not None:
                auto_delete, arguments = properties
                self.declare_queue(identity[0], False, True, False, auto_delete, arguments, None)
            elif kind == "binding":
                source, of, destination, key, arguments = identity
                if source in self.exchanges and destination in (self.queues if of == "queue" else self.exchanges):
                    self.bind(source, of, destination, key, arguments, None)
        self.store = store
        by_queue: dict[str, list[StoredMessage]] = {}
        for message in messages:
            by_queue.setdefault(message.queue, []).append(message)
        for queue in self.queues.values():
            if isinstance(queue, (StoredQueue, StoredQuorumQueue)):
                queue.keep_in(store, self.name)
                queue.restore(by_queue.get(queue.name, ()))

    def end(self) -> None:
        """Ends the virtual host with the broker's process: its queues lose their timers, and the store is told
        nothing."""
        self.store = NULL_STORE
        self.on_deleted = self.on_reply = None
        for queue in list(self.queues.values()):
            if isinstance(queue, (StoredQueue, StoredQuorumQueue)):
                queue.detach()
            queue.delete()
        self.queues.clear()
        self._dead_letters.clear()

    # --- publishing ---------------------------------------------------------------------------------------------------

    def push(self, message: Message, queues: list[Queue]) -> bool:
        """Pushes a message to queues. Returns False if one of them refused it."""
        accepted = True
        if queues:
            ttl = self._ttl(message)
            for queue in queues:
                accepted = queue.push(message, ttl) and accepted
        return accepted

    def push_in_slices(self, message: Message, queues: list[Queue]) -> Generator[None, None, bool]:
        """Pushes a message to very many queues, in slices. The result is that of `push`."""
        accepted = True
        for start in range(0, len(queues), SLICE):
            some = [queue for queue in queues[start : start + SLICE] if not queue.deleted]
            accepted = self.push(message, some) and accepted
            yield
        return accepted

    def route(self, exchange: Exchange, message: Message) -> list[Queue]:
        """The queues that a message reaches from an exchange, each once."""
        keys = [message.routing_key]
        if flags(message) & HAS_HEADERS and b"CC" in message.encoded:
            keys += self._copies(message)
        if not exchange.name and len(keys) == 1:
            queue = self.queues.get(message.routing_key)
            return [queue] if queue is not None else self._reply(message.routing_key, message)
        found: dict[str, Queue] = {}
        for key in dict.fromkeys(keys):
            self._follow_bindings(exchange, key, message, found)
            if not exchange.name:
                self._reply(key, message)
        return list(found.values())

    def _reply(self, key: str, message: Message) -> list[Queue]:
        """Delivers a message whose key is an address of direct reply-to.

        Returns no queues: an address is none. So RabbitMQ delivers a mandatory reply and returns it as well.
        """
        if key.startswith(REPLY_ADDRESS) and self.on_reply is not None:
            self.on_reply(key, message)
        return []

    def _follow_bindings(self, exchange: Exchange, key: str, message: Message, found: dict[str, Queue]) -> None:
        """Adds the queues that a routing key reaches to `found`: through bindings, and through other exchanges.

        Each exchange is visited once, so that bindings in a circle do no harm.
        """
        todo, seen = [exchange], {exchange.name}
        headers = partial(_headers, message)
        while todo:
            current = todo.pop()
            if current.name:
                reached = list(current.matcher.match(key, headers))
                if current.gone:
                    reached = [destination for destination in reached if destination not in current.gone]
            else:
                reached = [("queue", key, 0)] if key in self.queues else []
            alternate = current.arguments.get("alternate-exchange")
            if not reached and alternate:  # as an alternate exchange, the default exchange leads nowhere
                reached = [("exchange", alternate, 0)]
            for kind, name, _ in reached:
                if kind == "queue":
                    found[name] = self.queues[name]
                elif name in self.exchanges and name not in seen:
                    seen.add(name)
                    todo.append(self.exchanges[name])

    def _copies(self, message: Message) -> list[str]:
        """The further routing keys in the headers CC and BCC (RabbitMQ's sender-selected distribution).

        Removes BCC from the message, as RabbitMQ does.
        """
        headers = _headers(message)
        keys: list[str] = []
        for name in ("CC", "BCC"):
            value = headers.get(name, [])
            if not isinstance(value, list):
                raise precondition_failed(
                    f'invalid message: {{unacceptable_type_in_header,"{name}",{field_type(value)}}}'
                )
            keys += [key for key in value if isinstance(key, str)]
        if "BCC" in headers:
            properties = message.properties
            properties.headers = {name: value for name, value in headers.items() if name != "BCC"}
            message.replace_properties(properties)
        return keys

    @staticmethod
    def _ttl(message: Message) -> float | None:
        return _milliseconds(message.properties.expiration or "") if flags(message) & HAS_EXPIRATION else None

    def check(self, message: Message) -> None:
        """Raises PreconditionFailed for a message with a malformed expiration, delivery mode, CC or BCC."""
        self._ttl(message)
        if flags(message) & HAS_HEADERS and b"CC" in message.encoded:
            for name, value in ((name, _headers(message).get(name)) for name in ("CC", "BCC")):
                if value is not None and not isinstance(value, list):
                    kind = f'"{name}",{field_type(value)}'
                    raise precondition_failed(f"invalid message: {{unacceptable_type_in_header,{kind}}}")
        mode = message.properties.delivery_mode
        if mode not in (None, 1, 2) and not self.rules.any_delivery_mode:
            raise precondition_failed(f"invalid message: {{delivery_mode_unknown,{mode}}}")

    # --- dead letters -------------------------------------------------------------------------------------------------

    def _dead_letter(self, entry: Entry, reason: str) -> None:
        """Sends an entry that a queue dropped to the queue's dead-letter exchange.

        A dead letter may cause the next one, in the queue that gets it. They wait in a list and are handled one after
        another, so that a long chain of queues doesn't exhaust the stack.
        """
        self._dead_letters.append((entry, reason))
        self.memory.add(entry.memory)
        if not self._republishing:  # else the loop is running already, in a caller, or goes on in a later turn
            self._republish_some()

    def _republish_some(self) -> None:
        """Handles dead letters, the oldest first; leaves the rest to a later turn when they take long.

        A dead letter takes time in proportion to its deaths, since their table is decoded and encoded again.
        """
        self._republishing = True
        if self._left == DEAD_LETTER_SLICE:
            self.clock.call_soon(self._next_turn)
        while self._dead_letters and self._left > 0:
            entry, reason = self._dead_letters[0]
            self._left -= 1
            try:
                self._left -= self._republish(entry, reason)
            except Exception:
                # The other messages of the virtual host must not wait behind this one for ever.
                logger.exception("the embedded broker drops a message of %s that it failed to dead-letter", entry.queue)
            self._dead_letters.popleft()
            self.memory.subtract(entry.memory)
        self._republishing = bool(self._dead_letters)

    def _next_turn(self) -> None:
        self._left = DEAD_LETTER_SLICE
        if self._dead_letters:
            self._republish_some()

    def _republish(self, entry: Entry, reason: str) -> int:
        """Publishes a dead letter with its x-death, except to queues where this would be a cycle.

        Returns the number of its deaths.
        """
        queue = entry.queue
        exchange = self.exchanges.get(queue.limits.dead_letter_exchange or "")
        if exchange is None:
            return 0
        key = queue.limits.dead_letter_routing_key
        dead, deaths = with_death(entry.message, exchange.name, key, queue.name, reason)
        for target in self.route(exchange, dead):
            if not is_cycle(deaths, target.name):
                target.push(dead, None)
        return len(deaths)


def _headers(message: Message) -> Mapping[str, Any]:
    return message.properties.headers or {} if flags(message) & HAS_HEADERS else {}


def _locked(queue: Queue) -> Exception:
    return refusal(
        405,
        f"cannot obtain exclusive access to locked {queue.described}. It could be originally declared on another "
        "connection or the exclusive property value does not match that of the original declaration.",
    )


def _default_exchange() -> Exception:
    return refusal(403, "operation not permitted on the default exchange")


def _check_not_default(source: str, kind: str, destination: str) -> None:
    """Raises AccessRefused where one end of a binding is the default exchange."""
    if not source or (kind == "exchange" and not destination):
        raise _default_exchange()


def _check_names_exchange(name: str, arguments: Mapping[str, Any], described: str) -> None:
    """Raises PreconditionFailed if the argument `name` is there and is no name of an exchange."""
    value = arguments.get(name, "")
    if not isinstance(value, str):
        raise precondition_failed(f"invalid type '{field_type(value)}' for arg '{name}' in {described}")


def _check_x_match(value: Any) -> None:
    """Raises PreconditionFailed for a value of x-match that RabbitMQ refuses."""
    if not isinstance(value, str):
        wrong = f"type {field_type(value)} (value {term(value)}); expected longstr"
    elif value not in X_MATCHES:
        wrong = f"value {term(value)}; expected all, any, all-with-x, or any-with-x"
    else:
        return
    raise precondition_failed(f"Invalid x-match field {wrong}")


def _milliseconds(expiration: str) -> float:
    """A message's own time to live, from its property `expiration`.

    Raises PreconditionFailed, in RabbitMQ's words, if the property is no number of milliseconds.
    """
    number = re.match("[+-]?[0-9]+", expiration)
    if number is None:
        why = "no_integer"
    elif number.end() < len(expiration):
        why = f'{{leftover_string,"{expiration[number.end() :]}"}}'
    else:
        objection = ttl_objection(int(expiration))
        if objection is None:
            return float(int(expiration))
        why = objection
    raise precondition_failed(f"invalid expiration '{expiration}': {why}")


_BOTH_CLASSIC = ((ABSENT, "classic"), ("classic", ABSENT))  # without x-queue-type, a queue is a classic one


def _check_equivalent(
    described: str, fixed: Mapping[str, Any], known: Any, arguments: Mapping[str, Any], compared: tuple[str, ...]
) -> None:
    """Raises PreconditionFailed if a declaration differs from the queue or exchange `known`, and names the difference.

    fixed: the declared properties, by attribute of `known`. compared: the names of the arguments that must be equal.
    """
    for name, value in fixed.items():
        current = getattr(known, name)
        if current != value:
            differ = f"received '{shown(value)}' but current is '{shown(current)}'"
            raise precondition_failed(f"inequivalent arg '{name}' for {described}: {differ}")
    for name in compared:
        received, current = arguments.get(name, ABSENT), known.arguments.get(name, ABSENT)
        if received is current or (name == "x-queue-type" and (received, current) in _BOTH_CLASSIC):
            continue
        if received is ABSENT or current is ABSENT or not equivalent(received, current):
            raise precondition_failed(f"inequivalent arg '{name}' for {described}: {difference(received, current)}")
