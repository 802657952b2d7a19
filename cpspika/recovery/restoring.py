"""Makes on a new link what the links before it had, in two phases over all channels.

First the topology: the journal is declared again, on a channel of its own, and the program's `on_ready` functions run.
Then each channel gets its modes and consumers and what waits. A broker that refuses a declaration closes the channel:
that entity failed, and the rest goes on, on the next channel. A queue that is locked by the link that was lost is tried
again by itself; only the channels that need it wait for it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ..client.channel import Channel
from ..client.connection import Connection
from ..client.continuations import Call, Request, ignore
from ..errors import AMQPError
from .channel import RecoveringChannel
from .journal import Declared, Entity, ends
from .options import RecoveryEvent
from .roles import Restored


class Restoring:
    """The restoring of one link. `second_phase`: the topology is made."""

    def __init__(self, connection: Restored, link: Connection):
        self._connection = connection
        self._link = link
        self._left: dict[Entity, Declared] = {each.entity: each for each in connection._journal}
        self._locked: dict[Entity, list[Declared]] = {}  # a locked queue -> its declaration and its bindings
        self._setups: dict[RecoveringChannel, None] = {}  # in the order of their opening
        self._channels: dict[RecoveringChannel, None] = {}  # not restored yet
        self._topology: Channel | None = None
        self.second_phase = False
        self._channels_last = False  # no number would be left for the channel of the topology

    def begin(self) -> None:
        connection = self._connection
        for channel in list(connection._opened_channels):
            self._channels[channel] = None
            if channel._on_ready is not None:
                self._setups[channel] = None
        self._channels_last = bool(self._left) and len(self._channels) >= self._link.channel_max
        if not self._channels_last:
            self._open_channels()
        self._declare()

    def _open_channels(self) -> None:
        self._channels_last = False
        for channel in list(self._channels):
            error = channel._open_on(self._link)
            if error is not None:
                channel._give_up(error)

    # --- topology -----------------------------------------------------------------------------------------------------

    def _declare(self) -> None:
        """Declares what is left, pipelined."""
        self._topology = None
        error = self._link._error_of_no_channel() if self._left else None
        if error is not None:
            for declared in list(self._left.values()):
                self._failed(declared, error)
        if not self._left:
            self._go_on()
            return
        topology = self._topology = self._link._new_channel(self._link._plain_channel)
        topology._open(ignore)
        topology.add_state_change_handler(self._topology_changed)
        for declared in self._left.values():
            self._ask(topology, declared)

    def _ask(self, channel: Channel, declared: Declared) -> None:
        asked = _Declaration(self, declared)
        try:
            channel._ask(asked, declared.arguments)
        except AMQPError as error:  # a smaller frame_max than before
            self._failed(declared, error)

    def declared(self, declared: Declared) -> None:
        self._left.pop(declared.entity, None)
        self._connection._link_settled = True
        if not self._left and self._topology is not None:
            topology, self._topology = self._topology, None
            if self._channels_last:
                topology.close(on_done=lambda *_: self._go_on())
            else:
                topology.close(on_done=ignore)
                self._go_on()

    def _topology_changed(self, topology: Channel, is_open: bool) -> None:
        if is_open or topology is not self._topology or not self._link.is_open:
            return
        error = topology.close_reason
        if error is not None and self._left:
            # The broker carries out one after another: the first without an answer is the one that it refuses.
            self._refused(next(iter(self._left.values())), error)
        self._declare()

    def _refused(self, declared: Declared, error: AMQPError) -> None:
        if error.code == 405 and declared.method == "queue.declare":
            self._wait_for_lock(declared)
        else:
            self._failed(declared, error)

    def _failed(self, declared: Declared, error: AMQPError) -> None:
        """An entity cannot be declared again: it is forgotten, and its consumers fail."""
        connection = self._connection
        self._left.pop(declared.entity, None)
        connection._link_settled = True
        connection._journal.drop(declared.entity)
        told = RecoveryEvent(
            "entity_failed", error=error, channel=declared.channel._outermost(), entity=declared.entity[:4]
        )
        connection._tell_recovery(told)
        if declared.entity[0] == "queue":
            for channel in list(connection._opened_channels):
                for consume in list(channel._consumers_known.values()):
                    if consume.arguments["queue"] == declared.entity[1]:
                        channel._consumer_failed(consume.tag, error)

    def blame(self, method: str, error: AMQPError) -> list[Call]:
        """The broker closed the link, and names a method: the oldest declaration of it is to blame. Returns the steps
        that tell so, if there is one."""
        declared = next((each for each in self._left.values() if each.method == method), None)
        if declared is None or self._topology is None:
            return []
        return [partial(self._failed, declared, error)]

    def _wait_for_lock(self, declared: Declared) -> None:
        connection, queue = self._connection, declared.entity
        bindings = [each for each in self._left.values() if queue in ends(each)]
        for each in (declared, *bindings):
            del self._left[each.entity]
        self._locked[queue] = [declared, *bindings]
        held = self._needing(declared)
        for channel in held:
            channel._held += 1
        connection._probe(
            partial(_declare, declared),
            (405,),
            connection._lock_seconds(),
            partial(self._lock_is_over, declared, held),
        )

    def _needing(self, declared: Declared) -> list[RecoveringChannel]:
        queue = declared.entity[1]
        return [
            channel
            for channel in self._connection._opened_channels
            if channel is declared.channel
            or any(consume.arguments["queue"] == queue for consume in channel._consumers_known.values())
        ]

    def _lock_is_over(self, declared: Declared, held: list[RecoveringChannel], error: AMQPError | None) -> None:
        _, *bindings = self._locked.pop(declared.entity)
        if error is not None:
            self._failed(declared, error)
        else:
            self._left.update((each.entity, each) for each in bindings)
        for channel in held:
            channel._held -= 1
        if self._topology is None:
            self._declare()

    # --- setups and channels ------------------------------------------------------------------------------------------

    def is_set_up(self, channel: RecoveringChannel) -> bool:
        """A channel's on_ready is done. False: this restoring doesn't wait for it."""
        if self.second_phase or channel not in self._setups:
            return False
        del self._setups[channel]
        channel._first_opened()
        self._go_on()
        return True

    def channel_ended(self, channel: RecoveringChannel) -> None:
        self._setups.pop(channel, None)
        self._channels.pop(channel, None)
        self._go_on()

    def _go_on(self) -> None:
        if self._left or self._connection._restoring is not self or not self._link.is_open:
            return
        if self._channels_last:
            self._open_channels()
        if self._setups:
            return
        self.second_phase = True
        for channel in list(self._channels):
            channel._restore()
        self._end_if_done()

    def channel_restored(self, channel: RecoveringChannel) -> None:
        self._channels.pop(channel, None)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self.second_phase and not self._channels and not self._locked and self._connection._restoring is self:
            self._connection._restored()


class _Declaration(Request):
    """A declaration of the journal, asked again."""

    __slots__ = ("_declared", "_restoring")

    def __init__(self, restoring: Restoring, declared: Declared):
        super().__init__(declared.method, None, (declared.method + "-ok",))
        self._restoring = restoring
        self._declared = declared

    def reply(self, reply: Any) -> None:
        self._restoring.declared(self._declared)


def _declare(declared: Declared, channel: Channel, on_done: Any) -> None:
    channel._ask(Request(declared.method, on_done, (declared.method + "-ok",)), declared.arguments)
