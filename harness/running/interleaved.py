"""Measures two arms in turn on this machine: each case in both, one right after the other, round by round.

What drifts – temperature, neighbours – then reaches both alike, and rounds can be compared in pairs. Which arm comes
first changes from each round to the next, and by lot from each pair of rounds to the next: going first may be an
advantage, and so may be going first in the even rounds.

A pair of which a side stayed disturbed from beginning to end tells nothing of the arms: after the last round as many
are measured as were lost so. That hangs on the evidence of such a process alone, as does that it is left out of the
comparison (`comparing.disturbed`).
"""

import itertools
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.measuring.cpus import Placement, away_from_workers, place
from harness.plan.case import Case
from harness.plan.sweep import MAX_PROCESSES, Sweep
from harness.running.again import SPARE_SHARE, worth_it
from harness.running.arms import Arm
from harness.running.executor import Executor, Observer
from harness.running.folder import make_run_folder
from harness.running.launcher import DEFAULT_TIMEOUT_S, Launcher, worker_environment
from harness.running.session import Machine, Session

SUFFIX = "-ab"  # of a session's name
# Of all rounds there may be: where more pairs are lost, this is what the machine is.
MOST_LOST = 0.5


@dataclass(frozen=True)
class Side:
    """One arm and the run that keeps what is measured of it."""

    arm: Arm
    session: Session


def with_spare(sweep: Sweep) -> Sweep:
    """Return the sweep with rounds in which lost pairs can be made up for, where that is worth the time."""
    most = MAX_PROCESSES // len(sweep.cases) - sweep.rounds
    spare = min(math.ceil(SPARE_SHARE * sweep.rounds), most)
    return replace(sweep, spare=spare) if worth_it(sweep.sampling) else sweep


def schedule(sweep: Sweep) -> Iterator[tuple[int, Case, tuple[int, int]]]:
    """Yield (round, case, order of the arms 0 and 1), cases as `Sweep.schedule` has them.

    In two consecutive rounds, the first of them even, a case has both orders; which comes first is drawn by case.
    """
    for number, case in sweep.schedule():
        lot = random.Random(f"{sweep.order_seed}/{case.case_id}/{number // 2}").randrange(2)  # noqa: S311 - no secret
        first = (lot + number) % 2
        yield number, case, (first, 1 - first)


def start_sides(sweep: Sweep, arms: Sequence[Arm], machines: Sequence[Machine], out: Path) -> tuple[Side, Side]:
    """Begin the runs of two arms, base first, which share a session; raises PlanError where one cannot be."""
    with ExitStack() as undo:
        folders = []
        for arm, machine in zip(arms, machines, strict=True):
            folders.append(make_run_folder(out, machine.slug, arm.at))
            undo.callback(shutil.rmtree, folders[-1], ignore_errors=True)
        name = folders[0].name + SUFFIX
        sides = []
        for arm, machine, folder in zip(arms, machines, folders, strict=True):
            session = Session.begin(folder, sweep, machine, arm.at, name=name, located=arm.located)
            undo.callback(session.journal.close)
            sides.append(Side(arm, session))
        undo.pop_all()
    base, new = sides
    return base, new


def measure_in_turn(
    sides: Sequence[Side],
    observer: Observer,
    timeout_s: float | None,
    turn: Callable[[Side], None],
    after_round: Callable[[int], None],
) -> None:
    """Measure all rounds of two sides, each with a compile cache of its own that goes when this ends.

    turn(side) is called before a case is measured in it, after_round(number) when every case of a round is done.
    KeyboardInterrupt ends the running case without a record and is raised on.
    """
    with (
        TemporaryDirectory(prefix="harness-cache-", ignore_cleanup_errors=True) as cache,
        away_from_workers() as allowed,
    ):

        def placed(case: Case) -> Placement:
            return place(case.device, case.threads, allowed, ranks=case.ranks)

        def executor(side: Side, name: str) -> Executor:
            environment = worker_environment(Path(cache) / name, side.arm.first)
            launcher = Launcher(environment, side.arm.command, timeout_s or DEFAULT_TIMEOUT_S)
            run = side.session
            return Executor(
                run.sweep, run.progress, run.journal, lambda _case: launcher, placed, observer, side.arm.sent
            )

        # Names of one length, as of the arms' own folders.
        executors = [executor(side, name) for side, name in zip(sides, "ab", strict=True)]
        interleave(executors, lambda arm: turn(sides[arm]), after_round)


def interleave(executors: Sequence[Executor], turn: Callable[[int], None], after_round: Callable[[int], None]) -> None:
    """Go through the rounds of two executors of one sweep; turn(arm) is called before a case is measured in arm 0 or 1.

    A case that has no time in one arm gets none that could be compared, so its further rounds are left out in both; in
    the round in which that shows it is still measured in the other, which may be the one that is right. A spare round
    is only of the cases that lack a pair.
    """
    sweep = executors[0].sweep
    for number, scheduled in itertools.groupby(schedule(sweep), key=lambda each: each[0]):
        spare = number >= sweep.rounds
        cases = [each for each in scheduled if not spare or _lacking(each[1], executors)]
        for _, case, order in cases:
            needed = all(executor.progress.needs(case, number) for executor in executors)
            for arm in order:
                if needed:
                    turn(arm)
                    executors[arm].measure(number, case)
                    _share_core(executors)
                else:
                    executors[arm].observer.case_skipped(number, case)
        if cases:
            after_round(number)


def _lacking(case: Case, executors: Sequence[Executor]) -> bool:
    """Whether a case that has times lacks pairs that were lost, and not so many that no spare rounds could help it."""
    if any(case.case_id in executor.progress.without_time for executor in executors):
        return False
    lost = set().union(*(each.progress.lost_rounds(case.case_id) for each in executors))
    if not lost:
        return False
    measured = sum(case_id == case.case_id for case_id, _ in executors[0].progress.finished)
    sweep = executors[0].sweep
    return measured - len(lost) < sweep.rounds and len(lost) <= MOST_LOST * sweep.all_rounds


def _share_core(executors: Sequence[Executor]) -> None:
    """Tell each arm how fast the core was in any, where both tell by the same work: a slow one is one for both."""
    works = {each.progress.core_work for each in executors}
    if works == {""} or len(works) > 1:
        return
    fastest = min((each.progress.core_ns for each in executors if each.progress.core_ns), default=None)
    for each in executors:
        each.progress.core_ns = fastest
