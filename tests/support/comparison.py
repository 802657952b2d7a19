"""What a raw client saw, as lines: the same program run against two brokers must give the same ones.

    play = Play(broker)                          # anything with `host` and `port`
    play.ask("queue.declare", queue="q")
    play.lines == ["queue.declare-ok queue='q' message_count=0 consumer_count=0"]

A channel or connection that the broker closes is a line too; the play then opens it again and goes on.
"""

from __future__ import annotations

import contextlib
import struct
from typing import Any

from cpspika.wire.codec import Method
from tests.support.raw_client import SocketWire, method, publish

CONTENTS = ("basic.deliver", "basic.get-ok", "basic.return")
ANSWERS = {"basic.get": ("basic.get-ok", "basic.get-empty"), "basic.recover-async": ()}
ENDS = ("channel.close", "connection.close")
MADE_UP = ("amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to.")
Capabilities = dict[str, bool]


class Play:
    """One client; `lines`: what it saw so far. `version`: "0-9-1" or "0-8"."""

    def __init__(self, broker: Any, version: str = "0-9-1"):
        self._broker = broker
        self._version = version
        self.lines: list[str] = []
        self._declared: dict[tuple[str, str], None] = {}
        self._others: list[Play] = []
        self.wire = self._connect()

    def _connect(self) -> SocketWire:
        wire = SocketWire(self._broker, self._version)
        wire.shake_hands()
        return wire

    def other(self) -> Play:
        """A second client, whose lines come among these."""
        play = Play(self._broker, self._version)
        play.lines, play._declared = self.lines, self._declared
        self._others.append(play)
        return play

    def end(self) -> None:
        """Closes the links, and deletes what was declared."""
        for play in (*self._others, self):
            play.wire.socket.close()
        wire = self._connect()
        for kind, name in self._declared:
            wire.say(method(1, f"{kind}.delete", **{kind: name}))
            wire.wait(lambda: any(isinstance(what, Method) for _, what in wire.frames))
            if wire.frames[-1][1].name == "channel.close":
                wire.say(method(1, "channel.close-ok"))
                wire.ask(1, "channel.open")
            wire.frames.clear()
        wire.socket.close()

    # --- out ----------------------------------------------------------------------------------------------------------

    def say(self, *pieces: bytes) -> None:
        self.wire.say(*pieces)

    def ask(self, name: str, channel: int = 1, **arguments: Any) -> None:
        """Says a method, and waits for its answer or for a close."""
        kind, _, verb = name.partition(".")
        if verb == "declare" and arguments.get(kind) and not arguments.get("passive"):
            self._declared[kind, arguments[kind]] = None
        self.say(method(channel, name, self._version, **arguments))
        self.wait(*ANSWERS.get(name, (name + "-ok",)))

    def note(self, name: str, channel: int = 1, **arguments: Any) -> None:
        """Says a method that has no answer, and what it causes by the time of the next answer."""
        self.say(method(channel, name, self._version, **arguments))
        self.barrier(channel)

    def publish(self, key: str, body: bytes = b"", exchange: str = "", channel: int = 1, **named: Any) -> None:
        self.say(publish(channel, key, body, exchange, **named))
        self.barrier(channel)

    def publish_frames(self, key: str, body: bytes = b"", weight: int = 0, channel: int = 1) -> None:
        """A publish, with the weight of its header."""
        whole = publish(channel, key, body)
        at = whole.index(b"\xce\x02") + 1
        self.say(whole[: at + 9] + struct.pack(">H", weight) + whole[at + 11 :])
        self.barrier(channel)

    def barrier(self, channel: int = 1) -> None:
        """Waits until the broker has handled what was said on the channel."""
        self.say(method(channel, "channel.flow", self._version, active=True))
        self.wait("channel.flow-ok", silent=True)

    # --- in -----------------------------------------------------------------------------------------------------------

    def wait(self, *names: str, count: int = 1, silent: bool = False) -> None:
        """Waits for as many of these methods, or for a close. `silent`: the last of them is no line."""
        seen = 0

        def whole() -> int | None:
            """The index behind the first whole method or content."""
            frames = self.wire.frames
            if not frames or (isinstance(frames[0][1], Method) and frames[0][1].name not in CONTENTS):
                return 1 if frames else None
            size = struct.unpack_from(">Q", frames[1][1], 4)[0] if len(frames) > 1 else None
            if size is None:
                return None
            end, got = 2, 0
            while got < size:
                if len(frames) <= end:
                    return None
                got += len(frames[end][1])
                end += 1
            return end

        while seen < count:
            self.wire.wait(lambda: whole() is not None)
            end = whole()
            if end is None:
                self.lines.append("the link is lost")
                self.wire.socket.close()
                self.wire = self._connect()
                return
            number, what = self.wire.frames[0]
            body = b"".join(payload for _, payload in self.wire.frames[2:end])
            del self.wire.frames[:end]
            if not isinstance(what, Method):
                continue  # a heartbeat
            seen += what.name in names
            if not (silent and what.name in names):
                self.lines.append(line(what, body))
            if what.name in ENDS:
                self._go_on(number, what.name)
                return

    def _go_on(self, number: int, name: str) -> None:
        self.say(method(number, name + "-ok", self._version))
        if name == "connection.close":
            self.wire.socket.close()
            self.wire = self._connect()
        else:
            with contextlib.suppress(AssertionError):
                self.wire.ask(number, "channel.open")


def line(method: Method, body: bytes) -> str:
    """A method, its arguments and its body, without the names that a broker makes up."""
    if method.name in ENDS:
        return f"{method.name} {method.reply_code} {method.reply_text} ({method.class_id}, {method.method_id})"
    shown = []
    for name, value in method.arguments.items():
        if name == "cluster_id":
            continue
        made_up = isinstance(value, str) and value.startswith(MADE_UP)
        shown.append(f"{name}={'<made up>' if made_up else repr(value)}")
    return " ".join([method.name, *shown, *([repr(body)] if method.name in CONTENTS else [])])
