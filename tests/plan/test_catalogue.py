import ast
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import harness
from harness.plan import catalogue
from harness.plan.catalogue import CATALOGUES, GROUPS, label, resolve
from harness.plan.errors import PlanError

PACKAGE = Path(harness.__file__).parent


@pytest.fixture
def a_package_offers(monkeypatch):
    """Return what stands in for an installed package with entry points."""

    def offers(**points: str) -> None:
        found = {name: EntryPoint(name, value, GROUPS["engine"]) for name, value in points.items()}
        monkeypatch.setattr(catalogue, "installed", lambda kind: found if kind == "engine" else {})

    return offers


@pytest.mark.parametrize(
    "target", [entry.target for entries in CATALOGUES.values() for entry in entries.values()], ids=str
)
def test_every_entry_points_to_a_class_that_is_there(target):
    module, _, name = target.partition(":")
    source = (PACKAGE.parent / module.replace(".", "/")).with_suffix(".py").read_text("utf-8")
    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


PARTS = {"fused_cpu", "fused_triton"}  # of `fused`, by device


@pytest.mark.parametrize("kind", CATALOGUES)
def test_every_file_of_the_folder_has_its_line_in_the_catalogue(kind):
    files = {path.stem for path in (PACKAGE / "training" / f"{kind}s").glob("*.py")} - {"__init__"}
    named = {entry.target.partition(":")[0].rpartition(".")[2] for entry in CATALOGUES[kind].values()}
    assert files - PARTS == named


@pytest.mark.parametrize("kind", CATALOGUES)
def test_every_entry_says_in_one_line_what_it_is(kind):
    for entry in CATALOGUES[kind].values():
        assert entry.summary
        assert "\n" not in entry.summary


@pytest.mark.parametrize(("kind", "name"), [("engine", "autograd"), ("workload", "line_deep")])
def test_a_known_name_is_its_own_reference(kind, name):
    assert resolve(kind, name) == name


def test_an_engine_of_an_installed_package_is_known_by_its_name(a_package_offers):
    a_package_offers(swift="swift.engine:Swift")
    assert resolve("engine", "swift") == "swift"
    with pytest.raises(PlanError):
        resolve("workload", "swift")


def test_a_misspelt_name_is_refused_with_the_nearest_known_one(a_package_offers):
    a_package_offers(swift="swift.engine:Swift")
    with pytest.raises(PlanError, match=r"unknown engine 'autograt': did you mean 'autograd'\?"):
        resolve("engine", "autograt")
    with pytest.raises(PlanError, match=r"did you mean 'swift'\?"):
        resolve("engine", "swfit")


def test_a_name_that_is_like_none_is_refused_with_all_that_are_known():
    with pytest.raises(PlanError) as refused:
        resolve("engine", "zzz")
    for text in ("unknown engine 'zzz'", "manual, manual_naive", "path/to/file.py:Name"):
        assert text in str(refused.value)


def test_names_of_the_other_kind_are_unknown():
    with pytest.raises(PlanError, match="unknown workload 'autograd'"):
        resolve("workload", "autograd")


def test_a_users_file_is_found_from_where_the_user_stands_and_from_home(tmp_path, monkeypatch):
    file = tmp_path.resolve() / "own.py"
    file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.resolve()))
    for path in ("own.py", "./own.py", "~/own.py", file):
        assert resolve("engine", f"{path}:Mine") == f"{file}:Mine"


def test_a_users_file_is_not_run_to_plan_with_it(tmp_path):
    (tmp_path / "own.py").write_text("raise SystemExit('imported')")
    assert resolve("engine", f"{tmp_path}/own.py:Mine").endswith("/own.py:Mine")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nowhere.py:Mine", "there is no file nowhere.py"),
        ("~nobody-of-this-name/own.py:Mine", "~nobody-of-this-name/own.py"),
        (f"{'long' * 100}.py:Mine", "longlong"),
        ("nul\0.py:Mine", "engine 'nul"),
        ("own.py:", "after the colon"),
        ("own.py:not a name", "after the colon"),
        ("own.py", "unknown engine 'own.py'"),
        ("", "unknown engine ''"),
    ],
    ids=range(8),
)
def test_a_reference_to_nothing_is_refused_with_what_is_missing(name, text, tmp_path, monkeypatch):
    (tmp_path / "own.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError) as refused:
        resolve("engine", name)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("reference", "short"),
    [("autograd", "autograd"), ("/home/me/own.py:Mine", "own.py:Mine"), ("own.py:Mine", "own.py:Mine")],
)
def test_a_label_is_short_and_the_same_wherever_the_file_lies(reference, short):
    assert label(reference) == short


@pytest.mark.parametrize(
    "name",
    [
        "=cmd|.py",
        "+x.py",
        "-x.py",
        "@x.py",
        "a,b.py",
        "a\nb.py",
        "a\x1b[0m.py",
        "a\u202eb.py",
        "a b.py",
        "é.py",
        "a;b.py",
    ],
    ids=ascii,
)
def test_a_file_whose_name_a_spreadsheet_or_terminal_would_act_on_is_to_be_renamed(name, tmp_path):
    (tmp_path / name).touch()
    with pytest.raises(PlanError, match="rename the file") as refused:
        resolve("engine", f"{tmp_path}/{name}:Mine")
    assert str(refused.value).isprintable()


def test_a_class_whose_name_is_not_ascii_is_to_be_renamed(tmp_path):
    (tmp_path / "own.py").touch()
    with pytest.raises(PlanError, match="rename 'Größe'"):
        resolve("engine", f"{tmp_path}/own.py:Größe")


def test_a_name_too_long_for_a_path_is_refused_at_once():
    with pytest.raises(PlanError, match="is longer than 4096 characters"):
        resolve("engine", "a/" * 500_000 + "own.py:Mine")


def test_an_engine_of_unsafe_name_that_a_package_offers_is_not_offered(monkeypatch):
    points = [EntryPoint(name, "x:Y", GROUPS["engine"]) for name in ("swift", "=cmd", "\x1b[0m")]
    monkeypatch.setattr(catalogue, "entry_points", lambda **_: points)
    assert list(catalogue.installed.__wrapped__("engine")) == ["swift"]
