"""The transport: kombu makes one for each of its connections, and asks it for everything."""

from __future__ import annotations

from functools import partial
from typing import Any

from kombu import connection as kombu_connection
from kombu.transport import base
from kombu.utils.amq_manager import get_manager

from ...client import rabbitmq
from ...parameters import DEFAULT_PORTS
from ...version import __version__
from .connection import Connection as Established
from .errors import (
    CHANNEL_ERRORS,
    CONNECTION_ERRORS,
    RECOVERABLE_CHANNEL_ERRORS,
    RECOVERABLE_CONNECTION_ERRORS,
)
from .options import parameters

_OF_AMQP = ("amqp", "amqps", "pyamqp")  # schemes that say the protocol, and not the library


class Transport(base.Transport):
    """AMQP by cpspika."""

    Connection = Established

    default_port = DEFAULT_PORTS["amqp"]
    default_ssl_port = DEFAULT_PORTS["amqps"]

    connection_errors = CONNECTION_ERRORS
    channel_errors = CHANNEL_ERRORS
    recoverable_connection_errors = RECOVERABLE_CONNECTION_ERRORS
    recoverable_channel_errors = RECOVERABLE_CHANNEL_ERRORS

    driver_name = "cpspika"
    driver_type = "amqp"

    implements = base.Transport.implements.extend(asynchronous=True, heartbeats=True)

    def __init__(self, client: Any, default_port: int | None = None, default_ssl_port: int | None = None, **_: Any):
        self.client = client
        self.default_port = default_port or self.default_port
        self.default_ssl_port = default_ssl_port or self.default_ssl_port
        if client.alt and client.transport_cls not in _OF_AMQP:
            client.switch = partial(_switch, client, client.transport_cls)

    def driver_version(self) -> str:
        """cpspika's version."""
        return __version__

    @property
    def default_connection_params(self) -> dict[str, Any]:
        """The defaults of a kombu.Connection."""
        return {
            "userid": "guest",
            "password": "guest",
            "port": self.default_ssl_port if self.client.ssl else self.default_port,
            "hostname": "localhost",
            "login_method": "PLAIN",
        }

    def establish_connection(self) -> Established:
        """Connects to the broker. OSError: it cannot be reached. AccessRefused: it refuses the credentials. NotAllowed:
        it has no such virtual host."""
        client = self.client
        for name, default in self.default_connection_params.items():
            if not getattr(client, name, None):
                setattr(client, name, default)
        options = client.transport_options or {}
        return self.Connection(parameters(client, options), client, **options)

    def close_connection(self, connection: Established) -> None:
        """Closes a connection."""
        connection.client = None
        connection.close()

    def _collect(self, connection: Established | None) -> None:
        if connection is not None:
            connection.collect()

    def create_channel(self, connection: Established) -> Any:
        """Opens a channel."""
        return connection.channel()

    def drain_events(self, connection: Established, **options: Any) -> None:
        """As of Connection."""
        connection.drain_events(**options)

    def verify_connection(self, connection: Established) -> bool:
        """Whether the connection is open."""
        return connection.connected

    def get_heartbeat_interval(self, connection: Established) -> int:
        """The negotiated interval in seconds; 0: off."""
        return connection.heartbeat

    def heartbeat_check(self, connection: Established, rate: int = 2) -> None:
        """As of `Connection.heartbeat_tick`."""
        connection.heartbeat_tick(rate)

    def register_with_event_loop(self, connection: Established, loop: Any) -> None:
        """Has kombu's event loop drain a connection."""
        # A call from elsewhere may find out that the connection has ended; then nothing is left to read.
        connection.on_end = partial(loop.call_soon, self.on_readable, connection, loop)
        loop.add_reader(connection.fileno(), self.on_readable, connection, loop)

    def unregister_from_event_loop(self, connection: Established, loop: Any) -> None:
        """The event loop forgets a connection."""
        connection.on_end = None
        loop.remove_reader(connection.fileno())

    def on_readable(self, connection: Established, loop: Any) -> None:
        """The event loop calls it when there may be events."""
        # A call may be left in the loop when the program has closed the connection, or when an earlier call has told
        # the loop of its end. An error would end the next connection too.
        if connection.is_closed or connection.loop_told:
            return
        try:
            more = connection.drain_burst(getattr(loop, "_ready", ()))
        except CONNECTION_ERRORS:
            connection.loop_told = not connection.link.is_open
            raise
        if more:
            loop.call_soon(self.on_readable, connection, loop)

    def qos_semantics_matches_spec(self, connection: Established) -> bool:
        """False if basic_qos without `a_global` limits consumers that start later, and not the channel."""
        number = rabbitmq.version(connection.server_properties)
        return number < (3, 3) or number >= (4, 0)  # 4.0 has no limit of a channel any more; (): of another broker

    def get_manager(self, *args: Any, **options: Any) -> Any:
        """RabbitMQ's management API, by pyrabbit."""
        return get_manager(self.client, *args, **options)


class SSLTransport(Transport):
    """AMQP with TLS by cpspika."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        if not self.client.ssl:
            self.client.ssl = True


def _switch(client: Any, transport: Any, url: str) -> None:
    """Has a kombu.Connection use another URL, and keeps this transport. kombu's own `switch` takes the transport from
    the URL's scheme: for amqp:// that is py-amqp."""
    kombu_connection.Connection.switch(client, url)
    if client.transport_cls in _OF_AMQP:
        if client.transport_cls == "amqps" and not client.ssl:
            client.ssl = True
        client.transport_cls = transport
