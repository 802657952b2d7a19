"""The fate of an operation that is in flight when the link is lost: one row for each operation.

The rows of `channel.open`, `drain`, `basic.publish` and the connection's own methods are not looked up: other modules
do what they say. They stand here because the table names every operation, which a test checks.
"""

from __future__ import annotations

AGAIN = "again"
"""It is asked again."""
DONE = "done"
"""It is done: the loss itself has brought about what it asks for."""
UNKNOWN = "unknown"
"""It fails with OutcomeUnknown: to ask again would do harm if the broker has carried it out."""
STALE = "stale"
"""It fails with StaleDelivery: it settles a delivery of the opening that is over."""
FATE = "fate"
"""A publish: `Recovery.publishes` decides."""

POLICIES = {
    "channel.open": AGAIN,
    "exchange.declare": AGAIN,
    "exchange.delete": UNKNOWN,
    "exchange.bind": AGAIN,
    "exchange.unbind": AGAIN,
    "queue.declare": AGAIN,
    "queue.bind": AGAIN,
    "queue.unbind": AGAIN,
    "queue.purge": UNKNOWN,
    "queue.delete": UNKNOWN,
    "basic.qos": AGAIN,
    "basic.consume": AGAIN,
    "basic.cancel": DONE,
    "basic.get": AGAIN,  # with no_ack UNKNOWN: the broker may have handed out the message
    "basic.ack": STALE,
    "basic.nack": STALE,
    "basic.reject": STALE,
    "basic.recover": DONE,
    "basic.publish": FATE,
    "confirm.select": AGAIN,
    "tx.select": AGAIN,
    "tx.commit": AGAIN,  # of an empty transaction; see `transaction`
    "tx.rollback": DONE,
    "channel.flow": AGAIN,
    "channel.close": DONE,
    "drain": AGAIN,
    "connection.update-secret": DONE,
    "connection.close": DONE,
}
"""Method -> what becomes of it. While there is no link, STALE and DONE hold at once, but tx.rollback and basic.cancel
behind an operation of their channel that waits; all others wait."""
