"""Mistakes that can be put into the client or recovery, one at a time, to prove that the simulator sees them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from cpspika.client import channel as channel_module
from cpspika.client.channel import Channel
from cpspika.client.connection import Connection
from cpspika.client.publisher import Publisher
from cpspika.recovery import channel as recovering_channel
from cpspika.recovery.buffer import Buffer
from cpspika.recovery.channel import RecoveringChannel
from cpspika.recovery.connection import RecoveringConnection
from cpspika.recovery.opening import EpochSender
from cpspika.recovery.operations import SETTLED, WAITING, Publish
from cpspika.recovery.policies import DONE
from cpspika.testing.trial import Trial
from cpspika.wire.backlog import Backlog


def confirm_settles_twice(patch: pytest.MonkeyPatch) -> None:
    settle = Publisher._settle_acked

    def twice(self: Any, publish: Any) -> None:
        on_done = publish.on_done
        settle(self, publish)
        if on_done is not None:
            on_done(None, True)

    patch.setattr(Publisher, "_settle_acked", twice)


def end_drops_an_on_done(patch: pytest.MonkeyPatch) -> None:
    withdraw = Publisher.withdraw_all
    patch.setattr(Publisher, "withdraw_all", lambda self: withdraw(self)[:-1])


def end_settles_in_reverse(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(channel_module, "sorted", lambda items: sorted(items, reverse=True), raising=False)


def return_goes_to_the_oldest(patch: pytest.MonkeyPatch) -> None:
    def oldest(self: Any, message: Any) -> Any:
        return next((publish for publish in self._mandatory if publish.returned is None), None)

    patch.setattr(Publisher, "_returned_one", oldest)


def window_is_shifted_by_one(patch: pytest.MonkeyPatch) -> None:
    settled = Publisher.on_settled

    def shifted(self: Any, acked: bool, tag: int, multiple: bool) -> None:
        settled(self, acked, tag + (tag + 1 < self._window.next_tag), multiple)

    patch.setattr(Publisher, "on_settled", shifted)


def unknown_is_reported_as_confirmed(patch: pytest.MonkeyPatch) -> None:
    """At the end, as if the broker had confirmed what it may never have got."""

    def fail(self: Any, error: Any) -> None:
        if self.on_done is not None:
            self.on_done(None, True)

    patch.setattr("cpspika.client.publisher.Publish.fail", fail)


def nack_is_ignored(patch: pytest.MonkeyPatch) -> None:
    settled = Publisher.on_settled
    patch.setattr(Publisher, "on_settled", lambda self, acked, tag, multiple: settled(self, True, tag, multiple))


def acks_are_one_too_high(patch: pytest.MonkeyPatch) -> None:
    ack = Channel.basic_ack

    def higher(self: Any, delivery_tag: int, multiple: bool = False, *, on_done: Any = None) -> None:
        ack(self, delivery_tag + 1, multiple, on_done=on_done)

    patch.setattr(Channel, "basic_ack", higher)


def delivery_is_handed_out_twice(patch: pytest.MonkeyPatch) -> None:
    deliver = Channel._deliver

    def twice(self: Any, message: Any) -> None:
        deliver(self, message)
        deliver(self, message)

    patch.setattr(Channel, "_deliver", twice)


def runs_are_handed_out_in_reverse(patch: pytest.MonkeyPatch) -> None:
    deliver = Channel._deliver_all
    patch.setattr(Channel, "_deliver_all", lambda self, messages: deliver(self, messages[::-1]))


def refusal_is_told_inside_the_call(patch: pytest.MonkeyPatch) -> None:
    def refuse(on_done: Any, error: Any, method: str, call_soon: Any) -> None:
        if on_done is None:
            raise error
        on_done(error, None)

    patch.setattr("cpspika.client.publisher.refuse", refuse)
    patch.setattr(channel_module, "refuse", refuse)


def what_waits_for_the_kernel_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "take_unwritten", lambda self, number: [])


def heartbeat_timer_outlives_the_connection(patch: pytest.MonkeyPatch) -> None:
    end = Connection._end

    def ended(self: Any, reason: Any) -> None:
        end(self, reason)
        self._timers.start("heartbeat", 1.0, lambda: ended_tick(self))

    def ended_tick(self: Any) -> None:
        self._timers.start("heartbeat", 1.0, lambda: ended_tick(self))

    patch.setattr(Connection, "_end", ended)


# --- of recovery ------------------------------------------------------------------------------------------------------


def acks_of_earlier_openings_are_sent(patch: pytest.MonkeyPatch) -> None:
    """The epoch of a tag is not checked."""

    def own_tag(self: Any, delivery_tag: int, multiple: bool) -> int:
        return delivery_tag & (1 << recovering_channel.EPOCH_SHIFT) - 1

    def send_ack(self: Any, delivery_tag: int, multiple: bool) -> None:
        own = own_tag(self, delivery_tag, multiple)
        super(EpochSender, self).send_ack(own, multiple)

    patch.setattr(EpochSender, "own_tag", own_tag)
    patch.setattr(EpochSender, "send_ack", send_ack)


def tags_are_not_raised(patch: pytest.MonkeyPatch) -> None:
    """Every opening has the tags of the first."""
    make = EpochSender.__init__

    def first(self: Any, connection: Any, number: int, epoch: int, recovering: Any) -> None:
        make(self, connection, number, 0, recovering)

    patch.setattr(EpochSender, "__init__", first)
    patch.setattr(RecoveringChannel, "_is_stale", lambda self, message: False)


def lost_publishes_count_as_confirmed(patch: pytest.MonkeyPatch) -> None:
    """Nothing is sent again."""
    patch.setattr(Publish, "verdict", lambda self, error: DONE)


def operations_are_sent_again_in_reverse(patch: pytest.MonkeyPatch) -> None:
    put_back = RecoveringChannel._put_back

    def reversed_(self: Any, operations: list[Any]) -> None:
        put_back(self, operations)
        self._waiting.reverse()

    patch.setattr(RecoveringChannel, "_put_back", reversed_)


def what_waits_goes_before_what_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """The operations of a channel that wait are not sorted."""
    patch.setattr(recovering_channel, "merge", lambda again, waiting: [*waiting, *again])


def the_buffer_has_no_limit(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Buffer, "refusal", lambda self, size: None)


def a_resent_publish_that_comes_back_is_reported_as_refused(patch: pytest.MonkeyPatch) -> None:
    """Though an earlier copy may be in the queue."""
    patch.setattr(Publish, "unknown_or", lambda self, error: error)


def consumers_do_not_come_back(patch: pytest.MonkeyPatch) -> None:
    restore = RecoveringChannel._restore

    def without(self: Any) -> None:
        self._log = [entry for entry in self._log if entry.method != "basic.consume"]
        restore(self)

    patch.setattr(RecoveringChannel, "_restore", without)


def what_expired_is_sent_all_the_same(patch: pytest.MonkeyPatch) -> None:
    end_waiting = RecoveringConnection._end_waiting

    def ended(operation: Any, error: Any) -> None:
        end_waiting(operation, error)
        if operation.state == SETTLED and isinstance(operation, Publish):
            operation.state = WAITING
            operation.channel._waiting.appendleft(operation)

    patch.setattr(RecoveringConnection, "_end_waiting", staticmethod(ended))


MUTANTS = {
    function.__name__: function
    for function in (
        confirm_settles_twice,
        end_drops_an_on_done,
        end_settles_in_reverse,
        return_goes_to_the_oldest,
        window_is_shifted_by_one,
        unknown_is_reported_as_confirmed,
        nack_is_ignored,
        acks_are_one_too_high,
        delivery_is_handed_out_twice,
        runs_are_handed_out_in_reverse,
        refusal_is_told_inside_the_call,
        what_waits_for_the_kernel_is_forgotten,
        heartbeat_timer_outlives_the_connection,
    )
}
RECOVERY_MUTANTS = {
    function.__name__: function
    for function in (
        acks_of_earlier_openings_are_sent,
        tags_are_not_raised,
        lost_publishes_count_as_confirmed,
        operations_are_sent_again_in_reverse,
        what_waits_goes_before_what_is_sent_again,
        the_buffer_has_no_limit,
        a_resent_publish_that_comes_back_is_reported_as_refused,
        consumers_do_not_come_back,
        what_expired_is_sent_all_the_same,
    )
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """The client with a mistake."""
    with pytest.MonkeyPatch.context() as patch:
        (MUTANTS | RECOVERY_MUTANTS)[name](patch)
        yield


def first_found(name: str, seeds: int) -> tuple[int, str] | None:
    """The first seed that fails with a mutant, and the failure."""
    with mutated(name):
        for seed in range(seeds):
            try:
                failures = Trial(seed, recovery=True if name in RECOVERY_MUTANTS else None).run()
            except Exception as error:
                failures = [repr(error)]
            if failures:
                return seed, failures[0]
    return None
