"""The transaction of a channel that recovers. Its publishes and acknowledgements are lost with the opening, and to send
some of them again would break it: so the program is told, and begins anew after tx_rollback."""

from __future__ import annotations

from collections import deque

from ..errors import OutcomeUnknown

_PARTS = frozenset(("basic.publish", "basic.ack", "basic.nack", "basic.reject", "tx.commit"))


class Transaction:
    """`is_broken`: what was published or acknowledged since the last commit was lost; until tx_rollback nothing may be
    added to the transaction."""

    __slots__ = ("_commits", "_done", "_work", "is_broken")

    def __init__(self) -> None:
        self.is_broken = False
        self._work = self._done = 0  # publishes and acknowledgements, and how many of them are committed
        self._commits: deque[int] = deque()  # `_work` at each commit that is in flight

    def begun(self) -> None:
        """A publish or an acknowledgement goes out."""
        self._work += 1

    def asked(self, method: str) -> None:
        if method in ("tx.commit", "tx.rollback"):
            self._commits.append(self._work)

    def ended(self) -> None:
        """A commit or a rollback is answered."""
        self._done = self._commits.popleft() if self._commits else self._work
        self.is_broken = False

    def lost(self) -> None:
        """The opening is over."""
        self.is_broken = self.is_broken or self._work > self._done
        self._commits.clear()
        self._done = self._work

    def refusal(self, method: str) -> OutcomeUnknown | None:
        """The error of an operation that would add to a broken transaction, or commit it."""
        if not self.is_broken or method not in _PARTS:
            return None
        return OutcomeUnknown(
            "the channel or link was lost amid the transaction: the broker has dropped it, or has committed it if "
            "tx_commit was under way; call tx_rollback, and begin anew"
        )

    def no_buffer(self) -> OutcomeUnknown:
        """The error of a publish without a link: the transaction can't be complete any more."""
        self.is_broken = True
        error = self.refusal("basic.publish")
        assert error is not None
        return error
