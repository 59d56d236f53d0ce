"""Where the wall time of a run went, from its `measurements`."""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Part:
    """A part of the wall time. measuring: whether it is what the run is for: timed blocks and cold compiles."""

    name: str
    seconds: float
    measuring: bool = False


def profile(measurements: pd.DataFrame, wall_s: float) -> list[Part]:
    """Return the parts that `wall_s` seconds of a run consist of; they add up to it.

    measurements: those made in that time.
    """

    def total(*names: str) -> float:
        return float(measurements[list(names)].sum().sum()) / 1e9

    # A first call that compiled nothing, or found everything in the cache, is not what was wanted to know.
    cold = total("first_call_cold_ns")
    parts = [
        Part("timed blocks", total("timed_ns"), measuring=True),
        Part("cold compiles", cold, measuring=True),
        Part("interpreter starts", total("phase_start_ns")),
        Part("importing torch", total("phase_import_ns")),
        Part("setup", total("phase_setup_ns")),
        Part("warm first calls", total("phase_first_call_ns") - cold),
        Part("gate", total("phase_gate_ns", "phase_gate_after_ns", "phase_end_ns")),
        Part("pilot, warm-up and between blocks", total("phase_timing_ns") - total("timed_ns")),
        Part("convergence", total("phase_convergence_ns")),
        Part("floor", total("phase_floor_ns")),
        Part("exits", total("phase_exit_ns")),
    ]
    # Tables, journal, starting and ending processes.
    return [*parts, Part("waiting", wall_s - sum(part.seconds for part in parts))]
