"""How a facade's docstrings are made of the core's.

The core's docstrings are neutral. They say when an operation "is done"; a style says what happens then: the call
returns, or its promise is fulfilled. `worded` follows three rules:

- "it is done when ..." gets the style's subject: "the call returns when ...";
- a docstring without these words belongs to an operation that is done when the broker has replied: it gets the style's
  sentence about that;
- a paragraph that begins with "In the core" holds for the core only, and is left out.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import NamedTuple

IN_THE_CORE = "In the core"
WIDTH = 112  # characters in a line, of a paragraph whose words were changed
_DONE = "it is done when"
_HANDED_OVER = "it is done when its bytes have gone to the kernel"
_EXAMPLE_CALL = re.compile(r"^( {4}(?:\w+ = )?)(?=(?:channel|connection)\.)", re.MULTILINE)


class Wording(NamedTuple):
    """A style's words.

    `replied`: the sentence of an operation that is done when the broker has replied. `otherwise`: the sentence of
    another operation, if it needs one. `done`: stands for "it is done when". `handed_over`: stands for the same where
    the broker does not reply, up to "gone to the kernel". `awaits`: calls in examples need an `await`.
    `last`: a paragraph for every operation, or nothing.
    """

    replied: str
    otherwise: str
    done: str
    handed_over: str
    awaits: bool = False
    last: str = ""


CALLS = Wording(
    replied="Returns when the broker has replied; raises the error if it refused.",
    otherwise="",
    done="the call returns when",
    handed_over="the call returns when its bytes have gone to the kernel",
    last="timeout: seconds that this call may take; None: as long as the connection's `timeout` says.",
)
CALLS_OF_THREADS = CALLS._replace(
    handed_over="the call hands its bytes to the reactor's thread, and waits only while too many bytes are unsent"
)


def promising(promise: str) -> Wording:
    """The words of a style whose calls return promises of this name."""
    return Wording(
        replied=f"Returns a {promise}: fulfilled when the broker has replied, rejected with the error if it refused.",
        otherwise=f"Returns a {promise}.",
        done=f"the {promise} is fulfilled when",
        handed_over=f"the {promise} is fulfilled at once (that of a publish: when the channel is `writable`)",
        awaits=True,
    )


def worded(doc: str | None, wording: Wording) -> str | None:
    """An operation's docstring in a style's words. None: Python runs without docstrings (-OO)."""
    if doc is None:
        return None
    paragraphs = [each for each in inspect.cleandoc(doc).split("\n\n") if not each.startswith(IN_THE_CORE)]
    changed = [_paragraph(each, wording) for each in paragraphs]
    sentence = wording.replied if changed == paragraphs else wording.otherwise
    if sentence:
        changed.insert(1, sentence)
    if wording.last:
        changed.append(wording.last)
    text = "\n\n".join(changed)
    return _EXAMPLE_CALL.sub(r"\1await ", text) if wording.awaits else text


def _paragraph(text: str, wording: Wording) -> str:
    words = " ".join(text.split())
    changed = words.replace(_HANDED_OVER, wording.handed_over).replace(_DONE, wording.done)
    return text if changed == words else textwrap.fill(changed, WIDTH)
