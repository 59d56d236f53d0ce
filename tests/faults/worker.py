"""A worker that measures nothing: it answers at once, with a time, and with convergence where that is asked for.

Its process id becomes the name of an empty file in the folder of its first argument.
"""

import ctypes
import json
import os
import signal
import sys
import time

folder, protocol, takes_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
os.close(os.open(f"{folder}/{os.getpid()}", os.O_CREAT | os.O_WRONLY))


def send(event: str, **fields: object) -> None:
    os.write(1, (json.dumps({"event": event, **fields}) + "\n").encode())


send("hello", protocol=protocol)
request = json.loads(sys.stdin.readline())
for phase in ("import", "setup"):
    send("phase", phase=phase)
time.sleep(takes_s)
# Some kilobytes, as many as a real record has: a line of the journal is more than one block of a disk.
step_ns = 1e6 if request["case"]["engine"] == "autograd" else 1e4  # every target is met
record = {"outcome": "ok", "reason": "", "threads": 1, "step_ns": step_ns, "note": "1234567" * 800}
if request["seeds"]:
    seed = {"updates": 20, "loss": 0.02, "accuracy": 1.0, "r2": 0.98, "converged": True, "epochs_to_target": 12}
    record["convergence"] = [{"seed": number, **seed} for number in range(request["seeds"])]
    record["convergence_targets"] = {
        "max_loss": 0.1,
        "min_accuracy": 0.9,
        "min_converged_share": 0.75,
        "max_median_loss": 0.05,
        "min_median_accuracy": 0.9,
    }
send("record", record=record)
