"""The protocol without sockets: bytes to events and back, for either role. Client and broker share only this folder."""
