"""Every client that is measured, by its name in `--only` and in the results."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Client:
    """`label`: its name in the tables. `place`: "module:class" in this package, empty for the C client. `package`: the
    distribution whose version is shown. `actions`: what it can do. `share`: its part of a scenario's messages, less
    than 1 for slow clients. `apart`: only scenarios that name it are for it."""

    name: str
    label: str
    place: str
    package: str
    actions: frozenset[str]
    share: float = 1.0
    apart: bool = False

    @property
    def ours(self) -> bool:
        return self.package == "cpspika"

    @property
    def module(self) -> str:
        """The module that must be installed."""
        return self.package.replace("-", "_").lower()

    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def make(self) -> Any:
        module, _, name = self.place.partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), name)()


CALLS = frozenset(("publish", "confirm", "consume", "consume_ack", "declare", "get", "connect"))
WAITS = CALLS - {"confirm"} | {"confirm_each"}
PIPELINES = CALLS | {"pipelined", "through"}
PACED = frozenset(("latency",))
OF_KOMBU = frozenset(("publish", "consume_ack"))
OF_CELERY = frozenset(("celery solo", "celery threads"))
ALONE_IN_STYLE = frozenset(("alone publish", "alone confirm"))
ALONE = ALONE_IN_STYLE | {"alone consume", "alone consume+ack", "alone call"}
C_CLIENT = "rabbitmq-c"

_ALL = [
    Client(C_CLIENT, "rabbitmq-c (C)", "", "rabbitmq-c", CALLS - {"confirm", "connect"}),
    Client("cpspika", "cpspika, SelectReactor", "cpspika_core:OnSelect", "cpspika", PIPELINES | PACED),
    Client("cpspika-asyncore", "cpspika, AsyncoreReactor", "cpspika_core:OnAsyncore", "cpspika", PIPELINES),
    Client("cpspika-on-asyncio", "cpspika callbacks on asyncio", "cpspika_core:OnAsyncio", "cpspika", CALLS),
    Client("cpspika-asyncio", "cpspika asyncio", "cpspika_promises:OnAsyncio", "cpspika", CALLS | PACED),
    Client("cpspika-tasks", "cpspika tasks", "cpspika_promises:OnTasks", "cpspika", CALLS),
    Client("cpspika-blocking", "cpspika BlockingConnection", "cpspika_sync:Blocking", "cpspika", CALLS | WAITS, 0.2),
    Client("cpspika-sync", "cpspika SelectConnection", "cpspika_sync:Select", "cpspika", CALLS | WAITS, 0.2),
    Client("cpspika-pika", "cpspika as pika BlockingConnection", "pika_blocking:Face", "cpspika", WAITS, 0.2),
    Client("cpspika-alone", "cpspika, without a socket", "cpspika_alone:Alone", "cpspika", ALONE),
    Client("cpspika-alone-asyncio", "the same in asyncio", "cpspika_alone:OnAsyncio", "cpspika", ALONE_IN_STYLE),
    Client("cpspika-alone-tasks", "the same in tasks", "cpspika_alone:OnTasks", "cpspika", ALONE_IN_STYLE),
    Client("pika-select", "pika SelectConnection", "pika_select:PikaSelect", "pika", PIPELINES | PACED, 0.3),
    Client("pika-blocking", "pika BlockingConnection", "pika_blocking:PikaBlocking", "pika", WAITS, 0.2),
    Client("py-amqp", "py-amqp", "py_amqp:PyAmqp", "amqp", WAITS, 0.2),
    Client("amqpstorm", "amqpstorm", "amqpstorm_client:AmqpStorm", "amqpstorm", WAITS, 0.02),
    # Without confirms, puka publishes a second message after each, to find out when the first was routed. It opens a
    # channel at the first use, and does not tell when a connection has closed. So it has no row for connecting.
    Client("puka", "puka", "puka_client:Puka", "puka", CALLS - {"publish", "connect"} | {"pipelined"}, 0.3),
    Client("aiormq", "aiormq", "aiormq_client:Aiormq", "aiormq", CALLS, 0.1),
    Client("aio-pika", "aio-pika", "aio_pika_client:AioPika", "aio-pika", CALLS | PACED, 0.1),
    Client("kombu-cpspika", "kombu on cpspika", "kombu_client:OnCpspika", "kombu", OF_KOMBU, 0.2, apart=True),
    Client("kombu-py-amqp", "kombu on py-amqp", "kombu_client:OnPyAmqp", "kombu", OF_KOMBU, 0.2, apart=True),
    Client("celery-cpspika", "Celery on cpspika", "celery_worker:OnCpspika", "celery", OF_CELERY, apart=True),
    Client("celery-py-amqp", "Celery on py-amqp", "celery_worker:OnPyAmqp", "celery", OF_CELERY, apart=True),
]
CLIENTS = {client.name: client for client in _ALL}
