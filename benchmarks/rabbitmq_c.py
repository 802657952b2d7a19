"""The C client: compiled at the start into a temporary directory, if librabbitmq and a compiler are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from .job import Job

SOURCE = Path(__file__).with_suffix(".c")


class CClient:
    """`version`: of librabbitmq, or None. `missing`: the reason why it cannot be measured, or None."""

    def __init__(self, directory: Path):
        self._program = directory / "rabbitmq_c"
        self.version: str | None = None
        self.missing = self._compile()
        if self.missing is None:
            self.version = subprocess.check_output([self._program, "version"], text=True).strip()

    def _compile(self) -> str | None:
        compiler = os.environ.get("CC") or shutil.which("cc")
        if compiler is None:
            return "no C compiler"
        command = [*compiler.split(), "-O2", "-o", str(self._program), str(SOURCE), "-lrabbitmq"]
        done = subprocess.run(command, capture_output=True, text=True)
        return None if done.returncode == 0 else "not compiled: " + (done.stderr.strip().splitlines() or ["?"])[0]

    def command(self, job: Job) -> list[str]:
        where = urlsplit(job.url)
        numbers = map(str, (job.count, job.warmup, job.size))
        return [str(self._program), job.action, where.hostname or "", str(where.port), job.queue, *numbers]
