"""The screen of a run: what is known of its cases above a line that says what runs. Drawn only when it is told to.

A frame never has more lines than the terminal, nor a line more cells. The table is made when a process starts; when a
phase begins, which may be that of timed blocks, only the line below is new.
"""

import math
from collections.abc import Callable, Container, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.segment import ControlType, Segment
from rich.table import Table
from rich.text import Text

from harness.plan.outcome import Outcome
from harness.plan.sweep import Sweep
from harness.plan.text import printable
from harness.reporting.so_far import Found, Key, SoFar, round_of
from harness.reporting.terminal import duration, styled

Lines = list[list[Segment]]

_LEAST_BAR, _MOST_BAR = 10, 40
_GAP = 2
_RUNNING = "> "
# What the terminal itself writes at the end of the last line when somebody presses Ctrl-C: ^C must not begin another.
_ECHO = 2


class Screen:
    """Draws what is so far of a run, and nothing of it is left when it is closed.

    time_left: says how long the run will still take.
    """

    def __init__(self, console: Console, sweep: Sweep, so_far: SoFar, time_left: Callable[[], str]) -> None:
        self._console = console
        self._sweep = sweep
        self._so_far = so_far
        self._time_left = time_left
        self._order = {case.case_id: number for number, case in enumerate(sweep.cases)}
        self._above: Lines | None = None
        self._above_of = (0, 0)
        self._drawn: list[int] = []
        # No refresh thread: it would wake up a core beside the worker. What goes to stdout is for whoever reads that.
        self._live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, get_renderable=lambda: self
        )

    def open(self) -> None:
        """Begin; draws nothing yet."""
        try:
            self._live.start()
        except BaseException:
            self.close()
            self._console.show_cursor()
            raise

    def close(self) -> None:
        """Take the last frame away and give the cursor back, also where a signal comes in between."""
        try:
            self._unwrap()
            self._live.stop()
        except BaseException:
            self._console.show_cursor()
            raise

    def draw(self, *, table: bool = False) -> None:
        """Draw a frame in the place of the last; table: with a new table."""
        if table:
            self._above = None
        self._unwrap()
        self._live.refresh()

    def _unwrap(self) -> None:
        """Take away what of the last frame a terminal that became narrower has wrapped; rich counts lines as drawn.

        A terminal that cuts lines instead loses as many of those above it, which are others' but seen.
        """
        more = sum(max(0, cells - 1) // self._console.width for cells in self._drawn)
        if more:
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * more
            self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines of a frame."""
        width, height = console.size
        below = console.render_lines(self._status(max(1, width - _ECHO)), options, pad=False)
        if self._above is None or self._above_of != (width, height):
            self._above_of = (width, height)
            room = height - 1 - len(below)
            above = [console.render_lines(part, options, pad=False) for part in self._table(width, room)]
            self._above = [line for part in above for line in part][: max(0, room)]
        lines = [*self._above, *below[: max(1, height - 1)]]
        self._drawn = [Segment.get_line_length(line) for line in lines]
        for number, line in enumerate(lines):
            if number:
                yield Segment.line()
            yield from line

    def _table(self, width: int, room: int) -> list[RenderableType]:
        """Return what stands above the status, in at most `room` lines; nothing where that is too few."""
        so_far = self._so_far
        running = {(each.case_id, each.arm) for each in so_far.running.values()}
        newest = [so_far.found.get(key) or Found(*key) for key in running]
        newest += [found for key, found in reversed(so_far.found.items()) if key not in running]
        failed = so_far.without_time()
        notes = (
            [f"without a time: {', '.join(f'{count} {how}' for how, count in failed.most_common())}"] if failed else []
        )
        not_begun = len(self._sweep.cases) - len(newest)
        rows = room - 1 - len(notes)
        if not_begun > 0 or len(newest) > rows:
            rows -= 1
        if not newest or rows < 1:
            return []
        if told := _told(len(newest) - rows, not_begun):
            notes.append(told)
        shown = sorted(newest[:rows], key=lambda found: (self._order.get(found.case_id, 0), so_far.arms[found.arm]))
        table = self._rows(shown, running, width)
        return [table, *(Text(note, style="dim", no_wrap=True, overflow="ellipsis") for note in notes)]

    def _rows(self, shown: Sequence[Found], running: Container[Key], width: int) -> Table:
        """Return the table of these cases, which is at most so wide."""
        columns = {
            "rounds": [Text(f"{len(found.steps_ns)}/{self._sweep.rounds}") for found in shown],
            "step": [_step(found) for found in shown],
            "spread": [Text(_spread(found)) for found in shown],
        }
        taken = sum(_GAP + max(len(name), *(cell.cell_len for cell in cells)) for name, cells in columns.items())
        names = self._names(shown, width - taken - len(_RUNNING))
        marks = [_RUNNING if (found.case_id, found.arm) in running else " " * len(_RUNNING) for found in shown]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
        table.add_column(f"{' ' * len(_RUNNING)}case", no_wrap=True)
        for name in columns:
            table.add_column(name, justify="left" if name == "spread" else "right", no_wrap=True)
        for mark, name, *cells in zip(marks, names, *columns.values(), strict=True):
            table.add_row(Text(mark + name), *cells)
        return table

    def _names(self, shown: Sequence[Found], width: int) -> list[str]:
        """Return a name for each in at most so many characters: as far as it goes without what all cases share."""
        names = [_named(found.case_id, found.arm) for found in shown]
        if max(map(len, names)) > width:
            names = [_named(self._short(found.case_id), found.arm) for found in shown]
        return [cut(name, width) for name in names]

    def _short(self, case_id: str) -> str:
        """Return a case's name without device and dtype where all cases have the same."""
        parts = case_id.split("/")
        alike = len({(case.device, case.dtype) for case in self._sweep.cases}) == 1
        return "/".join(parts[:2] + parts[4:]) if alike else case_id

    def _status(self, width: int) -> RenderableType:
        """Return what runs, how much is done and how long it will take: one line where that fits, else two."""
        newest = self._so_far.newest
        what = Text(no_wrap=True)
        if newest is not None:
            arm = f" of {printable(newest.arm, 40)}" if newest.arm else ""
            phase = f" {newest.phase}{' again' if newest.again else ''}"
            what.append(f"{round_of(newest.round_number, self._sweep.rounds)} ")
            fixed = what.cell_len + len(arm) + len(phase)
            name = newest.case_id if len(newest.case_id) + fixed <= width else self._short(newest.case_id)
            what.append(cut(name, width - fixed) + arm)
            what.append(phase, style="dim")
        how_far = (f"{self._so_far.done}/{self._so_far.total}", self._time_left())
        bar = width - what.cell_len - sum(map(len, how_far)) - 3 * _GAP
        if bar >= _LEAST_BAR:
            return _line(what, self._bar(bar), *how_far)
        bar = width - sum(map(len, how_far)) - 2 * _GAP
        below = _line(self._bar(bar), *how_far) if bar >= _LEAST_BAR else _line(*how_far)
        what.truncate(width, overflow="ellipsis")
        return Group(what, below)

    def _bar(self, width: int) -> ProgressBar:
        return ProgressBar(self._so_far.total, self._so_far.done, width=min(width, _MOST_BAR))


def _line(*parts: RenderableType) -> Table:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for _ in parts:
        grid.add_column(no_wrap=True)
    grid.add_row(*parts)
    return grid


def _told(hidden: int, not_begun: int) -> str:
    """Say how many cases are not in the table."""
    hidden, not_begun = max(0, hidden), max(0, not_begun)
    if hidden and not_begun:
        return f"{_cases(hidden, 'more ')}, {not_begun} not begun"
    return f"{_cases(not_begun)} not begun" if not_begun else _cases(hidden, "more ") if hidden else ""


def _cases(count: int, which: str = "") -> str:
    return f"{count} {which}case{'s' * (count != 1)}"


def _named(case_id: str, arm: str) -> str:
    return f"{case_id} of {printable(arm, 40)}" if arm else case_id


def _step(found: Found) -> Text:
    return Text(duration(found.step_ns)) if found.outcome == Outcome.OK else styled(found.outcome)


def _spread(found: Found) -> str:
    """Say how much the processes of a case differ, and how many they are."""
    if found.outcome != Outcome.OK or math.isnan(found.spread):
        return ""
    return f"{found.spread:.1%} of {len(found.steps_ns)}"


def cut(text: str, width: int) -> str:
    """Return a text in at most `width` characters, its middle left out where it is longer."""
    if len(text) <= max(0, width):
        return text
    tail = max(0, width - 1) // 2
    return (text[: max(0, width - 1 - tail)] + "…" + text[len(text) - tail :])[: max(0, width)]
