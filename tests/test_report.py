"""`harness report` as a user has it: folders in, files and exit codes out."""

import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli import Exit, main
from harness.tables.files import write_tables
from tests.report_content import RUN_ID, stored_tables
from tests.stored_sessions import MACHINE, MANUAL, run_id, write_sessions


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


Program = Callable[..., Ended]


@pytest.fixture
def program(monkeypatch, capsys, tmp_path) -> Program:
    """Run the program in this process, in an empty folder; give signals back to pytest afterwards."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["harness", "report", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "results/amd-epyc-2c" / RUN_ID
    folder.mkdir(parents=True)
    write_tables(folder, stored_tables(batches=(1, 100), rounds=3, seeds=4))
    return folder


def assert_refused(ended: Ended, *texts: str, code: Exit = Exit.USAGE) -> None:
    assert ended.code == code
    assert ended.out == ""
    assert ended.err.count("\n") == 1
    for text in texts:
        assert text in ended.err


def test_a_run_becomes_one_file_in_its_folder_that_needs_no_other(program, run):
    ended = program(run)
    assert (ended.code, ended.err) == (Exit.MET, "")
    text = (run / "report.html").read_text("utf-8")
    assert str(run / "report.html") in ended.out
    assert "<script src=" not in text
    assert text.count("</script>") == 3
    assert len(text) < 5_000_000


def test_a_page_is_written_where_it_is_wanted_and_its_folder_is_made(program, run, tmp_path):
    assert program(run, "--output", tmp_path / "pages/mine/run.html").code == Exit.MET
    assert "</html>" in (tmp_path / "pages/mine/run.html").read_text("utf-8")


def test_several_runs_are_a_file_each_and_a_base_is_compared_with(program, run):
    other = run.with_name("20261125T000000Z-9d137a38a0")
    other.mkdir()
    tables = stored_tables(batches=(1, 100), rounds=3, seeds=4)
    for table in (tables.measurements, tables.summary, tables.convergence):
        table["run_id"] = other.name
    for table in (tables.measurements, tables.summary):
        table["session"] = other.name
    write_tables(other, tables)
    last = other.with_name("20261126T000000Z-9d137a38a0")
    shutil.copytree(other, last)
    ended = program(other, last, "--base", run)
    assert ended.code == Exit.MET, ended.err
    for folder in (other, last):
        assert 'id="comparison"' in (folder / "report.html").read_text("utf-8")


def test_a_base_that_cannot_be_compared_ends_with_3_and_writes_nothing(program, run):
    other = run.with_name("20261125T000000Z-9d137a38a0")
    other.mkdir()
    tables = stored_tables(batches=(1, 100), rounds=3, seeds=4)
    for table in (tables.measurements, tables.summary, tables.convergence):
        table["fingerprint"] = "another"
    write_tables(other, tables)
    assert_refused(program(run, "--base", other), code=Exit.NOT_COMPARABLE)
    assert not (run / "report.html").exists()


def test_charts_are_written_as_png_and_svg(program, run, tmp_path):
    ended = program(run, "--charts", tmp_path / "pictures")
    assert ended.code == Exit.MET, ended.err
    names = sorted(file.name for file in (tmp_path / "pictures").iterdir())
    assert "step-time-line-cpu-float32-1-thread.png" in names
    assert {name.partition(".")[2] for name in names} == {"png", "svg"}
    assert (tmp_path / "pictures/step-time-line-cpu-float32-1-thread.svg").read_text("utf-8").startswith("<svg")


def test_a_folder_of_results_becomes_a_site_whose_pages_share_one_runtime(program, run, tmp_path):
    write_sessions(tmp_path / "results" / MACHINE, {MANUAL: [1e5, 1.01e5, 1.02e5]})
    broken = tmp_path / "results" / MACHINE / "20270101T000000Z-broken"
    broken.mkdir()
    (broken / "summary.csv").write_text("no table\n")
    ended = program("results")
    assert ended.code == Exit.MET
    assert ended.err.count("left out") == 1
    site = tmp_path / "results/site"
    pages = [
        site / "amd-epyc-2c" / f"{RUN_ID}.html",
        *(site / MACHINE / f"{run_id(number)}.html" for number in range(3)),
    ]
    assert sorted(site.rglob("*.html")) == sorted([site / "index.html", *pages])
    assert "vegaEmbed" in (site / "charts.js").read_text("utf-8")
    for page in pages:
        assert '<script src="../charts.js">' in page.read_text("utf-8")
    assert 'id="history"' in pages[-1].read_text("utf-8")  # of the newest run of a machine
    assert 'id="history"' not in pages[1].read_text("utf-8")
    index = (site / "index.html").read_text("utf-8")
    assert f'href="./{MACHINE}/{run_id(2)}.html"' in index
    assert "20270101T000000Z-broken" in index
    assert program("results").code == Exit.MET  # again, over itself


def test_an_index_of_somebody_else_is_not_overwritten(program, run, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    assert_refused(program("results", "--output", tmp_path), "index.html", "--output")
    assert (tmp_path / "index.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["nowhere"], ["nowhere: there is no such folder", "harness run"]),
        (["empty"], ["empty: has no stored runs"]),
        (["results", "--base", "x"], ["--base is of one run"]),
        (["results", "--charts", "x"], ["--charts is of one run"]),
        (["results", "results"], ["results is no run: name one path"]),
    ],
)
def test_what_cannot_be_done_is_one_line(program, run, tmp_path, arguments, texts):
    (tmp_path / "empty").mkdir()
    assert_refused(program(*arguments), *texts)


def test_without_the_extra_one_line_says_how_to_get_it(program, run, monkeypatch):
    monkeypatch.setattr("harness.cli.report.find_spec", lambda _: None)
    assert_refused(program(run), "pip install -e '.[report]'")
    assert_refused(program("nowhere"), "nowhere: there is no such folder")  # which no package would mend


def test_a_damaged_table_is_one_line_and_no_page(program, run):
    (run / "convergence.csv").write_text("no table\n")
    assert_refused(program(run), "convergence.csv")
    assert not (run / "report.html").exists()
