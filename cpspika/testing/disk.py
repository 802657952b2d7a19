"""A simulated disk: a store of the broker whose unsynced writes may die in a crash.

Records are bytes with a length and a checksum. `flush` takes some virtual time, and what is written meanwhile waits for
the next one. A crash keeps a part of what wasn't synced, and may tear the last record.
"""

from __future__ import annotations

import pickle
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ..broker.store import Change, Contents, StoredMessage, contents
from ..reactor import Reactor

_HEAD = struct.Struct(">II")  # size and checksum of the record behind


class SimulatedDisk:
    """A `Store` on a simulated disk.

    reactor: its clock. dice: for what a crash leaves. sync_time: seconds that a sync takes. `log`: the bytes on the
    disk. `crashes`: how often the broker has crashed."""

    def __init__(self, reactor: Reactor, dice: random.Random, sync_time: float = 0.002):
        self.taken = False
        self.sync_time = sync_time
        self.log = bytearray()
        self.crashes = 0
        self._reactor = reactor
        self._dice = dice
        self._unsynced: list[bytes] = []
        self._waiting: list[Callable[[], object]] = []
        self._syncing = False

    def message_in(self, message: StoredMessage) -> None:
        self.taken = True
        self._write(("in", message))

    def message_out(self, vhost: str, queue: str, position: int) -> None:
        self._write(("out", (vhost, queue, position)))

    def definitions(self, vhost: str, change: Change) -> None:
        self._write(("definition", (vhost, change)))
        self.sync()

    def _write(self, record: tuple[str, Any]) -> None:
        body = pickle.dumps(record, 4)
        self._unsynced.append(_HEAD.pack(len(body), zlib.crc32(body)) + body)

    def flush(self, then: Callable[[], object]) -> None:
        self._waiting.append(then)
        if not self._syncing:
            self._syncing = True
            self._begin()

    def _begin(self) -> None:
        size, waiting, self._waiting = len(self._unsynced), self._waiting, []
        self._reactor.call_later(self.sync_time, partial(self._synced, self.crashes, size, waiting))

    def _synced(self, life: int, size: int, waiting: list[Callable[[], object]]) -> None:
        if life != self.crashes:
            return
        # `sync` may have written a part meanwhile, and others may have come behind: the longer prefix does no harm.
        self.log += b"".join(self._unsynced[:size])
        del self._unsynced[:size]
        for then in waiting:
            then()
        if self._waiting:
            self._begin()
        else:
            self._syncing = False

    def sync(self) -> None:
        self.log += b"".join(self._unsynced)
        self._unsynced.clear()

    def crash(self) -> None:
        self.crashes += 1
        survive = self._dice.randint(0, len(self._unsynced))
        self.log += b"".join(self._unsynced[:survive])
        if survive < len(self._unsynced):
            torn = self._unsynced[survive]
            self.log += torn[: self._dice.randint(0, len(torn) - 1)]
        self._unsynced.clear()
        self._waiting.clear()
        self._syncing = self.taken = False

    def load(self) -> Contents:
        changes: list[tuple[str, Change]] = []
        messages: dict[tuple[str, str, int], StoredMessage] = {}
        at = 0
        for at, (kind, value) in self._records():  # noqa: B007
            if kind == "in":
                messages[value[:3]] = value
            elif kind == "out":
                messages.pop(value, None)
            else:
                changes.append(value)
                vhost, (what, identity, properties) = value
                if what == "queue" and properties is None:
                    for place in [place for place in messages if place[:2] == (vhost, identity[0])]:
                        del messages[place]
        del self.log[at:]  # a torn record, which nothing may be written behind
        return contents(changes, messages.values())

    def _records(self) -> Any:
        """(where the record ends, the record) of each whole record."""
        at = 0
        while at + _HEAD.size <= len(self.log):
            size, checksum = _HEAD.unpack_from(self.log, at)
            body = bytes(self.log[at + _HEAD.size : at + _HEAD.size + size])
            if len(body) < size or zlib.crc32(body) != checksum:
                return
            at += _HEAD.size + size
            yield at, pickle.loads(body)
