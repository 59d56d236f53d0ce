"""A comparison, drawn: on the terminal, as Markdown, as annotations of a pull request, and as JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.comparing.compared import CaseResult, Compared, Status
from harness.comparing.run import Run
from harness.comparing.sessions import SessionSpread
from harness.plan.text import printable
from harness.reporting import comparison_words as words
from harness.reporting.github import annotation, append_step_summary, code, markdown
from harness.reporting.terminal import duration

JSON_SCHEMA = 1

_STYLE = {"✗": "red", "✓": "green", "=": "", "?": "yellow", "–": "yellow", "+": "dim", "-": "dim"}
_MEANING = {
    "change": "of the step time, new over base, above 0 is slower, with its 95 % interval",
    "needs": "what would decide it, if it stays as it looks",
    "margin": "the least change that counts",
    "spread": "between processes, as `harness noise` measured it, as these rounds have it, or assumed",
}
# Every column with how to draw its cell, and in which order columns are given up on a narrow terminal (0: never).
_COLUMNS: tuple[tuple[str, Callable[[Compared, CaseResult], str], int], ...] = (
    ("case", lambda _, case: printable(case.case_id), 0),
    ("base", lambda _, case: duration(case.base_ns), 4),
    ("new", lambda _, case: duration(case.new_ns), 4),
    ("change", lambda _, case: words.change(case), 0),
    ("verdict", lambda _, case: words.said(case.status), 0),
    ("needs", words.lacking, 5),
    ("rounds", lambda _, case: words.rounds(case), 3),
    ("margin", lambda _, case: words.percent(case.margin, ".1%"), 2),
    ("spread", lambda _, case: f"{words.percent(case.spread, '.1%')} {case.spread_from}".strip(), 1),
)
_NUMBERS = {"base", "new", "change", "rounds", "margin"}

# GitHub takes 65 536 characters a comment; ten annotations of a level from one step, and drops the others unsaid.
_LONGEST_LIST = 20_000
_ANNOTATIONS = 10
_WARNED = (Status.UNDECIDED, Status.CHANGED)


def show_comparison(console: Console, compared: Compared, *, only_wrong: bool = False) -> None:
    """Print the verdict in one line, then what it is made of: the table, what is not in it, what would decide more.

    only_wrong: nothing of what is as it was; without anything wrong, only warnings are left.
    """
    cases, rest = words.timed(compared), words.untimed(compared)
    if only_wrong:
        cases = [case for case in cases if case.failed or case.status is Status.UNDECIDED]
        rest = [case for case in rest if words.SIGN[case.status] in "✗?–"]
    if cases or rest or not only_wrong:
        _headline(console, compared)
    if cases:
        console.print(_table(console, compared, cases))
    if not only_wrong:
        _say(console, "", words.aggregate(compared))
    for case in rest:
        _say(console, words.said(case.status), ": ".join(filter(None, (printable(case.case_id), words.reason(case)))))
    if not only_wrong:
        _say(console, "", words.disturbed(compared))
        _say(console, "", words.clocked(compared))
    _say(console, "", words.more_rounds(compared))
    if compared.varied and not only_wrong:
        _say(console, "varied", _listed(compared.varied))
    for warning in compared.warnings:
        _say(console, "? warning", printable(warning, 500))
    for line in words.advice(compared) if cases or rest or not only_wrong else ():
        _say(console, "", line)


def as_markdown(compared: Compared) -> str:
    """Return the comparison in GitHub's Markdown: verdict, what is not the same, and folded away all that is."""
    failed = "✗" if compared.failed else "?" if words.verdict(compared) != "no_regression" else "✓"
    parts = [f"### {failed} {markdown(words.headline(compared))}", f"Compared: {markdown(words.sides(compared))}"]
    cases = words.noteworthy(compared)
    quiet = compared.of(Status.SAME, Status.WITHIN)
    if cases:
        parts.append(_markdown_table(compared, cases))
    parts += [
        _bullets([_markdown_line(case) for case in words.untimed(compared)]),
        markdown(words.aggregate(compared)),
        markdown(words.disturbed(compared)),
        markdown(words.clocked(compared)),
        markdown(words.more_rounds(compared)),
        _bullets([f"**warning**: {markdown(warning, 500)}" for warning in compared.warnings]),
        *(markdown(line) for line in words.advice(compared)),
    ]
    folded = [f"Varied as declared: {markdown(_listed(compared.varied))}"] if compared.varied else []
    if quiet:
        folded.append(_markdown_table(compared, quiet))
    if folded:
        told = f"{len(quiet)} of {len(compared.cases)} cases are as they were" if quiet else "what was varied"
        caption = markdown(_caption(list(_MEANING)))
        parts.append("\n\n".join([f"<details>\n<summary>{told}</summary>", *folded, caption, "</details>"]))
    return "\n\n".join(filter(None, parts)) + "\n"


def annotations(compared: Compared) -> list[str]:
    """Return GitHub's workflow commands: an error for each regression, a warning for each undecided or changed case.

    Ten of a kind are shown; the tenth says how many more there are.
    """
    failed = [case for status in words.ORDER for case in compared.of(status) if case.failed]
    return [*_annotations("error", failed), *_annotations("warning", compared.of(*_WARNED))]


def step_summary(compared: Compared) -> bool:
    """Append the comparison to the summary of a GitHub step, where there is one; return whether there was."""
    return append_step_summary(lambda: as_markdown(compared))


def as_json(compared: Compared) -> dict[str, Any]:
    """Return the comparison as a JSON object; fields are only ever added, `schema` is raised for all other changes.

    Times are in nanoseconds per update and named `…_ns`. Changes, margins and spreads are shares: 0.05 is 5 % slower.
    What is not known, or no finite number, is null.

    * schema; verdict: `regressed`, `slower` (of two sessions), `no_times`, `undecided` (more than half of the
      cases with times) or `no_regression`; text: it in one line; counts: cases of every status, 0 as well.
    * firm: both sides are of one session; paired: of the same rounds. disturbed: of the pairs of which a side was so
      from beginning to end, how many are left_out and kept, and how many processes of base and new were. clocked: the
      share of the pairs' spread that is left without what the core's clock did to them; 1 where it was not taken out.
    * base, new: name as it was given, run_id, commit, dirty, machine, fingerprint, session, rounds.
    * aggregate, or null: cases, geometric mean `change`, its 95 % interval `change_low`, `change_high`.
    * sessions, null for one session: whether their spread was `measured` and over how many `sessions`, else assumed;
      `common` to all cases and `own` of each, standard deviations.
    * varied, warnings: texts.
    * cases: case_id, status, reason, base_step_ns, new_step_ns, change, change_low, change_high, p (adjusted over the
      table), margin, spread (between processes), spread_from (`noise`, `rounds`, `assumed` or empty), rounds_base,
      rounds_new, rounds_needed (a side; null where it is decided or none would do).
    """
    mean, known = compared.aggregate, None if compared.firm else compared.sessions or SessionSpread()
    return {
        "schema": JSON_SCHEMA,
        "verdict": words.verdict(compared),
        "text": words.headline(compared),
        "counts": {status.value: len(compared.of(status)) for status in Status},
        "firm": compared.firm,
        "paired": compared.paired,
        "disturbed": asdict(compared.disturbed),
        "clocked": _number(compared.clocked),
        "base": _side(compared.base),
        "new": _side(compared.new),
        "aggregate": mean
        and {
            "cases": mean.cases,
            "change": _number(mean.change),
            "change_low": _number(mean.low),
            "change_high": _number(mean.high),
        },
        "sessions": known
        and {
            "sessions": known.sessions,
            "measured": known.measured,
            "common": _number(known.common),
            "own": _number(known.own),
        },
        "varied": [printable(each) for each in compared.varied],
        "warnings": [printable(each) for each in compared.warnings],
        "cases": [_case(case) for case in compared.cases],
    }


def _headline(console: Console, compared: Compared) -> None:
    style = "bold red" if compared.failed else "bold"
    console.print(Text(words.headline(compared), style=style), soft_wrap=True)
    console.print(Text(words.sides(compared)), soft_wrap=True)


def _say(console: Console, word: str, text: str) -> None:
    if text:
        console.print(*([Text(word, style=_STYLE.get(word[:1], ""))] if word else []), Text(text), soft_wrap=True)


def shown_columns(
    compared: Compared, cases: Sequence[CaseResult]
) -> list[tuple[str, Callable[[Compared, CaseResult], str], int]]:
    """Return the columns in which any of these cases has something."""
    return [column for column in _COLUMNS if any(column[1](compared, case) for case in cases)]


def _table(console: Console, compared: Compared, cases: Sequence[CaseResult]) -> Table:
    """Draw the table with as many columns as the terminal is wide."""
    shown = shown_columns(compared, cases)
    for given_up in range(max(order for _, _, order in _COLUMNS) + 1):
        kept = [column for column in shown if column[2] == 0 or column[2] > given_up]
        caption = Text(_caption([name for name, _, _ in kept]), justify="left")
        table = Table(caption=caption, box=box.SIMPLE, pad_edge=False, collapse_padding=True)
        for name, _, _ in kept:
            # A long name is folded; everything else, the verdict above all, keeps its width.
            justify: Any = "right" if name in _NUMBERS else "left"
            table.add_column(name, justify=justify, no_wrap=name != "case", overflow="fold")
        for case in cases:
            style = _STYLE[words.SIGN[case.status]]
            cells = ((name, draw(compared, case)) for name, draw, _ in kept)
            table.add_row(*(Text(cell, style=style if name == "verdict" else "") for name, cell in cells))
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            break
    return table


def _caption(columns: Sequence[str]) -> str:
    return "; ".join(f"{name}: {_MEANING[name]}" for name in columns if name in _MEANING)


def _markdown_table(compared: Compared, cases: Sequence[CaseResult]) -> str:
    shown = shown_columns(compared, cases)
    head = f"| {' | '.join(name for name, _, _ in shown)} |"
    rule = f"| {' | '.join('---:' if name in _NUMBERS else '---' for name, _, _ in shown)} |"
    rows = []
    for case in cases:
        cells = [(code if name == "case" else markdown)(draw(compared, case)) for name, draw, _ in shown]
        rows.append(f"| {' | '.join(cells)} |")
    kept = _fitting(rows)
    more = [f"\nand {len(rows) - len(kept)} more cases"] if len(kept) < len(rows) else []
    return "\n".join([head, rule, *kept, *more])


def _markdown_line(case: CaseResult) -> str:
    why = f": {markdown(words.reason(case))}" if case.reason else ""
    return f"**{words.WORD[case.status]}** {code(case.case_id)}{why}"


def _bullets(lines: Sequence[str]) -> str:
    kept = _fitting(lines)
    more = [f"and {len(lines) - len(kept)} more"] if len(kept) < len(lines) else []
    return "\n".join(f"* {line}" for line in [*kept, *more])


def _fitting(lines: Sequence[str]) -> list[str]:
    """Return as many lines as a comment has room for."""
    kept: list[str] = []
    for line in lines:
        if sum(map(len, kept)) + len(line) > _LONGEST_LIST:
            break
        kept.append(line)
    return kept


def _annotations(level: str, cases: Sequence[CaseResult]) -> list[str]:
    shown = cases if len(cases) <= _ANNOTATIONS else cases[: _ANNOTATIONS - 1]
    made = [annotation(level, f"{words.WORD[case.status]}: {case.case_id}", _message(case)) for case in shown]
    if len(shown) < len(cases):
        made.append(annotation(level, f"{len(cases) - len(shown)} more cases", "the summary of this step has them all"))
    return made


def _message(case: CaseResult) -> str:
    if math.isnan(case.change):
        return words.reason(case) or words.WORD[case.status]
    times = f"{duration(case.base_ns)} → {duration(case.new_ns)}"
    needs = f"; {case.rounds_needed:.0f} rounds a side would decide" if math.isfinite(case.rounds_needed) else ""
    advisory = "; two sessions, so advisory" if case.status is Status.SLOWER else ""
    return f"{words.change(case)}, {times}, margin {words.percent(case.margin, '.1%')}{needs}{advisory}"


def _listed(texts: Sequence[str]) -> str:
    return "; ".join(printable(text, 500) for text in texts)


def _case(case: CaseResult) -> dict[str, Any]:
    return {
        "case_id": case.case_id,
        "status": case.status.value,
        "reason": printable(case.reason),
        "base_step_ns": _number(case.base_ns),
        "new_step_ns": _number(case.new_ns),
        "change": _number(case.change),
        "change_low": _number(case.low),
        "change_high": _number(case.high),
        "p": _number(case.p),
        "margin": _number(case.margin),
        "spread": _number(case.spread),
        "spread_from": case.spread_from,
        "rounds_base": case.rounds_base,
        "rounds_new": case.rounds_new,
        "rounds_needed": int(case.rounds_needed) if math.isfinite(case.rounds_needed) else None,
    }


def _side(run: Run) -> dict[str, Any]:
    texts = {name: run.only(name) for name in ("run_id", "commit", "machine", "fingerprint")}
    return {
        "name": printable(run.name),
        **{name: printable(text) for name, text in texts.items()},
        "dirty": bool(run.measurements["dirty"].astype(bool).any()),
        "session": printable(run.session),
        "rounds": int(run.measurements["round"].nunique()),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
