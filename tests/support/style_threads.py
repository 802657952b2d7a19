"""ThreadedConnection, as a style of the shared scenarios: calls return, and callbacks come on the workers' threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from cpspika.threads import ThreadedConnection
from tests.support.styles import PATIENCE, Style, SyncStyle


class ThreadedStyle(SyncStyle):
    """Each call in the test's thread; whoever closes a connection waits for its threads, so that none is left."""

    def __init__(self, broker: Any, protocol: str):
        self.errors: list[BaseException] = []
        super().__init__(partial(ThreadedConnection, on_error=self.errors.append), broker, protocol)

    def _drain(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"nothing came for {PATIENCE:g} s; errors: {self.errors}"
            time.sleep(0.001)

    def close(self) -> None:
        super().close()
        for connection in self.connections:
            connection.subject._thread.join(PATIENCE)
            assert connection.subject._workers.join(PATIENCE), "a worker lingers"
        assert not self.errors


STYLES: dict[str, Callable[..., Style]] = {"threads": ThreadedStyle}
