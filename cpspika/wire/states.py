"""The order of methods and frames: the state tables of a connection, a channel and a content.

A table has a row for each state, and a row has the next state for each event. The tables are the same for both roles.
An event is the name of a method, with ">" before it where this end sends it, and "<" where this end receives it. A name
alone holds for both directions, because `spec` says which role may send it. "*" is any method that the row doesn't
name. An event that the row doesn't have is out of order.

Replies to operations from before a close still arrive during the close handshake, and settle their continuations. So
the state "closing" allows all methods, and the owner of the link drops the ones that no longer matter (0-9-1 §2.2.4,
§2.2.10). A server may also send deliveries until its channel.close is answered, as RabbitMQ does.
"""

from __future__ import annotations

from functools import cache

Table = dict[str, dict[str, str]]

CONNECTION: Table = {
    "begun": {"connection.start": "started"},
    "started": {"connection.start-ok": "securing"},
    "securing": {"connection.secure": "challenged", "connection.tune": "tuning"},
    "challenged": {"connection.secure-ok": "securing"},
    "tuning": {"connection.tune-ok": "tuned"},
    "tuned": {"connection.open": "opening"},
    "opening": {"connection.open-ok": "open", "connection.redirect": "redirected"},
    "redirected": {},
    "open": {
        "connection.blocked": "open",
        "connection.unblocked": "open",
        "connection.update-secret": "open",
        "connection.update-secret-ok": "open",
    },
    "closing": {
        "<connection.close-ok": "closed",
        "<connection.close": "closing",
        ">connection.close-ok": "closing",
        "<*": "closing",
    },
    "asked to close": {">connection.close-ok": "closed", ">connection.close": "asked to close"},
    "closed": {},
}
for _state in ("started", "securing", "challenged", "tuning", "tuned", "opening", "redirected", "open"):
    CONNECTION[_state] |= {">connection.close": "closing", "<connection.close": "asked to close"}

CHANNEL: Table = {
    "closed": {"channel.open": "opening"},
    # The client's next methods may follow channel.open at once, so both ends allow them before open-ok.
    "opening": {"channel.open-ok": "open", "*": "opening"},
    "open": {"*": "open"},
    "closing": {
        "<channel.open-ok": "closing",
        "<channel.close-ok": "closed",
        "<channel.close": "closing",
        ">channel.close-ok": "closing",
        ">basic.deliver": "closing",
        "<*": "closing",
    },
    "asked to close": {">channel.close-ok": "closed"},
}
for _state in ("opening", "open"):
    CHANNEL[_state] |= {">channel.close": "closing", "<channel.close": "asked to close"}

# After a content method comes its header, and then as many body frames as the body size needs. No other frame of the
# same channel may come between them (0-9-1 §4.2.6). "whole": the body is complete with this frame. "part": it is not.
CONTENT: Table = {
    "none": {"content method": "header"},
    "header": {"header, whole": "none", "header, part": "body"},
    "body": {"body, part": "body", "body, whole": "none"},
}

# Methods that are in order only where a row names them; "*" doesn't include them.
_NAMED_ONLY = frozenset(("channel.open", "channel.open-ok", "channel.close-ok"))


_TABLES = {"connection": CONNECTION, "channel": CHANNEL}


@cache  # it is called for each method; there are at most some thousands of combinations
def follow(table: str, state: str, direction: str, name: str) -> str | None:
    """The state after an event, or None if the event is out of order.

    table: "connection" or "channel". direction: ">" sent, "<" received. name: of a method in `spec`."""
    if table == "channel" and name.startswith("connection."):
        return None
    rows = _TABLES[table][state]
    after = rows.get(direction + name) or rows.get(name)
    if after is None and name not in _NAMED_ONLY:
        after = rows.get(direction + "*") or rows.get("*")
    return after
