"""The worker that also looks inside: one case in, one record out, with `inside` beside its times.

`python -m harness.measuring.explainer` is started and spoken to like `harness.measuring.worker`.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING

from harness.measuring.worker import Worker, main

if TYPE_CHECKING:
    from harness.measuring.worker import Prepared

STEPS = 20


class Explainer(Worker):
    """Goes through a worker's phases up to its times, and then through the profiler."""

    def _look(self, prepared: "Prepared") -> None:
        """Put what happens inside an update into the record."""
        from harness.measuring.inside import look_inside
        from harness.training.members import all_members, count

        self._phase("inside")
        updates, trial = all_members(prepared.updates, prepared.trial)
        device, made = prepared.device, count(prepared.updates)
        steps = min(STEPS, trial.max_steps() or STEPS)
        inputs, targets = trial.batches(steps)

        def run() -> None:
            updates(inputs, targets)
            device.synchronize()

        updates.load(trial.parameters)
        run()
        try:
            self.record.facts["inside"] = asdict(look_inside(run, steps * made, inputs.device))
        except RuntimeError as error:
            self.record.facts["inside_note"] = f"the profiler does not work here: {error}".splitlines()[0]


if __name__ == "__main__":
    main(Explainer)
