"""What launcher and worker say to each other: one JSON line in, JSON lines out. Standard library only.

-> {"protocol": 1, "case": {"workload": "line", …}, "round": 0, "seeds": 64}
<- {"event": "hello", "protocol": 1}
<- {"event": "phase", "phase": "import"}          see PHASES
<- {"event": "record", "record": {"outcome": "ok", …}}
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Self

from harness.plan.case import Case

PROTOCOL = 1
# In this order; convergence only where it was asked for.
PHASES = ("start", "import", "setup", "first_call", "gate", "timing", "gate_after", "convergence")


@dataclass(frozen=True)
class Request:
    """What one worker process is to do.

    seeds: convergence is measured over seeds 0 … seeds-1; 0 leaves it out.
    """

    case: Case
    round: int
    seeds: int

    def to_line(self) -> str:
        """Return the request as its JSON line."""
        fields = {"protocol": PROTOCOL, "case": self.case.to_json(), "round": self.round, "seeds": self.seeds}
        return json.dumps(fields) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read `to_line`'s line; raises ValueError for another protocol."""
        fields = json.loads(line)
        if fields["protocol"] != PROTOCOL:
            raise ValueError(f"this worker speaks protocol {PROTOCOL}, the request {fields['protocol']}")
        return cls(Case.from_json(fields["case"]), fields["round"], fields["seeds"])


class EventStream:
    """The worker's end of the event stream: whole lines, written at once and unbuffered."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, event: str, **fields: Any) -> None:
        """Write one event."""
        line = memoryview((json.dumps({"event": event, **fields}) + "\n").encode())
        while line:
            line = line[os.write(self._descriptor, line) :]


def claim_stdout() -> EventStream:
    """Keep stdout for events and point descriptor 1 at stderr, so that nothing torch prints can spoil the stream."""
    events = EventStream(os.dup(1))
    os.dup2(2, 1)
    return events
