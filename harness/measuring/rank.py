"""One rank of a case: a worker among others, which torchrun starts (`measuring.torchrun`).

All ranks go through the same phases; the first speaks for all. Its record has the CPUs of all ranks, and memory, page
faults and phases of its own.
"""

import json
import os
import sys
import time
from dataclasses import replace

from harness.measuring.cpus import pin, share_of
from harness.measuring.ending import Record, die_with_parent, run_to_its_end
from harness.measuring.protocol import PROTOCOL, EventStream, Request, claim_stdout
from harness.measuring.worker import Worker
from harness.plan.outcome import Outcome

# Where torchrun's environment has the request of its ranks.
REQUEST = "HARNESS_REQUEST"
# A lost rank makes all others fail. torchrun, which knows which it was, ends them if they give it so much time.
PATIENCE_S = 3.0


def main() -> None:
    """Measure the case of the environment together with the other ranks."""
    die_with_parent()
    rank = int(os.environ["RANK"])
    events = claim_stdout()
    if rank:
        events = EventStream(os.open(os.devnull, os.O_WRONLY))
    events.send("hello", protocol=PROTOCOL)
    request = Request.from_line(os.environ.pop(REQUEST))
    case = request.case
    mine = share_of(request.cpus, rank, case.ranks, request.threads, case.device)
    pin(mine)
    worker = Worker(replace(request, cpus=mine), events, rank=rank, all_cpus=request.cpus)
    foreseen = run_to_its_end(worker.run, worker.record)
    if not foreseen:
        time.sleep(PATIENCE_S)
    if rank == 0:
        events.send("record", record=worker.record.to_json())
    elif foreseen and worker.record.outcome is not Outcome.OK:
        time.sleep(PATIENCE_S)  # the first rank has come to the same end, says so, and has torchrun end this one
    sys.stderr.flush()
    # Whoever waits for this rank in vain is ended by torchrun.
    ok = worker.record.outcome is Outcome.OK
    if rank and not ok:
        _tell_torchrun(worker.record)
    os._exit(0 if ok else 1)


def _tell_torchrun(record: Record) -> None:
    """Leave the reason where torchrun looks for it when a rank exits with code 1."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - the path is torchrun's
            json.dump({"message": f"{record.outcome}: {record.reason}", "timestamp": int(time.time())}, file)


if __name__ == "__main__":
    main()
