"""The shards of one sweep, measured on machines of their own, as one run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import __version__
from harness.plan.errors import NotComparable, PlanError
from harness.plan.shard import Shard, shard_by_case
from harness.plan.sweep import Sweep
from harness.plan.text import printable, shown
from harness.running.folder import Revision, make_run_folder
from harness.running.header import FORMAT, Facts
from harness.running.published import Published
from harness.running.records import read_journal, read_machine
from harness.running.restored import restored

# What must be the same wherever a part of a sweep was measured.
_CODE = ("commit", "dirty", "changes", "files")
_ORIGIN = ("run_id", "machine", "fingerprint", "environment")
SEVERAL = "several-machines"


@dataclass(frozen=True)
class Part:
    """The run of one shard. where: as the user knows it. entries: of its journal. facts: of its machine."""

    where: str
    header: Mapping[str, Any]
    entries: Sequence[Mapping[str, Any]]
    facts: Facts

    @classmethod
    def in_folder(cls, folder: Path) -> "Part":
        """Read the part in a run's folder; raises PlanError where it is none."""
        return cls(printable(str(folder)), *read_journal(folder), read_machine(folder))

    @classmethod
    def of(cls, published: Published) -> "Part":
        """Return the part that is published."""
        return cls(published.url, published.header, list(published.records.values()), published.facts)


def merge(parts: Sequence[Part], out: Path) -> Path:
    """Make the folder of one run of all shards of a sweep below `out`, all but its tables, and return it.

    Raises NotComparable where they are not of one sweep and commit, and PlanError where one is there twice or missing.
    """
    shards = _shards(parts)
    headers = [shards[shard].header for shard in sorted(shards)]
    first = headers[0]
    machine, fingerprint = (_common(headers, name) for name in ("machine", "fingerprint"))
    at = Revision(first["commit"], first["dirty"])
    folder = make_run_folder(out, machine, at, min(map(_begun, headers)))
    header = {
        "kind": "run",
        "format": FORMAT,
        "harness": __version__,
        "run_id": folder.name,
        "session": folder.name,
        "started": first.get("started"),
        **{name: first[name] for name in _CODE if name in first},
        "machine": machine,
        "fingerprint": fingerprint,
        "sweep": first["sweep"],
        "shards": [
            {"shard": header["shard"], **{name: header[name] for name in _ORIGIN if name in header}}
            for header in headers
        ],
    }
    facts = [part.facts for part in shards.values()]
    shared = {name: value for name, value in facts[0].items() if all(each.get(name) == value for each in facts)}
    restored(folder, header, shared, [entry for shard in sorted(shards) for entry in shards[shard].entries]).close()
    return folder


def _shards(parts: Sequence[Part]) -> dict[Shard, Part]:
    """Return the parts by shard; raises where they are not all of one sweep, each once."""
    shards: dict[Shard, Part] = {}
    first = parts[0]
    for part in parts:
        if "shard" not in part.header:
            raise PlanError(f"{part.where} is no shard: it was measured without --shard")
        for name in ("sweep", *_CODE):
            mine, other = part.header.get(name), first.header.get(name)
            if mine != other:
                raise NotComparable(
                    f"{part.where} and {first.where} are no parts of one run: {_differing(name, mine, other)}"
                )
        shard = Shard.from_json(part.header["shard"])
        if shard.count != Shard.from_json(first.header["shard"]).count:
            raise PlanError(f"{part.where} is shard {shard}, and {first.where} one of another number of shards")
        if shard in shards:
            raise PlanError(f"shard {shard} is there twice: {shards[shard].where} and {part.where}")
        shards[shard] = part
    count = next(iter(shards)).count
    wanted = set(shard_by_case(Sweep.from_json(first.header["sweep"]).cases, count).values())
    missing = sorted(wanted - {shard.index for shard in shards})
    if missing:
        names = ", ".join(str(Shard(index, count)) for index in missing[:20])
        raise PlanError(f"shard {names} is missing: measure it, or name its folder as well")
    return shards


def _differing(name: str, mine: object, other: object) -> str:
    """Say what differs of two headers, of two sweeps the first part that does."""
    if isinstance(mine, dict) and isinstance(other, dict):
        within = next(key for key in [*mine, *other] if mine.get(key) != other.get(key))
        return f"their {name} has {shown(within)} {shown(mine.get(within))} and {shown(other.get(within))}"
    return f"their {name} is {shown(mine)} and {shown(other)}"


def _common(headers: Sequence[Mapping[str, Any]], name: str) -> str:
    values = {header[name] for header in headers}
    return str(values.pop()) if len(values) == 1 else SEVERAL


def _begun(header: Mapping[str, Any]) -> datetime:
    """Return when a run was begun; the present where its header does not tell."""
    try:
        return datetime.fromisoformat(header["started"]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError):
        return datetime.now(UTC)
