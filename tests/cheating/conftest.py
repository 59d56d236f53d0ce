"""At the end, what became of each cheat."""

import pytest

VERDICTS = pytest.StashKey[dict[str, str]]()


@pytest.fixture
def verdicts(request) -> dict[str, str]:
    """What is found of each engine, printed at the end."""
    return request.config.stash.setdefault(VERDICTS, {})


def pytest_terminal_summary(terminalreporter, config) -> None:
    found = config.stash.get(VERDICTS, {})
    if found:
        terminalreporter.section("cheats")
    for name, verdict in found.items():
        terminalreporter.line(f"{name:40} {verdict}")
