"""The worker of `harness prove`: one engine in, right or wrong, and one record of what its gradients do out.

`python -m harness.measuring.prover` is started and spoken to like `harness.measuring.worker`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.measuring.worker import Worker, main
from harness.plan.outcome import CaseEnded, Outcome
from harness.plan.proof import TRUTH, Kind, gate_seeds, kind_of, training_seeds

if TYPE_CHECKING:
    from harness.training.contract import Problem, Updates, Workload
    from harness.training.trial import Trial

# Blocks of the ratio to autograd, in turn with its own.
ROUNDS, BLOCK_STEPS = 15, 10
# Seeds that tell how far an engine's first updates are from float64.
ERROR_SEEDS = 20


class Prover(Worker):
    """Takes an engine from seeds 0 … seeds-1 through the gate and through its training."""

    def run(self) -> None:
        """Go through all phases; raises CaseEnded when there is nothing to prove here."""
        self._phase("import")
        self._import()
        import torch

        from harness.training import proof, trial
        from harness.training.loading import load_workload

        self._phase("setup")
        case, seeds = self._request.case, self._request.seeds
        workload = load_workload(case.workload)
        problem = trial.problem_of(workload, case.batch_size, torch.device("cpu"), getattr(torch, case.dtype))
        engine = proof.engine_of(case.engine)
        reason = engine.unsupported(problem, case)
        if reason is not None:
            raise CaseEnded(Outcome.UNSUPPORTED, reason)
        updates = engine.prepare(problem, steps=20)
        self.record.facts |= {
            "threads": torch.get_num_threads(),
            "convergence_targets": asdict(workload.targets),
            "forward_passes": getattr(updates, "forward_passes", 1),
        }

        self._phase("gate")
        self._check(workload, problem, updates, gate_seeds(case.engine, seeds))
        if kind_of(case.engine) is not Kind.MISTAKE:
            self._phase("timing")
            start = trial.begin(workload, case.batch_size, 0, problem.device, problem.dtype)
            other = proof.engine_of(TRUTH).prepare(problem, steps=20)
            self.record.facts["ratio_to_autograd"] = self._ratio(updates, other, start)
        self._phase("convergence")
        self._train(workload, problem, updates, training_seeds(case.engine, seeds))

    def _check(self, workload: "Workload", problem: "Problem", updates: "Updates", seeds: int) -> None:
        from harness.training.proof import check_seed, update_error
        from harness.training.trial import begin

        gate, errors = [], []
        for seed in range(seeds):
            trial = begin(workload, problem.batch_size, seed, problem.device, problem.dtype)
            gate.append(finite(asdict(check_seed(problem, updates, trial, seed))))
            if seed < ERROR_SEEDS:
                errors.append(update_error(problem, updates, trial))
        self.record.facts |= {"gate": gate, "update_error": finite({"": _middle(errors)})[""]}

    def _ratio(self, updates: "Updates", autograd: "Updates", trial: "Trial") -> float:
        """Return autograd's time over this engine's, both in turn; rough, for nothing else is kept away."""
        inputs, targets = trial.batches(BLOCK_STEPS)
        taken: dict[int, list[int]] = {0: [], 1: []}
        for _ in range(ROUNDS):
            for which, each in enumerate((updates, autograd)):
                each.load(trial.parameters)
                start = self._clock()
                each(inputs, targets)
                taken[which].append(self._clock() - start)
        return _middle(taken[1]) / _middle(taken[0])

    def _train(self, workload: "Workload", problem: "Problem", updates: "Updates", seeds: int) -> None:
        from harness.training.convergence import seed_result, train_epochs
        from harness.training.trial import begin

        # The way there is asked of right gradients only.
        only_last = kind_of(self._request.case.engine) is Kind.MISTAKE
        results, losses, accuracies = [], [], []
        for seed in range(seeds):
            trial = begin(workload, problem.batch_size, seed, problem.device, problem.dtype)
            epochs = list(train_epochs(workload, problem, updates, trial, only_last=only_last))
            result = asdict(seed_result(workload, seed, epochs))
            results.append(finite({**result, "epochs_to_target": None} if only_last else result))
            losses.append([epoch.loss if math.isfinite(epoch.loss) else None for epoch in epochs])
            accuracies.append([epoch.accuracy for epoch in epochs])
        self.record.facts["convergence"] = results
        if not only_last:
            self.record.facts |= {"losses": losses, "accuracies": accuracies}


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as JSON can hold it: what is no finite number becomes null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2] if values else math.nan


if __name__ == "__main__":
    main(Prover)
