"""How GitHub takes texts: Markdown of comments and summaries, annotations, and the file of a step's summary.

Whatever a stranger named or wrote, it formats nothing, links nothing and calls nobody.
"""

import os
import re
import sys
from collections.abc import Callable

from harness.plan.text import printable

# GitHub looks for names, issues and links in what Markdown became, where a backslash is gone: this breaks them up.
_ZERO_WIDTH = "&#8203;"
_MARKUP = re.compile(r"([\\`*_\[\]<>#|~$])")
_SAFE_CODE = re.compile(r"[^`|\\]+")


def markdown(text: str, limit: int | None = None) -> str:
    """Return a text, cut to `limit` characters, that Markdown shows as it is: anywhere but at a line's beginning."""
    shown = printable(text, limit).replace("&", "&amp;")
    shown = _MARKUP.sub(r"\\\1", shown)
    shown = re.sub(r"(?i)(@|\\#|\bGH-)(?=\w)", rf"\1{_ZERO_WIDTH}", shown)
    return re.sub(r"(?i)(://|\bwww\.)", lambda found: f"{found[0][:-1]}{_ZERO_WIDTH}{found[0][-1]}", shown)


def code(text: str, limit: int | None = None) -> str:
    """Return a text as code, in which GitHub looks for nothing; as `markdown` does where it would end the code."""
    shown = printable(text, limit)
    return f"`{shown}`" if _SAFE_CODE.fullmatch(shown) and shown.strip() else markdown(shown)


def annotation(level: str, title: str, message: str) -> str:
    """Return the workflow command for an annotation; level: `error`, `warning` or `notice`."""
    return f"::{level} title={_data(title).replace(':', '%3A').replace(',', '%2C')}::{_data(message)}"


def _data(text: str) -> str:
    # https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
    lines = "\n".join(printable(line) for line in text.split("\n"))
    return lines.replace("%", "%25").replace("\n", "%0A")


def append_step_summary(text: Callable[[], str]) -> bool:
    """Append Markdown, made where it is wanted, to the file that GITHUB_STEP_SUMMARY names; return whether it was.

    Without that variable nothing happens. A file that cannot be written is one line on stderr, and no failure: the
    verdict is not the summary's to change.
    """
    name = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if not name:
        return False
    try:
        # Not blocking: a pipe that nobody reads would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o666), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text().rstrip("\n") + "\n\n")
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        sys.stderr.write(f"harness: GITHUB_STEP_SUMMARY {printable(name, 200)}: cannot be written: {printable(why)}\n")
        return False
    return True
