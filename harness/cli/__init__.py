"""The command line: plan → run → tables → judge → report. Turns flags into values once; owns the exit codes.

pandas, scipy and rich are imported by the commands that need them, when they are called: `--help` answers at once.
"""

import io
import os
import sys
import traceback
from contextlib import suppress

import click

from harness import __version__
from harness.cli import ab, compare, explain, export, gather, history, look, measure, prove, report
from harness.cli.common import Exit
from harness.cli.interrupt import INTERRUPTS
from harness.plan.errors import NotComparable, PlanError
from harness.plan.text import printable


def main() -> None:
    """Run the command line and exit; every mistake of the user's ends in one line.

    A fault of the program's own ends with its traceback and a line, and not with Python's 1, which is a regression.
    """
    INTERRUPTS.handle()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # µ or × in a terminal's encoding that lacks them is no fault
    try:
        code = cli.main(prog_name="harness", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:  # the help is no single line
        click.echo(error.format_message(), err=True)
        code = Exit.USAGE
    except click.ClickException as error:
        code = _complain(error.format_message(), Exit.USAGE)
    except PlanError as error:
        code = _complain(str(error), Exit.USAGE)
    except NotComparable as error:
        code = _complain(str(error), Exit.NOT_COMPARABLE)
    except (click.Abort, KeyboardInterrupt):
        code = Exit.INTERRUPTED
    except OSError as error:
        code = _complain(f"{error}; what was finished before is kept", Exit.USAGE)
    except SystemExit:  # of click's, with 1, where nobody reads what it writes
        code = Exit.USAGE
    except Exception:  # noqa: BLE001 - whatever it is, it must not end with 1
        with suppress(OSError):
            traceback.print_exc()
        fault = "this is a fault of the program, and no regression: report the lines above"
        code = _complain(f"{fault}; what was finished before is kept", Exit.USAGE)
    sys.exit(Exit.INTERRUPTED if INTERRUPTS.came else code)


def _complain(text: str, code: Exit) -> Exit:
    try:
        click.echo(f"harness: {printable(' '.join(text.split()))}", err=True)
    except OSError:  # nobody reads it; nor may the interpreter complain when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="harness")
def cli() -> None:
    """Train the same small network by every way of getting gradients; prove each right; measure how fast it is."""


for command in (
    measure.run,
    measure.noise,
    ab.command,
    look.show,
    look.crossover,
    explain.command,
    prove.command,
    look.doctor,
    look.list_catalogue,
    compare.command,
    history.command,
    report.command,
    export.command,
    gather.collect,
    gather.merge,
):
    cli.add_command(command)
