"""The transport of kombu and Celery on cpspika.

    app = Celery("tasks", broker="amqp://localhost")
    app.conf.broker_transport = "cpspika.integrations.kombu:Transport"

With kombu alone it is `kombu.Connection(url, transport="cpspika.integrations.kombu:Transport")`. Once this package is
imported, kombu also knows URLs that begin with cpspika:// and, with TLS, cpspikas://. `install` has the URLs of amqp://
and amqps:// use it too. docs/celery.md says what differs from py-amqp.
"""

from __future__ import annotations

try:
    import kombu as _kombu  # noqa: F401
except ImportError as missing:
    raise ImportError("kombu is not installed: pip install 'cpspika[kombu]'") from missing

from kombu import transport as _transports

from .channel import Channel
from .connection import Connection
from .message import Message
from .transport import SSLTransport, Transport

__all__ = ["Channel", "Connection", "Message", "SSLTransport", "Transport", "install", "uninstall"]

_PLAIN, _TLS = f"{__name__}:Transport", f"{__name__}:SSLTransport"
_OWN = {"cpspika": _PLAIN, "cpspikas": _TLS}
_TAKEN = {"amqp": _PLAIN, "amqps": _TLS, "pyamqp": _PLAIN}
_before = {name: _transports.TRANSPORT_ALIASES[name] for name in _TAKEN}


def _alias(names: dict[str, str]) -> None:
    _transports.TRANSPORT_ALIASES.update(names)
    for name in names:
        _transports._transport_cache.pop(name, None)


def install() -> None:
    """Has kombu use this transport for amqp://, amqps:// and pyamqp:// in this process. Connections that exist keep
    theirs."""
    _alias(_TAKEN)


def uninstall() -> None:
    """Undoes `install`."""
    _alias(_before)


_alias(_OWN)
