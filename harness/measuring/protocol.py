"""What launcher and worker say to each other: one JSON line in, JSON lines out. Standard library only.

-> {"protocol": 3, "case": {"workload": "line", …}, "round": 0, "seeds": 64, "cpus": [1], "threads": 1, …}
<- {"event": "hello", "protocol": 3}
<- {"event": "phase", "phase": "import"}          see PHASES
<- {"event": "begin"}                             a block is about to be timed
<- {"event": "end", "ns": 10000000}               and was, in so long: the parent has a clock of its own
<- {"event": "record", "record": {"outcome": "ok", …}}
"""

import json
import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from harness.plan.case import Case
from harness.plan.presets import QUICK, Sampling

PROTOCOL = 3
# In this order; convergence and floor only where seeds were asked for.
PHASES = ("start", "import", "setup", "first_call", "gate", "timing", "gate_after", "convergence", "end", "floor")


@dataclass(frozen=True)
class Request:
    """What one worker process is to do.

    seeds: convergence is measured over seeds 0 … seeds-1; 0 leaves it out. sampling: how long it is timed. cpus: where
    to run, all ranks together; none leaves it to the system. threads: torch's intra-op threads in each process; None
    leaves them to torch. fast_core_ns: what `measuring.core` takes on a fast core, by the processes before; None before
    the first.
    """

    case: Case
    round: int
    seeds: int
    sampling: Sampling = QUICK
    cpus: tuple[int, ...] = ()
    threads: int | None = None
    fast_core_ns: float | None = None

    def to_line(self) -> str:
        """Return the request as its JSON line."""
        return json.dumps({"protocol": PROTOCOL, **asdict(self), "case": self.case.to_json()}) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read `to_line`'s line; raises ValueError for another protocol."""
        fields = json.loads(line)
        protocol = fields.pop("protocol")
        if protocol != PROTOCOL:
            raise ValueError(f"this worker speaks protocol {PROTOCOL}, the request {protocol}")
        request = cls(**fields)
        return replace(
            request,
            case=Case.from_json(fields["case"]),
            sampling=Sampling(**fields["sampling"]),
            cpus=tuple(fields["cpus"]),
        )


class EventStream:
    """The worker's end of the event stream: whole lines, written at once and unbuffered."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        line = memoryview((json.dumps({"event": event, **fields}) + "\n").encode())
        while line:
            line = line[os.write(self._descriptor, line) :]

    def block(self, at: str, taken_ns: int) -> None:
        """Write that a block begins or has ended (`begin`, `end`), quickly: this goes around every block."""
        line = b'{"event": "begin"}\n' if at == "begin" else b'{"event": "end", "ns": %d}\n' % taken_ns
        os.write(self._descriptor, line)


def claim_stdout() -> EventStream:
    """Keep stdout for events and point descriptor 1 at stderr, so that nothing torch prints can spoil the stream."""
    events = EventStream(os.dup(1))
    os.dup2(2, 1)
    return events
