"""One measurement, as the parent hands it to a subprocess and gets it back. Both travel as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True)
class Job:
    """`action`: what to do (a function of the client's style). `queue`: exists; filled for the consuming ones, else
    empty. `warmup`: messages, or calls, before the `count` that are measured. `samples`: how many times to look on the
    way. `broker_pid`: whose CPU to read as well, 0 for nobody's. `profile`: where to write a profile, or ""."""

    action: str
    client: str
    url: str
    queue: str
    count: int
    warmup: int = 0
    size: int = 100
    channels: int = 1
    samples: int = 0
    broker_pid: int = 0
    profile: str = ""

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Job:
        return cls(**json.loads(text))


@dataclass
class Sample:
    """`count` messages into the measured section: the CPU seconds since its start, and resident memory in bytes."""

    count: int
    cpu: float
    memory: int


@dataclass
class Measure:
    """`cpu` and `wall`: seconds of the whole measured section. `memory`: bytes by which the peak of resident memory
    rose from before the scenario to its end. `broker_cpu`: seconds of the broker's, None where it wasn't asked for."""

    count: int
    cpu: float
    wall: float
    memory: int
    broker_cpu: float | None = None
    samples: list[Sample] = field(default_factory=list)

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Measure:
        values = json.loads(text)
        samples = [Sample(**sample) for sample in values.pop("samples", [])]
        return cls(**values, samples=samples)
