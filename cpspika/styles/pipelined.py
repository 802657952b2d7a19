"""Publishes that do not wait for their confirms one by one: a block on a channel whose calls wait.

The block is of the thread that entered it. Another thread's publishes on the same channel wait for their own confirms.
A style has the methods of one-way operations written as `written_oneway` says; its `_publish_in` calls the block's
`_publish` inside the connection, and its `_await_confirms` says how its channel waits.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from threading import get_ident
from types import TracebackType
from typing import Any

from ..client.channel import Channel
from ..client.continuations import call_site, describe
from ..errors import (
    AMQPError,
    ConnectionForked,
    InvalidArgument,
    InvalidArgumentType,
    LocalError,
    publishes_failed,
    unknown_fate,
)
from ..interrupts import is_interrupt, repeatable


class Pipelined:
    """A block of publishes whose confirms are awaited together; `channel.pipelined()` makes it.

    `window`: at most so many publishes are unconfirmed. `failures`: the publishes that failed so far, as (index,
    error). `unconfirmed`: the indices of those whose fate is not known yet. An index counts the calls of basic_publish
    in the block, from 0.
    """

    def __init__(self, channel: Pipelining, window: int):
        """Not for programs: `channel.pipelined()` makes a block."""
        self.window = window
        self.failures: list[tuple[int, AMQPError]] = []
        self._turn_due = 0.0  # when the style is to turn the reactor, by its clock
        self._channel = channel
        self._waiting: dict[int, None] = {}
        self._calls = 0
        self._thread: int | None = None  # that is inside
        self._outer: Pipelined | None = None  # the block around this one
        self._raised: AMQPError | None = None
        self._left = 0
        self._on_left: Callable[[Any, Any], object] | None = None

    @property
    def unconfirmed(self) -> list[int]:
        return list(self._waiting)

    def __repr__(self) -> str:
        return f"<Pipelined {self._calls} published, {len(self._waiting)} unconfirmed, {len(self.failures)} failed>"

    # --- the block ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Pipelined:
        if self._thread is not None:
            raise LocalError("this block was entered before; call channel.pipelined() for each `with`")
        self._thread = get_ident()
        blocks = self._channel._blocks
        self._outer = blocks.get(self._thread)
        blocks[self._thread] = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()
        if error is not None and not isinstance(error, (Exception, GeneratorExit)):
            return  # Ctrl-C, or the exit of the program: it wants out
        try:
            self._finish()
        except AMQPError:
            if error is None:
                raise  # otherwise the error of the block says more
        if self.failures and error is None:
            raise self._failed()
        if self.failures and error is not None and error is not self._raised:
            _note(error, self._failed())

    def _leave(self) -> None:
        blocks, thread = self._channel._blocks, self._thread
        assert thread is not None
        inner = blocks.get(thread)
        if inner is not self:  # a generator's block, which is closed late
            while inner is not None and inner._outer is not self:
                inner = inner._outer
            if inner is not None:
                inner._outer = self._outer
        elif self._outer is not None:
            blocks[thread] = self._outer
        else:
            del blocks[thread]

    # --- publishing ---------------------------------------------------------------------------------------------------

    def _publish(self, core: Channel, args: Sequence[Any]) -> bool:
        """Publishes on `core`. Inside the connection."""
        index = self._calls
        self._calls = index + 1
        on_done = partial(self._settle, index)
        publish: Callable[..., bool] = core._publisher.publish  # all that basic_publish does
        self._waiting[index] = None  # no call between this and the try
        try:
            return publish(*args, on_done)
        except BaseException as error:
            # The exception tells its fate; but one of a signal handler may come when it waits to be confirmed already.
            if not is_interrupt(error) or not core._publisher.awaits(on_done):
                self._waiting.pop(index, None)
            raise

    def _refuse(self, error: AMQPError) -> AMQPError:
        """Ends the block's publishing: the channel has ended. Returns the error to raise."""
        self.failures.append((self._calls, error.of("basic.publish", describe(call_site()))))
        self._calls += 1
        self._finish()
        return self._failed()

    @repeatable
    def _settle(self, index: int, error: AMQPError | None, _: Any) -> None:
        """on_done of a publish."""
        waiting = self._waiting
        # Once, though a signal handler's exception may come behind the append, and have this called again.
        if error is not None and index in waiting and (not self.failures or self.failures[-1][0] != index):
            self.failures.append((index, error))
        waiting.pop(index, None)
        if self._on_left is not None and len(waiting) <= self._left:
            on_left, self._on_left = self._on_left, None
            on_left(None, None)

    def _when_left(self, count: int, on_done: Callable[[Any, Any], object]) -> None:
        """Has on_done(None, None) called when no more than `count` publishes are unconfirmed: perhaps in this call.
        Inside the connection."""
        if self._has_left(count):
            on_done(None, None)
        else:
            self._left, self._on_left = count, on_done

    def _has_left(self, count: int) -> bool:
        """Whether no more than `count` publishes are unconfirmed."""
        return len(self._waiting) <= count

    def _finish(self) -> None:
        """Waits until the fate of every publish is known."""
        core = self._channel.core
        ended_by = None if core.is_open else core._closed_error()
        if isinstance(ended_by, ConnectionForked):
            for index in self.unconfirmed:  # nobody in this process will ever be told
                self._settle(index, unknown_fate(ended_by), None)
        elif self._waiting:
            self._channel._await_confirms(self, 0, None)

    def _failed(self) -> AMQPError:
        """The error of the block."""
        self.failures.sort(key=lambda failure: failure[0])
        self._raised = publishes_failed(self.failures)
        return self._raised


def written_oneway(operation: Callable[..., Any]) -> str:
    """The body of the method of an operation that the broker doesn't answer (`written`). While a block is open, each
    publish looks for the one of its thread."""
    plain = "return self._perform_oneway({operation}, {together}, timeout)"
    return _IN_A_BLOCK + plain if operation is Channel.basic_publish else plain


_IN_A_BLOCK = """\
if self._blocks:
    block = self._blocks.get(get_ident())
    if block is not None:
        return self._publish_in(block, {together}, timeout)
"""


class Pipelining:
    """A channel that has `pipelined`."""

    core: Channel
    _blocks: dict[int, Pipelined]  # the innermost of each thread

    def pipelined(self, window: int = 1000) -> Pipelined:
        """A block in which publishes do not wait for their confirms one by one.

        window: at most so many publishes are unconfirmed; a further one waits until there is room.

            channel.confirm_select()
            with channel.pipelined():
                for number in range(10_000):
                    channel.basic_publish("", "tasks", f"task {number}")
            print("the broker has all of them")

        In the block `basic_publish` returns at once, and says whether the channel is `writable`. It waits only while
        `window` publishes are unconfirmed, or while the kernel takes no more bytes. Messages go out together, at the
        latest with the first publish, or other call, that comes some milliseconds later. Leaving the block waits until
        the fate of all is known.

        Errors, raised at the end of the block: PublishesFailed, one or more publishes failed; its `failures` are
        (index, error). Once the channel or connection has ended, the next publish raises it. OperationTimeout, as of
        any call that waits: `unconfirmed` of the block has the indices of publishes whose fate is not known.

        After an exception of its own the block still waits. The exception goes on, with PublishesFailed as its context
        if publishes failed. After KeyboardInterrupt or SystemExit the block does not wait.

        The block holds for the publishes of the thread that entered it. A block within a block has its own indices.
        Errors, raised at the call: LocalError, the channel doesn't confirm.
        """
        if isinstance(window, bool) or not isinstance(window, int):
            raise InvalidArgumentType(f"window takes a number of publishes, not {type(window).__name__}")
        if window < 1:
            raise InvalidArgument(f"window takes 1 or more publishes, not {window}")
        core = self.core
        if not core.is_open:
            raise core._closed_error().of("basic.publish", describe(call_site()))
        if not core.is_confirming:
            raise LocalError(
                f"channel {core.number} doesn't confirm, so pipelined() would have nothing to wait for: call "
                "channel.confirm_select() first"
            )
        return Pipelined(self, window)

    @abstractmethod
    def _publish_in(self, block: Pipelined, args: Sequence[Any], timeout: float | None) -> bool:
        """Publishes in a block of this thread's. Returns `writable`. timeout: as of `_await_confirms`."""

    @abstractmethod
    def _await_confirms(self, block: Pipelined, left: int, timeout: float | None) -> None:
        """Waits until no more than `left` publishes of the block are unconfirmed. timeout: seconds; by default those of
        the connection. Errors: OperationTimeout."""


def _note(error: BaseException, failed: AMQPError) -> None:
    """Makes the failures of a block the context of the exception that ended it, behind the contexts that it has."""
    while error.__context__ is not None:
        error = error.__context__
    error.__context__ = failed
