"""What the tests share: a RabbitMQ node of their own, and the styles in which each scenario runs.

The node starts when the first test asks for it, and serves the whole session. Tests name their queues and exchanges
afresh (`s.name()`), so they don't meet in it.
"""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest

from cpspika.broker import Served, serve
from tests.support import frugal
from tests.support.rabbitmq import RabbitNode
from tests.support.rabbitmq_features import FEATURES, OLD_PROTOCOL, lacking, version_of
from tests.support.styles import AGAIN, RECOVERING, STYLES, Broker, Style

# Styles that run on RabbitMQ on 0-8 too; the others do so with the long tests.
ON_0_8 = ("core-select", "sync-blocking")

# Enough to find what is broken, in a run of minutes, and in the run of -m "not slow"; HYPOTHESIS_PROFILE=thorough looks
# harder.
hypothesis.settings.register_profile("quick", max_examples=40, deadline=None)
hypothesis.settings.register_profile("not slow", max_examples=25, deadline=None)
hypothesis.settings.register_profile("thorough", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))

VERSIONS = ("0-9-1", "0-8")


class Lacking(NamedTuple):
    """What the RabbitMQ under test has not, and the line that says so."""

    names: frozenset[str]
    line: str


LACKING = pytest.StashKey[Lacking]()


class Certificates(NamedTuple):
    """Paths, and the context of a client that trusts them."""

    ca: str
    certificate: str
    key: str

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


def pytest_configure(config: pytest.Config) -> None:
    frugal.install(config)
    if config.option.markexpr == "not slow" and "HYPOTHESIS_PROFILE" not in os.environ:
        hypothesis.settings.load_profile("not slow")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of a private authority: for "localhost" alone, so that 127.0.0.1 is a wrong name."""
    trustme = pytest.importorskip("trustme")
    directory: Path = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    server = authority.issue_cert("localhost")
    paths = Certificates(*(str(directory / name) for name in ("ca.pem", "server.pem", "server.key")))
    authority.cert_pem.write_to_path(paths.ca)
    Path(paths.certificate).write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
    server.private_key_pem.write_to_path(paths.key)
    return paths


@pytest.fixture(scope="session")
def node(certificates: Certificates, request: pytest.FixtureRequest) -> Iterator[RabbitNode]:
    """A running RabbitMQ node, with a TLS listener."""
    with RabbitNode(tls=certificates) as running:
        names = lacking(running)
        version = ".".join(map(str, version_of(running)))
        request.config.stash[LACKING] = Lacking(frozenset(names), f"RabbitMQ {version} lacks: {', '.join(names)}")
        yield running


@pytest.fixture(scope="session")
def embedded() -> Iterator[Served]:
    """A running embedded broker. It answers a wrong password at once: the scenarios give it very many in a short time
    (broker/test_guards.py tests how it slows that down)."""
    with serve() as running:
        running.login_failed = lambda: 0.0  # type: ignore[method-assign]
        yield running


@pytest.fixture(scope="session", params=["embedded", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each broker that the shared scenarios run against."""
    running = request.getfixturevalue({"embedded": "embedded", "rabbitmq": "node"}[request.param])
    return Broker(request.param, running.host, running.port)


@pytest.fixture
def s(broker: Broker, style: Callable[..., Style], protocol: str) -> Iterator[Style]:
    """A style, for a scenario; what it has opened is closed at the end."""
    made = style(broker, protocol)
    yield made
    made.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario runs in every style and on each version, but where it says `only`."""
    if "style" in metafunc.fixturenames:
        styles = {
            name: style
            for name, style in STYLES.items()
            if name not in RECOVERING or getattr(metafunc.function, "recovers", False)
        }
        metafunc.parametrize("style", styles.values(), ids=styles.keys())
    own = [mark for mark in metafunc.definition.iter_markers("parametrize") if "protocol" in mark.args[0]]
    if "protocol" in metafunc.fixturenames and not own:
        only = getattr(metafunc.function, "only", None)
        metafunc.parametrize("protocol", [only] if only else VERSIONS)


def is_repetition(item: pytest.Item) -> bool:
    """Whether a scenario on a connection that recovers repeats what runs otherwise too: on 0-8 and on RabbitMQ one such
    style is enough."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    style = parameters.get("style")
    if style not in RECOVERING.values() or style is STYLES["core-select-recovering"]:
        return False
    return parameters.get("protocol") == "0-8" or parameters.get("broker") == "rabbitmq"


@pytest.hookimpl(tryfirst=True)  # before the marks choose what is run
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not is_repetition(item)]
    again = [STYLES[name] for name in AGAIN if name in STYLES]
    on_0_8 = [STYLES[name] for name in ON_0_8]
    recovering = list(RECOVERING.values())
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        on_rabbitmq = "node" in getattr(item, "fixturenames", ()) or parameters.get("broker") == "rabbitmq"
        if on_rabbitmq:
            item.add_marker(pytest.mark.rabbitmq)
        style = parameters.get("style")
        if style in recovering and not (
            style is STYLES["core-select-recovering"] and parameters.get("broker") == "embedded"
        ):
            item.add_marker(pytest.mark.long)
        if style in again:
            item.add_marker(pytest.mark.long if parameters.get("broker") == "rabbitmq" else pytest.mark.slow)
        if on_rabbitmq and parameters.get("protocol") == "0-8" and style not in (None, *on_0_8):
            item.add_marker(pytest.mark.long)
        if item.name == "test_a_heartbeat_goes_out_by_itself":  # of each reactor's conformance; it takes a second
            item.add_marker(pytest.mark.slow)
        for name in needs(item):
            assert name in FEATURES, f"{item.nodeid} needs {name!r}: tests.support.rabbitmq_features has no such name"
        if item.get_closest_marker("long") or item.get_closest_marker("rabbitmq"):
            item.add_marker(pytest.mark.slow)  # so that -m "not slow" leaves these out too


def pytest_collection_finish() -> None:
    # The thousands of tests collected stay to the end: without this each gc.collect() of a test looks at all of them.
    gc.collect()
    gc.freeze()


def needs(item: pytest.Item) -> set[str]:
    """What a test on RabbitMQ needs of it: by its marks, and by its version of the protocol."""
    if not item.get_closest_marker("rabbitmq"):
        return set()
    names = {name for mark in item.iter_markers("needs") for name in mark.args}
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return names | ({OLD_PROTOCOL} if parameters.get("protocol") == "0-8" else set())


# Both skip here, and not in a fixture, so that all of the tests are one line of the summary.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    if item.get_closest_marker("rabbitmq") and not RabbitNode.available():
        pytest.skip("no RabbitMQ here: Debian's package rabbitmq-server is not installed")
    try:
        yield  # the fixtures; one of them starts the node, another may fail at what it lacks
    finally:
        lacks = item.config.stash.get(LACKING, None)
        if lacks is not None and lacks.names & needs(item):
            pytest.skip(lacks.line)
