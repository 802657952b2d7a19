"""Reads CPU, wall time and memory of this process around a section."""

from __future__ import annotations

import cProfile
import re
import resource
import sys
import time
from pathlib import Path

import psutil

from .job import Job, Measure, Sample

_STATUS = Path("/proc/self/status")


def cpu() -> float:
    """User and system seconds of this process, with all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory() -> int:
    """The peak of resident memory so far, in bytes. On Linux ru_maxrss survives exec, so it would give the parent's
    memory if that was larger. VmHWM is this program's own."""
    if _STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text("ascii"))
        if found:
            return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Meter:
    """Call `start` and `stop` once each. Make it when the client is connected: memory counts from then."""

    def __init__(self, job: Job):
        self._job = job
        self._broker = psutil.Process(job.broker_pid) if job.broker_pid else None
        self._profile = cProfile.Profile() if job.profile else None
        self._samples: list[Sample] = []
        self._memory = peak_memory()
        self.result: Measure | None = None

    def start(self) -> None:
        self._broker_cpu = self._read_broker()
        if self._profile:
            self._profile.enable()
        self._wall, self._cpu = time.perf_counter(), cpu()

    def sample(self, count: int) -> None:
        self._samples.append(Sample(count, cpu() - self._cpu, psutil.Process().memory_info().rss))

    def stop(self) -> None:
        used, wall = cpu() - self._cpu, time.perf_counter() - self._wall
        if self._profile:
            self._profile.disable()
            self._profile.dump_stats(self._job.profile)
        broker = self._read_broker() - self._broker_cpu if self._broker else None
        memory = peak_memory() - self._memory
        self.result = Measure(self._job.count, used, wall, memory, broker, self._samples)

    def _read_broker(self) -> float:
        if self._broker is None:
            return 0.0
        times = self._broker.cpu_times()
        return float(times.user + times.system)
