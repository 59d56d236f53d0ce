"""What stands between fences in the documents: shell commands, files, changes of files, and what a program prints.

The first word after the fence is the language, the second, if there is one, the name of the file.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
STORED = "results/amd-epyc-2c/20261124T114830Z-9d137a38a0"
TUTORIAL = ROOT / "docs/tutorial.md"
# docker/run.md is read by tests/deploy/test_run_md.py, command by command.
DOCUMENTS = (
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "docker/README.md", "docs/examples/own-model/README.md")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
)


@dataclass(frozen=True)
class Block:
    """A fenced block. place: `docs/x.md:12`, where its text begins. name: of the file that it is, or changes."""

    place: str
    language: str
    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A shell command as its words, nothing expanded but `$NAME` that the document sets; body: of its heredoc."""

    place: str
    words: tuple[str, ...]
    body: str = ""

    @property
    def text(self) -> str:
        """The words, one space apart."""
        return " ".join(self.words)


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a Markdown file in order."""
    return blocks_of(document.read_text("utf-8"), str(document.relative_to(ROOT)))


def blocks_of(markdown: str, name: str) -> list[Block]:
    """Return the fenced blocks of a text, wherever they stand: in lists and quotations as well."""
    found = []
    for token in MarkdownIt("commonmark").parse(markdown):
        if token.type == "fence":
            assert token.map is not None
            language, _, file = token.info.strip().partition(" ")
            found.append(Block(f"{name}:{token.map[0] + 2}", language, file, token.content))
    return found


def commands(document: Path) -> list[Command]:
    """Return the commands of a document's blocks of shell; a variable that is set in one block holds in the next."""
    variables: dict[str, str] = {}
    return [each for block in blocks(document) if block.language == "sh" for each in shell(block, variables)]


def shell(block: Block, variables: dict[str, str]) -> Iterator[Command]:
    """Yield the commands of a block: comments left out, continued lines joined, heredocs kept apart.

    Raises ValueError for a line that ends in the middle of something.
    """
    name, _, first = block.place.rpartition(":")
    lines = list(enumerate(block.text.splitlines(), int(first)))
    while lines:
        number, line = lines.pop(0)
        while line.endswith("\\"):
            if not lines:
                raise ValueError(f"{name}:{number}: ends with a backslash")
            line = line[:-1] + lines.pop(0)[1]
        words = shlex.split(line, comments=True)
        body: list[str] = []
        if end := next((word[2:].lstrip("-") for word in words if word.startswith("<<")), ""):
            while lines and lines[0][1] != end:
                body.append(lines.pop(0)[1])
            if not lines:
                raise ValueError(f"{name}:{number}: nothing ends the text up to {end}")
            lines.pop(0)
        if len(words) == 1 and "=" in words[0]:
            variable, _, value = words[0].partition("=")
            variables[f"${variable}"] = value
        elif words:
            yield Command(f"{name}:{number}", tuple(variables.get(word, word) for word in words), "\n".join(body))


def changed(text: str, diff: str) -> str:
    """Return a file's text after a change, told as lines that begin with ` `, `-` and `+`; what goes is there once."""
    lines = diff.splitlines()
    before, after = ("".join(f"{line[1:]}\n" for line in lines if line[0] in kept) for kept in (" -", " +"))
    if text.count(before) != 1:
        raise ValueError(f"{text.count(before)} times in the file, not once:\n{before}")
    return text.replace(before, after)


def indented(document: Path) -> bool:
    """Say whether a document has blocks without a fence, of which nothing is known."""
    return any(token.type == "code_block" for token in MarkdownIt("commonmark").parse(document.read_text("utf-8")))


def links(document: Path) -> list[str]:
    """Return what the links and pictures of a document lead to, without those to other places in the world."""
    inline = [token for token in MarkdownIt("commonmark").parse(document.read_text("utf-8")) if token.children]
    found = [child.attrGet("href") or child.attrGet("src") for token in inline for child in token.children or ()]
    return [str(target) for target in found if target and "://" not in str(target)]


def headings(document: Path) -> set[str]:
    """Return the headings of a document as links name them."""
    lines = [line for line in document.read_text("utf-8").splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in lines}
