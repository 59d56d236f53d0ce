import pytest

from tests.documents.calls import program_arguments
from tests.documents.fences import Block, blocks_of, changed, shell


def told(script: str) -> list[tuple[str, str, str]]:
    return [(each.place, each.text, each.body) for each in shell(Block("x.md:7", "sh", "", script), {})]


def test_blocks_are_found_wherever_they_stand_with_language_name_and_line() -> None:
    text = "# A\n\n```sh\nls\n```\n\n* item\n\n  ~~~python mine.py\n  x = 1\n  ~~~\n\n> ```\n> quoted\n> ```\n"
    assert blocks_of(text, "a.md") == [
        Block("a.md:4", "sh", "", "ls\n"),
        Block("a.md:10", "python", "mine.py", "x = 1\n"),
        Block("a.md:14", "", "", "quoted\n"),
    ]


def test_comments_are_left_out_and_continued_lines_are_one_command() -> None:
    script = "# only a comment\n\na --b c   # why\nd \\\n  --e \\\n  'f g'\nh\n"
    assert told(script) == [("x.md:9", "a --b c", ""), ("x.md:10", "d --e f g", ""), ("x.md:13", "h", "")]


def test_the_text_of_a_heredoc_is_no_command() -> None:
    script = "cat > mine.toml <<'END'\n[[grid]]\nrm -rf nothing\nEND\nls\n"
    assert told(script) == [
        ("x.md:7", "cat > mine.toml <<END", "[[grid]]\nrm -rf nothing"),
        ("x.md:11", "ls", ""),
    ]


def test_a_variable_stands_for_what_it_was_set_to() -> None:
    assert told("RUN=results/a\nshow $RUN\n") == [("x.md:8", "show results/a", "")]


@pytest.mark.parametrize(
    ("script", "says"), [("a \\\n", "x.md:7: ends with a backslash"), ("a <<END\nb\n", "x.md:7: nothing ends")]
)
def test_a_command_without_an_end_is_an_error(script, says) -> None:
    with pytest.raises(ValueError, match=says):
        told(script)


def test_a_change_replaces_what_is_there_once() -> None:
    assert changed("a\nb\nc\n", " a\n-b\n+B\n+B\n") == "a\nB\nB\nc\n"
    for text in ("c\n", "a\nb\na\nb\n"):
        with pytest.raises(ValueError, match="times in the file"):
            changed(text, " a\n-b\n")


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("harness run --dry-run", "run --dry-run"),
        ("nox -s bench_cpu -- --engine all", "run --device cpu --engine all"),
        ("nox -s bench_cpu", "run --device cpu"),
        ("nox -s ab -- A B", "ab --device cpu A B"),
        ("nox -s report -- results", "report results"),
    ],
)
def test_what_nox_hands_on_is_what_its_session_does(command, arguments) -> None:
    assert program_arguments(tuple(command.split())) == tuple(arguments.split())


def test_what_starts_no_harness_has_no_arguments_and_a_session_that_is_none_is_an_error() -> None:
    assert program_arguments(("git", "add", "x")) is None
    with pytest.raises(AttributeError):
        program_arguments(("nox", "-s", "bench_gpu"))
