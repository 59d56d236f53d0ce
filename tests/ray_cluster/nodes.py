"""A Ray cluster on this machine, each node with processes of its own: `python tests/ray_cluster/nodes.py`.

A line of JSON on stdin asks for something, one on stdout answers: `{"add": {...}}` begins a node, with the CPUs that it
may use, how many it lends, and what goes before its import path; `{"kill": KEY}` kills all of its processes at once. It
ends with stdin.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

from ray.cluster_utils import Cluster


def main() -> None:
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray prints there
    cluster = Cluster()
    nodes = {}
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            if "add" in asked:
                node = add(cluster, **asked["add"])
                nodes[node.node_id] = node
                answer = {"key": node.node_id, "address": cluster.address}
            else:
                node = nodes.pop(asked["kill"])
                kill(node.all_processes["raylet"][0].process.pid)
                cluster.remove_node(node, allow_graceful=False)
                answer = {}
            print(json.dumps(answer), file=answers, flush=True)
    finally:
        cluster.shutdown()


def add(cluster: Cluster, cpus: list[int], lent: int, path: str):
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)  # its processes inherit that: to them it is the machine
    first = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [path, first]))
    try:
        return cluster.add_node(num_cpus=lent, include_dashboard=False, object_store_memory=100 * 2**20)
    finally:
        os.environ["PYTHONPATH"] = first
        os.sched_setaffinity(0, before)


def kill(pid: int) -> None:
    """Kill a process and all that descend from it, as when a machine's power fails."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    for each in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


if __name__ == "__main__":
    main()
