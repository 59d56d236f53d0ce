"""How often the verdicts are wrong, and what they see, by seeded simulation of tables. Exit code 1 if a limit breaks.

    python tests/benchmarks/error_rates.py [--quick] [--replicates N] [--files N] [--jobs N] [--seed N]

Tables of 54 cases whose truth is known go through `comparing.judge.judge`; some of them, as files that the program
wrote, through `python -m harness compare`, which must say the same. What is simulated is in tests/comparing/simulated.
A limit is one of the share that is seen; with fewer than 5,000 replicates, of what that limit itself would not show
once in a thousand times.
"""

import argparse
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tests.comparing.on_disk import disagreements
from tests.comparing.simulated import (
    DRIFT,
    NOISES,
    NONE,
    Cell,
    Change,
    InTurn,
    OneSession,
    Rates,
    TwoSessions,
    rates,
)

REPLICATES, QUICK, FILES = 5000, 300, 252
SPREADS = (0.005, 0.01, 0.02, 0.05)
ROUNDS = (5, 10, 20)
ENOUGH_ROUNDS = 10  # fewer carry no promise
SLOWDOWNS = (0.02, 0.03, 0.05, 0.10)
ALONE = tuple(Change(1, slowdown) for slowdown in SLOWDOWNS)
TOGETHER = (Change(10, 0.05), Change(10, 0.10))
STORED = (0, 5, 10, 20)  # sessions
OFFSETS = ((0.02, 0.0), (0.02, 0.01), (0.0, 0.02), (0.04, 0.0))  # of sessions: of all cases, of each
PROMISED_OFFSET = 0.02
ADVISORY = (NONE, Change(1, 0.10), Change(1, 0.20))

CLOCKS = (0.01, 0.02, 0.04)
BESIDE = (0.05, 1 / 6, 1 / 3, 1 / 2)  # of processes, a neighbour
BOTH = (0.02, 1 / 6)
SIZES = (2, 6, 54)  # of tables that are measured in turn

FALSE_LIMIT = 0.01
FIVE = Change(1, 0.05)
POWER_LIMITS = {"Gaussian": 0.95, "contaminated": 0.80}  # to see FIVE at a spread of 1 % with 10 rounds
KNOWN = {"noise": "measured", "nothing": "unknown", "drifting": "measured with drift"}

Found = Mapping[Cell, Mapping[Change, Rates]]


def one_session() -> Iterator[OneSession]:
    for paired, known, noise, size, rounds in itertools.product((True, False), KNOWN, NOISES, SPREADS, ROUNDS):
        if paired or known != "drifting":  # only paired rounds drift here
            yield OneSession(noise, size, rounds, paired, known)
    for known, noise, size in itertools.product(("noise", "nothing"), NOISES, SPREADS):
        yield OneSession(noise, size, ENOUGH_ROUNDS, paired=True, known=known, drift="pair")


def two_sessions() -> Iterator[TwoSessions]:
    for noise, (common, own), stored in itertools.product(("Gaussian", "contaminated"), OFFSETS, STORED):
        yield TwoSessions(noise, 0.01, ENOUGH_ROUNDS, common, own, stored)


def in_turn() -> Iterator[InTurn]:
    """A clock that goes up and down, a neighbour beside some processes, and both, by the rounds that `ab` has."""
    for noise, (clock, beside), cases, rounds in itertools.product(NOISES, in_turn_kinds(), SIZES, ROUNDS[1:]):
        if not beside or noise == "Gaussian" or (clock, beside) == BOTH:
            yield InTurn(noise, 0.02, rounds, clock, beside, cases)


def in_turn_kinds() -> list[tuple[float, float]]:
    """Return clocks, and shares of processes beside a neighbour."""
    return [*((clock, 0.0) for clock in CLOCKS), *((0.0, beside) for beside in BESIDE), BOTH]


def changes_of(cell: Cell) -> tuple[Change, ...]:
    """Return what changes in the tables of a cell: all there is only where something is promised, for it takes time."""
    if isinstance(cell, TwoSessions):
        return ADVISORY
    if isinstance(cell, InTurn):
        return (NONE, FIVE, *(TOGETHER if cell.cases > TOGETHER[0].cases else ()))
    if cell.known == "drifting" or cell.drift == "pair":
        return (NONE, FIVE)
    return (NONE, *ALONE, *(TOGETHER if cell.rounds >= ENOUGH_ROUNDS else ()))


def on_disk(number: int, seed: int) -> Iterator[tuple[Cell, Change, int]]:
    """Yield tables of all kinds in turn, with all changes, to be written as files."""
    kinds: list[Cell] = [
        OneSession(noise, size, ENOUGH_ROUNDS, paired, known)
        for size, noise, paired, known in itertools.product((0.01, 0.05), NOISES, (True, False), ("noise", "nothing"))
    ]
    kinds += [TwoSessions("Gaussian", 0.01, ENOUGH_ROUNDS, 0.02, 0.01, stored) for stored in (0, 0, 5)]
    kinds += [InTurn(noise, 0.02, ENOUGH_ROUNDS, *BOTH, cases) for noise, cases in itertools.product(NOISES, SIZES)]
    for each in range(number):
        kind, turn = kinds[each % len(kinds)], each // len(kinds)
        changes = changes_of(kind)
        yield kind, changes[turn % len(changes)], seed + each


def simulated(job: tuple[Cell, int, int]) -> tuple[Cell, Mapping[Change, Rates]]:
    cell, tables, seed = job
    return cell, rates(cell, tables, changes_of(cell), seed)


def compared(job: tuple[Cell, Change, int]) -> list[str]:
    return [f"{job}: {wrong}" for wrong in disagreements(*job)]


@dataclass
class Limits:
    """Holds counts to their limits and keeps what is beyond."""

    broken: list[str] = field(default_factory=list)
    checked: int = 0

    def at_most(self, what: str, count: int, total: int, limit: float) -> None:
        allowed = limit * total if total >= REPLICATES else stats.binom.ppf(0.999, total, limit)
        self._hold(f"{what}: {count / total:.2%}, above {limit:.0%}", kept=count <= allowed)

    def at_least(self, what: str, count: int, total: int, limit: float) -> None:
        needed = limit * total if total >= REPLICATES else stats.binom.ppf(0.001, total, limit)
        self._hold(f"{what}: {count / total:.1%}, below {limit:.0%}", kept=count >= needed)

    def _hold(self, what: str, *, kept: bool) -> None:
        self.checked += 1
        if not kept:
            self.broken.append(what)


def hold(found: Found) -> Limits:
    """Hold all cells to what is promised of them."""
    limits = Limits()
    for cell, by_change in found.items():
        if isinstance(cell, OneSession):
            promised = cell.rounds >= ENOUGH_ROUNDS
            usual = (cell.spread, cell.rounds) == (0.01, ENOUGH_ROUNDS) and cell.known != "drifting"
            if usual and cell.noise in POWER_LIMITS and (cell.drift == "round" or cell.noise == "Gaussian"):
                seen = by_change[FIVE]
                limits.at_least(f"{cell}: power at 5 %", seen.found, seen.slower, POWER_LIMITS[cell.noise])
        elif isinstance(cell, InTurn):
            promised = True
        else:
            promised = cell.stored > 0 and cell.common <= PROMISED_OFFSET
        for change, seen in by_change.items() if promised else ():
            limits.at_most(f"{cell}, {change}: false alarms", seen.false, seen.tables, FALSE_LIMIT)
    return limits


def show(found: Found) -> None:
    """Print all shares, in percent, as tables in Markdown."""
    firm = {cell: seen for cell, seen in found.items() if isinstance(cell, OneSession)}
    spreads = ", ".join(f"{100 * size:g}" for size in SPREADS)
    show_rounds(
        f"One session: tables with a false verdict, at a spread of {spreads} %; nothing changed",
        firm,
        lambda cells: " ".join(f"{100 * seen[NONE].false_share:.2f}" for seen in cells),
    )
    show_rounds(
        "The same while one or ten others are really slower, by 5 or 10 %; the worst of these",
        firm,
        lambda cells: " ".join(
            f"{100 * max(seen[change].false_share for change in seen if change.cases):.2f}" for seen in cells
        ),
    )
    slowdowns = ", ".join(f"{100 * slowdown:g}" for slowdown in SLOWDOWNS)
    for size in SPREADS:
        show_rounds(
            f"Spread {100 * size:g} %: cases called regressed that are slower by {slowdowns} %, one in a table",
            {cell: seen for cell, seen in firm.items() if cell.spread == size},
            lambda cells: " ".join(f"{100 * cells[0][each].power:.0f}" if each in cells[0] else "–" for each in ALONE),
        )
    show_table(
        f"Two sessions, spread 1 %, {ENOUGH_ROUNDS} rounds: tables with a false slower or faster; slower cases found",
        ("noise", "offset of all, of each", "sessions stored", "false", "10 % slower", "20 % slower"),
        [
            (
                *(cell.noise, f"{100 * cell.common:g} %, {100 * cell.own:g} %", str(cell.stored or "none")),
                f"{100 * max(rate.false_share for rate in seen.values()):.2f}",
                *(f"{100 * seen[change].power:.0f}" for change in ADVISORY[1:]),
            )
            for cell, seen in found.items()
            if isinstance(cell, TwoSessions)
        ],
    )
    in_turn = {cell: seen for cell, seen in found.items() if isinstance(cell, InTurn)}
    show_table(
        "One session, in pairs, spread 2 % and unknown, on a core whose clock goes up and down, or with a neighbour "
        "beside some of all processes from beginning to end, or both: tables with a false verdict; cases called "
        "regressed that are slower by 5 %, one in a table",
        (
            *("noise", "clock", "beside", "cases"),
            *(f"{what}, {rounds} rounds" for rounds in ROUNDS[1:] for what in ("false", "found")),
        ),
        [
            (
                *(cell.noise, f"{100 * cell.clock:g} %", f"{100 * cell.beside:.0f} %", str(cell.cases)),
                *itertools.chain.from_iterable(
                    (f"{100 * max(rate.false_share for rate in seen.values()):.2f}", f"{100 * seen[FIVE].power:.0f}")
                    for seen in (in_turn[replace(cell, rounds=rounds)] for rounds in ROUNDS[1:])
                ),
            )
            for cell in in_turn
            if cell.rounds == ROUNDS[1]
        ],
    )


def show_rounds(
    title: str,
    found: Mapping[OneSession, Mapping[Change, Rates]],
    told: Callable[[Sequence[Mapping[Change, Rates]]], str],
) -> None:
    """Print a table with a column for each number of rounds; told: the text for the cells of all spreads there."""
    rows: dict[tuple[str, ...], dict[int, list[Mapping[Change, Rates]]]] = {}
    for cell, seen in found.items():
        kind = f"paired, each {cell.drift} drifts by {100 * DRIFT:g} %" if cell.paired else "unpaired"
        name = (kind, KNOWN[cell.known], cell.noise)
        rows.setdefault(name, {}).setdefault(cell.rounds, []).append(seen)
    header = ("rounds", "their spread", "noise", *(f"{rounds} rounds" for rounds in ROUNDS))
    texts = {
        name: [told(cells[rounds]) if rounds in cells else "–" for rounds in ROUNDS] for name, cells in rows.items()
    }
    show_table(title, header, [(*name, *row) for name, row in texts.items()])


def show_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n")
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(row)} |")


def main() -> int:
    parser = argparse.ArgumentParser(description="How often the verdicts are wrong, and what they see.")
    parser.add_argument("--replicates", type=int, default=REPLICATES, metavar="N", help="tables per cell")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} tables per cell, few files")
    parser.add_argument("--files", type=int, default=FILES, metavar="N", help="tables through the command line")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    chosen = parser.parse_args()
    tables, files = (QUICK, 36) if chosen.quick else (chosen.replicates, chosen.files)
    cells: list[Cell] = [*one_session(), *two_sessions(), *in_turn()]
    began = time.monotonic()
    with multiprocessing.Pool(chosen.jobs) as pool:
        # The slow ones first, so that both processes have work until the end; shown in the order of the cells.
        slow_first = sorted(cells, key=lambda cell: (cell.firm, -cell.rounds))
        by_cell = dict(pool.imap_unordered(simulated, [(cell, tables, chosen.seed) for cell in slow_first]))
        simulated_s = time.monotonic() - began
        wrong = [line for lines in pool.imap_unordered(compared, on_disk(files, chosen.seed)) for line in lines]
    found = {cell: by_cell[cell] for cell in cells}
    show(found)
    limits = hold(found)
    print(
        f"\n{len(cells)} cells of {tables} tables in {simulated_s:.0f} s; {files} tables through files and the command "
        f"line in {time.monotonic() - began - simulated_s:.0f} s, {len(wrong)} differences from judge()"
    )
    for line in (*limits.broken, *wrong):
        print(f"broken: {line}")
    if limits.broken or wrong:
        return 1
    print(f"all limits hold ({limits.checked})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
