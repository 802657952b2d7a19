"""A private RabbitMQ cluster for tests: nodes on loopback, joined, each with ports and data of its own.

    with RabbitCluster(3) as cluster:
        connect(cluster.urls, recovery=True)
        cluster.nodes[0].kill()
        cluster.nodes[0].start()

A node is a RabbitNode, so `shutdown`, `kill`, `start` and `restart` are as there. In addition it can be suspended,
isolated from the other nodes, and put in maintenance. The nodes share a cookie and the epmd of the first one, which
runs until the cluster is stopped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from types import TracebackType

from tests.support.rabbitmq import RabbitNode

# A node that does not answer for this time (plus or minus a quarter) is taken for dead by the others. RabbitMQ has 60.
TICK_SECONDS = 8


class ClusterNode(RabbitNode):
    """A node of a cluster. `first`: the node to join; None for the first one itself."""

    _erl_args = f"+S 1:1 -kernel net_ticktime {TICK_SECONDS}"  # three nodes share the cores of one machine

    def __init__(self, first: ClusterNode | None = None, config: str = "") -> None:
        super().__init__()
        self._first = first
        # A node that lost the others stops serving until they are back, as RabbitMQ advises for three nodes.
        settings = ["{cluster_partition_handling, pause_minority}"]
        if first is not None:
            self._cookie, self._epmd_port = first._cookie, first._epmd_port
            # Only a node without data looks at this: it joins as it starts.
            settings.append(f"{{cluster_nodes, {{['{first.name}', '{self.name}'], disc}}}}")
        self._config = ", ".join([*settings, *([config] if config else [])])

    def _start_epmd(self) -> None:
        if self._first is None:
            super()._start_epmd()

    @property
    def is_running(self) -> bool:
        """Whether there is a process; it may be suspended."""
        return self._broker is not None

    def suspend(self) -> None:
        """SIGSTOP: connections stay, the kernel accepts new ones, and nothing answers. The other nodes take it for dead
        after about TICK_SECONDS."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def isolate(self, others: list[ClusterNode]) -> None:
        """Cut its links to the other nodes, and let none be made again: their cookies no longer match. (A link that is
        only disconnected is made again at once.) Clients still reach it."""
        for other in others:
            self.eval(f"erlang:set_cookie('{other.name}', isolated), erlang:disconnect_node('{other.name}')")

    def rejoin(self, others: list[ClusterNode]) -> None:
        """End what `isolate` did."""
        for other in others:
            self.eval(f"erlang:set_cookie('{other.name}', '{self._cookie}')")
        for other in others:
            self.eval(f"net_adm:ping('{other.name}')")

    def drain(self) -> None:
        """Maintenance: clients get connection.close 320, new ones are refused, leaders of queues move away."""
        self._upgrade("drain")

    def revive(self) -> None:
        """End the maintenance."""
        self._upgrade("revive")

    def _upgrade(self, command: str) -> None:
        self._run([str(self._dir / "server" / "sbin" / "rabbitmq-upgrade"), command], "", 120.0)


class RabbitCluster:
    """`size` nodes, joined. `config`: more settings of the application `rabbit` of each node, in Erlang."""

    def __init__(self, size: int = 3, config: str = "") -> None:
        first = ClusterNode(config=config)
        self.nodes = [first, *(ClusterNode(first, config) for _ in range(size - 1))]

    @property
    def urls(self) -> list[str]:
        """The targets of a client: all nodes."""
        return [node.url for node in self.nodes]

    def others(self, node: ClusterNode) -> list[ClusterNode]:
        return [each for each in self.nodes if each is not node]

    def start(self) -> None:
        """Start one node after the other; each joins as it starts."""
        try:
            for node in self.nodes:
                node.start()
            self.await_joined()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything at once and remove all data. A second call does nothing."""
        for node in reversed(self.nodes):  # the first one has the epmd
            node.stop()

    def await_joined(self, seconds: float = 120.0) -> None:
        """Wait until RabbitMQ runs on every node as each of them sees it, and no node sees a partition."""
        running = "[N || N <- [node() | nodes()], rpc:call(N, rabbit, is_running, []) =:= true]"
        wanted = "{" + ",".join(["[" + ",".join(sorted(node.name for node in self.nodes)) + "]", "[]"]) + "}"
        for node in self.nodes:
            seen = _Seen(node, f"{{lists:sort({running}), rabbit_node_monitor:partitions()}}")
            until(seen.equals(wanted), seconds, seen.message)

    def leader(self, queue: str) -> ClusterNode | None:
        """The node that has the leader of a quorum queue of the default virtual host, as a living node sees it."""
        for node in self.nodes:
            if node.is_running:
                with contextlib.suppress(RuntimeError):
                    text = node.eval(f"ra_leaderboard:lookup_leader('%2F_{queue}')", 10.0)
                    for each in self.nodes:
                        if each.name in text:
                            return each
        return None

    def move_leader(self, queue: str, to: ClusterNode) -> None:
        """Make a node the leader of a quorum queue of the default virtual host."""
        leader = self.leader(queue)
        assert leader is not None
        member = f"'%2F_{queue}'"
        leader.eval(f"ra:transfer_leadership({{{member}, node()}}, {{{member}, '{to.name}'}})")
        until(lambda: self.leader(queue) is to, 30.0, lambda: f"the leader of {queue} is not on {to.name}")

    def __enter__(self) -> RabbitCluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Seen:
    """An expression of Erlang that is evaluated in a node until it has a value."""

    def __init__(self, node: ClusterNode, expression: str) -> None:
        self._node, self._expression, self._last = node, expression, ""

    def equals(self, wanted: str) -> Callable[[], bool]:
        def look() -> bool:
            try:
                self._last = self._node.eval(self._expression)
            except RuntimeError as error:  # it restarts RabbitMQ, for example
                self._last = str(error)
            return "".join(self._last.replace("'", "").split()) == wanted

        return look

    def message(self) -> str:
        return f"{self._node.name} sees {self._last}"


def until(true: Callable[[], bool], seconds: float, missing: Callable[[], str]) -> None:
    """Wait for a condition. TimeoutError: it did not come within the time; `missing` says what is lacking."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{missing()}, after {seconds:g} s")
        time.sleep(0.1)
