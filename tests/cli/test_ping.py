"""`ping`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.conftest import Certificates
from tests.support.rabbitmq_features import OLD_PROTOCOL


def test_a_broker_that_answers(cli: CommandLine, broker: Any) -> None:
    found = cli("ping", "--json", "--count", "2").json
    assert found["ok"] is True
    assert found["product"] == {"embedded": "cpspika", "rabbitmq": "RabbitMQ"}[broker.name]
    assert (found["user"], found["virtual_host"], found["tls"], found["protocol"]) == ("guest", "/", None, "0-9-1")
    assert (found["frame_max"], found["channel_max"], found["heartbeat"]) == (131072, 2047, 60)
    trips = found["round_trip_ms"]
    assert 0 < trips["min"] <= trips["mean"] <= trips["max"]
    text = cli("ping").out
    for said in (found["product"], found["version"], "guest, PLAIN", "frame_max 131072", "round trip"):
        assert said in text


@pytest.mark.needs(OLD_PROTOCOL)
def test_0_8(cli: CommandLine, broker: Any) -> None:
    assert cli("ping", broker.url("0-8"), "--json").json["protocol"] == "0-8"


def test_a_user_and_a_vhost_that_are_refused(cli: CommandLine, broker: Any) -> None:
    wrong = broker.url(password="hunter2")
    done = cli("ping", wrong, "--json", status=1)
    assert done.json["ok"] is False
    assert "403" in done.json["error"]
    assert done.err.count("\n") == 1
    assert "hunter2" not in done.out + done.err
    assert "530" in cli("ping", broker.url(vhost="nope"), status=1).err
    done = cli("ping", wrong, "--quiet", status=1)
    assert (done.out, done.err) == ("", "")
    done = cli("ping", "--quiet")
    assert (done.out, done.err) == ("", "")


def test_the_process_s_own_broker(on_embedded: CommandLine) -> None:
    assert on_embedded("ping", "embedded://", "--json").json["product"] == "cpspika"


def test_tls(node: Any, certificates: Certificates, on_embedded: CommandLine) -> None:
    url = f"{node.tls_url}?cafile={certificates.ca}"
    assert on_embedded("ping", url, "--json").json["tls"] == "certificate verified, host name too"
    done = on_embedded("ping", node.tls_url, status=1)
    assert "certificate verify failed" in done.err
    assert "cpspika doctor" in done.err
