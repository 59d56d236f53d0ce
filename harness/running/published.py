"""What is published of a run, one object a record, and the journal that publishes as it goes.

    run.json                          the first line of the journal
    machine.json                      the facts of the machine that began it
    records/<round>-<digest>.json     one finished record each; the digest is of its `case_id`

Objects are created and never overwritten, so that a record cannot be there twice: the one that was first is the one
that counts, wherever it was measured.
"""

import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.plan.errors import PlanError
from harness.plan.sweep import MAX_PROCESSES, Sweep
from harness.running.folder import digest
from harness.running.header import Facts, checked_header
from harness.running.journal import Journal, line_of
from harness.running.records import MACHINE_FILE, MAX_MACHINE_BYTES, check_entry, checked_facts, parsed, said
from harness.running.store import Store, matching

RUN = "run.json"

_RECORD = re.compile(r"records/[0-9]{1,4}-[0-9a-f]{12}\.json")
# After a signal, whatever is on its way has so long to arrive: with the tables, less than the 15 s that clouds give.
_LAST_S = 8.0


def object_name(entry: Mapping[str, Any]) -> str:
    """Return the name of the object that a record is published as."""
    return f"records/{entry['round']}-{digest(entry['case_id'].encode())}.json"


@dataclass(frozen=True)
class Published:
    """A run as it is published.

    url: its prefix. header: the first line of its journal. sweep: what it measures, all of its sweep or its shard.
    facts: of the machine that began it, none where they are not there. records: by the names of their objects.
    """

    url: str
    header: dict[str, Any]
    sweep: Sweep
    facts: Facts
    records: dict[str, dict[str, Any]]


def read_published(store: Store, sizes: Mapping[str, int]) -> Published:
    """Return the run at a store's prefix, of whose objects these are the sizes.

    Raises PlanError, naming the object, where it holds what this program did not write.
    """
    names = sorted(name for name in sizes if _RECORD.fullmatch(name))
    if len(names) > MAX_PROCESSES:
        raise PlanError(f"{store.url}: holds more than the {MAX_PROCESSES} records that one run may have")
    if sizes.get(MACHINE_FILE, 0) > MAX_MACHINE_BYTES:
        raise PlanError(f"{store.url}/{MACHINE_FILE}: is larger than the {MAX_MACHINE_BYTES >> 10} KiB that are read")
    about = store.read(matching(sizes, (RUN, MACHINE_FILE)))
    header = checked_object(store, RUN, about.get(RUN, b""), _as_header)
    facts = checked_object(store, MACHINE_FILE, about[MACHINE_FILE], checked_facts) if MACHINE_FILE in about else {}
    sweep = checked_header(header)
    check = record_of(sweep)
    contents = store.read(matching(sizes, names))
    records = {name: checked_object(store, name, contents[name], partial(check, name)) for name in names}
    ordered = dict(sorted(records.items(), key=lambda item: (item[1]["round"], item[0])))
    return Published(store.url, header, sweep, facts, ordered)


def record_of(sweep: Sweep) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Return what checks a record by the name of its object; it raises PlanError where it is none of this sweep's."""
    case_ids = frozenset(case.case_id for case in sweep.cases)

    def check(name: str, entry: dict[str, Any]) -> dict[str, Any]:
        check_entry(entry, case_ids, sweep.rounds)
        if entry["kind"] != "record" or object_name(entry) != name:
            raise PlanError(f"is no record of that name, but {entry['kind']} of {entry['case_id']}")
        return entry

    return check


def _as_header(entry: dict[str, Any]) -> dict[str, Any]:
    checked_header(entry)
    return entry


def checked_object(
    store: Store, name: str, content: bytes, check: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Return what an object holds, if it passes the check; raises PlanError, naming it, where it does not."""
    try:
        return check(parsed(content))
    except (PlanError, RecursionError) as error:
        raise PlanError(f"{store.url}/{name} is damaged: {said(error)}") from error


class PublishedJournal:
    """A journal whose records are published as soon as they are on the disk here, before the next case starts.

    The record waits for the store, so that no network is busy while anything is timed.
    """

    def __init__(self, journal: Journal, store: Store, sweep: Sweep, notes: tuple[str, ...] = ()) -> None:
        self.notes = (*journal.notes, *notes)
        self._journal = journal
        self._store = store
        self._check = record_of(sweep)
        self._sent: tuple[str, bytes, Future[bytes]] | None = None

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep an entry here and, where it is a record, publish it.

        Where another process published that record before, its record takes the place of this one here as well. Raises
        OSError where it cannot be kept, PlanError where it is kept and cannot be published.
        """
        self._journal.append(entry)
        if entry["kind"] == "record":
            name, line = object_name(entry), line_of(entry)
            self._sent = (name, line, self._send(name, line))
            self._settle(None)

    def close(self) -> None:
        """Let what is on its way arrive, for some seconds, and close the journal; raises PlanError where it has not."""
        try:
            self._settle(_LAST_S)
        finally:
            self._journal.close()

    def _send(self, name: str, line: bytes) -> "Future[bytes]":
        """Create the object in a thread of its own: a signal interrupts who waits for it, and not the request."""
        created: Future[bytes] = Future()

        def create() -> None:
            try:
                created.set_result(self._store.create(name, line))
            except Exception as error:  # noqa: BLE001 - raised where it is waited for
                created.set_exception(error)

        threading.Thread(target=create, daemon=True).start()
        return created

    def _settle(self, timeout_s: float | None) -> None:
        if self._sent is None:
            return
        name, line, created = self._sent
        try:
            there = created.result(timeout_s)
        except TimeoutError as error:
            raise PlanError(f"{self._store.url} does not answer: its last record is not published") from error
        except PlanError:
            self._sent = None
            raise
        self._sent = None
        if there != line:
            self._journal.replace_last(checked_object(self._store, name, there, partial(self._check, name)))
