"""Names of pika 1.x, and what they are here: for the text of an error."""

from __future__ import annotations

from collections.abc import Mapping

# Arguments of pika 1.x, and what they are here.
ARGUMENTS = {
    "auto_ack": "no_ack",
    "exchange_type": "type",
    "global_qos": "global_",
    "on_message_callback": "on_message, which gets one argument, the message",
}

# Methods and attributes of pika 1.x's connections and channels, and what they are here.
NAMES = {
    "add_callback_threadsafe": "connection.reactor.call_soon_threadsafe",
    "add_on_cancel_callback": "the argument on_cancel of basic_consume",
    "add_on_close_callback": "add_state_change_handler, or on_close of the connection",
    "add_on_connection_blocked_callback": "add_blocked_handler",
    "add_on_connection_unblocked_callback": "add_blocked_handler",
    "add_on_return_callback": "add_return_handler",
    "call_later": "connection.reactor.call_later",
    "cancel": "close() of the iterator that consume returns",
    "channel_number": "number",
    "confirm_delivery": "confirm_select",
    "is_closed": "not is_open",
    "process_data_events": "drain_events of the synchronous facade",
    "remove_timeout": "cancel() of the timer that connection.reactor.call_later returns",
}

# Options of pika 1.x's ConnectionParameters, and what they are here.
OPTIONS = {
    "connection_attempts": "a list of targets, or recovery=True",
    "retry_delay": "a list of targets, or recovery=True",
    "socket_timeout": "connection_timeout",
    "ssl_options": "ssl, an SSLContext, or cafile",
    "stack_timeout": "connection_timeout",
    "tcp_options": "tcp_keepalive",
}

# Names in pika's module, and what they are here.
MODULE = {
    "DeliveryMode": "the number, 1 or 2",
    "SSLOptions": "the option ssl, an SSLContext",
    "URLParameters": "ConnectionParameters.from_url(url), or the URL itself in place of parameters",
    "exceptions": "the module cpspika.errors",
}


def instead(name: str, names: Mapping[str, str]) -> str:
    """The words of an error about a name of pika; "" for any other name."""
    return f"pika's {name} is {names[name]} here" if name in names else ""
