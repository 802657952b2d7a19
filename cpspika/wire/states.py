"""What may follow what: the transition tables of a connection, a channel and a content.

The tables know no role. An event is the name of a method, after ">" where this end sends it and "<" where it arrives; a
name alone holds for both directions, since `spec` already says who may send it. "*" is any method that the row
doesn't name. What a state has no row for is out of order.

Replies to what was asked before a close still come while the close is under way, and settle their continuations; so
"closing" lets methods pass, and whoever gets them drops what no longer matters (0-9-1 §2.2.4, §2.2.10).
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
    # The client's next methods may follow channel.open at once, so both ends let them pass before open-ok.
    "opening": {"channel.open-ok": "open", "*": "opening"},
    "open": {"*": "open"},
    "closing": {
        "<channel.open-ok": "closing",
        "<channel.close-ok": "closed",
        "<channel.close": "closing",
        ">channel.close-ok": "closing",
        "<*": "closing",
    },
    "asked to close": {">channel.close-ok": "closed"},
}
for _state in ("opening", "open"):
    CHANNEL[_state] |= {">channel.close": "closing", "<channel.close": "asked to close"}

# A content method is followed by its header, and that by as many body frames as its body-size needs, with nothing else
# of the same channel between (0-9-1 §4.2.6). "whole" and "part": the body is, or isn't, complete with this frame.
CONTENT: Table = {
    "none": {"content method": "header"},
    "header": {"header, whole": "none", "header, part": "body"},
    "body": {"body, part": "body", "body, whole": "none"},
}

# channel.open-ok and close-ok stand only where the rows name them, not under "*".
_NAMED_ONLY = frozenset(("channel.open", "channel.open-ok", "channel.close-ok"))


_TABLES = {"connection": CONNECTION, "channel": CHANNEL}


@cache  # of what there are some thousands of at most; it is asked at each method
def follow(table: str, state: str, direction: str, name: str) -> str | None:
    """The state after the event, or None where it is out of order. `table`: "connection" or "channel". `direction`: ">"
    sent, "<" received. `name`: of a method that `spec` has."""
    if table == "channel" and name.startswith("connection."):
        return None
    rows = _TABLES[table][state]
    after = rows.get(direction + name) or rows.get(name)
    if after is None and name not in _NAMED_ONLY:
        after = rows.get(direction + "*") or rows.get("*")
    return after
