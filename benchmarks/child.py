"""`python -m benchmarks.child JOB`: does one job, alone in its process, and prints the measure as JSON."""

from __future__ import annotations

import sys

from .clients import CLIENTS
from .job import Job


def main() -> None:
    job = Job.load(sys.argv[1])
    print(CLIENTS[job.client].make().perform(job).dump())


if __name__ == "__main__":
    main()
