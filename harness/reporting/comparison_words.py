"""What is said of a comparison, in words: the same on a terminal, in Markdown and in annotations.

Every text is one line; what strangers named is fit to be printed. Changes are of step times, new over base.
"""

import math
import re
import shlex
from collections.abc import Iterable, Sequence

from harness.comparing.compared import CaseResult, Compared, Status
from harness.comparing.rounds import MOST_ROUNDS
from harness.comparing.run import Run
from harness.comparing.sessions import ASSUMED, LEAST_SESSIONS, SessionSpread
from harness.plan.text import printable
from harness.running.session import typed

SIGN = {
    Status.LOST: "✗",
    Status.CONVERGES_LESS: "✗",
    Status.REGRESSED: "✗",
    Status.SLOWER: "✗",
    Status.UNDECIDED: "?",
    Status.CHANGED: "?",
    Status.FAILING: "–",
    Status.IMPROVED: "✓",
    Status.FASTER: "✓",
    Status.FIXED: "✓",
    Status.SAME: "=",
    Status.WITHIN: "=",
    Status.NEW: "+",
    Status.MISSING: "-",
}
WORD = {status: status.value for status in Status} | {Status.CONVERGES_LESS: "converges less"}

# In which order things are said: the worst first.
ORDER = tuple(SIGN)
TIMED = (
    *(Status.REGRESSED, Status.SLOWER, Status.UNDECIDED),
    *(Status.IMPROVED, Status.FASTER, Status.SAME, Status.WITHIN),
)
_QUIET = (Status.SAME, Status.WITHIN)
_NAMED = 3  # in a line that names the worst
_REASON = 300  # characters; the tables have all of it
_COMMIT = 12  # digits; git finds a commit by them
_SHORT = 10  # as many has the id of a run
_NO_COMMIT = ("", "unknown")
_INTERPRETER = {"torch", "python_minor"}  # what two interpreters may differ in
_TORCH = re.compile(r"torch: ([0-9][0-9a-z.]*)(?:\+\S+)? and ([0-9][0-9a-z.]*)(?:\+\S+)?")

# The name of a case, and the flags that choose it: with what is measured without the flag, None for several.
_CASE_ID = re.compile(
    r"(?P<workload>[^/]+)/(?P<engine>[^/]+)/(?P<device>[^/]+)/(?P<dtype>[^/]+)/b(?P<batch_size>\d+)(/t(?P<threads>\d+))?"
    r"(/r(?P<ranks>\d+))?"
)
_AXES = (
    *(("workload", None), ("engine", None), ("device", "cpu")),
    *(("dtype", "float32"), ("batch_size", None), ("threads", None), ("ranks", None)),
)


def verdict(compared: Compared) -> str:
    """Return the one word for all: `regressed`, `slower`, `no_times`, `undecided` or `no_regression`.

    regressed: in one session, or a case that was right is not any more. slower: two sessions, so advisory. no_times: no
    case has a time on both sides. undecided: of the cases that have, more than half.
    """
    if compared.of(Status.REGRESSED, Status.LOST, Status.CONVERGES_LESS):
        return "regressed"
    if compared.of(Status.SLOWER):
        return "slower"
    timed = compared.of(*TIMED)
    if not timed:
        return "no_times"
    return "undecided" if 2 * len(compared.of(Status.UNDECIDED)) > len(timed) else "no_regression"


def headline(compared: Compared) -> str:
    """Return the verdict of all in one line."""
    if compared.failed:
        return f"{_failures(compared)}: {_worst(compared)}"
    word, counts = verdict(compared), tally(compared)
    if word == "no_times":
        return f"nothing to compare: no case has a time on both sides ({counts})"
    if word == "undecided":
        others = ", ".join(_tally(compared, [status for status in ORDER if status is not Status.UNDECIDED]))
        open_cases = f"{len(compared.of(Status.UNDECIDED))} of {_cases(len(compared.of(*TIMED)))}"
        return f"undecided: {open_cases}{f' ({others})' if others else ''}"
    return f"no regression: {counts}" if compared.firm else f"nothing slower (advisory): {counts}"


def tally(compared: Compared) -> str:
    """Return how many cases there are of each status."""
    return ", ".join(_tally(compared, (*_QUIET, *(status for status in ORDER if status not in _QUIET))))


def said(status: Status) -> str:
    """Return a status as a sign and a word."""
    return f"{SIGN[status]} {WORD[status]}"


def percent(value: float, spec: str = "+.1%") -> str:
    """Return a change or a spread, 0.05 is 5 %; empty for NaN. What is ten times as much or more is a factor."""
    if math.isnan(value):
        return ""
    text = format(value, spec) if value < 10 else f"× {1 + value:.3g}"
    return "+0.0%" if text == "-0.0%" else text


def interval(low: float, high: float) -> str:
    """Return an interval of changes; empty where there is none."""
    return "" if math.isnan(low) or math.isnan(high) else f"[{percent(low)}, {percent(high)}]"


def change(case: CaseResult) -> str:
    """Return the change of a case with its 95 % interval; empty where it has none."""
    return " ".join(filter(None, (percent(case.change), interval(case.low, case.high))))


def rounds(case: CaseResult) -> str:
    """Return how many rounds a case has: of both sides where they differ."""
    if case.rounds_base == case.rounds_new:
        return str(case.rounds_new)
    return f"{case.rounds_base}, {case.rounds_new}"


def lacking(compared: Compared, case: CaseResult) -> str:
    """Return what an undecided case needs; empty where it is decided."""
    if case.status is not Status.UNDECIDED:
        return ""
    if math.isnan(case.change):
        return "a round with both sides" if compared.paired else "a time on both sides"
    if not compared.firm:
        return "one session of both"
    return f"{case.rounds_needed:.0f} rounds" if math.isfinite(case.rounds_needed) else f"> {MOST_ROUNDS} rounds"


def reason(case: CaseResult) -> str:
    """Return why, in a length that can be read."""
    return printable(case.reason, _REASON)


def untimed(compared: Compared) -> list[CaseResult]:
    """Return the cases of which no times are compared, the worst first."""
    return [case for status in ORDER if status not in TIMED for case in compared.of(status)]


def timed(compared: Compared) -> list[CaseResult]:
    """Return the cases of which times are compared: those that got slower first, else in the order of the tables."""
    cases = compared.of(*TIMED)
    return sorted(cases, key=lambda case: not case.failed)


def noteworthy(compared: Compared) -> list[CaseResult]:
    """Return of the timed cases those that are not just the same."""
    return [case for case in timed(compared) if case.status not in _QUIET]


def sides(compared: Compared) -> str:
    """Return what is compared: names, commits, machine, and how both were measured."""
    if compared.firm:
        how = "in the same rounds of one session" if compared.paired else "in one session"
    else:
        how = "in two sessions"
    machines = dict.fromkeys(filter(None, (_first(run, "machine") for run in (compared.base, compared.new))))
    where = f" on {' and '.join(machines)}" if machines else ""
    return f"{_side(compared.base)} → {_side(compared.new)}, measured {how}{where}"


def aggregate(compared: Compared) -> str:
    """Return the geometric mean of the changes; empty where no times are compared."""
    mean = compared.aggregate
    if mean is None or math.isnan(mean.change):
        return ""
    within = interval(mean.low, mean.high)
    between = ", with what sessions differ by" if within and not compared.firm else ""
    return f"geometric mean over {_cases(mean.cases)}: {percent(mean.change)} {within}".rstrip() + between


def disturbed(compared: Compared) -> str:
    """Return how many pairs a neighbour spoilt, and what became of them; empty where it spoilt none."""
    told = compared.disturbed
    if not told.base + told.new:
        return ""
    parts = [f"{told.left_out} left out" if told.left_out else ""]
    if told.kept:
        parts.append(f"{told.kept} kept, as they are more than half of a case's, or one side's by more than chance")
    what = f"beside {told.base} processes of the base and {told.new} of the new side a neighbour had the core all along"
    return f"{what}; of their pairs, {', '.join(filter(None, parts))}"


def clocked(compared: Compared) -> str:
    """Return what is left of the spread without the core's clock; empty where that was not taken out."""
    if compared.clocked == 1:
        return ""
    return f"the core's clock is taken out of the pairs, whose spread is {compared.clocked:.0%} of what it was with it"


def more_rounds(compared: Compared) -> str:
    """Return how many rounds would decide how many cases of one session; empty where all are decided."""
    open_cases = compared.of(Status.UNDECIDED) if compared.firm else ()
    if not open_cases:
        return ""
    needed = [int(case.rounds_needed) for case in open_cases if math.isfinite(case.rounds_needed)]
    rest = [case for case in open_cases if not math.isfinite(case.rounds_needed)]
    least, most = min(needed, default=0), max(needed, default=0)
    parts = []
    if needed:
        first = f"--rounds {least} would decide {needed.count(least)} of {_cases(len(open_cases), 'undecided ')}"
        parts.append(f"{first}, --rounds {most} {len(needed)} of them" if most > least else first)
    if rest:
        parts.append(f"not even {MOST_ROUNDS} rounds a side would decide {_named(rest)}")
    return f"as it looks, {'; '.join(parts)}"


def advice(compared: Compared) -> list[str]:
    """Return why two sessions carry no firm verdict and what would settle it; nothing for one session."""
    if compared.firm:
        return []
    margins = [case.margin for case in timed(compared) if not math.isnan(case.margin)]
    least, most = (percent(value, ".1%") for value in (min(margins, default=math.nan), max(margins, default=math.nan)))
    beyond = least if least == most else f"{least} to {most}, by case,"
    called = f": only what lies beyond {beyond} is called slower or faster" if margins else ""
    differ = f"two sessions of one machine differ {_by_themselves(compared.sessions or SessionSpread())}"
    return [f"advisory: {differ}{called}", _settling(compared)]


def _by_themselves(known: SessionSpread) -> str:
    if known.measured:
        own = f", each case by {percent(known.own, '.1%')} more" if known.own > 0 else ""
        return f"by {percent(known.common, '.1%')} by themselves{own} (measured over {known.sessions} sessions)"
    few = f"fewer than {LEAST_SESSIONS} other sessions stored here measured these cases"
    return f"by {ASSUMED:.0%} by themselves (assumed, since {few})"


def _settling(compared: Compared) -> str:
    """Return the command that measures both sides in one session, or why no command does."""
    before, after = (_first(run, "commit") for run in (compared.base, compared.new))
    dirty, flags = _dirty(compared.new), _flags(compared)
    keys = [printable(each.partition(":")[0], 40) for each in compared.varied]
    varied = ", ".join(keys)
    if before == after and before not in _NO_COMMIT and not dirty:
        torch = _TORCH.fullmatch(compared.varied[0]) if len(compared.varied) == 1 else None
        # The environments that nox makes are for the CPU.
        if torch and not any(flag.startswith("cuda") for flag in flags):
            two = ("--torch", torch[1], "--torch", torch[2])
            return f"the firm answer: {shlex.join(('nox', '-s', 'ab', '--', *two, *flags))}"
        if keys and set(keys) <= _INTERPRETER:
            apart = printable("; ".join(compared.varied), 200)
            command = typed("ab", "--python", "A", "--python", "B", *flags)
            return f"the firm answer: {command}, of two interpreters, A and B ({apart})"
        what = f"{varied} and the session" if varied else "the session"
        return f"both sides are of commit {before[:_COMMIT]}: what differs is {what}, not the code"
    old = "BASE" if before in _NO_COMMIT else before[:_COMMIT]
    # What was not committed is in no commit; `worktree` is what git sees where the command is called.
    new = "worktree" if dirty else "NEW" if after in _NO_COMMIT else after[:_COMMIT]
    unknown = " (the tables do not name the commit)" if old == "BASE" or new == "NEW" else ""
    alone = f" of the commits alone, without {varied}" if varied else ""
    return f"the firm answer{alone}: {typed('ab', old, new, *flags)}{unknown}"


def _flags(compared: Compared) -> list[str]:
    """Return the flags that restrict a sweep to the cases in question, as far as their names tell."""
    asked = compared.of(Status.SLOWER, Status.UNDECIDED) or compared.of(Status.FASTER) or compared.of(*TIMED)
    found = [match for case in asked if (match := _CASE_ID.fullmatch(case.case_id))]
    flags = []
    for axis, default in _AXES:
        values = dict.fromkeys(match[axis] for match in found if match[axis])
        if list(values) != [default]:
            flags += [part for value in values for part in (f"--{axis.replace('_', '-')}", value)]
    return flags


def _tally(compared: Compared, statuses: Iterable[Status]) -> list[str]:
    words = WORD | {Status.WITHIN: "within what sessions differ by"}
    return [f"{len(compared.of(status))} {words[status]}" for status in statuses if compared.of(status)]


def _failures(compared: Compared) -> str:
    """Return how many cases failed in which way, of how many."""
    words = {status: f"{WORD[status]} (advisory)" if status is Status.SLOWER else WORD[status] for status in Status}
    counts = [(len(compared.of(status)), words[status]) for status in ORDER if SIGN[status] == "✗"]
    (count, word), *others = [each for each in counts if each[0]]
    return ", ".join([f"{count} of {_cases(len(compared.cases))} {word}", *(f"{n} {other}" for n, other in others)])


def _worst(compared: Compared) -> str:
    """Return the names of failed cases with their changes: the lost ones, then those that slowed down most."""
    failed = sorted(compared.failed, key=lambda case: -case.change if not math.isnan(case.change) else -math.inf)
    return _named(failed, changes=True)


def _named(cases: Sequence[CaseResult], *, changes: bool = False) -> str:
    names = []
    for case in cases[:_NAMED]:
        told = (percent(case.change) or WORD[case.status]) if changes else ""
        names.append(" ".join(filter(None, (printable(case.case_id, 200), told))))
    more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
    return ", ".join(names) + more


def _cases(count: int, which: str = "") -> str:
    return f"{count} {which}case" if count == 1 else f"{count} {which}cases"


def _side(run: Run) -> str:
    """Return the name of a side, with the run that is meant and its commit, where the name does not tell."""
    name, run_id, commit = printable(run.name, 200), _first(run, "run_id"), _first(run, "commit")[:_COMMIT]
    dirty = " with uncommitted changes" if _dirty(run) else ""
    which = f"run {run_id}" if run_id and run_id not in name else ""
    of = f"commit {commit}" if commit and commit[:_SHORT] not in name + run_id else ""
    told = ", ".join(filter(None, (which, of)))
    return f"{name} ({told}{dirty})" if told else f"{name}{dirty}"


def _dirty(run: Run) -> bool:
    return bool(run.measurements["dirty"].astype(bool).any())


def _first(run: Run, column: str) -> str:
    """Return a column's value of the first row: a run has one."""
    table = run.measurements
    return printable(str(table[column].iloc[0]), 200) if column in table and len(table) else ""
