"""The program, timing so briefly that its times mean little: `python -m tests.short run …`.

For tests of what it says of a run and does with it, each of which has real workers to wait for.
"""

from typing import Any

from harness.plan import presets

BRIEF: Any = {"quick": presets.Preset(rounds=3, sampling=presets.Sampling(relative_width=0.1, budget_ns=200_000_000))}

if __name__ == "__main__":
    presets.PRESETS = BRIEF  # before a sweep is made of it
    from harness.cli import main

    main()
