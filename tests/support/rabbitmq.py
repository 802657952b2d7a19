"""A private RabbitMQ node for tests and benchmarks.

    with RabbitNode() as node:
        connect(node.url)
        node.eval('rabbit_vhost:add(<<"other">>, <<"me">>)')

The node and its own epmd are child processes on free loopback ports, with everything they write (data, log,
cookie) in a temporary directory: the machine's own broker, epmd and ~/.erlang.cookie are neither used nor
touched. Nothing is found or ended by name; what was started is ended by its id, even if SIGKILL ends the test
process. CPSPIKA_RABBITMQ_ROOT=DIR takes RabbitMQ from another root file system; see rabbitmq_root.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from tests.support.rabbitmq_root import Root

Process = subprocess.Popen[bytes]
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
START_SECONDS = 120.0  # a start costs about 5 s of CPU, which a busy machine may take long to give
STOP_SECONDS = 30.0

# Only the test process has the other end of the pipe that it reads, so the pipe ends when that process does,
# however that was; a line names the groups to end then. (A parent-death signal comes with a thread's end.)
_WATCH = 'groups=; while read -r g; do groups=$g; done; kill -s KILL -- $groups; sleep 1; rm -rf -- "$0"'


def _free_ports(count: int) -> list[int]:
    """Ports free on loopback, below the ephemeral range: no outgoing connection takes one in a restart."""
    held: list[socket.socket] = []
    try:
        for port in random.SystemRandom().sample(range(12000, 32000), 2000):
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                sock.close()
                continue
            held.append(sock)
            if len(held) == count:
                return [sock.getsockname()[1] for sock in held]
    finally:
        for sock in held:
            sock.close()
    raise RuntimeError(f"no {count} free ports on 127.0.0.1")


def _applications(root: Path) -> list[Path]:
    """The directories of `rabbit` and of what it needs, from the .app files: a third of those in plugins/."""
    found: dict[str, Path] = {}
    wanted = ["rabbit"]
    while wanted:
        name = wanted.pop()
        for app in () if name in found else root.glob(f"plugins/{name}-*/ebin/{name}.app"):
            found[name] = app.parent.parent
            text = re.sub(r"%.*", "", app.read_text("utf-8"))
            match = re.search(r"{\s*applications\s*,\s*\[(.*?)]", text, re.S)
            wanted += re.findall(r"\w+", match[1]) if match else []
    return list(found.values())


def _session_members(session: int) -> list[int]:
    """Its processes, zombies apart. A child that made a group of its own (erl_child_setup) is still in it."""
    members = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", entry, "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                if int(fields[3]) == session and fields[0] not in "ZX":
                    members.append(int(entry))
    return members


class RabbitNode:
    """One node. `start` after `shutdown` or `kill` finds the same ports and data; `stop` removes everything.

    `tls`: paths of (CA certificate, server certificate, server key), which add a TLS listener.
    `config`: more settings of the application `rabbit`, in Erlang: `"{heartbeat, 5}, {channel_max, 8}"`.
    """

    host = "127.0.0.1"
    _erl_args = "+S 2:2"  # two schedulers: benchmarks keep a core

    def __init__(self, tls: tuple[str, str, str] | None = None, config: str = "") -> None:
        self._tls, self._config = tls, config
        self._root = Root.chosen()
        self.port, self.tls_port, self._dist_port, self._epmd_port = _free_ports(4)
        self.name = f"cpspika-{secrets.token_hex(4)}@localhost"
        self._cookie = secrets.token_hex(16)
        self._directory: Path | None = None
        self._epmd: Process | None = None
        self._broker: Process | None = None
        self._watch: Process | None = None
        self._owner = 0

    @staticmethod
    def available() -> bool:
        """Whether a broker is to be started here: Debian's rabbitmq-server, and Erlang's tools. CPSPIKA_RABBITMQ=0 says
        no, to see what a machine without them sees. A root file system that was named is taken to have them: if not,
        the start says what is missing."""
        if os.environ.get("CPSPIKA_RABBITMQ") == "0":
            return False
        root = Root.chosen()
        return root.directory is not None or not root.lacks()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/%2F"

    @property
    def tls_url(self) -> str:
        if self._tls is None:
            raise RuntimeError("this node has no TLS listener: RabbitNode(tls=(ca, cert, key))")
        return f"amqps://guest:guest@localhost:{self.tls_port}/%2F"

    @property
    def pid(self) -> int:
        """The process id of the running broker (the Erlang VM itself), for SIGSTOP and the like."""
        if self._broker is None:
            raise RuntimeError("the node is not running")
        return self._broker.pid

    def log(self) -> str:
        """What the node has printed and logged so far."""
        directory = self._directory or Path("/nonexistent")
        files = [directory / "output", directory / "rabbit.log"]
        return "".join(file.read_text("utf-8", "replace") for file in files if file.exists())

    # -- life

    def start(self) -> None:
        """Start, and wait until the port answers a protocol header with connection.start."""
        if self._broker is not None:
            raise RuntimeError("the node is running already")
        try:
            if self._directory is None:
                self._prepare()
            self._broker = self._spawn([str(self._dir / "server" / "sbin" / "rabbitmq-server")], "output")
            self._await_ready(time.monotonic() + START_SECONDS)
        except BaseException:
            self.stop()
            raise

    def shutdown(self) -> None:
        """End the broker in good order (clients get connection.close 320); data and ports are kept."""
        if self._broker is not None:
            self._broker.terminate()
            try:
                self._broker.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                tail = self._tail()
                self.kill()
                raise TimeoutError(f"RabbitMQ still runs {STOP_SECONDS:g} s after SIGTERM{tail}") from None
            self.kill()  # whatever it left

    def kill(self) -> None:
        """End the broker at once, as a crash or a power cut would; data and ports are kept."""
        broker, self._broker = self._broker, None
        if broker is not None:
            self._end(broker)
            self._tell_watch()

    def restart(self) -> None:
        """Shut down and start: the same ports, and what was durable."""
        self.shutdown()
        self.start()

    def stop(self) -> None:
        """End everything at once and remove all data. A second call, or a forked child's, does nothing."""
        if self._directory is None or self._owner != os.getpid():
            return
        atexit.unregister(self.stop)
        self.kill()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            self._end(epmd)
        watch, self._watch = self._watch, None
        if watch is not None:
            self._end(watch)  # by SIGKILL before its pipe is closed: it is to do nothing any more
            assert watch.stdin is not None
            watch.stdin.close()
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory = None

    def __enter__(self) -> RabbitNode:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- control

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """rabbitmqctl's output. It takes a second (Elixir); prefer `eval`."""
        return self._run([str(self._dir / "server" / "sbin" / "rabbitmqctl"), *args], "", timeout)

    def eval(self, expression: str, timeout: float = 30.0) -> str:
        """The value, as Erlang prints it, of expressions ("A = f(), g(A)") evaluated in the node.

        It takes milliseconds. An exception of theirs is a RuntimeError here.
        """
        # erl_call prints terms in a shorthand of its own, so the node writes the value to a file.
        result = self._dir / f"eval-{secrets.token_hex(4)}"
        source = "".join(c if c.isascii() else f"\\x{{{ord(c):x}}}" for c in expression)  # it reads Latin-1
        script = (
            f"Result__ = try [ok, begin {source} end] catch Class__:Why__ -> [Class__, Why__] end, "
            'Text__ = unicode:characters_to_binary(io_lib:format("~s ~0tp", Result__)), '
            f'file:write_file("{result}", Text__).\n'
        )
        output = self._call_erlang(script, time.monotonic() + timeout)
        try:
            kind, _, value = result.read_text("utf-8").partition(" ")
        except FileNotFoundError:
            kind, value = "error", output
        result.unlink(missing_ok=True)
        if kind != "ok":
            raise RuntimeError(f"{expression}: {kind} {value}")
        return value

    def _call_erlang(self, script: str, deadline: float) -> str:
        """erl_call soon gives up to connect, as on a busy machine. Nothing was evaluated then: it is tried again."""
        while True:
            try:
                return self._run(["erl_call", "-sname", self.name, "-e"], script, max(1.0, deadline - time.monotonic()))
            except RuntimeError as error:
                running = self._broker is not None and self._broker.poll() is None
                if "failed to connect to node" not in str(error) or not running or time.monotonic() > deadline:
                    raise

    def add_user(self, name: str, password: str, vhost: str | None = "/") -> None:
        """A user with all permissions in one virtual host, or with none at all (`vhost=None`)."""
        self.eval(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{password}">>, <<"test">>)')
        if vhost is not None:
            self._permit(name, vhost)

    def add_vhost(self, name: str) -> None:
        """A virtual host that guest may use."""
        self.eval(f'rabbit_vhost:add(<<"{name}">>, <<"guest">>)')
        self._permit("guest", name)

    def _permit(self, user: str, vhost: str) -> None:
        arguments = ", ".join(f'<<"{text}">>' for text in (user, vhost, ".*", ".*", ".*", "test"))
        self.eval(f"rabbit_auth_backend_internal:set_permissions({arguments})")

    def memory_alarm(self, on: bool) -> None:
        """Set or clear the memory alarm: connections that publish get connection.blocked, then unblocked."""
        # The alarm is told to the connections by rabbit_alarm, which answers when it has done so. A publish that came
        # before would not be blocked.
        watermark = "1.0e-6" if on else "0.9"
        told = "gen_event:which_handlers(rabbit_alarm)"
        self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({watermark}), {told}")

    def close_connections(self, reason: str) -> None:
        """Let the broker close all client connections (320, "CONNECTION_FORCED - reason")."""
        each = "C <- rabbit_networking:connections()"
        deadline = time.monotonic() + STOP_SECONDS
        # The node may list a connection a moment after it has opened it.
        while self.eval(f'[rabbit_networking:close_connection(C, "{reason}") || {each}]').strip() == "[]":
            assert time.monotonic() < deadline, "the node lists no connection to close"

    # -- inside

    @property
    def _dir(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the node is not running")
        return self._directory

    def _prepare(self) -> None:
        """The directory, the watch and epmd."""
        installed, lacking = self._root.server(), self._root.lacks()
        if installed is None or lacking:
            raise RuntimeError(f"no RabbitMQ here: {lacking}")
        directory = self._directory = Path(tempfile.mkdtemp(prefix="cpspika-rabbitmq-"))
        self._owner = os.getpid()
        atexit.register(self.stop)
        cookie = directory / ".erlang.cookie"
        cookie.write_text(self._cookie, "ascii")
        cookie.chmod(0o400)  # Erlang refuses a cookie that others can read
        # No resolver: DNS takes time, and its helper process (inet_gethost) is one more to end.
        (directory / "inetrc").write_text('{lookup, [file]}.\n{host, {127,0,0,1}, ["localhost"]}.\n', "ascii")
        (directory / "enabled_plugins").write_text("[].\n", "ascii")
        for path in self._tls or ():  # the node may not see where they are
            shutil.copy(path, directory)
        (directory / "rabbit.config").write_text(self._rabbit_config(), "utf-8")
        # The scripts put every directory of the plugins/ beside them on the code path, and Erlang tries them
        # all for each module that it loads. A server directory with only what is needed halves the start.
        (directory / "server" / "plugins").mkdir(parents=True)
        for part in ("sbin", "escript"):
            (directory / "server" / part).symlink_to(installed / part)
        for app in _applications(self._root.outside(installed)):
            (directory / "server" / "plugins" / app.name).symlink_to(installed / "plugins" / app.name)
        self._watch = self._spawn(["sh", "-c", _WATCH, str(directory)], "watch.output", stdin=subprocess.PIPE)
        self._start_epmd()
        self._tell_watch()

    def _start_epmd(self) -> None:
        self._epmd = self._spawn(["epmd"], "epmd.output")

    def _rabbit_config(self) -> str:
        # Erlang terms rather than the newer format, whose parser adds a second to the start.
        settings = [
            f'{{tcp_listeners, [{{"{self.host}", {self.port}}}]}}',
            "{num_tcp_acceptors, 2}, {num_ssl_acceptors, 2}",
            "{disk_free_limit, 1000000}",  # a rather full disk is no reason to block publishers
        ]
        if self._tls is not None:
            ca, cert, key = (self._dir / os.path.basename(path) for path in self._tls)
            settings += [
                f'{{ssl_listeners, [{{"{self.host}", {self.tls_port}}}]}}',
                f'{{ssl_options, [{{cacertfile, "{ca}"}}, {{certfile, "{cert}"}}, {{keyfile, "{key}"}}, '
                "{verify, verify_peer}, {fail_if_no_peer_cert, false}]}",
            ]
        settings += [self._config] if self._config else []
        return "[{rabbit, [" + ", ".join(settings) + "]}].\n"

    def _environment(self) -> dict[str, str]:
        """All of it: no RABBITMQ_ or ERL_ variable of the machine's own broker may leak in."""
        directory = self._dir
        erl_args = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": self._root.path(),
            "LANG": "C.UTF-8",
            "HOME": str(directory),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_INETRC": str(directory / "inetrc"),
            "ERL_CRASH_DUMP_BYTES": "0",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the VM, and is not its parent
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbit.config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "none.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
            "RABBITMQ_PLUGINS_DIR": str(directory / "server" / "plugins"),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_MNESIA_DIR": str(directory / "mnesia" / "node"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_LOG_BASE": str(directory),
            "RABBITMQ_LOGS": str(directory / "rabbit.log"),
            # Schedulers that don't spin: idle, the node costs nothing.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{erl_args} {self._erl_args} +SDcpu 1 +SDio 2 +sbwt none",
            "RABBITMQ_CTL_ERL_ARGS": erl_args,
            "RABBITMQ_CTL_DIST_PORT_MIN": "12000",
            "RABBITMQ_CTL_DIST_PORT_MAX": "31999",
        }

    def _spawn(self, command: list[str], output: str, stdin: int = subprocess.DEVNULL) -> Process:
        """A child leading its own session: one id names all it starts, and a terminal's Ctrl-C spares it."""
        with open(self._dir / output, "ab") as file:
            return subprocess.Popen(
                self._root.command(command, self._dir),
                stdin=stdin,
                stdout=file,
                stderr=file,
                env=self._environment(),
                cwd=self._dir,
                start_new_session=True,
            )

    def _end(self, process: Process) -> None:
        """SIGKILL a child and all of its session, and see them gone."""
        deadline = time.monotonic() + STOP_SECONDS
        process.kill()
        process.wait()
        while members := _session_members(process.pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {members} of {process.args!r} survive SIGKILL")
            for member in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            time.sleep(0.005)

    def _tell_watch(self) -> None:
        """Each line is the whole list, so a group that has ended (its number may be reused) is off it."""
        if self._watch is not None and self._watch.stdin is not None:
            groups = [f"-{process.pid}" for process in (self._epmd, self._broker) if process is not None]
            with contextlib.suppress(BrokenPipeError):
                os.write(self._watch.stdin.fileno(), (" ".join(groups) + "\n").encode())

    def _await_ready(self, deadline: float) -> None:
        self._tell_watch()
        assert self._broker is not None
        missing = "nothing listens"
        while time.monotonic() < deadline:
            if self._broker.poll() is not None:
                status = self._broker.returncode
                raise RuntimeError(f"RabbitMQ ended while starting, status {status}{self._tail()}")
            try:
                with socket.create_connection((self.host, self.port), timeout=1) as sock:
                    missing = "no connection.start came"
                    sock.settimeout(max(0.1, deadline - time.monotonic()))
                    sock.sendall(PROTOCOL_HEADER)
                    if sock.recv(1) == b"\x01":  # a method frame
                        return
            except OSError:
                pass
            time.sleep(0.02)
        where = f"at {self.host}:{self.port} after {START_SECONDS:g} s"
        raise TimeoutError(f"RabbitMQ: {missing} {where}{self._tail()}")

    def _tail(self) -> str:
        return "; the end of its log:\n" + "\n".join(self.log().splitlines()[-30:])

    def _run(self, command: list[str], text: str, timeout: float) -> str:
        done = subprocess.run(
            self._root.command(command, self._dir),
            input=text,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=timeout,
            env=self._environment(),
            cwd=self._dir,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr}{done.stdout}")
        return done.stdout
