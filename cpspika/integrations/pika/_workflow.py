"""pika's exceptions of connecting, those of its module `adapters.utils.connection_workflow`.

`BlockingConnection` raises only AMQPConnectorStackTimeout, as pika's does. Programs name the others beside
AMQPConnectionError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AMQPConnectionWorkflowAborted",
    "AMQPConnectionWorkflowFailed",
    "AMQPConnectionWorkflowWrongState",
    "AMQPConnectorAMQPHandshakeError",
    "AMQPConnectorAborted",
    "AMQPConnectorException",
    "AMQPConnectorPhaseErrorBase",
    "AMQPConnectorSocketConnectError",
    "AMQPConnectorStackTimeout",
    "AMQPConnectorTransportSetupError",
    "AMQPConnectorWrongState",
]


class AMQPConnectorException(Exception):
    """A connection could not be opened."""


class AMQPConnectorStackTimeout(AMQPConnectorException):
    """The connection did not open in time."""


class AMQPConnectorAborted(AMQPConnectorException):
    """The program gave an attempt up."""


class AMQPConnectorWrongState(AMQPConnectorException):
    """An attempt has ended, or has not begun."""


class AMQPConnectorPhaseErrorBase(AMQPConnectorException):
    """One step of an attempt failed. `exception`: the reason."""

    def __init__(self, exception: BaseException, *args: Any):
        super().__init__(*args)
        self.exception = exception

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.exception!r}"


class AMQPConnectorSocketConnectError(AMQPConnectorPhaseErrorBase):
    """There was no TCP connection."""


class AMQPConnectorTransportSetupError(AMQPConnectorPhaseErrorBase):
    """TLS failed."""


class AMQPConnectorAMQPHandshakeError(AMQPConnectorPhaseErrorBase):
    """AMQP's handshake failed."""


class AMQPConnectionWorkflowAborted(AMQPConnectorException):
    """The program gave all attempts up."""


class AMQPConnectionWorkflowWrongState(AMQPConnectorException):
    """The attempts have ended, or have not begun."""


class AMQPConnectionWorkflowFailed(AMQPConnectorException):
    """All attempts failed. `exceptions`: the reason of each."""

    def __init__(self, exceptions: Sequence[BaseException], *args: Any):
        super().__init__(*args)
        self.exceptions = tuple(exceptions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {', '.join(map(repr, self.exceptions))}"
