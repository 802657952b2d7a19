"""The law of continuations, held to a model: operations, replies, raising callbacks and ends, all at random."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

import cpspika
from tests.support.endings import Boom, ignore
from tests.support.scripted import opened

CHANNELS = (1, 2)  # the first confirms


class Model:
    """A world, and what the law says must become of everything that is asked of it."""

    def __init__(self) -> None:
        self.world = opened()
        self.channels = {1: self.world.confirming(), 2: self.world.channel()}
        for number, channel in self.channels.items():
            self.world.consume(channel, ignore, f"c{number}")
            channel.add_state_change_handler(lambda channel, is_open: self.note(("closed", channel.number)))
        self.log: list[Any] = []  # settled operations and handlers, in order
        self.asked: list[dict[str, Any]] = []
        self.requests: dict[int, list[dict[str, Any]]] = {1: [], 2: []}  # not replied to
        self.published: list[dict[str, Any]] = []  # on channel 1; tag is index + 1
        self.booms = 0
        self.last_returned = -1
        self.peer = self.world.peer
        self.over = False

    def note(self, what: Any) -> None:
        self.log.append(what)

    def ask(self, number: int, kind: str, raising: bool, nested: bool) -> None:
        channel = self.channels[number]
        entry: dict[str, Any] = {
            "channel": number,
            "kind": kind,
            "calls": 0,
            "inside": True,
            "refused": not channel.is_open,
            "name": f"q{len(self.asked)}",
            "fate": None,
        }
        self.asked.append(entry)

        def on_done(error: Any, result: Any) -> None:
            assert not entry["inside"], f"{entry} was settled inside the call"
            entry["calls"] += 1
            entry["outcome"] = (error, result)
            self.note(entry)
            if nested and not self.over:
                self.ask(number, "declare", False, False)
            if raising:
                self.booms += 1
                raise Boom

        if kind == "declare":
            channel.queue_declare(entry["name"], on_done=on_done)
        elif kind == "ack":
            channel.basic_ack(1, on_done=on_done)
        else:
            mandatory = kind == "mandatory"
            channel.basic_publish(routing_key=entry["name"], body="m", mandatory=mandatory, on_done=on_done)
        entry["inside"] = False
        if entry["refused"]:
            return
        if kind == "declare":
            self.requests[number].append(entry)
        elif kind != "ack" and number == 1:
            self.published.append(entry)

    def reply(self, number: int) -> None:
        """To the oldest that has reached the peer."""
        self.turn()
        if self.requests[number] and self.channels[number].is_open:
            entry = self.requests[number].pop(0)
            entry["fate"] = "replied"
            self.peer.send(number, "queue.declare-ok", queue=entry["name"])

    def decide(self, which: int, multiple: bool, acked: bool) -> None:
        self.turn()
        if not self.channels[1].is_open:
            return
        undecided = [i for i, entry in enumerate(self.published) if entry["fate"] in (None, "returned")]
        if not undecided:
            return
        index = undecided[which % len(undecided)]
        for i in undecided if multiple else [index]:
            if i <= index and self.published[i]["fate"] != "returned":
                self.published[i]["fate"] = "acked" if acked else "nacked"
            elif i <= index:
                self.published[i]["fate"] = "returned for good"
        self.peer.send(1, "basic.ack" if acked else "basic.nack", delivery_tag=index + 1, multiple=multiple)

    def give_back(self, which: int) -> None:
        self.turn()
        waiting = [e for e in self.published if e["kind"] == "mandatory" and e["fate"] is None]
        waiting = [e for e in waiting if self.asked.index(e) > self.last_returned]  # in order, as brokers do
        if waiting and self.channels[1].is_open:
            entry = waiting[which % len(waiting)]
            self.last_returned = self.asked.index(entry)
            entry["fate"] = "returned"
            route = {"exchange": "", "routing_key": entry["name"]}
            self.peer.send_content(1, "basic.return", b"m", reply_code=312, reply_text="NO_ROUTE", **route)

    def turn(self) -> None:
        while True:
            try:
                self.world.settle()
            except Boom:
                self.booms -= 1
            else:
                return

    def end(self, how: str, number: int) -> None:
        channel = self.channels[number]
        if how == "channel by peer":
            self.turn()
            if channel.is_open:
                self.peer.close_channel(406, "PRECONDITION_FAILED", number=number)
        elif how == "channel by us":
            channel.close()
        elif how == "connection by peer":
            self.peer.close_connection()
        elif how == "connection by us":
            self.world.connection.close()
        elif how == "hang up":
            self.peer.hang_up()
        elif how == "cut":
            self.turn()
            self.peer.cut()
        elif how == "fault":
            self.peer.send_raw(b"\x01\0\0\0\0\0\0\xff")

    def check(self) -> None:
        assert self.booms == 0, "an exception of a callback got lost, or came twice"
        for entry in self.asked:
            assert entry["calls"] == 1, f"on_done was called {entry['calls']} times: {entry}"
        for number in CHANNELS:
            self.check_order(number)
        for entry in self.asked:
            self.check_fate(entry)

    def check_order(self, number: int) -> None:
        mine = [e for e in self.asked if e["channel"] == number and not e["refused"]]
        settled = [e for e in self.log if isinstance(e, dict) and e["channel"] == number and not e["refused"]]
        requests = [e for e in settled if e["kind"] == "declare"]
        assert requests == [e for e in mine if e["kind"] == "declare"], "requests settle in the order of asking"
        ended = [e for e in settled if self.ended(e)]
        assert ended == [e for e in mine if self.ended(e)], "the end settles in the order of asking"
        if ended:
            assert settled[-len(ended) :] == ended, "nothing is settled with success once the end has begun"
        assert self.log.count(("closed", number)) == 1
        at = self.log.index(("closed", number))
        late = [e for e in self.log[at:] if isinstance(e, dict) and e["channel"] == number and not e["refused"]]
        assert not late, "close handlers run after everything was settled"

    @staticmethod
    def ended(entry: dict[str, Any]) -> bool:
        """Whether it was the end that settled it."""
        error = entry["outcome"][0]
        return isinstance(error, GONE) or entry["fate"] == "returned"

    def check_fate(self, entry: dict[str, Any]) -> None:
        error, result = entry["outcome"]
        publish = entry["kind"] in ("publish", "mandatory") and entry["channel"] == 1
        if entry["refused"]:
            assert isinstance(error, GONE)
        elif entry["kind"] == "declare" and entry["fate"] == "replied":
            assert error is None
            assert result.queue == entry["name"], "a reply went to another request"
        elif entry["kind"] == "declare":
            assert isinstance(error, GONE)
        elif publish and entry["fate"] == "acked":
            assert (error, result) == (None, True)
        elif publish and entry["fate"] == "nacked":
            assert isinstance(error, cpspika.MessageNacked)
        elif publish and entry["fate"] is not None:
            assert isinstance(error, cpspika.MessageReturned)
            assert error.message.routing_key == entry["name"], "a return went to another publish"
        elif publish:
            assert isinstance(error, cpspika.DeliveryUnknown)
        else:
            assert error is None or isinstance(error, GONE)


GONE = (cpspika.ChannelClosed, cpspika.ConnectionClosed, cpspika.DeliveryUnknown)

ask_step = st.tuples(
    st.just("ask"),
    st.sampled_from(CHANNELS),
    st.sampled_from(["declare", "ack", "publish", "mandatory"]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([False, False, False, True]),
)
steps = st.lists(
    st.one_of(
        ask_step,
        ask_step,
        ask_step,
        st.tuples(st.just("reply"), st.sampled_from(CHANNELS)),
        st.tuples(st.just("decide"), st.integers(0, 9), st.booleans(), st.sampled_from([True, True, False])),
        st.tuples(st.just("give_back"), st.integers(0, 9)),
        st.tuples(st.just("turn")),
    ),
    max_size=40,
)
channel_ends = st.tuples(st.sampled_from(["channel by peer", "channel by us"]), st.sampled_from(CHANNELS))
ends = st.sampled_from(["connection by peer", "connection by us", "hang up", "cut", "fault"])


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=steps, channel_end=channel_ends | st.none(), between=steps, end=ends, turned=st.booleans(), after=steps)
def test_whatever_happens_the_law_holds(
    before: list[Any], channel_end: Any, between: list[Any], end: str, turned: bool, after: list[Any]
) -> None:
    model = Model()

    def perform(some: list[Any]) -> None:
        for name, *arguments in some:
            getattr(model, name)(*arguments)

    perform(before)
    if channel_end is not None:
        model.end(*channel_end)
    perform(between)
    if turned:
        model.turn()
    model.over = True
    model.end(end, 1)
    perform([step for step in after if step[0] == "ask"])
    model.turn()
    assert len(model.world.closed) == 1
    model.check()
