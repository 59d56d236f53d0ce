"""The history of a machine, drawn: on the terminal, as Markdown, and as JSON."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.comparing.prediction import LEAST_SESSIONS
from harness.comparing.series import TREND_SESSIONS, CaseHistory, History, RunLine, Status
from harness.plan.text import printable
from harness.reporting.github import code, markdown
from harness.reporting.terminal import duration

JSON_SCHEMA = 1

_SIGN = {
    Status.SLOWER: "✗",
    Status.LOST: "✗",
    Status.MAYBE_SLOWER: "?",
    Status.FASTER: "✓",
    Status.MAYBE_FASTER: "✓",
    Status.STEADY: "=",
    Status.MACHINE: "=",
    Status.TOO_FEW: "–",
    Status.CHANGED: "–",
    Status.FAILING: "–",
    Status.NEW: "+",
    Status.NOT_RUN: "-",
}
_STYLE = {"✗": "red", "?": "yellow", "✓": "green", "=": "", "–": "yellow", "+": "dim", "-": "dim"}

_SPARKS = "▁▂▃▄▅▆▇█"
_SPARKED = 24  # sessions
_LEAST_HEIGHT = math.log(1.05)  # of a whole line: noise of a percent is no mountain
_RUNS = 10
_NAMED = 10

# Every column with how to draw its cell, and in which order columns are given up on a narrow terminal (0: never).
_Column = tuple[str, Callable[[CaseHistory], str], int]
_COLUMNS: tuple[_Column, ...] = (
    ("case", lambda case: printable(case.case_id), 0),
    ("sessions", lambda case: sparkline(case.times), 5),
    ("first", lambda case: duration(case.first_ns), 1),
    ("best", lambda case: duration(case.best_ns), 2),
    ("last", lambda case: duration(case.last_ns), 6),
    ("trend", lambda case: _trend(case), 4),
    ("change", lambda case: _percent(case.change, "+.1%"), 0),
    ("may be", lambda case: f"±{_percent(case.limit, '.1%')}" if math.isfinite(case.limit) else "", 3),
    ("verdict", lambda case: f"{_SIGN[case.status]} {case.status}", 0),
)
_NUMBERS = {"first", "best", "last", "trend", "change", "may be"}
_MEANING = {
    "sessions": f"step time over the last {_SPARKED}, a whole line is 5 % high or more",
    "trend": f"change of the step time per session over the last {TREND_SESSIONS}, Theil–Sen, with its 95 % interval",
    "change": "of the newest step time against the sessions that it is judged by, above 0 is slower",
    "may be": "how much it may be without any reason, by how these sessions differ",
}
# What is said of a case in a line of its own.
_TOLD = (Status.LOST, Status.FAILING, Status.CHANGED)


def show_history(console: Console, history: History) -> None:
    """Print the newest run's verdict in one line, all cases with their trend, what is besides, and the last runs."""
    console.print(Text(headline(history), style="bold red" if history.failed else "bold"), soft_wrap=True)
    console.print(_cases(console, history))
    for line in lines(history):
        console.print(Text(line), soft_wrap=True)
    console.print(_runs(history))


def as_markdown(history: History) -> str:
    """Return the history in GitHub's Markdown."""
    shown = shown_columns(history)
    head = f"| {' | '.join(name for name, _, _ in shown)} |"
    rule = f"| {' | '.join('---:' if name in _NUMBERS else '---' for name, _, _ in shown)} |"
    rows = [
        f"| {' | '.join((code if name == 'case' else markdown)(draw(case)) for name, draw, _ in shown)} |"
        for case in history.cases
    ]
    told = [f"* {markdown(line)}" for line in lines(history)]
    sign = "✗" if history.failed else "?" if history.undecided else "✓"
    parts = [f"### {sign} {markdown(headline(history))}", "\n".join([head, rule, *rows]), "\n".join(told)]
    return "\n\n".join(filter(None, parts)) + "\n"


def as_json(history: History) -> dict[str, Any]:
    """Return the history as a JSON object; fields are only ever added, `schema` is raised for all other changes.

    Times are in nanoseconds per update and named `…_ns`; changes, limits and trends are shares, 0.05 is 5 % slower.
    What is not known is null.

    * schema; verdict: `slower`, `lost`, `undecided` or `no_regression`; text: it in one line; counts: cases by status.
    * machine, fingerprint, sessions (the newest run's included).
    * newest, and runs, oldest first: run_id, commit, session, part (`newest`, `reference`, `earlier`, `dirty`, `same
      session`), ok (cases with a time), change (median over cases). dirty: whether the newest run is.
    * left_out: by fingerprint how many `runs`, and what is `differing` there.
    * moves of the machine: device, change, by (`frozen`, or `median` of all cases). untold: devices with slower cases
      where neither tells whether it moved.
    * cases: case_id, status, reason, change, limit, sessions (that it is judged by), trend (per session), trend_low,
      trend_high, first_step_ns, best_step_ns, last_step_ns, step_ns (of every session, oldest first).
    """
    return {
        "schema": JSON_SCHEMA,
        "verdict": _verdict(history),
        "text": headline(history),
        "counts": {status.value: len(history.of(status)) for status in Status},
        "machine": history.machine,
        "fingerprint": history.fingerprint,
        "sessions": history.sessions,
        "dirty": history.dirty,
        "newest": _run(history.newest),
        "runs": [_run(run) for run in history.runs],
        "left_out": {key: {"runs": count, "differing": text} for key, (count, text) in history.others.items()},
        "moves": [{"device": move.device, "change": _number(move.change), "by": move.by} for move in history.moves],
        "untold": list(history.untold),
        "cases": [_case(case) for case in history.cases],
    }


def headline(history: History) -> str:
    """Return the verdict in one line."""
    slower, lost, maybe = (history.of(each) for each in (Status.SLOWER, Status.LOST, Status.MAYBE_SLOWER))
    faster, judged = (
        history.of(Status.FASTER, Status.MAYBE_FASTER),
        sum(case.sessions >= LEAST_SESSIONS for case in history.cases),
    )
    parts = [
        f"{_count(slower)} slower in two sessions in a row" if slower else "",
        f"{_count(lost)} not ok any more" if lost else "",
        f"{_count(maybe)} slower this once: run it again, a second session decides" if maybe else "",
        f"{_count(faster)} faster" if faster else "",
    ]
    told = "; ".join(filter(None, parts)) or ("no case slower" if judged else "no case can be judged yet")
    dirty = " with uncommitted changes" if history.dirty else ""
    return f"{history.machine}, {history.newest.run_id}{dirty}, {_sessions(history.sessions)}: {told}"


def lines(history: History) -> Iterator[str]:
    """Yield what the table of cases does not say."""
    with_machine = len(history.of(Status.MACHINE))
    for move in history.moves:
        of = f"{with_machine} of {len(history.cases)} moved" if with_machine else "no case moved"
        if move.by == "frozen":
            yield (
                f"{move.device}: the frozen engine, which no commit changes, moved by {move.change:+.1%}, and {of} "
                "together with it: the machine, not the commit"
            )
        else:
            yield (
                f"{move.device}: the median of all cases moved by {move.change:+.1%}, and {of} together with it: the "
                "machine, or a commit that slows everything; measure the engine frozen in every session to tell"
            )
    for device in history.untold:
        would = "the engine frozen would, measured along by --engine frozen"
        yield f"{device}: nothing here tells the machine from the commit; {would}"
    for case in history.cases:
        if case.status in _TOLD:
            yield f"{_SIGN[case.status]} {case.status}: {printable(case.case_id)}: {printable(case.reason, 500)}"
    few = history.of(Status.TOO_FEW)
    for reason in dict.fromkeys(case.reason for case in few):
        names = _names([case for case in few if case.reason == reason])
        yield f"{_SIGN[Status.TOO_FEW]} too few: {reason}: {names}"
    for status, text in ((Status.NEW, "new"), (Status.NOT_RUN, "not in the newest run")):
        if history.of(status):
            yield f"{_SIGN[status]} {text}: {_names(history.of(status))}"
    for key, (count, differing) in history.others.items():
        yield (
            f"left out: {count} run{'s' * (count > 1)} of another fingerprint, {printable(key, 200)}"
            f"{f' ({printable(differing, 500)})' if differing else ''}"
        )


def sparkline(times: Sequence[float]) -> str:
    """Return the last step times as a line of blocks on a logarithmic scale; a gap where there is none."""
    logs = [math.log(each) if each > 0 else math.nan for each in times[-_SPARKED:]]
    there = [each for each in logs if math.isfinite(each)]
    if not there:
        return ""
    height = max(max(there) - min(there), _LEAST_HEIGHT)
    base = (max(there) + min(there) - height) / 2
    top = len(_SPARKS) - 1
    return "".join("·" if math.isnan(each) else _SPARKS[round((each - base) / height * top)] for each in logs)


def _cases(console: Console, history: History) -> Table:
    """Draw the cases with as many columns as the terminal is wide."""
    shown = shown_columns(history)
    for given_up in range(max(order for _, _, order in _COLUMNS) + 1):
        kept = [column for column in shown if column[2] == 0 or column[2] > given_up]
        meanings = [f"{name}: {_MEANING[name]}" for name, _, _ in kept if name in _MEANING]
        table = Table(
            caption=Text("; ".join(meanings), justify="left"), box=box.SIMPLE, pad_edge=False, collapse_padding=True
        )
        for name, _, _ in kept:
            # A long name is folded; everything else, the verdict above all, keeps its width.
            justify: Any = "right" if name in _NUMBERS else "left"
            table.add_column(name, justify=justify, no_wrap=name != "case", overflow="fold")
        for case in history.cases:
            style = _STYLE[_SIGN[case.status]]
            table.add_row(*(Text(draw(case), style=style if name == "verdict" else "") for name, draw, _ in kept))
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            break
    return table


def shown_columns(history: History) -> list[_Column]:
    """Return the columns in which any case has something."""
    return [column for column in _COLUMNS if any(column[1](case) for case in history.cases)]


def _runs(history: History) -> Table:
    earlier = len(history.runs) - _RUNS
    table = Table(
        title=f"the last of {len(history.runs)} runs" if earlier > 0 else "runs",
        caption="change: median over cases, against the reference of the newest run",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for name in ("run", "commit", "ok", "change", "part"):
        table.add_column(name, justify="right" if name in ("ok", "change") else "left", overflow="fold")
    for run in history.runs[-_RUNS:]:
        table.add_row(
            Text(printable(run.run_id)),
            Text(printable(run.commit[:10])),
            str(run.ok),
            _percent(run.change, "+.1%"),
            run.part,
        )
    return table


def _verdict(history: History) -> str:
    if history.of(Status.SLOWER):
        return "slower"
    if history.of(Status.LOST):
        return "lost"
    return "undecided" if history.undecided else "no_regression"


def _run(run: RunLine) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "commit": run.commit,
        "session": printable(run.session),
        "part": run.part,
        "ok": run.ok,
        "change": _number(run.change),
    }


def _case(case: CaseHistory) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "status": case.status.value,
        "reason": printable(case.reason),
        "change": _number(case.change),
        "limit": _number(case.limit),
        "sessions": case.sessions,
        "trend": _number(case.trend),
        "trend_low": _number(case.trend_low),
        "trend_high": _number(case.trend_high),
        "first_step_ns": _ns(case.first_ns),
        "best_step_ns": _ns(case.best_ns),
        "last_step_ns": _ns(case.last_ns),
        "step_ns": [_ns(each) for each in case.times],
    }


def _trend(case: CaseHistory) -> str:
    if math.isnan(case.trend):
        return ""
    return f"{case.trend:+.2%} [{case.trend_low:+.2%}, {case.trend_high:+.2%}]"


def _names(cases: Sequence[CaseHistory]) -> str:
    more = [f"{len(cases) - _NAMED} more"] if len(cases) > _NAMED else []
    return ", ".join([*(printable(case.case_id) for case in cases[:_NAMED]), *more])


def _count(cases: Sequence[CaseHistory]) -> str:
    return f"{len(cases)} case{'s' * (len(cases) != 1)}"


def _sessions(count: int) -> str:
    return f"{count} session{'s' * (count != 1)}"


def _percent(value: float, spec: str) -> str:
    return format(value, spec) if math.isfinite(value) else ""


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ns(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None  # as many digits as the tables have
