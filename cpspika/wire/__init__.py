"""Bytes to events and back, for either role: the protocol without sockets. Client and broker share only this."""
