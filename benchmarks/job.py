"""One measurement: the job for a subprocess, and the measure that it returns. Both go as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Job:
    """`action`: a function of the client's style. `queue`: exists; filled if the action consumes, else empty.
    `warmup`: messages, or calls, before the `count` that are measured. `samples`: readings during the section.
    `rate`: messages a second, 0 for as many as there can be. `broker_pid`: the process whose CPU is read as well, 0 for
    none. `profile`: the file for a profile, or ""."""

    action: str
    client: str
    url: str
    queue: str
    count: int
    warmup: int = 0
    size: int = 100
    channels: int = 1
    samples: int = 0
    rate: int = 0
    broker_pid: int = 0
    profile: str = ""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Job:
        return cls(**json.loads(text))


@dataclass
class Sample:
    """A reading after `count` messages of the section: `cpu`, seconds since its start; `memory`, resident bytes."""

    count: int
    cpu: float
    memory: int


@dataclass
class Measure:
    """`cpu` and `wall`: seconds of the whole measured section. `memory`: the rise of the peak of resident memory
    from before the scenario to its end, in bytes. `broker_cpu`: seconds of the broker, None if it was not read.
    `latencies`: seconds by percentile ("99.9"), empty if they were not measured."""

    count: int
    cpu: float
    wall: float
    memory: int
    broker_cpu: float | None = None
    samples: list[Sample] = field(default_factory=list)
    latencies: dict[str, float] = field(default_factory=dict)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Measure:
        values = json.loads(text)
        samples = [Sample(**sample) for sample in values.pop("samples", [])]
        return cls(**values, samples=samples)
