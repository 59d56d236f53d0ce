"""What was found on this machine, one line each: the word beside the colour, what to do below the fact."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.measuring.doctor import Finding, Severity

_STYLE = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.WORTHLESS: "red"}
_ENDING = {
    Severity.OK: "Nothing found that would spoil a measurement.",
    Severity.WARNING: "Results will be noisier, slower or fewer than they could be.",
    Severity.WORTHLESS: "What is measured now is worth nothing.",
}


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print every finding in the order given, and last what they come to."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        said = Text(finding.found)
        if finding.advice:
            said.append(f"\n→ {finding.advice}", style="bold")
        table.add_row(Text(finding.severity, style=_STYLE[finding.severity]), Text(finding.what), said)
    console.print(table)
    worst = max((finding.severity for finding in findings), key=list(Severity).index, default=Severity.OK)
    console.print(Text(_ENDING[worst], style=_STYLE[worst]))
