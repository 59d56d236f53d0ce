"""Where a sweep is measured: on this machine, or with `--on ray` on those of a cluster."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.plan.errors import PlanError
from harness.plan.sweep import Sweep
from harness.plan.text import printable

if TYPE_CHECKING:
    from harness.running.dispatch import Watcher
    from harness.running.session import Machine, Session

    Measure = Callable[[Session, Watcher, int | None, Callable[[], None]], None]


@dataclass(frozen=True)
class Site:
    """machine: what it is. measure(session, watcher, timeout, write): measures what a run lacks; write() makes tables.

    flags: what `--resume` needs besides, to go on here.
    """

    machine: "Machine"
    measure: "Measure"
    flags: str = ""


def check_flags(
    on: str | None,
    address: str | None,
    *,
    baseline: Path | None,
    profile_run: bool,
    shard: str | None,
    publish: str | None,
) -> None:
    """Raise PlanError for what a cluster has no answer to."""
    if address is not None and on is None:
        raise PlanError("--address names the head of a Ray cluster: add --on ray")
    if on is not None and baseline is not None:
        raise PlanError("--baseline is of one machine: run with --on ray alone, then compare with `harness compare`")
    if on is not None and profile_run:
        raise PlanError("--profile-run is of one machine: leave it out, or --on ray")
    if on is not None and (shard is not None or publish is not None):
        flag = "--shard" if shard is not None else "--publish"
        raise PlanError(f"{flag} is of a machine that works by itself, and a cluster shares work out: leave one out")


@contextmanager
def site_of(on: str | None, address: str | None, sweep: Sweep, *, quiet: bool = False) -> Iterator[Site]:
    """Be where a sweep is to be measured as long as this lasts; raises PlanError where that cannot be."""
    if on is None:
        from harness.running.session import this_machine

        yield Site(
            this_machine(sweep), lambda session, watcher, timeout, write: session.measure(watcher, timeout, write)
        )
        return
    for case in sweep.cases:
        if ":" in case.device:
            raise PlanError(f"--device {case.device}: on a cluster Ray says which GPU it is: use --device cuda")
        if case.ranks > 1 and case.device != "cpu":
            raise PlanError(f"--ranks {case.ranks}: a case on a cluster has one GPU: measure ranks on one machine")
    from harness.running.cluster import joined
    from harness.running.dispatch import FanOut
    from harness.running.nodes import ask_nodes, together

    with joined(address):
        nodes = ask_nodes(sweep, _note)
        if not quiet:
            kinds = len({node.machine.fingerprint for node in nodes})
            alike = "all alike" if kinds == 1 else f"of {kinds} kinds: each row says of which"
            _note(f"the cluster measures with {len(nodes)} machine{'s' * (len(nodes) > 1)}, {alike}")
        yield Site(
            together(nodes),
            lambda session, watcher, timeout, write: FanOut(session, nodes, watcher, timeout, write, _note).measure(),
            flags=" --on ray",
        )


def _note(line: str) -> None:
    click.echo(f"harness: {printable(line)}", err=True)
