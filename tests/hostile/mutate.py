"""Makes broken and malicious variants of good files, each from its own seed: first its structure, then its bytes."""

import copy
import csv
import io
import json
import random
from collections.abc import Callable
from typing import Any

FORMULAS = (
    "=cmd|' /C calc'!A0",
    "+1+2",
    "-2+3",
    "@SUM(A1:A9)",
    "\t=1",
    "\r=1",
    "'=1",
    "''+1",
    "＝1",
    '=HYPERLINK("x","y")',
)
ESCAPES = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\r\nb",
    "\u202egpj.exe",
    "nul\0",
    "\ud800",
    "\u2028",
    "\ufeff",
)
PATHS = ("../../x", "/etc/passwd", "..", "~/x", "C:\\x", "a/b/../../../c", "/dev/zero", "x" * 300 + ".py:A")
WORDS = (
    "",
    "abc",
    "ok",
    "crashed",
    "line",
    "manual",
    "cuda:0",
    "nan",
    "inf",
    "1e5",
    "0x10",
    "1_000",
    "True",
    "None",
    "[red]",
)
TEXTS = (*FORMULAS, *ESCAPES, *PATHS, *WORDS, "x" * 5000, "é" * 200_000)
NUMBERS = (0, -1, 1, 2, 1.5, -0.0, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, 1e308, -1e308, 5e-324, 1e-9)
NOT_NUMBERS = (float("nan"), float("inf"), float("-inf"))
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"a": 1}, [1, "b"])


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def anything(rng: random.Random) -> Any:
    pool = rng.choice([TEXTS, TEXTS, NUMBERS, NUMBERS, OTHERS, NOT_NUMBERS])
    return copy.deepcopy(rng.choice(pool)) if rng.random() > 0.03 else nested(rng.choice([5, 60]))


# JSON-like trees


def _place(tree: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a container somewhere in the tree and a key of it."""
    holder, key = tree, None
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = rng.choice(keys)
        below = holder[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.25:
            return holder, key
        holder = below


def _replace(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    holder[key] = anything(rng)


def _drop(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    del holder[key]


def _double(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[key + rng.choice(["_", "2", " ", "\x1b[0m", ".a"])] = copy.deepcopy(holder[key])


def _rename(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    if isinstance(holder, dict):
        holder[rng.choice(["colour", key.upper(), key[::-1], *WORDS, *ESCAPES])] = holder.pop(key)


def _swap(tree: Any, rng: random.Random) -> None:
    (one, first), (other, second) = _place(tree, rng), _place(tree, rng)
    one[first], other[second] = copy.deepcopy(other[second]), copy.deepcopy(one[first])


def _shuffle(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    below = holder[key]
    if isinstance(below, list):
        rng.shuffle(below)
    elif isinstance(holder, dict):
        items = list(holder.items())
        rng.shuffle(items)
        holder.clear()
        holder.update(items)


def _wrap(tree: Any, rng: random.Random) -> None:
    holder, key = _place(tree, rng)
    holder[key] = rng.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])


def _nudge(tree: Any, rng: random.Random) -> None:
    """Change a number to another that could be one."""
    for _ in range(20):
        holder, key = _place(tree, rng)
        value = holder[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        holder[key] = value * rng.uniform(0.5, 1) if isinstance(value, float) else max(0, value - rng.randint(0, 2))
        return


def _add(tree: Any, rng: random.Random) -> None:
    holder, _ = _place(tree, rng)
    if isinstance(holder, dict):
        holder[rng.choice(["colour", "x" * 300, *ESCAPES, *FORMULAS])] = anything(rng)


def _say(tree: Any, rng: random.Random) -> None:
    """Put a text where texts are free."""
    free = [holder for holder in _dicts(tree) if "reason" in holder or "cpu_model" in holder]
    if free:
        holder = rng.choice(free)
        holder[rng.choice([key for key in ("reason", "stderr", "cpu_model", "stop_rule") if key in holder])] = (
            rng.choice(TEXTS)
        )


def _dicts(tree: Any) -> list[dict[str, Any]]:
    below = list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return ([tree] if isinstance(tree, dict) else []) + [each for part in below for each in _dicts(part)]


HARSH = (_replace, _replace, _drop, _double, _rename, _swap, _wrap)
MILD = (_nudge, _nudge, _shuffle, _say, _say, _add)


def mutated(tree: Any, rng: random.Random, mildness: float) -> Any:
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if tree:
            rng.choice(MILD if rng.random() < mildness else HARSH)(tree, rng)
    return tree


# Texts


def spoilt(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes of a file, whatever is in it."""
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[: rng.randrange(len(data) + 1)],
        lambda: _flipped(data, rng),
        lambda: data.decode("utf-8", "replace").encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + data,
        lambda: data.replace(b"\n", b"\r\n"),
        lambda: data.replace(b"\n", b"\n\n", 3),
        lambda: data + b"\0" * rng.choice([1, 4096]),
        lambda: data + data,
        lambda: _inserted(
            data, rng, rng.choice([b"[" * 100_000, b'{"a":' * 50_000, b"a." * 50_000, b'"', b"\0", b",", b"\xff", b"#"])
        ),
        lambda: data.replace(b": ", b": 0x", 1),
        lambda: b"",
    )
    return rng.choice(ways)()


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _inserted(data: bytes, rng: random.Random, what: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + what + data[at:]


# Files


def journal(lines: list[dict[str, Any]], rng: random.Random) -> bytes:
    entries = mutated(lines, rng, 0.62)
    text = "".join(json.dumps(entry) + "\n" for entry in entries)
    if rng.random() < 0.05:
        text = text.replace('"round":', '"round": 7, "round":', 1)
    data = text.encode()
    return spoilt(data, rng) if rng.random() < 0.12 else data


def machine(facts: dict[str, Any], rng: random.Random) -> bytes:
    data = json.dumps(mutated(facts, rng, 0.2), indent=2).encode()
    return spoilt(data, rng) if rng.random() < 0.3 else data


def sweep(document: dict[str, Any], rng: random.Random) -> bytes:
    changed = mutated(document, rng, 0.75)
    if not isinstance(changed, dict):
        changed = {}
    text = "\n".join(f"{toml(key)} = {toml(value)}" for key, value in changed.items()) + "\n"
    data = text.encode("utf-8", "surrogatepass")
    return spoilt(data, rng) if rng.random() < 0.12 else data


def toml(value: Any) -> str:
    """Write a value as TOML, tables inline; None as a word, which is no TOML."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            plain = "".join(
                each if each.isprintable() and each not in '"\\' else f"\\U{ord(each):08x}" for each in value
            )
            return f'"{plain}"'
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{ " + ", ".join(f"{toml(str(key))} = {toml(each)}" for key, each in value.items()) + " }"
        case int() if value > 10**100:
            return hex(value)
        case None:
            return "null"
        case _:
            return repr(value)


FREE = ("reason", "targets", "stop_rule", "disturbances", "cpus")
EMPTY_ALLOWED = ("step_ns_low", "r2_p50", "setup_ns", "gate_share", "graphs", "seconds", "import_ns", "loss_p05")


def table(rows: list[list[str]], rng: random.Random) -> bytes:
    """Return a CSV file; rows[0] is the header."""
    rows = copy.deepcopy(rows)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        try:
            _change_table(rows, rng)
        except (IndexError, ValueError):  # what an earlier change took away cannot be changed again
            break
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=rng.choice(["\n", "\n", "\r\n"])).writerows(rows)
    data = text.getvalue().encode("utf-8", "surrogatepass")
    return spoilt(data, rng) if rng.random() < 0.12 else data


def _change_table(rows: list[list[str]], rng: random.Random) -> None:
    header = rows[0]
    column, row = rng.randrange(len(header)), rng.randrange(1, len(rows)) if len(rows) > 1 else 0
    number = next(
        (at for at in rng.sample(range(len(header)), len(header)) if rows[row][at].replace(".", "").isdigit()), column
    )

    def cell(at: int, text: str) -> None:
        rows[row][at] = text

    def free(text: str) -> None:
        names = [name for name in FREE if name in header]
        cell(header.index(rng.choice(names)), text)

    def each(change: Callable[[list[str]], None]) -> None:
        for line in rows:
            change(line)

    def add() -> None:
        name = rng.choice(["colour", *FORMULAS, *ESCAPES])
        for at, line in enumerate(rows):
            line.append(name if at == 0 else rng.choice([*TEXTS[:30], "1.5", ""]))

    def order() -> None:
        places = rng.sample(range(len(header)), len(header))
        rows[:] = [[line[at] for at in places] for line in rows]

    harsh: tuple[Callable[[], Any], ...] = (
        lambda: cell(column, rng.choice(TEXTS)),
        lambda: cell(column, repr(rng.choice([*NUMBERS, *NOT_NUMBERS]))),
        lambda: cell(number, rng.choice(["-1", "abc", "1e999", "0x10", "1,5", "１", "9" * 5000, "", "1" * 400])),
        lambda: each(lambda line: line.pop(column)),
        lambda: header.__setitem__(column, rng.choice(["colour", header[0], header[column].upper(), ""])),
        lambda: each(lambda line: line.append(line[column])),
        lambda: rows.insert(row, list(rows[row])),
        lambda: rows[row].append("x"),
        lambda: rows[row].__setitem__(slice(None), rows[row][:column]),
        lambda: rows.pop(0),
        lambda: cell(column, rows[row][rng.randrange(len(header))] if rows[row] else ""),
    )
    mild: tuple[Callable[[], Any], ...] = (
        lambda: free(rng.choice(TEXTS)),
        lambda: free(rng.choice(FORMULAS)),
        lambda: cell(number, str(float(rows[row][number]) if rows[row][number].replace(".", "").isdigit() else "")),
        lambda: cell(header.index(rng.choice([name for name in EMPTY_ALLOWED if name in header])), ""),
        lambda: rows.__setitem__(slice(1, None), rng.sample(rows[1:], len(rows) - 1)),
        lambda: rows.pop(row) if row else None,
        add,
        order,
    )
    rng.choice(mild if rng.random() < 0.6 else harsh)()
