"""How each command of the documents is checked: it is run, another test runs it, or a reason says why nobody does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.documents.fences import STORED

PLAN = ("--dry-run",)


@dataclass(frozen=True)
class Run:
    """It is run, in a repository that has what it names.

    says: a piece of what it prints. code: how it ends. added: arguments after its own. exchanged: word by word.
    """

    says: str
    code: int = 0
    added: tuple[str, ...] = ()
    exchanged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Elsewhere:
    """A file runs it: a test by its name, or a script by a line of its own."""

    file: str
    holds: str


@dataclass(frozen=True)
class NotRun:
    """Nobody runs it."""

    reason: str


Way = Run | Elsewhere | NotRun

_BENCH = "nox -s bench_cpu --"
_TUTORIAL = Elsewhere("tests/real/test_tutorial.py", "test_the_tutorial_does_what_it_says")
_OWN_MODEL = "tests/real/test_own_model.py"
_ENVIRONMENT = Elsewhere(".ci/run", "python3 -m venv .venv && .venv/bin/pip install --quiet nox")
_MINE = "--workload line --batch-size 100 --engine mine.py:Mine --engine autograd --rounds 1"

WAYS: dict[str, Way] = {
    # An environment
    "sudo apt-get install python3-venv git g++ python3-dev": NotRun("needs root; .ci/run installs the same"),
    "python3 -m venv .venv && .venv/bin/pip install nox && .venv/bin/nox -s bench_cpu": _ENVIRONMENT,
    "python3 -m venv .venv": _ENVIRONMENT,
    ".venv/bin/pip install nox": _ENVIRONMENT,
    ". .venv/bin/activate": NotRun("changes the shell that reads it, and nothing else"),
    ".venv/bin/nox -s tests": Elsewhere(".ci/run", "nox -s tests -- "),
    # Plans
    f"{_BENCH} --dry-run": Run("× 3 rounds, convergence over 64 seeds"),
    f"{_BENCH} --engine manual --engine autograd --batch-size 100": Run(
        "line_deep/autograd/cpu/float32/b100", added=PLAN
    ),
    f"{_BENCH} --engine all": Run("line/numpy/cpu/float32/b10000", added=PLAN),
    f"{_BENCH} --preset rigorous": Run("× 12 rounds", added=PLAN),
    f"{_BENCH} --dtype float32 --dtype bfloat16 --engine autograd": Run("line/autograd/cpu/bfloat16/b100", added=PLAN),
    f"{_BENCH} --engine my/engine.py:Mine --engine autograd": Run("line/engine.py:Mine/cpu/float32/b10", added=PLAN),
    f"{_BENCH} --workload digits --batch-size 32": Run("digits/manual/cpu/float32/b32", added=PLAN),
    f"{_BENCH} --workload medium --engine ddp --ranks 1 --ranks 2 --batch-size 1024 --seeds 4": Run(
        "over 4 seeds", added=PLAN
    ),
    f"{_BENCH} --sweep mine.toml": Run("4 cases × 3 rounds", added=PLAN),
    f"{_BENCH} --json": Run('"event": "plan"', added=PLAN),
    f"{_BENCH} noise": Run("× 20 rounds", added=PLAN),
    "nox -s ab -- main worktree --engine manual": Run("1 cases × 10 rounds × 2 arms", added=PLAN),
    "harness run --shard 3/8 --publish s3://bucket/job": Run(
        "5 cases × 3 rounds", added=PLAN, exchanged={"s3://bucket/job": "published"}
    ),
    # A stored run, and this machine
    f"{_BENCH} list engines": Run("compile_step"),
    f"{_BENCH} show {STORED}": Run("amd-epyc-2c, commit 9d137a38a0"),
    f"{_BENCH} crossover {STORED}": Run(
        "compile_step 1.48 × [1.46, 1.5], autograd 5.36 × [5.24, 5.48], compile 7.37 ×"
    ),
    f"nox -s compare -- {STORED} HEAD": Run("nothing slower (advisory): 20 within"),
    "nox -s history -- results/amd-epyc-2c": Run("amd-epyc-2c"),
    f"nox -s export -- {STORED} --to pytest-benchmark": Run('"benchmarks"'),
    f"nox -s report -- {STORED}": Elsewhere(
        "tests/test_report.py", "test_a_run_becomes_one_file_in_its_folder_that_needs_no_other"
    ),
    # What measures, or needs more than a repository
    f"{_BENCH} --baseline {STORED}": Elsewhere(
        "tests/test_cli.py", "test_a_case_slower_than_in_the_baseline_ends_with_1"
    ),
    f"{_BENCH} --resume {STORED}": Elsewhere(
        "tests/test_cli.py", "test_a_real_run_that_is_complete_is_resumed_without_measuring_again"
    ),
    f"{_BENCH} doctor": Elsewhere("tests/test_cli.py", "test_the_doctor_examines_this_machine"),
    f"{_BENCH} --cold": Elsewhere(
        "tests/test_cli.py", "test_a_run_can_say_where_its_time_went_and_give_every_case_a_cold_cache"
    ),
    f"{_BENCH} --profile-run": Elsewhere(
        "tests/test_cli.py", "test_a_run_can_say_where_its_time_went_and_give_every_case_a_cold_cache"
    ),
    f"{_BENCH} explain line/autograd/cpu/float32/b100": Elsewhere(
        "tests/test_explain.py", "test_a_case_is_measured_and_explained_by_what_was_counted"
    ),
    "nox -s prove": Elsewhere(
        "tests/test_prove.py", "test_a_right_engine_passes_and_mistakes_are_caught_on_every_seed"
    ),
    "harness collect s3://bucket/job": Elsewhere(
        "tests/test_publish.py", "test_what_is_collected_is_the_run_as_its_machine_had_it"
    ),
    # The tutorial
    f"{_BENCH} --workload line --batch-size 100 --engine manual --engine autograd": _TUTORIAL,
    f"{_BENCH} {_MINE}": _TUTORIAL,
    "git add mine.py": _TUTORIAL,
    "git -c user.name=me -c user.email=me@example.org commit -m An engine of my own": _TUTORIAL,
    "nox -s ab -- HEAD worktree --engine mine.py:Mine": _TUTORIAL,
    "nox -s report -- results": _TUTORIAL,
    # The example package
    "pip install -e .": Elsewhere(_OWN_MODEL, "def environment"),
    "pip install gradient-harness[torch] @ git+URL": NotRun("needs a network; URL is the reader's to fill in"),
    "harness list workloads": Elsewhere(_OWN_MODEL, "test_what_a_package_offers_is_listed_by_its_name"),
    "harness list engines": Elsewhere(_OWN_MODEL, "test_what_a_package_offers_is_listed_by_its_name"),
    "harness run --workload rings --engine plain_grad --engine autograd --batch-size 100": Elsewhere(
        _OWN_MODEL, "test_the_run_of_its_readme_trains_its_model_by_its_engine"
    ),
}
