"""The programs of examples/cluster/, as processes."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support import ROOT

SECONDS = 120.0


class Program:
    """A running program, and what it prints."""

    def __init__(self, name: str, urls: list[str], queue_name: str, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "AMQP_URLS": " ".join(urls), "QUEUE": queue_name}
        environment["PYTHONWARNINGS"] = "ignore::DeprecationWarning"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "cluster" / name), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._readers = [threading.Thread(target=self._read_lines), threading.Thread(target=self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def line(self) -> str:
        """The next line that it prints."""
        try:
            return self._lines.get(timeout=SECONDS)
        except queue.Empty:
            raise TimeoutError(f"no line in {SECONDS:g} s; errors: {self._errors}") from None

    def terminated(self) -> tuple[int, str]:
        """Send SIGTERM. The status, and what was printed as errors."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end. The status, and what was printed as errors."""
        status = self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join()
        return status, "".join(self._errors)


@contextmanager
def cluster_program(name: str, urls: list[str], queue_name: str, *arguments: str) -> Iterator[Program]:
    program = Program(name, urls, queue_name, *arguments)
    try:
        yield program
    finally:
        if program.process.poll() is None:
            program.process.kill()
        program.ended()
        for stream in (program.process.stdout, program.process.stderr):
            assert stream is not None
            stream.close()
