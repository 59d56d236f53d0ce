"""A run's folder made again from what is published: on a machine that has never seen it, or on one that has a part."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.plan.errors import NotComparable, PlanError
from harness.plan.shard import Shard
from harness.plan.sweep import Sweep
from harness.plan.text import printable, shown
from harness.running.executor import Progress
from harness.running.folder import replaced
from harness.running.journal import FILE, Journal, line_of
from harness.running.published import (
    RUN,
    Published,
    PublishedJournal,
    checked_object,
    object_name,
    read_published,
    record_of,
)
from harness.running.records import MACHINE_FILE, read_journal
from harness.running.session import Machine, Session, check_unchanged
from harness.running.store import Store

Entry = Mapping[str, Any]


def start_published(store: Store, sweep: Sweep, shard: Shard | None, machine: Machine, out: Path) -> Session:
    """Begin a run that is published in a store or, where one is there, go on with that; its folder is below `out`.

    Raises NotComparable where that is of another sweep, commit or machine, and PlanError where the store or `out`
    cannot be read or written.
    """
    sizes = store.names()
    if RUN not in sizes:
        session = Session.start(sweep, machine, out, shard)
        if _announced(session, store):
            journal = session.journal
            assert isinstance(journal, Journal)
            return replace(session, journal=PublishedJournal(journal, store, session.sweep), published=True)
        sizes = store.names()  # another process was first
    published = read_published(store, sizes)
    _check_plan(published, sweep, shard)
    check_unchanged(published.header, sweep, machine, store.url)
    if not published.facts:
        store.create(MACHINE_FILE, json.dumps(machine.facts, indent=2).encode() + b"\n")
        published = replace(published, facts=dict(machine.facts))
    folder, local = _local(published, out)
    records = {**published.records, **_sent_later(store, published, local)}
    entries = _joined(local, records)
    if not local:
        entries += _lost_attempt(entries, published.sweep)
    journal = restored(folder, published.header, published.facts, entries)
    note = f"{len(records)} records are published at {store.url}: goes on with that run, in {folder}"
    kept = PublishedJournal(journal, store, published.sweep, (note,))
    return Session(folder, published.sweep, Progress.of(entries), kept, published=True)


def collect_run(published: Published, out: Path) -> Path:
    """Make or complete the folder of a published run below `out`, all but its tables, and return it."""
    folder, local = _local(published, out)
    restored(folder, published.header, published.facts, _joined(local, published.records)).close()
    return folder


def restored(folder: Path, header: Entry, facts: Entry, entries: Iterable[Entry]) -> Journal:
    """Let a folder hold the run with this header and these entries and nothing else, but tables; open its journal.

    Raises PlanError where it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replaced(folder / MACHINE_FILE) as file:
            file.write_text(json.dumps(facts, indent=2) + "\n", "utf-8")
        with replaced(folder / FILE) as file, file.open("wb") as lines:
            lines.writelines(line_of(entry) for entry in (header, *entries))
    except OSError as error:
        raise PlanError(f"{printable(str(folder))}: cannot be written to: {error.strerror}") from error
    return Journal.reopen(folder)


def _announced(session: Session, store: Store) -> bool:
    """Publish what a run is before anything of it is measured; where another one is there, remove it and say no."""
    try:
        line = (session.folder / FILE).read_bytes()
        first = store.create(RUN, line) == line
        if first:
            store.create(MACHINE_FILE, (session.folder / MACHINE_FILE).read_bytes())
    except BaseException:
        first = False
        raise
    finally:
        if not first:
            session.journal.close()
            shutil.rmtree(session.folder, ignore_errors=True)
    return first


def _check_plan(published: Published, sweep: Sweep, shard: Shard | None) -> None:
    """Raise NotComparable unless what is published is of this sweep, and of this part of it."""
    here = json.loads(json.dumps({**sweep.to_json(), "shard": shard and shard.to_json()}))
    there = {**published.header["sweep"], "shard": published.header.get("shard")}
    for name, now in here.items():
        if there.get(name) != now:
            both = f"its {name} is {shown(there.get(name))}, here it is {shown(now)}"
            raise NotComparable(f"{published.url} cannot be gone on with: {both}")


def _local(published: Published, out: Path) -> tuple[Path, Sequence[Entry]]:
    """Return the folder of a published run, and what is there of it.

    Raises PlanError where it holds something else, or another process writes to it.
    """
    folder = out / published.header["machine"] / published.header["run_id"]
    if not (folder / FILE).exists():
        return folder, []
    Journal.reopen(folder).close()
    header, entries = read_journal(folder)
    if header != published.header:
        raise PlanError(f"{folder} is not the run that is published at {published.url}: choose another --out")
    return folder, entries


def _sent_later(store: Store, published: Published, local: Sequence[Entry]) -> dict[str, Entry]:
    """Publish the records that are only here, for no store took them before; return what is there then."""
    check = record_of(published.sweep)
    there: dict[str, Entry] = {}
    for entry in local:
        if entry["kind"] == "record" and (name := object_name(entry)) not in published.records:
            there[name] = checked_object(store, name, store.create(name, line_of(entry)), partial(check, name))
    return there


def _joined(local: Sequence[Entry], published: Mapping[str, Entry]) -> list[Entry]:
    """Return what is here with every record as it is published, and then what is published only."""
    left = dict(published)
    entries = [left.pop(object_name(entry), entry) if entry["kind"] == "record" else entry for entry in local]
    return [*entries, *left.values()]


def _lost_attempt(entries: Sequence[Entry], sweep: Sweep) -> list[Entry]:
    """Return the attempt that was lost with the machine: it had begun what comes next, and not finished it.

    How often it had begun that, and whether it had, nobody knows: so `attempts` says at least 2, and may say one more
    than there were where the machine died between two processes.
    """
    progress = Progress.of(entries)
    for number, case in sweep.schedule():
        if progress.needs(case, number):
            return [{"kind": "attempt", "case_id": case.case_id, "round": number}]
    return []
