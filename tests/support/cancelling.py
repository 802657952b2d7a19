"""Uses of a connection that end in the middle, at random; and what must hold after them (clause 9 of the law): each
message is acknowledged or in the queue, and no channel, consumer or connection is left.

`AWAITED` are coroutine functions, for the styles of `awaiting`. `CALLED` are functions, for the styles whose calls
wait. Both take a Play.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import cpspika
import cpspika.client.connection
from cpspika.interrupts import is_own_file

MESSAGES = 40
QUIET = 0.5  # seconds that an iterator waits; callbacks that are put by may hold all messages, and run only after it
PATIENCE = 20.0  # seconds until what was cut off must be given back


class Play:
    """A queue with messages, and what became of them. `channel`: for the uses, `watch`: for the rest, `confirming`: for
    publishes to `sink`. `acked`: bodies that were acknowledged; `unsure`: whose ack or reject was cut off, or that were
    in the program's hands. `ends`: how the uses ended."""

    def __init__(self, seed: int, url: str):
        self.dice = random.Random(seed)
        self.url = url
        self.before = set(cpspika.client.connection._connections)
        self.connection = self.watch = self.channel = self.confirming = None  # type: Any
        self.queue = self.sink = ""
        self.acked: set[bytes] = set()
        self.unsure: set[bytes] = set()
        self.confirmed: set[bytes] = set()
        self.numbers = itertools.count()
        self.ends: Counter[str] = Counter()
        self.to_close: list[Any] = []  # channels that the program has got
        self.to_cancel: list[str] = []  # consumers that it has got
        self.lost_at_return = 0  # so many results may be lost: the exception came at the return to the program

    def took(self, message: Any, how: str) -> None:
        """The program settles a message."""
        if message is not None:
            self.unsure.add(message.body)
            getattr(message, how)()
            self.unsure.discard(message.body)
            if how == "ack":
                self.acked.add(message.body)

    def body(self) -> bytes:
        return b"published %d" % next(self.numbers)

    def left(self, ok: Any) -> str:
        """What is left that should not be, by the queue's counts; "" if nothing is."""
        core = self.connection.core
        known = [channel for channel in core._channels.values() if not channel._ended]
        others = [
            other
            for other in set(cpspika.client.connection._connections) - self.before
            if other is not core and not other._ended
        ]
        least = MESSAGES - len(self.acked | self.unsure) - self.lost_at_return
        if ok.consumer_count or ok.message_count < least or len(known) != 3 or others:
            return f"{ok}, at least {least} messages expected; {len(known)} channels of 3; {others}"
        return ""

    def misses(self, bodies: list[bytes], sunk: list[bytes]) -> bool:
        """Whether messages must still be found. A consumer that was cut off may take some after `left` has looked, and
        give them back, since a broker's channels don't wait for one another."""
        gone = {b"%d" % number for number in range(MESSAGES)} - set(bodies) - self.acked - self.unsure
        return len(gone) > self.lost_at_return or not self.confirmed <= set(sunk)

    def check(self, bodies: list[bytes], sunk: list[bytes]) -> None:
        """bodies: all that are in the queue. sunk: all that are in the other queue."""
        expected = {b"%d" % number for number in range(MESSAGES)}
        assert len(set(bodies)) == len(bodies), "a message is there twice"
        assert len(expected - set(bodies) - self.acked - self.unsure) <= self.lost_at_return, "lost"
        assert not set(bodies) & self.acked, "acknowledged, and there"
        assert len(set(sunk)) == len(sunk), "a publish is there twice"
        assert self.confirmed <= set(sunk), "a confirmed publish is lost"


# --- where calls are awaited ------------------------------------------------------------------------------------------


async def set_up(play: Play, connection: Any) -> None:
    play.connection = connection
    play.watch, play.channel, play.confirming = [await connection.channel() for _ in range(3)]
    await play.confirming.confirm_select()
    play.queue = (await play.watch.queue_declare(exclusive=True)).queue
    play.sink = (await play.watch.queue_declare(exclusive=True)).queue
    for number in range(MESSAGES):
        await play.watch.basic_publish("", play.queue, str(number))


async def get_and_ack(play: Play) -> None:
    play.took(await play.channel.basic_get(play.queue), "ack" if play.dice.random() < 0.3 else "reject")


async def iterate(play: Play) -> None:
    async with play.channel.consume(play.queue) as messages:
        for _ in range(play.dice.randrange(3)):
            play.took(await anext(messages), "reject")


async def open_channel(play: Play) -> None:
    (await play.connection.channel()).close()


async def channel_in_a_block(play: Play) -> None:
    async with await play.connection.channel() as channel:
        await channel.basic_qos(prefetch_count=5)
        async with channel.consume(play.queue) as messages:
            await anext(messages)  # it goes back with its channel


async def on_ready(play: Play) -> None:
    async def set_up(channel: Any) -> None:
        await channel.basic_qos(prefetch_count=3)
        await channel.queue_declare(play.queue, passive=True)

    (await play.connection.channel(on_ready=set_up)).close()


async def consume(play: Play) -> None:
    tag = await play.channel.basic_consume(play.queue, lambda message: play.took(message, "reject"))
    play.channel.basic_cancel(tag)


async def topology(play: Play) -> None:
    ch, name = play.channel, f"x-{play.queue}"
    await ch.exchange_declare(name, "fanout", auto_delete=True)
    queue = (await ch.queue_declare(exclusive=True, auto_delete=True)).queue
    await ch.queue_bind(queue, name)
    await ch.exchange_bind(name, "amq.fanout")
    await ch.exchange_unbind(name, "amq.fanout")
    await ch.queue_unbind(queue, name)
    await ch.queue_purge(queue)
    await ch.queue_delete(queue)
    await ch.exchange_delete(name)


async def publish(play: Play) -> None:
    body = play.body()
    await play.confirming.basic_publish("", play.sink, body, mandatory=play.dice.random() < 0.5)
    play.confirmed.add(body)
    await play.confirming.drain()


async def transact(play: Play) -> None:
    async with await play.connection.channel() as channel:
        await channel.tx_select()
        body = play.body()
        await channel.basic_publish("", play.sink, body)
        await channel.tx_commit()
        play.confirmed.add(body)
        await channel.basic_publish("", play.sink, play.body())
        await channel.tx_rollback()


async def small_things(play: Play) -> None:
    await play.channel.basic_qos(prefetch_count=0)
    await play.channel.flow(True)
    await play.channel.basic_recover()
    await play.connection.wait_closed()


AWAITED: list[Callable[[Play], Any]] = [
    get_and_ack,
    get_and_ack,
    iterate,
    iterate,
    open_channel,
    channel_in_a_block,
    on_ready,
    consume,
    topology,
    publish,
    transact,
    small_things,
]


async def connect(style: Any, play: Play) -> None:
    async with style.connect(play.url) as connection:
        await connection.channel()


async def play_awaited(style: Any, url: str, seed: int, rounds: int) -> Play:
    """Cancels so many uses, and checks."""
    play = Play(seed, url)
    async with style.connect(url, heartbeat=0) as connection:
        await set_up(play, connection)
        for _ in range(rounds):
            work = style.start(noted(play, play.dice.choice([*AWAITED, partial(connect, style)])))
            for _ in range(play.dice.randrange(8)):
                await style.sleep(play.dice.choice((0, 0, 0.0003, 0.001)))
            await style.cancel(work)
        for _ in range(int(PATIENCE / 0.01)):
            left = play.left(await play.watch.queue_declare(play.queue, passive=True))
            if not left:
                break
            await style.sleep(0.01)
        assert not left, left
        found: tuple[list[bytes], list[bytes]] = [], []
        end = time.monotonic() + PATIENCE
        while True:
            for bodies, queue in zip(found, (play.queue, play.sink), strict=True):
                while (message := await play.watch.basic_get(queue, no_ack=True)) is not None:
                    bodies.append(message.body)
            if not play.misses(*found) or time.monotonic() > end:
                break
            await style.sleep(0.01)
        play.check(*found)
    return play


async def noted(play: Play, use: Callable[[Play], Any]) -> None:
    try:
        await use(play)
    except BaseException as error:
        play.ends[type(error).__name__] += 1
        raise
    else:
        play.ends["done"] += 1


# --- where calls wait -------------------------------------------------------------------------------------------------


def called_set_up(play: Play, connection: Any) -> None:
    play.connection = connection
    play.watch, play.channel, play.confirming = [connection.channel() for _ in range(3)]
    play.confirming.confirm_select()
    if not play.queue:
        # Not exclusive: an interruption may drop the link.
        play.queue = play.watch.queue_declare(f"cancelled-{os.getpid()}-{id(play)}", durable=True).queue
        play.sink = play.watch.queue_declare(f"{play.queue}-sink", durable=True).queue
        for number in range(MESSAGES):
            play.confirming.basic_publish("", play.queue, str(number))


def called_get_and_ack(play: Play) -> None:
    play.took(play.channel.basic_get(play.queue), "ack" if play.dice.random() < 0.3 else "reject")


def called_iterate(play: Play) -> None:
    with contextlib.closing(play.channel.consume(play.queue, inactivity_timeout=QUIET)) as messages:
        for message in itertools.islice(messages, play.dice.randrange(3)):
            play.took(message, "reject")


def called_open_channel(play: Play) -> None:
    channel = play.connection.channel()
    play.to_close.append(channel)
    channel.close()


def called_channel_in_a_block(play: Play) -> None:
    channel = play.connection.channel()
    play.to_close.append(channel)
    with channel:
        channel.basic_qos(prefetch_count=5)
        with contextlib.closing(channel.consume(play.queue, inactivity_timeout=QUIET)) as messages:
            next(messages, None)  # it goes back with its channel


def called_on_ready(play: Play) -> None:
    channel = play.connection.channel(on_ready=lambda channel: channel.basic_qos(prefetch_count=3))
    play.to_close.append(channel)
    channel.close()


def called_consume(play: Play) -> None:
    tag = play.channel.basic_consume(play.queue, lambda message: play.took(message, "reject"))
    play.to_cancel.append(tag)
    if hasattr(play.connection, "drain_events"):
        play.connection.drain_events(0)
    play.channel.basic_cancel(tag)


def called_topology(play: Play) -> None:
    ch, name = play.channel, f"x-{play.queue}"
    ch.exchange_declare(name, "fanout", auto_delete=True)
    queue = ch.queue_declare(exclusive=True, auto_delete=True).queue
    ch.queue_bind(queue, name)
    ch.queue_unbind(queue, name)
    ch.queue_purge(queue)
    ch.queue_delete(queue)
    ch.exchange_delete(name)


def called_publish(play: Play) -> None:
    body = play.body()
    play.confirming.basic_publish("", play.sink, body, mandatory=play.dice.random() < 0.5)
    play.confirmed.add(body)
    play.confirming.drain()


def called_publish_many(play: Play) -> None:
    bodies = [play.body() for _ in range(5)]
    with play.confirming.pipelined():
        for body in bodies:
            play.confirming.basic_publish("", play.sink, body)
    play.confirmed |= set(bodies)


def called_transact(play: Play) -> None:
    channel = play.connection.channel()
    play.to_close.append(channel)
    with channel:
        channel.tx_select()
        body = play.body()
        channel.basic_publish("", play.sink, body)
        channel.tx_commit()
        play.confirmed.add(body)
        channel.basic_publish("", play.sink, play.body())
        channel.tx_rollback()


CALLED: list[Callable[[Play], Any]] = [
    called_get_and_ack,
    called_get_and_ack,
    called_get_and_ack,
    called_iterate,
    called_iterate,
    called_open_channel,
    called_channel_in_a_block,
    called_on_ready,
    called_consume,
    called_topology,
    called_publish,
    called_publish_many,
    called_transact,
]


def play_called(
    make: Callable[..., Any],
    url: str,
    seed: int,
    rounds: int,
    cut_off: Callable[[Play, Callable[[Play], Any]], None],
    sleep: Callable[[float], object] = time.sleep,
) -> Play:
    """Cuts off so many uses, and checks. cut_off(play, use): makes use(play), and ends it in the middle. The program
    ends the channels and consumers that it has got."""
    play = Play(seed, url)
    play.lost_at_return = getattr(cut_off, "lost_at_return", 0)
    called_set_up(play, make(url, timeout=PATIENCE, heartbeat=0))
    try:
        _play_called(play, make, rounds, cut_off, sleep)
    finally:
        play.connection.close()
    return play


def _play_called(
    play: Play,
    make: Callable[..., Any],
    rounds: int,
    cut_off: Callable[[Play, Callable[[Play], Any]], None],
    sleep: Callable[[float], object],
) -> None:
    for _ in range(rounds):
        use = play.dice.choice(CALLED)
        try:
            cut_off(play, use)
            play.ends["done"] += 1
        except BaseException as error:
            play.ends[type(error).__name__] += 1
            if isinstance(error, (AssertionError, cpspika.LocalError)):
                raise
            del error
        tidy(play, make)
    for _ in range(int(PATIENCE / 0.01)):
        tidy(play, make)  # the last interruption may show only now
        left = play.left(play.watch.queue_declare(play.queue, passive=True))
        if not left:
            break
        sleep(0.01)
    assert not left, left
    found: tuple[list[bytes], list[bytes]] = [], []
    end = time.monotonic() + PATIENCE
    while True:
        for bodies, queue in zip(found, (play.queue, play.sink), strict=True):
            while (message := play.watch.basic_get(queue, no_ack=True)) is not None:
                bodies.append(message.body)
        if not play.misses(*found) or time.monotonic() > end:
            break
        tidy(play, make)  # a consumer that a call has given up may start only now, and is cancelled here
        sleep(0.01)
    play.watch.queue_delete(play.queue)
    play.watch.queue_delete(play.sink)
    play.check(*found)


def tidy(play: Play, make: Callable[..., Any]) -> None:
    """Ends what a use has left and the program knows; connects again where the link was dropped."""
    to_close, play.to_close = play.to_close, []
    to_cancel, play.to_cancel = play.to_cancel, []
    try:
        play.watch.queue_declare(play.queue, passive=True)
        for channel in to_close:
            channel.close()
        for tag in to_cancel:
            with contextlib.suppress(cpspika.UnknownConsumerTag):
                play.channel.basic_cancel(tag)
        if hasattr(play.connection, "drain_events"):
            play.connection.drain_events(0)
    except cpspika.ConnectionClosed:
        play.ends["link dropped"] += 1
        for _ in range(100):
            with contextlib.suppress(cpspika.ConnectionClosed):  # of the links before: it comes out of the next call
                called_set_up(play, make(play.url, timeout=PATIENCE, heartbeat=0))
                break


def late(play: Play, use: Callable[[Play], Any]) -> None:
    """Cuts a use off by the time-out of its calls."""
    play.connection.timeout = play.dice.choice((0, 0.0001, 0.0003, 0.001))
    try:
        use(play)
    finally:
        play.connection.timeout = PATIENCE


class Interrupted(Exception):
    """Raised by a signal handler."""


class Interrupts:
    """Cuts uses off by exceptions of a signal handler, when a timer's signal comes in the library's own code (in the
    program's own code nobody but the program knows what it holds).

    It may come at the last instruction of a call. The message that the call returns is then lost to the program, and
    stays with its channel until that ends. About one of 6,000 exceptions comes there."""

    lost_at_return = 2

    def __init__(self, kind: type[BaseException]):
        self.kind = kind
        self.armed = False

    def handler(self, number: int, frame: Any) -> None:
        if not self.armed:
            return
        if self._is_the_librarys(frame):
            self.armed = False
            raise self.kind
        signal.setitimer(signal.ITIMER_REAL, 0.0001)

    @staticmethod
    def _is_the_librarys(frame: Any) -> bool:
        """Whether the library's own code runs, and no finalizer and no callback of the garbage collector (hypothesis
        has one), out of which Python lets no exception come."""
        inside = False
        while frame is not None:
            file, name = frame.f_code.co_filename, frame.f_code.co_name
            if name in ("__del__", "gc_callback") or file.endswith(("weakref.py", "_weakrefset.py")):
                return False
            if not inside and file == __file__:
                return False
            inside = inside or is_own_file[file]
            frame = frame.f_back
        return inside

    def __call__(self, play: Play, use: Callable[[Play], Any]) -> None:
        self.armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, play.dice.uniform(0.0001, 0.004))
            use(play)
        finally:
            self.armed = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        before = signal.signal(signal.SIGALRM, self.handler)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def greenlets(how: str) -> Callable[[Play, Callable[[Play], Any]], None]:
    """Cuts uses off by gevent, under its monkey patching. how: "timeout", by gevent.Timeout; "kill", in a greenlet that
    is killed."""
    import gevent

    def by_timeout(play: Play, use: Callable[[Play], Any]) -> None:
        with gevent.Timeout(play.dice.choice((0.0002, 0.0005, 0.001, 0.003))):
            use(play)

    def by_kill(play: Play, use: Callable[[Play], Any]) -> None:
        working = gevent.spawn(use, play)
        gevent.sleep(play.dice.choice((0, 0.0002, 0.0005, 0.001, 0.003)))
        was_done = working.dead
        working.kill(timeout=PATIENCE)
        assert working.dead, "it did not end"
        if not was_done:
            raise Killed

    return {"timeout": by_timeout, "kill": by_kill}[how]


class Killed(Exception):
    """A greenlet was killed before it had ended."""
