"""Where RabbitMQ is installed: on this system, or in the root file system of another.

CPSPIKA_RABBITMQ_ROOT=DIR names such a root file system, as debootstrap makes one; so one machine runs the tests on
several versions. RabbitMQ's programs run in it by chroot, which needs root. Each has mounts of its own, which end with
it: /proc, /dev, and this system's temporary directory at the same path. A path in that directory is the same in both.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

_SERVERS = "usr/lib/rabbitmq/lib"
_TOOLS = ("erl", "epmd", "erl_call")

# $0: the root file system. $1: the temporary directory. $2: where the command, the rest, begins.
_ENTER = """
set -e
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mkdir -p "$0$1"
mount --bind "$1" "$0$1"
shift
exec chroot "$0" sh -c 'cd "$0" && exec "$@"' "$@"
"""


class Root:
    """The root file system that RabbitMQ's programs see. `directory`: None for this system's own."""

    def __init__(self, directory: str | None = None) -> None:
        self.directory = directory

    @classmethod
    def chosen(cls) -> Root:
        """The one of CPSPIKA_RABBITMQ_ROOT, or this system's."""
        return cls(os.environ.get("CPSPIKA_RABBITMQ_ROOT") or None)

    def outside(self, path: Path) -> Path:
        """The path, as this process sees it, of what RabbitMQ's programs see at `path`."""
        return path if self.directory is None else Path(self.directory, *path.parts[1:])

    def server(self) -> Path | None:
        """The newest installed server, as its programs see it. Its sbin/ has the scripts proper; those of /usr/sbin
        change the user."""
        base = Path(self.directory or "/")
        servers = [path.parent.parent for path in (base / _SERVERS).glob("rabbitmq_server-*/sbin/rabbitmq-server")]
        newest = max(servers, key=lambda root: [int(part) for part in re.findall(r"\d+", root.name)], default=None)
        return newest and Path("/", newest.relative_to(base))

    def lacks(self) -> str:
        """What there is not of RabbitMQ; "" if all is there."""
        where = f" in {self.directory}" if self.directory else ""
        if self.server() is None:
            return f"Debian's package rabbitmq-server is not installed{where}"
        path = self.path()
        if self.directory is not None:
            path = os.pathsep.join(str(self.outside(Path(each))) for each in path.split(os.pathsep))
            if os.geteuid() != 0:
                return f"chroot to {self.directory} needs root"
        missing = [tool for tool in _TOOLS if shutil.which(tool, path=path) is None]
        return f"{', '.join(missing)} not found{where}" if missing else ""

    def path(self) -> str:
        """The variable PATH of RabbitMQ's programs."""
        system = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return system if self.directory is not None else os.environ.get("PATH", "") + ":" + system

    def command(self, command: list[str], cwd: Path) -> list[str]:
        """The command that runs `command` there. Each part of it replaces the one before, so that the process is the
        same."""
        if self.directory is None:
            return command
        enter = ["unshare", "--mount", "--", "sh", "-c", _ENTER, os.path.abspath(self.directory)]
        return [*enter, tempfile.gettempdir(), str(cwd), *command]
