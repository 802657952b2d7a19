"""Type checkers know the face of pika: its stub is made from the table, and a program's annotations hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.support.pika_stub import STUB, stub

PROGRAM = """
import cpspika.integrations.pika as pika
from cpspika.integrations.pika.adapters.blocking_connection import BlockingChannel
from cpspika.integrations.pika.frame import Method
from cpspika.integrations.pika.spec import Basic, Queue

def on_message(channel: BlockingChannel, method: Basic.Deliver, properties: pika.BasicProperties, body: bytes) -> None:
    channel.basic_ack(method.delivery_tag)

def work(channel: BlockingChannel) -> int:
    frame: Method[Queue.DeclareOk] = channel.queue_declare("q", durable=True)
    channel.basic_consume(frame.method.queue, on_message)
    channel.basic_publish("", "q", "hello", pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent))
    return frame.method.message_count

with pika.BlockingConnection(pika.ConnectionParameters("localhost", heartbeat=30)) as connection:
    work(connection.channel())
"""


def test_the_stub_is_up_to_date() -> None:
    written = ast.dump(ast.parse(STUB.read_text("utf-8")))
    assert written == ast.dump(ast.parse(stub())), "run: python -m tests.support.pika_stub && ruff format cpspika"


@pytest.mark.slow
def test_a_program_passes_a_type_checker_and_a_wrong_one_does_not(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    for program, said in (
        (PROGRAM, "Success"),
        (PROGRAM.replace("durable=True", "durable='yes'"), 'argument "durable"'),
    ):
        path = tmp_path / "program.py"
        path.write_text(program, "utf-8")
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        assert said.lower() in done.stdout.lower(), done.stdout + done.stderr
