"""Hooks: what a program or a tracing library has called when messages are published, handed out and settled.

Without hooks nothing here runs. A channel is made of parts (itself, its publisher, its sender), each of a class that
knows of no hooks. While there are hooks, each part has a subclass of its class instead, which calls them: `adopted`
changes the class of one part, when it is made, and `instrument` that of all parts that are there already. When the last
hooks are removed, the parts get their own classes back. So no part asks whether there are hooks.

A hook never costs a message. An exception of one is logged, and the message goes on as without the hook; so do
properties that cannot be sent, and the exception of a callback that a hook would have kept back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import cache, partial
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from ..errors import AMQPError, InvalidArgument, InvalidArgumentType
from ..interrupts import is_of_signal_handler, repeatable
from ..logs import get_logger
from ..wire.message import BasicProperties, Message, encode_properties
from .continuations import ignore, is_abandoned

T = TypeVar("T")
NAMES = ("publishing", "published", "delivering", "fetched", "settled", "connection")
SETTLING = {"basic.ack": "ack", "basic.nack": "nack", "basic.reject": "reject"}
_RECOVER = frozenset(("basic.recover", "basic.recover-async"))

_installed: tuple[_Installed, ...] = ()
_walks: list[Callable[[], object]] = []


class ConnectionEvent(NamedTuple):
    """Something that happened to a connection: `hooks.connection` gets it. Under recovery it also gets RecoveryEvents,
    which have a `kind` and an `error` too.

    kind: "opened"; "failed", it could not be opened; "blocked" and "unblocked", the broker takes no publishes, or takes
    them again; "closed". error: why it failed or closed; None after a close of the program's own. reason: the broker's
    for blocking.
    """

    kind: str
    error: AMQPError | None = None
    reason: str = ""


class _Installed:
    """An object with hooks, and its methods by name; None: it has no such method."""

    def __init__(self, hooks: Any):
        self.hooks = hooks
        self.methods = {name: getattr(hooks, name, None) for name in NAMES}


def instrument(hooks: Any) -> Callable[[], None]:
    """Has the methods of an object called when the process publishes, handles and settles messages. Returns a function
    that removes the hooks.

    hooks: an object with any of these methods.
    publishing(channel, exchange, routing_key, properties): before a message is published, in the context of the
    program's call; once, however often recovery sends it again. Returns the properties to publish with; it must not
    change the ones that it gets. properties: BasicProperties, a dict, or None.
    published(properties, error): when the publish is done, as its `on_done` is told, or when the call has returned
    where nobody waits for more. properties: those that `publishing` of the same hooks returned. error: None, or why it
    failed.
    delivering(message): returns a context manager around the consumer's callback; for an iterator, from handing the
    message out until the next one is asked for.
    fetched(message, seconds): basic_get brought a message. seconds: how long that took.
    settled(message, how): the program has acknowledged or refused a message that was handed out; how: "ack", "nack" or
    "reject". With `multiple` it is called for each message.
    connection(connection, event): something happened to a connection of the core; event: a ConnectionEvent or a
    RecoveryEvent.

    It counts for connections and channels that are open already too, but not for their consumers and iterators: of
    these, hooks see the messages of those that are started later. Several hooks are called in the order in which they
    were installed. An exception of a hook is logged, and otherwise ignored.

    Errors: InvalidArgumentType, the object has none of these methods.
    """
    global _installed
    entry = _Installed(hooks)
    if not any(callable(method) for method in entry.methods.values()):
        raise InvalidArgumentType(
            f"hooks takes an object with any of the methods {', '.join(NAMES)}; {type(hooks).__name__} has none of them"
        )
    _installed = (*_installed, entry)
    if len(_installed) == 1:
        _walk()

    def remove() -> None:
        global _installed
        if entry in _installed:
            _installed = tuple(each for each in _installed if each is not entry)
            if not _installed:
                _walk()

    return remove


def are_installed() -> bool:
    """Whether there are hooks."""
    return bool(_installed)


def when_changed(walk: Callable[[], object]) -> None:
    """Has walk() called when the first hooks come or the last ones go: it passes every part that is there to
    `adopted`."""
    _walks.append(walk)


def _walk() -> None:
    for walk in _walks:
        walk()


def adopted(part: T) -> T:
    """Gives a part of a channel the class that it should have: with hooks, one that calls them. Returns the part."""
    kind: Any = type(part)
    if _installed and not hasattr(kind, "_plain"):
        part.__class__ = _calling(kind)
    elif not _installed and hasattr(kind, "_plain"):
        part.__class__ = kind._plain
    return part


@cache
def _calling(kind: Any) -> Any:
    """The subclass of a part's class that calls the hooks. `_hooked_by` of the class names the methods that do."""
    return type(f"Hooked{kind.__name__}", (kind._hooked_by, kind), {"__slots__": (), "_plain": kind})


def _methods(name: str) -> list[Callable[..., Any]]:
    return [method for entry in _installed if (method := entry.methods[name]) is not None]


def _complain(name: str, method: Any) -> None:
    """Logs the exception of a hook, in an except clause. One of a signal handler goes on to the program."""
    error = sys.exc_info()[1]
    if error is not None and is_of_signal_handler(error):
        raise error
    get_logger().exception(
        "hooks.%s of %s raised; what it was called for goes on without it",
        name,
        type(getattr(method, "__self__", method)).__name__,
    )


def call(name: str, *details: Any) -> None:
    """Calls the hooks of this name."""
    for method in _methods(name):
        try:
            method(*details)
        except Exception:
            _complain(name, method)


# --- publishing -------------------------------------------------------------------------------------------------------


class HookedPublisher:
    """The publishes of a channel, with hooks."""

    __slots__ = ()

    _channel: Any

    def publish(self, *asked: Any) -> bool:
        parent: Any = super()
        return _publish(parent.publish, self._channel, *asked)


class _Ending:
    """Calls `published` once, for the hooks that saw the publish begin."""

    __slots__ = ("_left",)

    def __init__(self, left: list[tuple[Callable[..., Any], Any]]):
        self._left = left

    def tell(self, error: BaseException | None) -> None:
        left, self._left = self._left, []
        for method, properties in left:
            try:
                method(properties, error)
            except Exception:
                _complain("published", method)


def is_of(continuation: Any, on_done: Callable[..., object]) -> bool:
    """Whether this on_done is a continuation's, with hooks or without."""
    own = continuation.on_done
    return own is on_done or (isinstance(own, OnDoneWithHooks) and own.passes_to(on_done))


class OnDoneWithHooks:
    """The on_done of a publish that hooks see: passes on what it is told."""

    __slots__ = ("_ending", "_on_done")

    def __init__(self, on_done: Callable[..., object], ending: _Ending):
        self._on_done = on_done
        self._ending = ending

    @property
    def abandoned(self) -> bool:
        """As of `is_abandoned`."""
        return is_abandoned(self._on_done)

    def passes_to(self, on_done: Callable[..., object]) -> bool:
        return self._on_done is on_done

    @repeatable
    def __call__(self, err: AMQPError | None, result: Any) -> object:
        self._ending.tell(err)
        on_done, self._on_done = self._on_done, ignore
        return on_done(err, result)

    def withdrawn(self, error: AMQPError) -> None:
        """The publish was never sent, and nobody waits for it any more."""
        self._ending.tell(error)


def _publish(
    publish: Callable[..., bool],
    channel: Any,
    exchange: str,
    routing_key: str,
    body: Any,
    properties: Any,
    mandatory: bool,
    immediate: bool,
    block_on_flow_control: bool,
    on_done: Any,
) -> bool:
    given, ending = _publishing(channel, exchange, routing_key, properties)
    if callable(on_done):
        on_done = OnDoneWithHooks(on_done, ending)
    try:
        writable = publish(exchange, routing_key, body, given, mandatory, immediate, block_on_flow_control, on_done)
    except BaseException as error:
        ending.tell(error)
        raise
    if on_done is None:
        ending.tell(None)
    return writable


def _publishing(channel: Any, exchange: str, routing_key: str, properties: Any) -> tuple[Any, _Ending]:
    """The properties that the hooks want, and what tells them of the end."""
    left: list[tuple[Callable[..., Any], Any]] = []
    outermost = channel._outermost()
    for entry in _installed:
        publishing, published = entry.methods["publishing"], entry.methods["published"]
        mine = properties
        if publishing is not None:
            try:
                mine = publishing(outermost, exchange, routing_key, properties)
                if mine is not properties:
                    properties = _checked(channel, mine, properties)
            except Exception:
                _complain("publishing", publishing)
        if published is not None:
            left.append((published, mine))
    return properties, _Ending(left)


def _checked(channel: Any, wanted: Any, former: Any) -> Any:
    """The properties that a hook returned, if they can be sent; else those that it got. But what is wrong with those
    too is the program's mistake, which the publish itself raises."""
    if wanted is not None and not isinstance(wanted, (BasicProperties, Mapping)):
        raise InvalidArgumentType(f"publishing returns BasicProperties, a dict or None, not {type(wanted).__name__}")
    try:
        channel._sender.check("basic.publish", {}, encode_properties(wanted))
    except InvalidArgument:
        encode_properties(former)
        raise
    return wanted


# --- handing out ------------------------------------------------------------------------------------------------------


class HandedOut:
    """A context manager around the time that the program has with a message. acknowledged: the message is to be
    acknowledged, so `settled` will be due."""

    __slots__ = ("_acknowledged", "_inside", "_message")

    def __init__(self, message: Message, acknowledged: bool):
        self._message = message
        self._acknowledged = acknowledged
        self._inside: list[Any] = []

    def __enter__(self) -> None:
        if self._acknowledged:
            _note(self._message)
        for method in _methods("delivering"):
            try:
                manager = method(self._message)
                manager.__enter__()
                self._inside.append(manager)
            except Exception:
                _complain("delivering", method)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is GeneratorExit:
            kind = error = trace = None  # an iterator was closed
        inside, self._inside = self._inside, []
        for manager in reversed(inside):
            try:
                manager.__exit__(kind, error, trace)
            except Exception:
                _complain("delivering", manager)


def around(on_message: Callable[[Message], Any], no_ack: bool) -> Callable[[Message], Any]:
    """A consumer's callback with the hooks around it."""
    acknowledged = not no_ack

    def with_hooks(message: Message) -> Any:
        with HandedOut(message, acknowledged):
            return on_message(message)

    return with_hooks


class HookedChannel:
    """A channel with hooks. A program of the core calls its methods; a facade calls those of its class, and puts the
    hooks around its callbacks by itself."""

    __slots__ = ()

    def basic_consume(self, queue: str, on_message: Any, no_ack: bool = False, *more: Any, **options: Any) -> None:
        if callable(on_message):
            on_message = around(on_message, no_ack)
        parent: Any = super()
        parent.basic_consume(queue, on_message, no_ack, *more, **options)

    def _request(self, name: str, on_done: Any, convert: Any = None, replies: Any = None, **arguments: Any) -> bool:
        if name == "basic.get":
            convert = partial(_got, convert, not arguments["no_ack"], perf_counter(), copy_context())
        parent: Any = super()
        asked: bool = parent._request(name, on_done, convert, replies, **arguments)
        return asked


def _got(convert: Any, acknowledged: bool, begun: float, context: Any, reply: Any) -> Message | None:
    """The result of a basic_get. The hooks are called in the context of the call that asked for it."""
    message: Message | None = convert(reply)
    if message is not None:
        if acknowledged:
            _note(message)
        context.run(call, "fetched", message, perf_counter() - begun)
    return message


# --- settling ---------------------------------------------------------------------------------------------------------


def _note(message: Message) -> None:
    """Keeps a message that was handed out until it is settled, or its opening of the channel ends."""
    sender = getattr(message.channel, "core", message.channel)._sender
    if not isinstance(sender, HookedSender) or not sender._owns(message.delivery_tag):
        return
    if _methods("settled"):
        if not hasattr(sender, "unsettled"):
            setattr(sender, "unsettled", {})  # noqa: B010 (a slot of the plain class)
        sender.unsettled[message.delivery_tag] = message


class HookedSender:
    """A channel's way out, with hooks. `unsettled`: the messages that were handed out, by delivery tag."""

    __slots__ = ()

    unsettled: dict[int, Message]

    def _owns(self, delivery_tag: int) -> bool:
        """Whether a delivery is of this opening of the channel."""
        own_tag = getattr(self, "own_tag", None)
        return own_tag is None or own_tag(delivery_tag, False) is not None

    def send_ack(self, delivery_tag: int, multiple: bool) -> None:
        parent: Any = super()
        parent.send_ack(delivery_tag, multiple)
        self._settled("ack", delivery_tag, multiple)

    def send(self, name: str, arguments: dict[str, Any]) -> None:
        parent: Any = super()
        parent.send(name, arguments)
        if name in SETTLING:
            self._settled(SETTLING[name], arguments["delivery_tag"], arguments.get("multiple", False))
        elif name in _RECOVER:
            self._forget()  # all of them come again, as other deliveries

    def release(self) -> None:
        self._forget()
        parent: Any = super()
        parent.release()

    def _forget(self) -> None:
        unsettled: dict[int, Message] = getattr(self, "unsettled", {})
        unsettled.clear()

    def _settled(self, how: str, delivery_tag: int, multiple: bool) -> None:
        unsettled: dict[int, Message] = getattr(self, "unsettled", {})
        tags = [delivery_tag]
        if multiple:
            tags = [tag for tag in list(unsettled) if tag <= delivery_tag or not delivery_tag]
        for tag in tags:
            message = unsettled.pop(tag, None)
            if message is not None:
                call("settled", message, how)
