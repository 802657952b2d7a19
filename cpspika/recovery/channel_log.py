"""The log of a recovering channel: its modes and consumers, in the order in which they were asked for.

Each new opening is asked for them again (a *replay*), before all that waits.
"""

from __future__ import annotations

from typing import Any

from ..client.connection import Connection
from ..client.continuations import Request
from ..errors import AMQPError
from .operations import Asked, Consume
from .roles import Opening, Owner

MODES = frozenset(("basic.qos", "confirm.select", "tx.select", "channel.flow"))


class Replay(Request):
    """A mode or consumer that recovery asks for again, on a new opening."""

    __slots__ = ("_log", "tag")

    def __init__(self, log: ChannelLog, method: str, tag: str | None = None):
        super().__init__(method, None, (method + "-ok",))
        self._log = log
        self.tag = tag

    def reply(self, reply: Any) -> None:
        super().reply(reply)
        self._log.answered(self)

    def fail(self, error: AMQPError) -> None:
        self._log.lost.append(self)


class ChannelLog:
    """`entries`: the modes and consumers. `lost`: replays whose opening ended before it answered."""

    __slots__ = ("_channel", "_unanswered", "entries", "lost")

    def __init__(self, channel: Owner):
        self._channel = channel
        self.entries: list[Asked] = []
        self._unanswered: set[Replay] = set()
        self.lost: list[Replay] = []

    # --- what was asked for -------------------------------------------------------------------------------------------

    def note(self, asked: Asked) -> None:
        """The broker has carried out a mode or a consumer."""
        if isinstance(asked, Consume):
            self.entries.append(asked)
            return
        log, start = self.entries, 0
        if asked.method == "basic.qos":
            # A later limit of the same kind replaces one that no consumer was started under.
            start = len(log)
            while start and not isinstance(log[start - 1], Consume):
                start -= 1
        log[start:] = [entry for entry in log[start:] if not _replaces(asked, entry)]
        log.append(asked)

    def has(self, method: str) -> bool:
        return any(entry.method == method for entry in self.entries)

    def has_consumer(self, consume: Asked) -> bool:
        return any(entry is consume for entry in self.entries)

    def forget(self, consume: Asked) -> None:
        self.entries = [entry for entry in self.entries if entry is not consume]

    def forget_mode(self, method: str) -> None:
        self.entries = [entry for entry in self.entries if entry.method != method]

    # --- an opening ---------------------------------------------------------------------------------------------------

    def ask_again(self, opening: Opening, link: Connection | None, with_consumers: bool) -> None:
        """Asks a new opening for all, without consumers whose queue is away from this link."""
        for entry in self.entries:
            if isinstance(entry, Consume):
                if with_consumers and entry.absent_on is not link:
                    self.consume(opening, entry)
                continue
            replay = Replay(self, entry.method)
            opening._ask(replay, entry.arguments)
            if entry.method == "confirm.select":
                opening._publisher.confirm()
            self._unanswered.add(replay)

    def consume(self, opening: Opening, consume: Consume) -> None:
        """Asks for a consumer again."""
        replay = Replay(self, "basic.consume", consume.tag)
        opening._ask_consume(replay, consume.consumer, consume.arguments)
        self._unanswered.add(replay)

    @property
    def is_answered(self) -> bool:
        return not self._unanswered

    def answered(self, replay: Replay) -> None:
        self._unanswered.discard(replay)
        self._channel._replayed()

    def opening_ended(self) -> None:
        self._unanswered = set()


def _replaces(mode: Asked, earlier: Asked) -> bool:
    """Whether a mode makes one that was asked for earlier needless."""
    if mode.method != earlier.method:
        return False
    return mode.method != "basic.qos" or mode.arguments["global"] == earlier.arguments["global"]
