from pathlib import Path

import pytest

from harness.plan.catalogue import ENGINES, WORKLOADS
from harness.plan.outcome import CaseEnded
from harness.training.loading import load_engine, load_workload


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_of_the_catalogue_can_be_made(name: str) -> None:
    assert callable(load_engine(name).prepare)


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_of_the_catalogue_can_be_made(name: str) -> None:
    assert load_workload(name).epochs == {"medium": 5, "wide": 5}.get(name, 20)


def test_an_engine_comes_from_a_file_that_may_import_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_mine.py").write_text("from harness.training.engines.manual import Manual\n")
    mine = tmp_path / "mine.py"
    mine.write_text("from neighbour_of_mine import Manual\nclass Mine(Manual): ...\n")
    assert type(load_engine(f"{mine}:Mine")).__name__ == "Mine"


@pytest.mark.parametrize(
    ("source", "said"),
    [("", "has no Mine"), ("class Mine: ...", "is no engine: it has no unsupported, prepare")],
)
def test_a_file_without_the_engine_is_said_so(tmp_path: Path, source: str, said: str) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(source)
    with pytest.raises(CaseEnded, match=said):
        load_engine(f"{mine}:Mine")
