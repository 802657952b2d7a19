"""The waker: it wakes, is harmless once it is closed, and leaves nothing behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
import threading

import pytest

from cpspika.adapters.waker import Waker
from tests.support import ROOT
from tests.support.waiting import DEADLINE


def readable(waker: Waker) -> bool:
    return bool(select.select([waker.fileno()], [], [], 0)[0])


def test_it_is_readable_from_a_wake_to_the_drain() -> None:
    waker = Waker()
    assert not readable(waker)
    for _ in range(3):
        waker.wake()
    assert readable(waker)
    waker.drain()
    assert not readable(waker)
    waker.close()


def test_a_hundred_thousand_wakes_neither_block_nor_fail() -> None:
    waker = Waker()
    for _ in range(100_000):
        waker.wake()
    assert readable(waker)
    for _ in range(100):  # the bytes in a TCP socket's buffer for sending come later
        if readable(waker):
            waker.drain()
    assert not readable(waker)
    waker.close()


def test_once_it_is_closed_it_touches_no_file_that_has_its_number() -> None:
    waker = Waker()
    waker.close()
    ends = [os.pipe() for _ in range(3)]
    waker.wake()
    waker.drain()
    waker.close()
    assert waker.fileno() == -1
    assert not select.select([reader for reader, _ in ends], [], [], 0)[0]
    for pair in ends:
        for end in pair:
            os.close(end)


def test_the_child_of_a_fork_closes_its_copy_though_a_thread_of_the_parent_held_the_lock() -> None:
    waker, held, leave = Waker(), threading.Event(), threading.Event()

    def hold() -> None:
        with waker._lock:
            held.set()
            leave.wait(DEADLINE)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(DEADLINE)
    closing = threading.Thread(target=waker.forked, daemon=True)
    closing.start()
    closing.join(DEADLINE / 2)
    assert not closing.is_alive(), "it waits for the lock"
    assert waker.fileno() == -1
    leave.set()
    holder.join()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system doesn't show a process's files")
def test_a_reactor_that_is_dropped_in_a_cycle_gives_its_files_back_without_a_warning() -> None:
    # In a process of its own, since other tests' threads open and close files meanwhile.
    program = """
        import gc, os
        from cpspika.adapters import BlockingReactor, SelectReactor

        before = len(os.listdir("/proc/self/fd"))
        for kind in (SelectReactor, BlockingReactor):
            reactor = kind()
            reactor.itself = reactor
            del reactor
            gc.collect()
        print(len(os.listdir("/proc/self/fd")) - before)
    """
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


PROGRAMS = {
    "a connection of each facade, left open": """
        kept = [kind("embedded://") for kind in KINDS]
    """,
    "a connection of each facade, closed": """
        for kind in KINDS:
            kind("embedded://").close()
    """,
    "a thread's own reactor": """
        import threading

        thread = threading.Thread(target=lambda: cpspika.SelectConnection("embedded://").close())
        thread.start()
        thread.join()
        gc.collect()
    """,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_ends_warns_of_nothing(program: str) -> None:
    begin = """
        import gc

        import cpspika
        from cpspika.threads import ThreadedConnection

        KINDS = [cpspika.BlockingConnection, cpspika.SelectConnection, ThreadedConnection]
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(begin) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_a_file_descriptor_every_facade_raises_connect_error() -> None:
    resource = pytest.importorskip("resource")
    assert resource
    program = """
        import contextlib, ctypes, os, resource, socket
        import cpspika
        from cpspika.threads import ThreadedConnection

        with contextlib.suppress(OSError):
            ctypes.CDLL("libgcc_s.so.1")  # pthread_exit loads it, which fails without file descriptors
        cpspika.BlockingConnection("embedded://").close()  # what is imported or started at first use, is
        kinds = [cpspika.BlockingConnection, cpspika.SelectConnection, ThreadedConnection]
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for kind in kinds:
            try:
                kind("amqp://127.0.0.1:1")
            except cpspika.ConnectError as error:
                print(kind.__name__, type(error.__cause__).__name__, error.__cause__.errno)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        *("BlockingConnection", "OSError", "24"),
        *("SelectConnection", "OSError", "24"),
        *("ThreadedConnection", "OSError", "24"),
    ]


def test_a_finalizer_at_the_end_of_the_process_does_not_wait_for_a_thread_that_ended_with_the_lock() -> None:
    """The interpreter stops the daemon threads first, wherever they are. So the reactor thread of a
    ThreadedConnection may stop with the lock, and the finalizer of an iterator would then wait for it."""
    program = """
        import os, threading
        from cpspika.adapters.waker import Waker

        waker, held = Waker(), threading.Event()

        class Late:
            def __del__(self, wake=waker.wake, write=os.write):
                wake()
                write(1, b"woke")

        # In a namespace of its own: a thread that never ends keeps its own alive, and "late" would not be collected.
        hold = {"lock": waker._lock, "held": held, "never": threading.Event()}
        exec("def hold():\\n with lock:\\n  held.set()\\n  never.wait()", hold)
        threading.Thread(target=hold["hold"], daemon=True).start()
        held.wait()
        late = Late()
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=20, cwd=ROOT
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "woke", "")
