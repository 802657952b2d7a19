"""Hardware, system and versions of a run; nothing that names the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import cpspika

from .brokers import Broker
from .clients import C_CLIENT, Client
from .rabbitmq_c import CClient

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _without_directory(argument: str) -> str:
    """The file's name alone: its directory describes the machine, not the measures."""
    name = argument.rpartition("/")[2]
    return f"'{name}'" if " " in name else name


def about(arguments: Iterable[str], clients: Iterable[Client], brokers: Iterable[Broker], c: CClient) -> dict[str, Any]:
    versions = {client.package: _version(client, c) for client in clients}
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *map(_without_directory, arguments)]),
        "cores": os.cpu_count(),
        "processor": processor(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "brokers": {broker.name: broker.version() for broker in brokers},
        "versions": versions,
    }


def _version(client: Client, c: CClient) -> str | None:
    if client.name == C_CLIENT:
        return c.version
    if client.ours:
        return cpspika.__version__
    return metadata.version(client.package)
