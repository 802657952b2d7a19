"""Durable queues of a broker with a store: persistent messages are written to it, and come back after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..wire.message import Message
from .queues import Entry, Queue
from .quorum_queue import QuorumQueue
from .store import NULL_STORE, Store, StoredMessage

if TYPE_CHECKING:
    _Base = Queue
else:
    _Base = object

PERSISTENT = 2


class _Stored(_Base):
    """Writes to a store what comes into a queue and what leaves it."""

    vhost_name = ""
    store: Store = NULL_STORE
    keeps_all = False  # the queue keeps transient messages too
    _stored: dict[int, None]  # the positions of the messages that the store has

    def keep_in(self, store: Store, vhost: str) -> None:
        """Has the queue use a store from now on."""
        self.store, self.vhost_name, self._stored = store, vhost, {}
        self._plain = False  # every message takes the general path

    def detach(self) -> None:
        """Ends the use of the store: the broker's process has died."""
        self.store = NULL_STORE

    def _entry(self, message: Message, ttl: float | None) -> Entry:
        entry = super()._entry(message, ttl)
        if self.keeps_all or message.properties.delivery_mode == PERSISTENT:
            position = entry.position
            self._stored[position] = None
            self.store.message_in(
                StoredMessage(
                    self.vhost_name,
                    self.name,
                    position,
                    message.exchange,
                    message.routing_key,
                    message.encoded,
                    message.body,
                )
            )
        return entry

    def push(self, message: Message, ttl: float | None) -> bool:
        if super().push(message, ttl):
            return True
        if self.limits.overflow == "reject-publish-dlx":  # the message got a position only to be dead-lettered
            self._forget_position(self._next_position)
        return False

    def restore(self, messages: Iterable[StoredMessage]) -> None:
        """Puts the messages back that the store gave back after a restart, as redelivered ones."""
        for stored in messages:
            entry = Entry(stored.message(), self, stored.position, None)
            entry.redelivered = True
            if self._ttl is not None:
                entry.expires = self._clock.time() + self._ttl / 1000
            self._next_position = max(self._next_position, stored.position)
            self._stored[stored.position] = None
            self._ready.append(entry)
            self.bytes += entry.size
            self._memory.add(entry.memory)
        self._expire()

    def _forget(self, entry: Entry) -> None:
        self._forget_position(entry.position)

    def _forget_position(self, position: int) -> None:
        if position in self._stored:
            del self._stored[position]
            self.store.message_out(self.vhost_name, self.name, position)

    def _count_delivery(self, entry: Entry, no_ack: bool) -> None:
        super()._count_delivery(entry, no_ack)
        if no_ack:
            self._forget(entry)

    def ack(self, entry: Entry) -> None:
        super().ack(entry)
        self._forget(entry)

    def reject(self, entry: Entry) -> None:
        super().reject(entry)
        self._forget(entry)

    def _drop(self, entry: Entry, reason: str) -> None:
        super()._drop(entry, reason)
        self._forget(entry)

    def purge(self) -> int:
        for entry in self._ready:
            self._forget(entry)
        return super().purge()


class StoredQueue(_Stored, Queue):
    """A durable classic queue: its persistent messages survive."""


class StoredQuorumQueue(_Stored, QuorumQueue):
    """A quorum queue in one copy: all its messages survive."""

    keeps_all = True
