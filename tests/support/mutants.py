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
from cpspika.client.setup import run_setup
from cpspika.errors import DeliveryUnknown, OperationTimeout
from cpspika.recovery import channel as recovering_channel
from cpspika.recovery import connection as recovering_connection
from cpspika.recovery import journal as journal_module
from cpspika.recovery import losses
from cpspika.recovery import opening as opening_module
from cpspika.recovery.buffer import Buffer, Unwritten
from cpspika.recovery.channel import RecoveringChannel
from cpspika.recovery.channel_log import ChannelLog
from cpspika.recovery.connection import RecoveringConnection
from cpspika.recovery.deadlines import Deadlines
from cpspika.recovery.journal import Journal
from cpspika.recovery.losses import find_culprit, sort_out
from cpspika.recovery.opening import EpochSender, ResendingPublisher
from cpspika.recovery.operations import SETTLED, WAITING, Asked, Publish, end_waiting
from cpspika.recovery.policies import AGAIN, DONE, POLICIES
from cpspika.recovery.probe import Probe
from cpspika.recovery.restoring import Restoring
from cpspika.recovery.single_file import SingleFile
from cpspika.recovery.transaction import Transaction
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
    withdraw = Publisher.unsettled
    patch.setattr(Publisher, "unsettled", lambda self: withdraw(self)[:-1])


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
    patch.setattr(Backlog, "unwritten", lambda self, number: [])


def heartbeat_timer_outlives_the_connection(patch: pytest.MonkeyPatch) -> None:
    end = Connection._end

    def ended(self: Any, reason: Any) -> None:
        end(self, reason)
        self._timers.start("heartbeat", 1.0, lambda: ended_tick(self))

    def ended_tick(self: Any) -> None:
        self._timers.start("heartbeat", 1.0, lambda: ended_tick(self))

    patch.setattr(Connection, "_end", ended)


def requests_are_answered_newest_first(patch: pytest.MonkeyPatch) -> None:
    """When a channel closes: the newest request of the method that the broker names is to blame."""

    def blamed(self: Any, method: str | None) -> Any:
        alike = [each for each in self._pending if each.method == method]
        return alike[-1] if alike else None

    patch.setattr(Channel, "_blamed", blamed)


def held_publishes_are_forgotten_at_the_end(patch: pytest.MonkeyPatch) -> None:
    withdraw = Publisher.unsettled

    def without_held(self: Any) -> list[Any]:
        self._held = None
        return withdraw(self)

    patch.setattr(Publisher, "unsettled", without_held)


def held_publishes_go_out_in_reverse(patch: pytest.MonkeyPatch) -> None:
    on_flow = Publisher.on_flow

    def reversed_(self: Any, active: bool) -> None:
        if active and self._held:
            self._held.reverse()
        on_flow(self, active)

    patch.setattr(Publisher, "on_flow", reversed_)


def the_end_of_congestion_is_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Backlog, "drained", lambda self: False)


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
    ask_again = ChannelLog.ask_again

    def without(self: Any, opening: Any, link: Any, with_consumers: bool) -> None:
        ask_again(self, opening, link, False)

    patch.setattr(ChannelLog, "ask_again", without)


def what_expired_is_sent_all_the_same(patch: pytest.MonkeyPatch) -> None:
    def ended(operation: Any, error: Any) -> None:
        end_waiting(operation, error)
        if operation.state == SETTLED and isinstance(operation, Publish):
            operation.state = WAITING
            operation.channel._waiting.appendleft(operation)

    patch.setattr(losses, "end_waiting", ended)


def a_lost_publish_is_sent_again_without_its_flags(patch: pytest.MonkeyPatch) -> None:
    """So one that no queue takes does not come back."""
    launch = ResendingPublisher.launch

    def without(self: Any, publish: Any) -> None:
        if publish.times:
            publish.content = publish.content._replace(mandatory=False)
        launch(self, publish)

    patch.setattr(ResendingPublisher, "launch", without)


def copies_are_not_announced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening_module, "Resent", lambda times: True)


def copies_carry_no_mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening_module, "_marked", lambda content, header, times: content)


def unknown_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """Though the program has asked for publishes="unknown"."""

    def verdict(self: Any, error: Any) -> Any:
        if self.undecided:
            self.times += 1
        return AGAIN

    patch.setattr(Publish, "verdict", verdict)


def nothing_expires(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "_expire", lambda self: None)


def what_was_sent_before_expires_as_never_sent(patch: pytest.MonkeyPatch) -> None:
    def ended(operation: Any, error: Any) -> None:
        if isinstance(operation, Publish) and isinstance(error, DeliveryUnknown) and "no link" in error.text:
            error = OperationTimeout("no link: it was not sent")
        end_waiting(operation, error)

    patch.setattr(losses, "end_waiting", ended)


def the_buffer_leaks(patch: pytest.MonkeyPatch) -> None:
    """What was sent again keeps its room."""
    leave = Publish.leave

    def leaking(self: Any) -> None:
        size = self.size
        leave(self)
        if self.times:
            self.channel._connection._buffer.size += size

    patch.setattr(Publish, "leave", leaking)


def bindings_are_not_recorded(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(journal_module._RECORDED, "queue.bind")


def deletions_are_not_recorded(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(journal_module._RECORDED, "queue.delete")


def topology_is_restored_in_reverse(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Journal, "__iter__", lambda self: reversed(list(self._declared.values())))


def limits_do_not_come_back(patch: pytest.MonkeyPatch) -> None:
    """The prefetch limit of a channel is not asked for again."""
    ask_again = ChannelLog.ask_again

    def without(self: Any, *opening: Any, **options: Any) -> None:
        self.forget_mode("basic.qos")
        ask_again(self, *opening, **options)

    patch.setattr(ChannelLog, "ask_again", without)


def cancelled_consumers_come_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecoveringChannel, "_forget_consumer", lambda self, tag: None)


def transactions_survive_a_loss(patch: pytest.MonkeyPatch) -> None:
    """What was published before the loss is gone, and the rest is committed."""

    def lost(self: Any) -> None:
        self._commits.clear()

    patch.setattr(Transaction, "lost", lost)


def the_newest_operation_is_blamed(patch: pytest.MonkeyPatch) -> None:
    def newest(fallen: Any, blamed: Any) -> Any:
        return find_culprit(fallen[::-1], blamed)

    for module in (recovering_connection, recovering_channel):
        patch.setattr(module, "find_culprit", newest)


def nothing_goes_in_single_file(patch: pytest.MonkeyPatch) -> None:
    """After a close for a publish, what was in flight goes out together again."""

    def together(connection: Any, fallen: Any, culprit: Any, reason: Any, single: bool) -> None:
        return sort_out(connection, fallen, culprit, reason, False)

    for module in (recovering_connection, recovering_channel):
        patch.setattr(module, "sort_out", together)


def the_single_file_is_reversed(patch: pytest.MonkeyPatch) -> None:
    send_next = SingleFile.send_next

    def last(self: Any) -> None:
        self._waiting.rotate(1)
        send_next(self)

    patch.setattr(SingleFile, "send_next", last)


def a_locked_queue_is_given_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecoveringConnection, "_lock_seconds", lambda self: 0.0)


def a_failed_set_up_counts_as_done(patch: pytest.MonkeyPatch) -> None:
    set_up = RecoveringChannel._set_up
    patch.setattr(RecoveringChannel, "_set_up", lambda self, opening, err, _: set_up(self, opening, None, _))


def a_set_up_is_made_once(patch: pytest.MonkeyPatch) -> None:
    """Not at later openings."""

    def run(on_ready: Any, channel: Any, on_done: Any) -> None:
        if channel._recovering._epoch:
            on_done(None, None)
        else:
            run_setup(on_ready, channel, on_done)

    patch.setattr(recovering_channel, "run_setup", run)


def messages_are_got_again_though_gone(patch: pytest.MonkeyPatch) -> None:
    """A basic.get with no_ack is asked again, and its first message is lost."""
    verdict = Asked.verdict

    def again(self: Any, error: Any) -> Any:
        return AGAIN if self.method == "basic.get" else verdict(self, error)

    patch.setattr(Asked, "verdict", again)


def a_purge_is_asked_again(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(POLICIES, "queue.purge", AGAIN)


def tag_0_acknowledges_what_is_on_its_way_too(patch: pytest.MonkeyPatch) -> None:
    own_tag = EpochSender.own_tag

    def nought(self: Any, delivery_tag: int, multiple: bool) -> Any:
        return 0 if delivery_tag == 0 and multiple else own_tag(self, delivery_tag, multiple)

    patch.setattr(EpochSender, "own_tag", nought)


def probes_leave_their_channels_open(patch: pytest.MonkeyPatch) -> None:
    cancel = Probe.cancel

    def left(self: Any) -> None:
        self._channel = None
        cancel(self)

    patch.setattr(Probe, "cancel", left)


def what_the_kernel_has_is_sent_again(patch: pytest.MonkeyPatch) -> None:
    """A publish that nobody confirms, though its bytes were given to the kernel."""

    lost_of = Unwritten.lost

    def lost(self: Any) -> list[Any]:
        self.kept[:] = [(1 << 64, *entry[1:]) for entry in self.kept]
        return lost_of(self)

    patch.setattr(Unwritten, "lost", lost)
    patch.setattr(Unwritten, "_drop_written", lambda self, _=None: None)


def what_the_kernel_does_not_have_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Unwritten, "lost", lambda self: [])


def the_end_of_congestion_does_not_send_what_waits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RecoveringChannel, "_may_go_on", lambda self: self._tell_writable())


def restored_is_told_too_early(patch: pytest.MonkeyPatch) -> None:
    """When the first channel is restored, and again with each further one."""

    def restored(self: Any, channel: Any) -> None:
        self._channels.pop(channel, None)
        self._connection._restored()
        self._connection._restoring = self

    patch.setattr(Restoring, "channel_restored", restored)


def drains_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Those that wait while the link is down."""
    link_lost = RecoveringChannel._link_lost

    def lost(self: Any) -> None:
        self._draining = []
        link_lost(self)

    patch.setattr(RecoveringChannel, "_link_lost", lost)


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
        requests_are_answered_newest_first,
        held_publishes_are_forgotten_at_the_end,
        held_publishes_go_out_in_reverse,
        the_end_of_congestion_is_not_told,
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
        a_lost_publish_is_sent_again_without_its_flags,
        copies_are_not_announced,
        copies_carry_no_mark,
        unknown_is_sent_again,
        nothing_expires,
        what_was_sent_before_expires_as_never_sent,
        the_buffer_leaks,
        bindings_are_not_recorded,
        deletions_are_not_recorded,
        topology_is_restored_in_reverse,
        limits_do_not_come_back,
        cancelled_consumers_come_back,
        transactions_survive_a_loss,
        the_newest_operation_is_blamed,
        nothing_goes_in_single_file,
        the_single_file_is_reversed,
        a_locked_queue_is_given_up,
        a_failed_set_up_counts_as_done,
        a_set_up_is_made_once,
        messages_are_got_again_though_gone,
        a_purge_is_asked_again,
        tag_0_acknowledges_what_is_on_its_way_too,
        probes_leave_their_channels_open,
        what_the_kernel_has_is_sent_again,
        what_the_kernel_does_not_have_is_forgotten,
        the_end_of_congestion_does_not_send_what_waits,
        restored_is_told_too_early,
        drains_are_forgotten,
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
