"""A Celery application on the transport of cpspika, and a client of it, `main`.

The environment: CELERY_URL, the broker's URL; CELERY_NAME, the name of the queue.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

import celery

NAME = os.environ["CELERY_NAME"]
PATIENCE = 30.0  # seconds for one result

app: Any = celery.Celery(NAME, broker=os.environ["CELERY_URL"], backend="rpc://")
app.conf.update(
    broker_transport="cpspika.integrations.kombu:Transport",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    task_default_queue=NAME,
    worker_hijack_root_logger=False,
    # RabbitMQ 4.3 takes no queue that is neither durable nor exclusive.
    control_queue_exclusive=True,
    event_queue_exclusive=True,
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task
def add(one: int, other: int) -> int:
    return one + other


@app.task(bind=True, acks_late=True, max_retries=3)
def fails_twice(self: Any) -> int:
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return int(self.request.retries)


def many() -> int:
    """The sum of the results of many tasks."""
    return sum(result.get(timeout=PATIENCE) for result in [add.delay(n, n) for n in range(50)])


def few() -> None:
    """Prints what `many` gives."""
    print(many())


def main() -> None:
    """Prints a JSON object: what each call gave."""
    said: dict[str, Any] = {}
    said["add"] = add.delay(2, 3).get(timeout=PATIENCE)
    said["many"] = many()
    said["group"] = celery.group(add.s(n, 1) for n in range(5))().get(timeout=PATIENCE)
    said["chain"] = (add.s(1, 2) | add.s(3) | add.s(4))().get(timeout=PATIENCE)
    said["retries"] = fails_twice.delay().get(timeout=PATIENCE)
    began = time.monotonic()
    said["eta"] = add.apply_async((1, 1), eta=app.now() + timedelta(seconds=1)).get(timeout=PATIENCE)
    said["waited"] = time.monotonic() - began > 0.5
    said["ping"] = [next(iter(reply.values())) for reply in app.control.ping(timeout=1.0)]
    later = add.apply_async((1, 1), countdown=2)
    app.control.revoke(later.id)
    try:
        later.get(timeout=PATIENCE)
    except celery.exceptions.TaskRevokedError:
        said["revoked"] = True
    print(json.dumps(said))
