"""The first line of a journal: which run it is, of which code and machine, and what it measures."""

import re
from collections.abc import Mapping
from typing import Any

from harness.plan.errors import PlanError
from harness.plan.shard import Shard, shard_by_case, sweep_of
from harness.plan.sweep import MAX_CASES, Sweep
from harness.plan.text import printable, shown

FORMAT = 1
LARGEST_NUMBER = 1e308
MAX_PARTS = 100

_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")

Facts = dict[str, str | int | float | bool]


def checked_header(header: Mapping[str, Any]) -> Sweep:
    """Return what the run of this header measures; raises PlanError, in one line, where it cannot be relied on."""
    if header.get("kind") != "run":
        raise PlanError(f"kind {shown(header.get('kind'))}: must be run")
    if header.get("format") != FORMAT or isinstance(header["format"], bool):
        raise PlanError(f"format {shown(header.get('format'))}: this program reads {FORMAT}")
    _check_origin(header)
    for name, value in (("commit", header.get("commit")), ("session", header.get("session", header["run_id"]))):
        check_identity(name, value)
    if not isinstance(header.get("dirty"), bool):
        raise PlanError(f"dirty {shown(header.get('dirty'))}: must be true or false")
    sweep = sweep_of(header)
    if not sweep.cases:
        raise PlanError(f"shard {shown(header.get('shard'))}: holds no case of its sweep")
    if "shards" in header:
        _check_shards(header, sweep)
    return sweep


def fact(name: str, value: object) -> str | int | float | bool:
    """Return one fact of a machine as it may be shown; raises PlanError where it is none."""
    if isinstance(value, str):
        return printable(value, 500)
    if isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER:
        return value
    raise PlanError(f"{shown(name)} is {shown(value)}, and must be a text, a finite number or a flag")


def check_identity(name: str, value: object) -> None:
    """Raise PlanError unless the value is fit to name something."""
    if not isinstance(value, str) or not _IDENTITY.fullmatch(value):
        raise PlanError(f"{name} {shown(value)}: must be letters, digits and . _ + -")


def _check_origin(told: Mapping[str, Any]) -> None:
    """Raise PlanError unless it says which run on which machine."""
    for name in ("run_id", "machine", "fingerprint"):
        check_identity(name, told.get(name))
    check_environment(told)


def check_environment(told: Mapping[str, Any]) -> None:
    """Raise PlanError unless what is told of a machine's `environment` is an object of facts, if anything is."""
    environment = told.get("environment", {})
    if not isinstance(environment, dict) or len(environment) > MAX_PARTS:
        raise PlanError(f"environment {shown(environment)}: must be an object of texts and numbers")
    for name, value in environment.items():
        fact(name, value)


def _check_shards(header: Mapping[str, Any], sweep: Sweep) -> None:
    """Raise PlanError unless a run that was merged names the machine of each of its cases, once."""
    parts = header["shards"]
    if "shard" in header or not isinstance(parts, list) or not 0 < len(parts) <= MAX_CASES:
        raise PlanError(f"shards {shown(parts)}: must be a list of what a whole sweep was merged from")
    shards = []
    for part in parts:
        if not isinstance(part, dict):
            raise PlanError(f"shards: {shown(part)}: must be an object")
        shards.append(Shard.from_json(part.get("shard")))
        _check_origin(part)
    counts = {shard.count for shard in shards}
    if len(counts) > 1 or len(set(shards)) < len(shards):
        raise PlanError(f"shards {shown([str(shard) for shard in shards])}: must be different parts of one number")
    lacking = set(shard_by_case(sweep.cases, counts.pop()).values()) - {shard.index for shard in shards}
    if lacking:
        raise PlanError(f"shards: shard {min(lacking)} is missing")
