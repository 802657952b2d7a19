"""A Celery worker with tasks that do nothing, on the transport of cpspika and on py-amqp.

The process sends the tasks first; then it is the worker. The section is from the end of the warm-up's last task to the
end of the last one, so that the worker's start is not in it.
"""

from __future__ import annotations

import threading
from typing import Any

import celery
import kombu
from celery.worker import state

from ..job import Job, Measure
from ..meter import Meter

CONCURRENCY = 4  # threads of the pool that has threads


class _Celery:
    transport: str

    def perform(self, job: Job) -> Measure:
        meter = Meter(job)
        left, lock = job.warmup + job.count, threading.Lock()  # the tasks may run in several threads
        app = self._app(job)

        @app.task(name="noop", ignore_result=True)
        def noop() -> None:
            nonlocal left
            with lock:
                left -= 1
                if left == job.count:
                    meter.start()
                elif not left:
                    meter.stop()
                    state.should_stop = 0  # the worker's exit status

        for _ in range(left):
            noop.delay()
        app.pool.force_close_all()
        pool = job.action.removeprefix("celery ")
        app.WorkController(pool=pool, concurrency=CONCURRENCY, without_mingle=True, without_gossip=True).start()
        if meter.result is None:
            raise RuntimeError("the worker ended before the work did")
        return meter.result

    def _app(self, job: Job) -> Any:
        app = celery.Celery("benchmark", broker=job.url)
        app.conf.update(
            broker_transport=self.transport,
            broker_connection_retry_on_startup=False,
            task_default_queue=job.queue,
            # As the scenario's queue was declared.
            task_queues=[kombu.Queue(job.queue)],
            task_default_delivery_mode="transient",
            worker_hijack_root_logger=False,
        )
        return app


class OnCpspika(_Celery):
    transport = "cpspika.integrations.kombu:Transport"


class OnPyAmqp(_Celery):
    transport = "pyamqp"
