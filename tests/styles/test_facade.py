"""What every facade has beside its operations: the core's attributes, and docstrings that speak of the facade."""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import pydoc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import cpspika
from cpspika import tasks, threads
from cpspika.adapters import MemoryReactor, asyncio_adapter
from cpspika.client.channel import Channel
from cpspika.client.connection import Connection
from cpspika.styles import lifting, pipelined, promises, thread_consumer, wording

FACADES: list[tuple[type, type]] = [
    (Connection, cpspika.SyncConnection),
    (Channel, cpspika.SyncChannel),
    (Connection, threads.ThreadedConnection),
    (Channel, threads.ThreadedChannel),
    (Connection, tasks.TaskConnection),
    (Channel, tasks.TaskChannel),
    (Connection, asyncio_adapter.AsyncioConnection),
    (Channel, asyncio_adapter.AsyncioChannel),
]
if importlib.util.find_spec("twisted") is not None:
    from cpspika.adapters import twisted_adapter

    FACADES += [(Connection, twisted_adapter.TwistedConnection), (Channel, twisted_adapter.TwistedChannel)]
if importlib.util.find_spec("trio") is not None:
    from cpspika.adapters import trio_adapter

    FACADES += [(Connection, trio_adapter.TrioConnection), (Channel, trio_adapter.TrioChannel)]
every_facade = pytest.mark.parametrize(("core", "facade"), FACADES, ids=lambda cls: cls.__name__)


def text(function: Any) -> str:
    """A docstring on one line."""
    return " ".join(inspect.getdoc(function).split())


def test_dir_shows_the_public_names_alone() -> None:
    assert set(cpspika.__all__) <= set(dir(cpspika))
    assert not {"Any", "TYPE_CHECKING", "annotations"} & set(dir(cpspika))


# --- names ------------------------------------------------------------------------------------------------------------

OF_CONNECTION = (
    "channel close abort update_secret add_state_change_handler add_blocked_handler add_recovery_handler "
    "addStateChangeHandler fileno is_connected "
    "reactor parameters server_properties heartbeat frame_max channel_max is_open is_blocked close_reason writable core"
)
OF_CHANNEL = (
    "exchange_declare exchange_delete exchange_bind exchange_unbind queue_declare queue_bind queue_unbind queue_purge "
    "queue_delete basic_qos basic_consume basic_cancel basic_get basic_ack basic_nack basic_reject basic_recover "
    "basic_publish confirm_select drain tx_select tx_commit tx_rollback flow close "
    "add_flow_change_handler add_return_handler add_state_change_handler add_writable_handler addFlowChangeHandler "
    "addStateChangeHandler number is_open writable is_confirming has_consumers transmission_permitted close_reason "
    "core connection consume"
)
# What a style adds; docs/api.md lists the same.
ADDED = {
    "SyncConnection": "lock timeout drain_events has_callbacks turn",
    "SyncChannel": "start_consuming stop_consuming pipelined",
    "ThreadedConnection": "timeout on_error join",
    "ThreadedChannel": "pipelined",
}
ADDED_WITH_PROMISES = {"Connection": "wait_closed aclose channels", "Channel": "aclose"}


@contextmanager
def pair(facade: type) -> Iterator[list[Any]]:
    """A connection of the facade's style, and a channel."""
    made: Any = facade
    if facade in (cpspika.SyncConnection, cpspika.SyncChannel):
        made = cpspika.BlockingConnection
    elif facade is threads.ThreadedChannel:
        made = threads.ThreadedConnection
    if issubclass(made, promises.PromisingConnection):
        yield [made(object(), Connection(MemoryReactor())), None]
    elif issubclass(made, promises.PromisingChannel):
        yield [None, made(promises.PromisingConnection(object(), Connection(MemoryReactor())), object())]  # type: ignore[arg-type]
    else:
        with made("embedded://") as connection:
            yield [connection, connection.channel()]


@every_facade
def test_a_facade_shows_what_a_program_may_use_and_nothing_else(core: type, facade: type) -> None:
    kind, of_core = ("Channel", OF_CHANNEL) if core is Channel else ("Connection", OF_CONNECTION)
    promised = {*of_core.split(), *ADDED.get(facade.__name__, ADDED_WITH_PROMISES[kind]).split()}
    with pair(facade) as made:
        shown = dir(made[core is Channel])
        assert {name for name in shown if not name.startswith("_")} == promised


def test_an_iterator_over_messages_shows_what_a_program_may_use() -> None:
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(promises.AsyncConsumer) == {"aclose", "consumer_tag"}
    assert public(thread_consumer.ThreadConsumer) == {"close", "consumer_tag"}
    assert public(pipelined.Pipelined) == {"unconfirmed"}  # and attributes: window, failures


@pytest.mark.parametrize(
    "cls",
    [Connection, Channel, *(facade for core, facade in FACADES if core is Channel)],
    ids=lambda cls: cls.__name__,
)
def test_help_says_that_a_program_does_not_call_the_constructor(cls: type) -> None:
    assert re.match(
        r"Not for programs: `.*` (makes a connection|opens a channel)\.", inspect.getdoc(cls.__init__) or ""
    )


# --- on_done ----------------------------------------------------------------------------------------------------------


@every_facade
def test_on_done_is_refused_by_every_operation_of_a_facade(core: type, facade: type) -> None:
    for name in lifting.operations(core):
        unopened = object.__new__(facade)  # the refusal comes before anything else
        with pytest.raises(
            cpspika.InvalidArgumentType, match=rf"^{name} takes no on_done in this style.* cpspika\.connect "
        ):
            getattr(unopened, name)(on_done=print)


def test_a_publish_with_on_done_publishes_nothing() -> None:
    for facade in (cpspika.BlockingConnection, threads.ThreadedConnection):
        with facade("embedded://") as connection:
            channel = connection.channel()
            queue = channel.queue_declare(exclusive=True).queue
            with pytest.raises(cpspika.InvalidArgumentType, match="basic_publish takes no on_done"):
                channel.basic_publish("", queue, "x", on_done=print)
            assert channel.queue_declare(queue, passive=True).message_count == 0


CONNECTS: list[Callable[..., Any]] = [
    cpspika.BlockingConnection,
    cpspika.SelectConnection,
    threads.ThreadedConnection,
    tasks.connect,
]
if importlib.util.find_spec("asyncore") or importlib.util.find_spec("pyasyncore"):
    CONNECTS.append(cpspika.AsyncoreConnection)
if importlib.util.find_spec("twisted") is not None:
    CONNECTS.append(twisted_adapter.connect)


@pytest.mark.parametrize("connect", CONNECTS, ids=lambda connect: f"{connect.__module__}.{connect.__name__}")
def test_on_done_is_refused_when_a_facade_connects(connect: Callable[..., Any]) -> None:
    with pytest.raises(cpspika.InvalidArgumentType, match=r"^connect takes no on_done .* cpspika\.connect "):
        connect("embedded://", on_done=print)


def test_on_done_is_refused_when_asyncio_connects() -> None:
    async def main() -> None:
        asyncio_adapter.connect("embedded://", on_done=print)  # type: ignore[call-arg]

    with pytest.raises(cpspika.InvalidArgumentType, match=r"^connect takes no on_done"):
        asyncio.run(main())


@pytest.mark.skipif(importlib.util.find_spec("trio") is None, reason="trio is not installed")
def test_on_done_is_refused_when_trio_connects() -> None:
    async def main() -> None:
        async with trio_adapter.connect("embedded://", on_done=print):  # type: ignore[call-arg]
            pass

    import trio

    with pytest.raises(cpspika.InvalidArgumentType, match=r"^connect takes no on_done"):
        trio.run(main)


# --- attributes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("core", "names"),
    [
        (
            Connection,
            "reactor parameters server_properties heartbeat frame_max channel_max is_open is_blocked close_reason "
            "writable",
        ),
        (
            Channel,
            "number is_open close_reason writable is_confirming has_consumers transmission_permitted",
        ),
    ],
)
def test_the_public_attributes_of_the_core(core: type, names: str) -> None:
    assert set(lifting.attributes(core)) >= set(names.split())


def test_every_public_attribute_of_a_core_object_is_annotated_or_a_property() -> None:
    """Else the facades would lack it."""
    with cpspika.BlockingConnection("embedded://") as connection, connection.channel() as channel:
        for core in (connection.core, channel.core):
            public = {name for name in dir(core) if not name.startswith("_") and not callable(getattr(core, name))}
            assert public == set(lifting.attributes(type(core)))


@every_facade
def test_a_facade_has_the_attributes_of_the_core_with_docs(core: type, facade: type) -> None:
    for name in lifting.attributes(core):
        assert isinstance(getattr(facade, name), property)
        assert len(getattr(facade, name).__doc__) > 20, name
    assert "abort" in dir(facade) or core is Channel


def test_the_values_are_the_cores() -> None:
    with cpspika.BlockingConnection("embedded://", heartbeat=0) as connection:
        channel = connection.channel()
        for facade in (connection, channel):
            for name in lifting.attributes(type(facade.core)):
                assert getattr(facade, name) is getattr(facade.core, name)
        assert (channel.number, channel.is_confirming, channel.is_open) == (1, False, True)
        channel.confirm_select()
        assert channel.is_confirming
        channel.close()
        assert not channel.is_open


def test_a_typo_is_an_error() -> None:
    with cpspika.BlockingConnection("embedded://") as connection, connection.channel() as channel:
        with pytest.raises(AttributeError, match=r"'BlockingConnection' object has no attribute 'is_opn'"):
            connection.is_opn  # type: ignore[attr-defined]  # noqa: B018
        with pytest.raises(AttributeError, match=r"'SyncChannel' object has no attribute 'basic_publsh'"):
            channel.basic_publsh("q")  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            channel.is_open = True  # type: ignore[misc]


def test_abort_ends_a_threaded_connection() -> None:
    connection = threads.ThreadedConnection("embedded://")
    inside: list[bool] = []
    connection.core.add_state_change_handler(lambda core, is_open: inside.append(connection.reactor.is_mine))
    connection.abort()
    with pytest.raises(cpspika.ConnectionClosed, match="aborted"):
        connection.join(10)
    assert inside == [True]


# --- docstrings -------------------------------------------------------------------------------------------------------


@every_facade
def test_no_docstring_of_a_facade_speaks_of_the_core(core: type, facade: type) -> None:
    for name, member in inspect.getmembers(facade):
        if not name.startswith("_"):
            doc = inspect.getdoc(member) or ""
            assert "on_done" not in doc, name
            assert wording.IN_THE_CORE not in doc, name
            assert "it is done when" not in " ".join(doc.split()), name


@every_facade
def test_every_operation_says_when_it_is_done(core: type, facade: type) -> None:
    promise = {"Asyncio": "Future", "Twisted": "Deferred", "Task": "promise", "Trio": "promise"}.get(
        facade.__name__.removesuffix("Connection").removesuffix("Channel")
    )
    for name in lifting.operations(core):
        told = text(getattr(facade, name))
        if promise is None:
            assert "Returns when" in told or "the call returns when" in told or "the call hands" in told, name
        else:
            assert f"Returns a {promise}" in told, name
            assert "fulfilled" in told, name


def test_a_publish_says_what_its_end_means() -> None:
    calls, futures = text(cpspika.SyncChannel.basic_publish), text(asyncio_adapter.AsyncioChannel.basic_publish)
    assert "On a confirming channel (see `confirm_select`) the call returns when the message is confirmed" in calls
    assert "the call returns when its bytes have gone to the kernel" in calls
    assert "the Future is fulfilled when the message is confirmed" in futures
    assert "the Future is fulfilled at once (that of a publish: when the channel is `writable`)" in futures


def test_examples_of_promise_styles_await() -> None:
    assert 'ok = await channel.queue_declare("tasks"' in text(asyncio_adapter.AsyncioChannel.queue_declare)
    assert 'ok = channel.queue_declare("tasks"' in text(cpspika.SyncChannel.queue_declare)


def test_help_shows_attributes_and_operations() -> None:
    shown = pydoc.render_doc(cpspika.SyncChannel, renderer=pydoc.plaintext)
    assert "is_confirming" in shown
    assert "Returns when the broker has replied" in shown


# --- what lifting relies on -------------------------------------------------------------------------------------------


def test_an_annotation_that_is_no_text_is_an_error_that_says_so() -> None:
    with pytest.raises(TypeError, match="from __future__ import annotations"):
        lifting.as_text(int)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="annotations are evaluated late since Python 3.14")
def test_annotations_that_are_evaluated_late_are_lifted_as_they_stand() -> None:
    """In a module without `from __future__ import annotations`, and though nobody has imported the names."""
    source = """class Core:
        number: Nowhere[int]
        def ask(self, *, on_done: OnDone[Elsewhere] | None = None) -> None: ...
    """
    namespace: dict[str, Any] = {}
    exec(compile(source, "late", "exec", dont_inherit=True), namespace)
    assert lifting.attributes(namespace["Core"]) == {"number": "Nowhere[int]"}
    assert str(lifting.signature(namespace["Core"].ask)).replace("'", "") == "(self) -> Elsewhere"


def test_docstrings_may_be_missing() -> None:
    assert wording.worded(None, wording.CALLS) is None


# --- messages ---------------------------------------------------------------------------------------------------------


def test_a_message_tells_its_channel_of_a_malformed_header_through_a_facade() -> None:
    async def main() -> None:
        async with asyncio_adapter.connect("embedded://") as connection, connection.channel() as channel:
            ended = asyncio.get_running_loop().create_future()
            connection.add_state_change_handler(lambda _, is_open: None if is_open else ended.set_result(None))
            channel._malformed(cpspika.ProtocolSyntaxError("a header of nonsense"))
            await asyncio.wait_for(ended, 10)
            assert isinstance(connection.close_reason, cpspika.ProtocolSyntaxError)

    asyncio.run(main())


# --- callbacks --------------------------------------------------------------------------------------------------------


async def a_coroutine_function(*args: Any) -> None:
    pass


def a_generator_function(*args: Any) -> Any:
    yield


async def an_asynchronous_generator_function(*args: Any) -> Any:
    yield


class Handler:
    async def __call__(self, *args: Any) -> None:
        pass

    async def method(self, *args: Any) -> None:
        pass


NEVER_RUN = [
    a_coroutine_function,
    a_generator_function,
    an_asynchronous_generator_function,
    functools.partial(a_coroutine_function, 1),
    Handler().method,
    Handler(),
]


@pytest.mark.parametrize("facade", [cpspika.BlockingConnection, threads.ThreadedConnection])
@pytest.mark.parametrize("callback", NEVER_RUN, ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_a_callback_that_nothing_would_run_is_refused(facade: Any, callback: Any) -> None:
    def refused() -> Any:
        return pytest.raises(cpspika.InvalidArgumentType, match=r"nothing would run here: write a plain function")

    with refused():
        facade("embedded://", on_close=callback)
    with facade("embedded://") as connection:
        channel = connection.channel()
        queue = channel.queue_declare(exclusive=True).queue
        with refused():
            channel.basic_consume(queue, callback)
        with refused():
            channel.basic_consume(queue, print, on_cancel=callback)
        for register in (connection.add_blocked_handler, channel.add_return_handler, channel.addFlowChangeHandler):
            with refused():
                register(callback)
        assert not channel.has_consumers


def test_an_error_handler_of_threads_that_nothing_would_run_is_refused() -> None:
    with pytest.raises(cpspika.InvalidArgumentType, match="nothing would run"):
        threads.ThreadedConnection("embedded://", on_error=a_coroutine_function)


@pytest.mark.parametrize("facade", [cpspika.BlockingConnection, threads.ThreadedConnection])
@pytest.mark.parametrize("callback", [print, [].append, functools.partial(print, 1), lambda message: None, dict])
def test_every_other_callable_is_a_callback(facade: Any, callback: Any) -> None:
    with facade("embedded://") as connection:
        channel = connection.channel()
        assert channel.basic_consume(channel.queue_declare(exclusive=True).queue, callback)
