"""What `run` does for --shard and --publish."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.plan.shard import Shard
from harness.plan.sweep import Sweep

if TYPE_CHECKING:
    from harness.cli.common import Command
    from harness.running.session import Machine, Session

_OPTIONS = (
    click.option(
        "--shard", "shard_text", metavar="K/N", help="Only part K of N, from 0: what is compared stays together."
    ),
    click.option(
        "--publish",
        "url",
        metavar="URL",
        help="Send each finished record to s3://, gs:// or a folder, and go on with what is there.",
    ),
)


def publish_options(command: "Command") -> "Command":
    """Give a command the flags that let results outlive the machine."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def part_of(sweep: Sweep, shard: Shard | None, *, quiet: bool = False) -> Sweep | None:
    """Return what of a sweep is to be measured; where its shard holds no case, say so and return None."""
    part = shard.of(sweep) if shard else sweep
    if part.cases:
        return part
    if not quiet:
        click.echo(f"shard {shard} holds no case of this sweep: there is nothing to measure in it")
    return None


def begin(sweep: Sweep, shard: Shard | None, machine: "Machine", out: Path, url: str | None) -> "Session":
    """Begin a run, or go on with the one that is published at a URL; raises PlanError and NotComparable."""
    from harness.running.restored import start_published
    from harness.running.session import Session
    from harness.running.store import open_store

    if url is None:
        return Session.start(sweep, machine, out, shard)
    store = open_store(url)
    return start_published(store.under(shard.name) if shard else store, sweep, shard, machine, out)
