"""Each example runs as it stands, prints what it promises, and leaves what another client reads."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pika
import pytest

from tests.support import ROOT
from tests.support.cluster_programs import cluster_program
from tests.support.rabbitmq_features import OLD_PROTOCOL
from tests.support.scripted import SocketBroker

EXAMPLES = ROOT / "examples"

pytestmark = pytest.mark.slow

# The program that the library promises to run as it stands.
THE_SCRIPT = """\
import cpspika
import asyncore
conn = cpspika.AsyncoreConnection(cpspika.ConnectionParameters('localhost'))
ch = conn.channel()
ch.exchange_declare(exchange="test_x", type="fanout", durable=False)
ch.queue_declare(queue="test_q", durable=True, exclusive=False, auto_delete=False)
ch.queue_bind(queue="test_q", exchange="test_x", routing_key="")
ch.basic_publish(exchange="test_x", routing_key="", body="Hello World!")
conn.close()
asyncore.loop()
"""

# What each prints: a regular expression for the whole of it.
PRINTS = {
    "sync/hello.py": r"got 'Hello World!' from queue amq\.gen\S+\n",
    "sync/worker.py": (
        "queued 'first task'\nqueued 'second task'\nqueued 'third task'\n"
        "working on 'first task' ?\nworking on 'second task' ?\nworking on 'third task' ?\nno more tasks\n"
    ),
    "sync/publisher.py": ("one: confirmed\ntwo: confirmed\ntoo many: refused\nastray: returned, since NO_ROUTE\n"),
    "sync/batch.py": "message 1000: MessageNacked\nmessage 1001: MessageNacked\npublished 2 again\n",
    "sync/flow_control.py": "published: waited if need be\npublished: permitted\npublished: tried\n",
    "sync/thread_per_connection.py": r"(worker [012] did task \d+\n){12}",
    "sync/shared_connection.py": "4 threads published 100 messages over one connection\n",
    "sync/tls.py": "not encrypted, got b'Hello World!'\n",
    "sync/topics.py": (
        "kitchen: kitchen.temperature 21\nkitchen: to all the end\n"
        "humidity: cellar.wall.humidity 80\nhumidity: to all the end\n"
        "log: kitchen.temperature 21\nlog: cellar.wall.humidity 80\nlog: to all the end\n"
    ),
    "sync/json_messages.py": "order 17: bread and plums\nrefused: its content type is None\nrefused: Expecting .*\n",
    "sync/rpc.py": "1 squared is 1, 2 squared is 4, 3 squared is 9, 4 squared is 16, 5 squared is 25\n",
    # The fine task's only try may come before or after the first of the other.
    "sync/retry.py": (
        r"(try 1: 20\n)?try 1: division by zero\n(try 1: 20\n)?try 2: division by zero\ntry 3: division by zero\n"
        r"failed: 0\n"
    ),
    "async/hello.py": "got 'Hello World!'\n",
    "async/consumer.py": "".join(f"delivery {n}: message {n}\n" for n in range(1, 6)) + "cancelled the consumer\n",
    "async/publisher.py": "10 MessageReturned, 90 confirmed\n",
    "async/rpc.py": "1 squared is 1, 2 squared is 4, 3 squared is 9, 4 squared is 16, 5 squared is 25\n",
    "async/relay.py": r"((relaying|arrived:) 'message [123]'\n){6}",
}
# The same five in each of the other styles.
STYLES = ["asyncio", "tasks", "threads", "trio", "twisted"]
EXTRAS = {"trio": "trio", "twisted": "twisted", "greenlets": "gevent"}  # styles that stand on a package
FIVE = {
    "hello.py": ("sync/hello.py", b"Hello World!"),
    "worker.py": ("sync/worker.py", b"first task"),
    "publisher.py": ("sync/publisher.py", b"one"),
    "rpc.py": ("async/rpc.py", b"25"),
    "flow_control.py": ("sync/flow_control.py", b"waited if need be"),
}
PRINTS |= {
    **{f"greenlets/{name}.py": PRINTS[f"sync/{name}.py"] for name in ("hello", "worker", "publisher", "flow_control")},
    "greenlets/thousand.py": r"\d+ greenlets, each with a connection of its own, heard from their neighbours\n",
}
PRINTS |= {f"{style}/{name}": PRINTS[like] for style in STYLES for name, (like, _) in FIVE.items()}
# Two workers share the queue there, and which is first is anybody's guess.
PRINTS["tasks/worker.py"] = (
    "queued 'first task'\nqueued 'second task'\nqueued 'third task'\n"
    r"(working on '(first|second|third) task' ?\n){3}no more tasks\n"
)
# This one goes on until SIGTERM, in every style.
RELIABLE = ["sync/service.py", *(f"{style}/reliable.py" for style in ("async", "sync", "greenlets", *STYLES))]
PRINTS |= dict.fromkeys(RELIABLE, r"(did 'task \d+' ?(again)?\n){3,}stopped\n")
# What another client reads of it on the wire: one of the bodies that each publishes.
PUBLISHES = {
    "sync/hello.py": b"Hello World!",
    "sync/worker.py": b"first task",
    "sync/publisher.py": b"one",
    "sync/batch.py": b"message 1000",
    "sync/flow_control.py": b"waited if need be",
    "sync/thread_per_connection.py": None,
    "sync/shared_connection.py": None,
    "sync/tls.py": b"Hello World!",
    "sync/topics.py": b"the end",
    "sync/json_messages.py": b'{"order": 18}',
    "sync/rpc.py": b"25",
    "sync/retry.py": None,
    "async/hello.py": b"Hello World!",
    "async/consumer.py": b"message 5",
    "async/publisher.py": None,
    "async/rpc.py": b"25",
    "async/relay.py": b"message 3",
    "greenlets/hello.py": b"Hello World!",
    "greenlets/worker.py": b"first task",
    "greenlets/publisher.py": b"one",
    "greenlets/flow_control.py": b"waited if need be",
    "greenlets/thousand.py": None,
}
PUBLISHES |= dict.fromkeys(RELIABLE, b"task 3")
PUBLISHES |= {f"{style}/{name}": body for style in STYLES for name, (_, body) in FIVE.items()}
# They need quorum queues, and run until SIGTERM.
CLUSTER = ("cluster/publisher.py", "cluster/worker.py")
NOT_ON_0_8 = {
    example for example in PRINTS if example.endswith(("/publisher.py", "/reliable.py", "/retry.py", "/batch.py"))
}


def skip_without_extra(example: str) -> None:
    style = example.split("/")[0]
    if style in EXTRAS:
        pytest.importorskip(EXTRAS[style])


def run(*command: str, **variables: str) -> str:
    """What a Python program printed; it must end by itself, and say nothing on stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AMQP_URL")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore::DeprecationWarning", **variables}
    if command[0].endswith(("/reliable.py", "/service.py")):
        return run_until_it_did_three(*command, environment=environment)
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def run_until_it_did_three(*command: str, environment: dict[str, str]) -> str:
    """The same of a program that goes on until SIGTERM: it gets that when three lines have come."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=pipe, stderr=pipe, text=True, bufsize=1
    ) as program:
        late = threading.Timer(60, program.kill)
        late.start()
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(3)]
        program.send_signal(signal.SIGTERM)
        rest, errors = program.communicate()
        late.cancel()
    assert (program.returncode, errors) == (0, "")
    return "".join(lines) + rest


def test_every_example_is_tested() -> None:
    found = {path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.glob("*/*.py")}  # test_tutorials.py: the others
    assert found == {*PRINTS, *CLUSTER, "sync/pika_0_5.py"}


@pytest.mark.parametrize("example", [*PRINTS, *CLUSTER])
def test_an_example_can_be_read_in_a_minute(example: str) -> None:
    text = (EXAMPLES / example).read_text()
    assert len(text.splitlines()) <= 60
    assert f"python examples/{example}" in text.split('"""')[1]


@pytest.fixture
def traced(node: Any) -> Iterator[Any]:
    """pika's channel, with a queue of copies of all that is published (RabbitMQ's firehose): an example's own queues
    are mostly exclusive, and nobody else's to read."""
    node.eval('rabbit_trace:start(<<"/">>)')
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    channel = connection.channel()
    channel.queue_declare("cpspika-traced", exclusive=True)
    channel.queue_bind("cpspika-traced", "amq.rabbitmq.trace", "publish.#")
    yield channel
    connection.close()
    node.eval('rabbit_trace:stop(<<"/">>)')


def on_rabbitmq() -> Iterator[Any]:
    """By default: the examples of the first two styles, one of each other style, and two on 0-8. The rest are the same
    programs in another style or version, and run with the long tests."""
    for example in PRINTS:
        for version in ("0-9-1", "0-8"):
            if version == "0-8" and example in NOT_ON_0_8:
                continue
            if version == "0-8":
                by_default = example in ("sync/hello.py", "async/consumer.py")
            else:
                by_default = example.startswith(("sync/", "async/")) or example.endswith("/publisher.py")
            marks = [] if by_default else [pytest.mark.long]
            if version == "0-8":
                marks.append(pytest.mark.needs(OLD_PROTOCOL))
            yield pytest.param(example, version, marks=marks)


@pytest.mark.parametrize(("example", "version"), list(on_rabbitmq()))
def test_an_example_runs_and_pika_reads_its_messages(node: Any, traced: Any, example: str, version: str) -> None:
    skip_without_extra(example)
    printed = run(str(EXAMPLES / example), AMQP_URL=f"{node.url}?protocol={version}")
    assert re.fullmatch(PRINTS[example], printed), printed
    bodies = []
    for _, _, body in traced.consume("cpspika-traced", auto_ack=True, inactivity_timeout=5):
        if body is not None:
            bodies.append(body)
        if body is None or PUBLISHES[example] in (None, body):
            break
    traced.cancel()
    if example in RELIABLE:
        for queue in ("cpspika.reliable", "cpspika.service"):
            traced.queue_delete(queue)
    assert bodies, "pika read nothing of what the example published"
    assert PUBLISHES[example] in (None, bodies[-1]), bodies


@pytest.fixture(scope="module")
def printed_by(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Gives what an example prints on a broker of its own. A few run at once, since most of them wait."""
    name = test_an_example_runs_with_nothing_set_up.__name__
    chosen = [item.callspec.params["example"] for item in request.session.items if item.originalname == name]
    with ThreadPoolExecutor(3) as pool:
        running: dict[str, Future[str]] = {}

        def printed(example: str) -> str:
            if not running:
                running.update({each: pool.submit(run, str(EXAMPLES / each), GREENLETS="200") for each in chosen})
            return running[example].result()

        yield printed
        pool.shutdown(cancel_futures=True)


@pytest.mark.long
@pytest.mark.parametrize("example", PRINTS)
def test_an_example_runs_with_nothing_set_up(printed_by: Callable[[str], str], example: str) -> None:
    """On the embedded broker, which is made to stop the flow for one of them."""
    skip_without_extra(example)
    printed = printed_by(example)
    if example.endswith("/flow_control.py"):
        assert printed.startswith("not now: the broker stopped the flow of channel 1")
        assert printed.endswith("published: waited if need be\npublished: permitted\n")
    else:
        assert re.fullmatch(PRINTS[example], printed), printed


@pytest.mark.parametrize("version", ["0-9-1", pytest.param("0-8", marks=pytest.mark.needs(OLD_PROTOCOL))])
def test_the_script_runs_and_pika_reads_its_message(node: Any, version: str) -> None:
    """Its broker is that of localhost:5672, so the default port is set to that of ours, and on 0-8 the version."""
    assert (EXAMPLES / "sync/pika_0_5.py").read_text() == THE_SCRIPT
    prepare = (
        "import cpspika.parameters as p\n"
        f"p.DEFAULT_PORTS['amqp'] = {node.port}\n"
        f"p._OPTIONS['protocol'] = ({version!r}, p._OPTIONS['protocol'][1])\n"
    )
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    try:
        channel = connection.channel()
        channel.queue_delete("test_q")
        run("-c", prepare + THE_SCRIPT)
        method, properties, body = channel.basic_get("test_q", auto_ack=True)
        assert (body, method.exchange, method.routing_key, method.message_count) == (b"Hello World!", "test_x", "", 0)
        assert properties == pika.BasicProperties()
        channel.queue_delete("test_q")
        channel.exchange_delete("test_x")
    finally:
        connection.close()


def test_the_example_of_tls_is_encrypted_or_says_what_is_missing(certificates: Any) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)

    def one_message(peer: Any) -> None:
        peer.expect_header()
        peer.serve()
        peer.when("basic.get", lambda peer, number, method: peer.send_content(number, "basic.get-ok", b"Hello World!"))
        peer.expect_hang_up()

    with SocketBroker(one_message, tls=context) as broker:
        url = f"amqps://localhost:{broker.port}/"
        printed = run(str(EXAMPLES / "sync/tls.py"), AMQP_URL=f"{url}?cafile={certificates.ca}")
        assert printed == "encrypted, got b'Hello World!'\n"
        assert "cafile=" in run(str(EXAMPLES / "sync/tls.py"), AMQP_URL=url)


def test_tasks_of_the_work_queue_are_read_by_pika(node: Any) -> None:
    """What the worker leaves in its queue is durable, persistent, and there for another client; and the other way."""
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    try:
        channel = connection.channel()
        channel.queue_declare("cpspika.tasks", durable=True, arguments={"x-expires": 600_000})
        channel.basic_publish("", "cpspika.tasks", b"a task of pika's")
        printed = run(str(EXAMPLES / "sync/worker.py"), "mine", AMQP_URL=node.url)
        assert 'working on "a task of pika\'s"' in printed
        assert "working on 'mine'" in printed
        assert channel.queue_declare("cpspika.tasks", passive=True).method.message_count == 0
    finally:
        connection.close()


def test_the_programs_of_a_cluster_run_on_one_node_and_end_at_sigterm(node: Any) -> None:
    """tests/recovery/test_cluster.py runs them on three, of which one is killed."""
    queue = f"cluster-{os.getpid()}"
    with cluster_program("worker.py", [node.url], queue) as worker:
        printed = run(str(EXAMPLES / "cluster/publisher.py"), "20", AMQP_URLS=node.url, QUEUE=queue)
        assert printed.splitlines() == [f"confirmed: task {number}" for number in range(20)]
        assert [worker.line() for _ in range(20)] == [f"worked: task {number}" for number in range(20)]
        assert worker.terminated() == (0, "")
    with cluster_program("publisher.py", [node.url], queue, "1000000") as publisher:
        assert publisher.line() == "confirmed: task 0"
        assert publisher.terminated() == (0, "")
    connection = pika.BlockingConnection(pika.URLParameters(node.url))
    try:
        channel = connection.channel()
        assert channel.queue_declare(queue, passive=True).method.message_count > 0  # the second publisher's
        for each in (queue, f"{queue}.failed"):
            channel.queue_delete(each)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "examples", [("sync/publisher.py", "sync/shared_connection.py"), *((each,) for each in CLUSTER)]
)
def test_examples_are_typed(examples: tuple[str, ...]) -> None:
    pytest.importorskip("mypy")
    printed = run("-m", "mypy", "--strict", "--no-incremental", *(str(EXAMPLES / example) for example in examples))
    assert printed.startswith("Success: no issues found in")
