"""Warns of a public name that the reference lacks. The names: `cpspika.__all__`, and the tables of docs/api.md."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import cpspika

logger = logging.getLogger(__name__)
API = Path(__file__).parent.parent / "api.md"
# A module, which has a page, and the version.
NOT_ENTRIES = {"cpspika.broker", "cpspika.__version__"}
# docs/adapters.md tells what a subclass overrides; the rest are tests.
FOR_SUBCLASSES = {
    "cpspika.testing.conformance.ReactorConformance",
    # Their members are kombu's.
    "cpspika.integrations.kombu.Transport",
    "cpspika.integrations.kombu.SSLTransport",
}
# Their members are those of the core, whose entries stand for them.
LIFTED = {
    "cpspika.styles.lifted.ConnectionOperations": "cpspika.Connection",
    "cpspika.styles.lifted.ChannelOperations": "cpspika.Channel",
}


def public_names() -> list[str]:
    """Such as "cpspika.Channel" and "cpspika.tasks.run"; and each method of a public class of the package."""
    names = {f"cpspika.{name}": getattr(cpspika, name) for name in cpspika.__all__}
    for row in re.findall(r"^\| (`cpspika\..*)\|$", API.read_text("utf-8"), re.MULTILINE):
        module, *listed = re.findall(r"`([^`]+)`", row)
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            logger.warning("%s, which docs/api.md names, cannot be imported: %s", module, error, location="api")
            continue
        names |= {f"{module}.{name}": getattr(found, name) for name in listed if hasattr(found, name)}
    members = [
        f"{name}.{member}"
        for name, found in names.items()
        if inspect.isclass(found) and not issubclass(found, BaseException) and name not in FOR_SUBCLASSES
        for member in dir(found)
        if not member.startswith("_") and hasattr(found, member) and _is_ours(found, member)
    ]
    return [name for name in [*names, *members] if name not in NOT_ENTRIES]


def _is_ours(cls: Any, member: str) -> bool:
    """Whether a class of the package defines it, and not asyncio.Future, say."""
    definer = next(base for base in cls.__mro__ if member in vars(base))
    return definer.__module__.startswith("cpspika")


def _inherited(name: str, described: set[str]) -> bool:
    """Whether `name` is a member that the entry of a base class of `cpspika` has."""
    owner, _, member = name.rpartition(".")
    if owner in LIFTED:
        return f"{LIFTED[owner]}.{member}" in described
    cls = getattr(cpspika, owner.rpartition(".")[2], None)
    bases = cls.__mro__[1:] if inspect.isclass(cls) else ()
    return any(f"cpspika.{base.__name__}.{member}" in described for base in bases)


def check(app: Sphinx, env: BuildEnvironment) -> None:
    described = set(env.get_domain("py").objects)  # type: ignore[attr-defined]
    for name in public_names():
        if name not in described and not _inherited(name, described):
            logger.warning("the reference lacks %s, which is a public name", name, location="api")


def check_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Each function and each error says what it does, or when it is raised. This comes after `docstrings`."""
    if what in ("function", "method", "class", "exception") and not any(lines):
        logger.warning("%s has no docstring", name, location=name)
    if what == "exception" and not re.match(r"(Raised|Passed|Base class|The base class)\b", lines[0] if lines else ""):
        logger.warning("the docstring of %s doesn't begin with what raises it", name, location=name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("env-check-consistency", check)
    app.connect("autodoc-process-docstring", check_text, priority=900)
    return {"parallel_read_safe": True}
