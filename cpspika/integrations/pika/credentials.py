"""As whom to log in. A program's own class (added to VALID_TYPES) has TYPE, `response_for` and `erase_credentials`."""

from __future__ import annotations

from typing import Any

from . import spec

__all__ = ["VALID_TYPES", "ExternalCredentials", "PlainCredentials"]


def _octets(text: str | bytes | None) -> bytes:
    return text if isinstance(text, bytes) else (text or "").encode()


class _Mechanism:
    TYPE = ""
    erase_on_connect = False

    def _offered(self, start: Any) -> bool:
        return _octets(self.TYPE) in _octets(start.mechanisms).split()

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other) if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def erase_credentials(self) -> None:
        """Called when the connection is open."""


class PlainCredentials(_Mechanism):
    """A user's name and password. erase_on_connect: the connection forgets them when it is open."""

    TYPE = "PLAIN"

    def __init__(self, username: str, password: str, erase_on_connect: bool = False):
        self.username: str | None = username
        self.password: str | None = password
        self.erase_on_connect = erase_on_connect

    def response_for(self, start: Any) -> tuple[str | None, bytes | None]:
        """(mechanism, response) to connection.start; (None, None) where the broker doesn't offer the mechanism."""
        if not self._offered(start):
            return None, None
        return self.TYPE, b"\0" + _octets(self.username) + b"\0" + _octets(self.password)

    def erase_credentials(self) -> None:
        if self.erase_on_connect:
            self.username = self.password = None


class ExternalCredentials(_Mechanism):
    """The broker knows the client by other means, as a rule by its TLS certificate."""

    TYPE = "EXTERNAL"

    def __init__(self) -> None:
        self.erase_on_connect = False

    def response_for(self, start: Any) -> tuple[str | None, bytes | None]:
        """As of PlainCredentials."""
        return (self.TYPE, b"") if self._offered(start) else (None, None)


VALID_TYPES: list[type] = [PlainCredentials, ExternalCredentials]


class CoreCredentials:
    """Credentials of pika's kind, as the core takes them."""

    def __init__(self, credentials: Any):
        self._credentials = credentials
        self.mechanism: str = credentials.TYPE

    def start(self) -> bytes:
        response: bytes = self._credentials.response_for(spec.Connection.Start(mechanisms=self.mechanism))[1] or b""
        return response

    def erase(self) -> None:
        self._credentials.erase_credentials()

    def __repr__(self) -> str:
        return f"<credentials by {self.mechanism}>"
