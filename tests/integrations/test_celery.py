"""Celery on the transport of cpspika: workers as processes of their own, on each pool and on both brokers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest

import cpspika
from tests.support import ROOT

pytest.importorskip("celery")

pytestmark = pytest.mark.long

POOLS = ["solo", "threads", "prefork", "gevent"]
PATIENCE = 60.0


class Worker:
    """A worker's process. `log`: the lines that it has written."""

    def __init__(self, environment: dict[str, str], pool: str):
        command = [sys.executable, "-m", "celery", "-A", "tests.support.celery_app", "worker", "-P", pool, "-c", "2"]
        self.process = subprocess.Popen(
            [*command, "-l", "INFO", "--without-gossip", "--without-mingle", "-n", f"{uuid4().hex}@test"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.log: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.log.append(line)
                self._changed.notify_all()

    def until(self, said: str, times: int = 1) -> None:
        with self._changed:
            seen = self._changed.wait_for(lambda: sum(said in line for line in self.log) >= times, PATIENCE)
        assert seen, f"the worker did not say {said!r} within {PATIENCE:g} s:\n{''.join(self.log)}"

    def stop(self) -> int:
        """Ends it as a warm shutdown; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.end()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def working(broker: Any, pool: str) -> Iterator[tuple[Worker, dict[str, str]]]:
    name = f"celery-{uuid4().hex}"
    url = f"amqp://guest:guest@{broker.host}:{broker.port}//"
    environment = {**os.environ, "CELERY_URL": url, "CELERY_NAME": name}
    worker = Worker(environment, pool)
    try:
        worker.until(" ready.")
        yield worker, environment
    finally:
        worker.end()
        with cpspika.BlockingConnection(url) as connection:
            connection.channel().queue_delete(name)


def client(call: str, worker: Worker, environment: dict[str, str]) -> str:
    """Runs a function of celery_app in a process of its own; returns what it printed."""
    # Not by -m: Celery names a task by its module.
    command = [sys.executable, "-c", f"from tests.support import celery_app; celery_app.{call}()"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ran.returncode == 0, ran.stderr + "".join(worker.log)
    return ran.stdout


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_does_what_celery_promises(broker: Any, pool: str) -> None:
    if pool == "gevent":
        pytest.importorskip("gevent")
    with working(broker, pool) as (worker, environment):
        assert json.loads(client("main", worker, environment).splitlines()[-1]) == {
            "add": 5,
            "many": 2450,
            "group": [1, 2, 3, 4, 5],
            "chain": 10,
            "retries": 2,
            "eta": 2,
            "waited": True,
            "ping": [{"ok": "pong"}],
            "revoked": True,
        }
        assert worker.stop() == 0, "".join(worker.log)


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_worker_whose_links_are_cut_goes_on(pool: str) -> None:
    """The embedded broker ends all its connections under the worker."""
    with cpspika.broker.serve() as served, working(served, pool) as (worker, environment):
        for cut in range(3):
            if cut:
                served.close_connections()
                worker.until("Connected to", times=1 + cut)
            assert client("few", worker, environment) == "2450\n"
        assert worker.stop() == 0, "".join(worker.log)
