"""Capture golden bytes from a private RabbitMQ: python tests/wire/golden/capture.py

Writes rabbitmq-0-9-1.json and rabbitmq-0-8.json beside itself: [{"name", "direction", "hex"}, ...], an entry
a frame (whole, from its type to its end octet). "server" is what RabbitMQ sends to the exchanges scripted
here, over a plain socket; "client" (0-9-1 only) what pika sends for the same operations. No code of cpspika
takes part: two ends that share a codec share its faults.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import json
import socket
import struct
import sys
import threading
from pathlib import Path

import pika

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.support.rabbitmq import RabbitNode

# index: class and its methods; from the specification, as are the layouts below
NAMES = {
    10: "connection 10:start 11:start-ok 30:tune 31:tune-ok 40:open 41:open-ok 50:close 51:close-ok "
    "60:blocked 61:unblocked 70:update-secret 71:update-secret-ok",
    20: "channel 10:open 11:open-ok 20:flow 21:flow-ok 40:close 41:close-ok",
    30: "access 10:request 11:request-ok",
    40: "exchange 10:declare 11:declare-ok 20:delete 21:delete-ok 30:bind 31:bind-ok 40:unbind 51:unbind-ok",
    50: "queue 10:declare 11:declare-ok 20:bind 21:bind-ok 30:purge 31:purge-ok 40:delete 41:delete-ok "
    "50:unbind 51:unbind-ok",
    60: "basic 10:qos 11:qos-ok 20:consume 21:consume-ok 30:cancel 31:cancel-ok 40:publish 50:return "
    "60:deliver 70:get 71:get-ok 72:get-empty 80:ack 90:reject 110:recover 111:recover-ok 120:nack",
    85: "confirm 10:select 11:select-ok",
    90: "tx 10:select 11:select-ok 20:commit 21:commit-ok 30:rollback 31:rollback-ok",
}
CLOSE_IN_0_8 = {60: "close", 61: "close-ok"}
CAPABILITIES = ["authentication_failure_close", "basic.nack", "consumer_cancel_notify", "publisher_confirms"]
NO_TABLE = b"\0\0\0\0"


def short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def table(**fields: bytes) -> bytes:
    return long(b"".join(short(name) + value for name, value in fields.items()))


EVERY_TYPE = {
    "t": b"t\x01",
    "b": b"b\xfb",
    "B": b"B\xfb",
    "s": b"s\xff\xfe",
    "u": b"u\xff\xfe",
    "I": b"I\xff\xff\xff\xfe",
    "i": b"i\xff\xff\xff\xfe",
    "l": b"l" + b"\xff" * 7 + b"\xfe",
    "L": b"L\0\0\0\0\0\0\0\x05",
    "f": b"f" + struct.pack(">f", 1.5),
    "d": b"d" + struct.pack(">d", -2.25),
    "D": b"D\x02\0\0\x01\x3a",
    "T": b"T" + struct.pack(">Q", 1_000_000_000),
    "S": b"S" + long(b"text"),
    "A": b"A" + long(b"I\0\0\0\x01S" + long(b"two")),
    "F": b"F" + table(k=b"V"),
    "V": b"V",
    "x": b"x" + long(b"\0\xff"),
}
ALL_PROPERTIES = 0xFFFC


def all_properties(headers: bytes) -> bytes:
    strings = [short(text) for text in ("corr", "reply", "60000", "id")]
    more = [short(text) for text in ("type", "guest", "app", "cluster")]
    stamp = struct.pack(">Q", 1_000_000_000)
    return b"".join([short("text/plain"), short("utf-8"), headers, b"\x01\x05", *strings, stamp, *more])


class Record:
    """The entries of one file. The same frame again is left out, another of the same name gets a number."""

    def __init__(self, v8: bool) -> None:
        self.v8, self._content = v8, ""
        self.entries: list[dict[str, str]] = []
        self._index: dict[tuple[int, ...], str] = {}
        for class_id, text in NAMES.items():
            name, *methods = text.split()
            for method in methods:
                number, _, method_name = method.partition(":")
                self._index[class_id, int(number)] = f"{name}.{method_name}"
        if v8:
            self._index.update({(10, number): f"connection.{name}" for number, name in CLOSE_IN_0_8.items()})

    def add(self, direction: str, frame: bytes) -> str:
        """Name a frame and keep it; returns the method's name, or header, body, heartbeat."""
        kind = {1: "", 2: "header", 3: "body", 8: "heartbeat"}[frame[0]]
        if not kind:
            self._content = name = self._index[struct.unpack(">HH", frame[7:11])]
        else:
            name = kind if kind == "heartbeat" else f"{self._content} {kind}"
        self.keep(name, direction, frame)
        return kind or name

    def keep(self, name: str, direction: str, data: bytes) -> None:
        same = [e for e in self.entries if e["name"].split(" (")[0] == name and e["direction"] == direction]
        if data.hex() not in [e["hex"] for e in same]:
            numbered = f"{name} ({len(same) + 1})" if same else name
            self.entries.append({"name": numbered, "direction": direction, "hex": data.hex()})

    def write(self, path: Path) -> None:
        lines = ",\n".join(json.dumps(entry) for entry in self.entries)
        path.write_text(f"[\n{lines}\n]\n", "utf-8")


class Client:
    """A plain socket with AMQP frames cut by hand."""

    def __init__(self, node: RabbitNode, record: Record) -> None:
        self.record, self.v8, self._buffer = record, record.v8, b""
        self._socket = socket.create_connection((node.host, node.port), timeout=10)
        self._socket.sendall(b"AMQP\x01\x01\x08\x00" if self.v8 else b"AMQP\0\0\x09\x01")
        self.ticket = b"\0\x01" if self.v8 else b"\0\0"

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def expect(self, *names: str) -> None:
        """The next frames are these, in this order."""
        for name in names:
            header = self._exactly(7)
            frame = header + self._exactly(struct.unpack(">I", header[3:])[0] + 1)
            got = self.record.add("server", frame)
            if got != name:
                raise ValueError(f"{got} came, not {name}: {frame!r}")

    def send(self, class_id: int, method_id: int, arguments: bytes = b"", channel: int = 1) -> None:
        payload = struct.pack(">HH", class_id, method_id) + arguments
        self._socket.sendall(struct.pack(">BH", 1, channel) + long(payload) + b"\xce")

    def call(self, class_id: int, method_id: int, arguments: bytes, *names: str, channel: int = 1) -> None:
        self.send(class_id, method_id, arguments, channel)
        self.expect(*names)

    def publish(self, exchange: str, key: str, flags: int, headers: bytes = b"") -> None:
        body = b"hello"
        self.send(60, 40, self.ticket + short(exchange) + short(key) + bytes([flags]))
        properties = all_properties(headers) if headers else b""
        content = struct.pack(">HHQH", 60, 0, len(body), ALL_PROPERTIES if headers else 0) + properties
        self._socket.sendall(b"\x02\0\x01" + long(content) + b"\xce" + b"\x03\0\x01" + long(body) + b"\xce")

    def declare(self, queue: str, flags: int = 0, arguments: bytes = NO_TABLE) -> None:
        self.call(50, 10, self.ticket + short(queue) + bytes([flags]) + arguments, "queue.declare-ok")

    def consume(self, queue: str, tag: str, flags: int = 0) -> None:
        arguments = self.ticket + short(queue) + short(tag) + bytes([flags])
        self.send(60, 20, arguments + (b"" if self.v8 else NO_TABLE))

    def start(self, password: str = "guest") -> None:
        self.expect("connection.start")
        # connection.blocked doesn't exist in 0-8: a 0-8 client that says it knows it is cut off at an alarm
        known = CAPABILITIES + ([] if self.v8 else ["connection.blocked"])
        capabilities = b"F" + table(**dict.fromkeys(known, b"t\x01"))
        response = long(f"\0guest\0{password}".encode())
        client_properties = table(capabilities=capabilities)
        self.send(10, 11, client_properties + short("PLAIN") + response + short("en_US"), channel=0)

    def open(self, vhost: str = "/", heartbeat: int = 0) -> None:
        self.start()
        self.expect("connection.tune")
        self.send(10, 31, struct.pack(">HIH", 2047, 131072, heartbeat), channel=0)
        self.send(10, 40, short(vhost) + b"\0\0", channel=0)

    def ready(self) -> Client:
        self.open()
        self.expect("connection.open-ok")
        self.call(20, 10, b"\0", "channel.open-ok")
        return self


def exchanges_of_both_versions(node: RabbitNode, record: Record) -> None:
    c = Client(node, record).ready()
    ticket = c.ticket
    if c.v8:
        c.call(30, 10, short("/data") + b"\x1f", "access.request-ok")
    c.call(40, 10, ticket + short("x") + short("direct") + b"\0" + NO_TABLE, "exchange.declare-ok")
    c.declare("q")
    binding = ticket + short("q") + short("x") + short("k")
    c.call(50, 20, binding + b"\0" + NO_TABLE, "queue.bind-ok")
    c.call(60, 10, struct.pack(">IHB", 0, 5, 0), "basic.qos-ok")
    c.call(60, 70, ticket + short("q") + b"\0", "basic.get-empty")

    c.consume("q", "tag")
    c.expect("basic.consume-ok")
    c.publish("x", "k", 0, table(**EVERY_TYPE))  # headers come back as they went in
    c.expect("basic.deliver", "header", "body")
    c.call(60, 30, short("tag") + b"\0", "basic.cancel-ok")
    c.call(60, 110, b"\x01", "basic.recover-ok")
    c.call(60, 70, ticket + short("q") + b"\0", "basic.get-ok", "header", "body")  # redelivered
    c.send(60, 80, struct.pack(">QB", 2, 0))
    # BCC is removed on the way: the broker decodes this table, and encodes what is left
    bcc = {"BCC": b"A" + long(b"S" + long(b"nowhere"))}
    c.publish("x", "k", 0, table(**EVERY_TYPE, **bcc))
    c.call(60, 70, ticket + short("q") + b"\x01", "basic.get-ok", "header", "body")
    c.publish("x", "nowhere", 1)
    c.expect("basic.return", "header", "body")
    c.publish("x", "nowhere", 1, table(**EVERY_TYPE))
    c.expect("basic.return", "header", "body")

    c.call(20, 20, b"\x01", "channel.flow-ok")
    c.publish("x", "k", 0)
    c.call(50, 30, ticket + short("q") + b"\0", "queue.purge-ok")
    c.call(50, 50, binding + NO_TABLE, "queue.unbind-ok")
    c.consume("q", "gone")
    c.expect("basic.consume-ok")
    c.call(50, 40, ticket + short("q") + b"\0", "queue.delete-ok", "basic.cancel")
    c.call(40, 20, ticket + short("x") + b"\0", "exchange.delete-ok")
    for method, name in ((10, "select"), (20, "commit"), (30, "rollback")):
        c.call(90, method, b"", f"tx.{name}-ok")
    c.call(50, 10, ticket + short("missing") + b"\x01" + NO_TABLE, "channel.close")
    c.send(20, 41)
    c.call(20, 10, b"\0", "channel.open-ok")
    c.call(20, 40, b"\0\xc8" + short("bye") + b"\0" * 4, "channel.close-ok")
    close = 60 if c.v8 else 50
    c.call(10, close, b"\0\xc8" + short("bye") + b"\0" * 4, "connection.close-ok", channel=0)

    refused = Client(node, record)
    refused.start(password="wrong")
    refused.expect("connection.close")  # 403
    unknown = Client(node, record)
    unknown.open("nowhere")
    unknown.expect("connection.close")  # 530
    silent = Client(node, record)
    silent.open(heartbeat=1)
    silent.expect("connection.open-ok", "heartbeat")


def exchanges_of_rabbitmq(node: RabbitNode, record: Record) -> None:
    """The extensions, which RabbitMQ has in 0-9-1 alone."""
    c = Client(node, record).ready()
    binding = b"\0\0" + short("amq.fanout") + short("amq.direct") + short("k")
    c.call(40, 30, binding + b"\0" + NO_TABLE, "exchange.bind-ok")
    c.call(40, 40, binding + b"\0" + NO_TABLE, "exchange.unbind-ok")
    c.call(85, 10, b"\0", "confirm.select-ok")
    limits = {"x-max-length": b"I\0\0\0\x01", "x-overflow": b"S" + long(b"reject-publish")}
    c.declare("full", 4, table(**limits))
    for reply in ("basic.ack", "basic.nack"):
        c.publish("", "full", 0)
        c.expect(reply)
    c.publish("", "nowhere", 1)
    c.expect("basic.return", "header", "body", "basic.ack")
    c.call(10, 70, long(b"guest") + short("expired"), "connection.update-secret-ok", channel=0)
    node.memory_alarm(True)
    c.publish("", "full", 0)
    c.expect("connection.blocked")
    node.memory_alarm(False)
    c.expect("connection.unblocked")


class Relay:
    """Passes one connection on to the node, and keeps the bytes that the client sends."""

    def __init__(self, node: RabbitNode) -> None:
        self.sent = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, args=(node,), daemon=True)
        self._thread.start()

    def _run(self, node: RabbitNode) -> None:
        with (
            self._listener,
            self._listener.accept()[0] as client,
            socket.create_connection((node.host, node.port)) as server,
        ):
            back = threading.Thread(target=self._pass, args=(server, client), daemon=True)
            back.start()
            while data := client.recv(65536):
                self.sent += data
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def finish(self) -> bytes:
        self._thread.join(10)
        return self.sent


def what_pika_sends(node: RabbitNode, record: Record) -> None:
    relay = Relay(node)
    parameters = pika.ConnectionParameters("127.0.0.1", relay.port, heartbeat=0)
    connection = pika.BlockingConnection(parameters)
    c = connection.channel()
    c.exchange_declare("x", "direct", durable=True)
    c.queue_declare("q", arguments={"x-max-length": 5})
    c.queue_bind("q", "x", "k")
    c.exchange_bind("amq.fanout", "amq.direct", "k")
    c.exchange_unbind("amq.fanout", "amq.direct", "k")
    c.basic_qos(prefetch_count=5)
    moment = datetime.datetime(2001, 9, 9, 1, 46, 40, tzinfo=datetime.timezone.utc)
    headers = {"bool": True, "int": 1, "big": 1 << 40, "text": "text", "none": None, "bytes": b"\0\xff"}
    headers |= {"time": moment, "decimal": decimal.Decimal("3.14"), "list": [1, "two"], "table": {"k": -1}}
    first, last = (
        ("text/plain", "utf-8", headers, 1, 5, "corr", "reply", "60000", "id"),
        ("type", "guest", "app"),
    )
    properties = pika.BasicProperties(*first, 1_000_000_000, *last, "cluster")
    for _ in range(3):
        c.basic_publish("x", "k", b"hello", properties)
    c.basic_publish("x", "k", b"")
    for settle in (c.basic_ack, c.basic_nack, c.basic_reject):
        settle(c.basic_get("q")[0].delivery_tag)
    c.basic_recover(requeue=True)
    c.queue_purge("q")  # or pika rejects what it was sent before it cancelled
    c.basic_consume("q", lambda *args: None, consumer_tag="tag")
    c.basic_cancel("tag")
    c.queue_unbind("q", "x", "k")
    c.queue_delete("q", if_empty=True)
    c.exchange_delete("x", if_unused=True)
    c.tx_select()
    c.tx_commit()
    c.tx_rollback()
    c.close()
    c = connection.channel()
    c.confirm_delivery()
    with contextlib.suppress(pika.exceptions.UnroutableError):
        c.basic_publish("", "nowhere", b"hello", mandatory=True)
    connection._impl.update_secret("guest", "expired")
    connection.close()

    data = relay.finish()
    record.keep("protocol header", "client", data[:8])
    data = data[8:]
    while data:
        size = struct.unpack(">I", data[3:7])[0] + 8
        record.add("client", data[:size])
        data = data[size:]


def main() -> None:
    here = Path(__file__).parent
    with RabbitNode() as node:
        # the name in connection.start is the node's own until it is set, and made at random
        node.eval('rabbit_nodes:set_cluster_name(<<"golden@localhost">>, <<"guest">>)')
        old, new = Record(v8=True), Record(v8=False)
        exchanges_of_both_versions(node, old)
        exchanges_of_both_versions(node, new)
        exchanges_of_rabbitmq(node, new)
        what_pika_sends(node, new)
        old.write(here / "rabbitmq-0-8.json")
        new.write(here / "rabbitmq-0-9-1.json")
        print(len(old.entries), "entries of 0-8,", len(new.entries), "of 0-9-1")


if __name__ == "__main__":
    main()
