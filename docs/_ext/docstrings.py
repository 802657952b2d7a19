"""Shows the docstrings of cpspika, which are prose for help(), as reStructuredText for autodoc.

- A paragraph "name: text. other: text." about arguments becomes a list of parameters; "Result:" and "Errors:" become
  fields.
- What is indented by four becomes a block of code.
- A name in backticks that has an entry in the reference becomes a link, and so does the name of an error.
- The operations of a style other than the core and the synchronous facade get their first sentence alone, and a link
  to the whole text at the core's `Channel` or `Connection`.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from sphinx.application import Sphinx

import cpspika
from cpspika.adapters.sockets import Watcher
from cpspika.reactor import PlainReactor, Reactor
from cpspika.styles.lifting import attributes, operations, other_methods, registrations
from cpspika.styles.promises import Promises
from cpspika.styles.stubs import STYLES

CORE = {"Channel": cpspika.Channel, "Connection": cpspika.Connection}
LIFTED = {
    name: {*attributes(core), *operations(core), *other_methods(core), *registrations(core)}
    for name, core in CORE.items()
}
OPERATIONS = {name for core in CORE.values() for name in operations(core)}
FACADE = re.compile(r"cpspika\..*?(?:Asyncio|Twisted|Trio|Task|Threaded)(Channel|Connection)\.(\w+)$")
# Not made by programs, but by `connect` and `channel`.
MADE = re.compile(r"cpspika\.(.*\.)?((Sync|Asyncio|Twisted|Trio|Task)?(Connection|Channel)|ThreadedChannel)$")
FIELD = re.compile(r"(?:^|(?<=[.;)])\s+)((?:[a-z]\w*(?:\([^)]*\))?, )*[a-z]\w*(?:\([^)]*\))?|Errors|Result): ")
WORD = re.compile(r"(?<![\w`.])(" + "|".join(sorted(cpspika.errors.__all__, key=len, reverse=True)) + r")(?![\w`])")


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    text = inspect.cleandoc("\n".join(lines))
    elsewhere = FACADE.match(name)
    if elsewhere and elsewhere[2] in LIFTED[elsewhere[1]] and what == "method":
        lines[:] = _in_short(text, elsewhere[1], elsewhere[2])
        return
    if what == "method" and not text:
        text = of_contract(name.rpartition(".")[2])
    if what in ("attribute", "property"):
        text = of_attribute(text, name.rpartition(".")[2])
    parameters = set(_parameters(obj))
    lines[:] = []
    for paragraph in re.split(r"\n\s*\n", text):
        lines += [*_paragraph(paragraph, name, parameters), ""]


def of_contract(name: str) -> str:
    """The docstring of a method in the protocol that declares it: reactors implement it without one of their own."""
    declared = (getattr(protocol, name, None) for protocol in (Reactor, Watcher, Promises, PlainReactor))
    return next((text for text in map(inspect.getdoc, declared) if text), "") if not name.startswith("_") else ""


def of_attribute(sentence: str, name: str) -> str:
    """The part about a of a sentence "`a` (bytes), `b`: as negotiated." of its class: "Bytes, as negotiated."."""
    found = re.match(r"(`\w+`[^.]*?): (.*)", sentence, re.DOTALL)
    if found is None or f"`{name}`" not in found[1]:
        return sentence
    unit = re.search(rf"`{name}` \((\w+)\)", found[1])
    text = f"{unit[1]}, {found[2]}" if unit else found[2]
    return text[0].upper() + text[1:]


def change_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """A class that programs don't make has no arguments to show, nor has an error. An operation of a style with
    promises returns one."""
    if name.rpartition(".")[2] in cpspika.errors.__all__ or (what == "class" and MADE.match(name)):
        return "", None
    style = next((style for style in STYLES if re.search(rf"\b({style.channel}|{style.connection})\.\w+$", name)), None)
    if style is None or returned is None or signature is None:
        return None
    classes = {"Channel": style.channel, "Connection": style.connection}
    result = re.sub(r"\b(Channel|Connection)\b", lambda found: classes[found[0]], returned)
    if name.rpartition(".")[2] in OPERATIONS:
        opens = style.opening if returned == "Channel" else None
        result = (opens or style.promise).format(result)
    return signature, result


def _in_short(text: str, core: str, member: str) -> list[str]:
    first = re.split(r"(?<=\.)\s", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[0]
    whole = f"In full: :py:obj:`{core}.{member} <cpspika.{core}.{member}>`."
    return [f"{inline(first, f'cpspika.{core}.{member}')} {whole}", ""]


def _parameters(obj: Any) -> list[str]:
    try:
        return list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        return []


def _paragraph(text: str, name: str, parameters: set[str]) -> list[str]:
    lines = text.split("\n")
    if not text:
        return []
    if all(line.startswith("    ") for line in lines if line):
        if re.match(r" {4}[a-z]\w*(, \w+)*: ", text):
            return _list_of_names(textwrap.dedent(text), name)
        language = "text" if not re.search(r"[(=]", text) else "python"
        return [f".. code-block:: {language}", "", *lines]
    if re.match(r"\s*(- |\d\. )", text):
        return [inline(line, name) for line in lines]
    code = next((number for number, line in enumerate(lines) if line.startswith("    ")), None)
    if code is not None:
        return [*_paragraph("\n".join(lines[:code]), name, parameters), "",
                *_paragraph("\n".join(lines[code:]), name, parameters)]  # fmt: skip
    joined = " ".join(line.strip() for line in lines)
    return _fields(joined, name, parameters) or [inline(joined, name)]


def _list_of_names(text: str, name: str) -> list[str]:
    """Lines "name: text", of which some go on in lines that are indented, as a list."""
    items = re.split(r"\n(?=\S)", text)
    return [f"- ``{item.partition(': ')[0]}``: {inline(' '.join(item.partition(': ')[2].split()), name)}"
            for item in items]  # fmt: skip


def _fields(text: str, name: str, parameters: set[str]) -> list[str]:
    """The paragraph as a field list; empty: it is prose."""
    found = [field for field in FIELD.finditer(text) if _is_field(field[1], parameters)]
    if not found or found[0].start() > 0:
        if found and found[0][1] in ("Errors", "Result"):  # "Removes it. Errors: NotFound (404), ..."
            start = found[0].start(1)
            return [inline(text[:start].strip(), name), "", *_fields(text[start:], name, parameters)]
        return []
    ends = [*(field.start() for field in found[1:]), len(text)]
    arguments, others = [], []
    for field, end in zip(found, ends, strict=True):
        body = inline(text[field.end() : end].strip(), name)
        if field[1] in ("Errors", "Result"):
            others.append(f":{field[1]}: {body}")
        else:
            arguments.append(f"  - **{inline(field[1], name)}**: {body}")
    return [*([":Arguments:", *arguments] if arguments else []), *others]


def _is_field(names: str, parameters: set[str]) -> bool:
    if names in ("Errors", "Result"):
        return True
    bare = [each.partition("(")[0] for each in re.sub(r"\([^)]*\)", "", names).split(", ")]
    return any(each in parameters for each in bare)


def inline(text: str, name: str) -> str:
    """Backticks as roles; the rest as it is, with errors linked."""
    parts = re.split(r"`([^`]+)`", text)
    shown = []
    for number, part in enumerate(parts):
        if number % 2:
            shown.append(_code(part, name))
        else:
            part = re.sub(r"([*_|\\])(?=\w|$)|(?<=\w)([*_])(?=\W|$)", lambda found: "\\" + found[0], part)
            shown.append(WORD.sub(lambda found: f":py:exc:`~cpspika.{found[1]}`", part))
    return "".join(shown)


def _code(text: str, name: str) -> str:
    target = _target(text, name)
    return f":py:obj:`{text} <{target}>`" if target else f"``{text}``"


def _target(text: str, name: str) -> str | None:
    """The entry that a name in backticks stands for."""
    bare = text.removesuffix("()").removeprefix("cpspika.")
    if not re.fullmatch(r"\w+(\.\w+)*", bare) or f"cpspika.{bare}" == name:
        return None
    owner, _, member = bare.rpartition(".")
    if not owner and bare in cpspika.__all__ and bare not in ("broker", "__version__"):
        return f"cpspika.{bare}"
    classes = [owner] if owner else [*re.findall(r"cpspika\.(\w+)", name), "Channel", "Connection", "Message"]
    for each in classes:
        cls = getattr(cpspika, each, None)
        if inspect.isclass(cls) and callable(getattr(cls, member, None)) and not member.startswith("_"):
            return f"cpspika.{each}.{member}"
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", rewrite)
    app.connect("autodoc-process-signature", change_signature)
    return {"parallel_read_safe": True}
