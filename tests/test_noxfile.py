import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]

# Stands in for the program: says its arguments, ends with the code in the last, and when it is interrupted
# takes longer to save than the half second that nox would wait.
PROGRAM = """
import signal, sys, time
interrupted = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: interrupted.append(number))
print("arguments:", *sys.argv[1:], flush=True)
if "sleep" in sys.argv:
    while not interrupted:
        time.sleep(0.01)
    time.sleep(1.5)
    print("saved", flush=True)
    sys.exit(130)
sys.exit(int(sys.argv[-1]))
"""


def load_noxfile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


noxfile = load_noxfile()


@pytest.fixture
def checkout(tmp_path):
    """A folder with the noxfile, a stand-in for the program, and an empty PATH."""
    folder = tmp_path / "checkout"
    (folder / "harness").mkdir(parents=True)
    (folder / "bin").mkdir()
    (folder / "harness/__init__.py").touch()
    (folder / "harness/__main__.py").write_text(PROGRAM)
    for name in ("noxfile.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "docker", folder / "docker")
    return folder


def fake_program(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("NOX", "HARNESS_"))}
    return {**outer, "PATH": str(folder / "bin"), "NO_COLOR": "1", **more}


def nox(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nox", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **more), capture_output=True, text=True, timeout=60
    )


def lines_of_its_own(result: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (result.stdout + result.stderr).splitlines() if not line.startswith("nox > ")]


# Which build of torch


@pytest.mark.parametrize(
    ("driver", "capability", "tag"),
    [
        ("580.65.06", "7.5", "cu130"),  # the oldest that cu130 runs on, both ways
        ("580.65.06", "9.0", "cu130"),
        ("580.65.06", "10.0", "cu130"),
        ("590.44.01", "12.1", "cu130"),
        ("1000.1", "8.0", "cu130"),  # numbers, not text: 1000 is after 580
        ("580.65.06", "7.0", "cu126"),  # Volta, Pascal and Maxwell stay with CUDA 12, whatever the driver
        ("590.44.01", "6.1", "cu126"),
        ("580.65.05", "9.0", "cu126"),
        ("525.60.13", "5.0", "cu126"),  # the oldest that cu126 runs on, both ways
    ],
)
def test_the_first_build_that_fits_driver_and_gpu_is_taken(driver, capability, tag):
    assert noxfile.choose_wheel(driver, capability) == tag


@pytest.mark.parametrize(
    ("driver", "capability", "what_to_do"),
    [
        ("525.60.12", "8.0", "install 525.60.13 or newer"),
        ("470.256.02", "7.0", "install 525.60.13 or newer"),
        ("570.86.15", "12.0", "install 580.65.06 or newer"),
        ("580.65.06", "3.7", "below 5.0"),
        ("590.44.01", "13.0", "set HARNESS_TORCH_CUDA"),
    ],
)
def test_where_no_build_fits_the_refusal_says_what_to_do(driver, capability, what_to_do):
    with pytest.raises(ValueError, match=what_to_do):
        noxfile.choose_wheel(driver, capability)


def test_every_build_in_the_table_is_reached_and_can_be_named():
    reached = {noxfile.choose_wheel(wheel.driver, wheel.oldest) for wheel in noxfile.CUDA_WHEELS}
    assert reached == {wheel.tag for wheel in noxfile.CUDA_WHEELS}
    assert reached <= set(noxfile.CUDA_TAGS)


def test_nvidia_smi_is_asked_and_the_variable_overrides_the_table(checkout, monkeypatch):
    fake_program(checkout, "nvidia-smi", "echo 580.95.05, 9.0; echo 580.95.05, 7.0")
    monkeypatch.setenv("PATH", str(checkout / "bin"))
    monkeypatch.delenv("HARNESS_TORCH_CUDA", raising=False)
    assert noxfile.cuda_tag() == "cu130"
    monkeypatch.setenv("HARNESS_TORCH_CUDA", "cu132")
    assert noxfile.cuda_tag() == "cu132"


@pytest.mark.parametrize(
    ("program", "body", "variables", "says"),
    [
        (None, "", {}, "there is no nvidia-smi"),
        ("rocm-smi", "", {}, "AMD's (ROCm) is not supported"),
        ("nvidia-smi", "echo 'it cannot reach the driver'; exit 9", {}, "it cannot reach the driver"),
        ("nvidia-smi", "exit 1", {}, "it says: nothing"),
        ("nvidia-smi", "echo 'Field \"compute_cap\" is not a valid field'; exit 2", {}, "driver is too old"),
        ("nvidia-smi", "echo 470.256.02, 8.0", {}, "470.256.02 is too old for this GPU: install 525.60.13"),
        ("nvidia-smi", "echo 580.95.05, 3.5", {}, "below 5.0"),
        ("nvidia-smi", "echo 580.95.05, 9.0", {"HARNESS_TORCH_CUDA": "cu118"}, "cu126, cu130, cu132"),
    ],
)
def test_bench_cuda_refuses_in_one_line_before_it_installs(checkout, program, body, variables, says):
    if program:
        fake_program(checkout, program, body)
    result = nox(checkout, "-s", "bench_cuda", **variables)
    assert result.returncode == 2
    [line] = lines_of_its_own(result)
    assert says in line
    assert "HARNESS_TORCH_CUDA" in line or "bench_cpu" in line
    assert "pip install" not in result.stderr


# The program's arguments, exit code and end


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
def test_the_exit_code_of_the_program_arrives_unchanged(checkout, code):
    result = nox(checkout, "--no-venv", "-s", "bench_cpu", "--", "--batch-size", str(code))
    assert result.returncode == code
    assert lines_of_its_own(result) == [f"arguments: run --device cpu --batch-size {code}"]


def test_without_an_environment_bench_cuda_neither_installs_nor_asks_for_the_driver(checkout):
    result = nox(checkout, "--no-venv", "-s", "bench_cuda", "--", "--device", "cuda:1", "0")
    assert result.returncode == 0
    assert lines_of_its_own(result) == ["arguments: run --device cuda:1 0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole_group", [False, True])
def test_an_interrupted_program_has_time_to_save(checkout, number, whole_group):
    command = [sys.executable, "-m", "nox", "--no-venv", "-s", "bench_cpu", "--", "sleep"]
    process = subprocess.Popen(
        command,
        cwd=checkout,
        env=environment(checkout),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline().startswith("arguments:")
    time.sleep(0.2)  # nox takes the signals once the program has started
    (os.killpg if whole_group else os.kill)(process.pid, number)
    assert process.communicate(timeout=30)[0] == "saved\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("session", "arguments", "called"),
    [
        ("ab", ("HEAD~1", "HEAD", "4"), "ab --device cpu HEAD~1 HEAD 4"),
        ("ab", ("--python", "a", "--python=b", "--device", "cuda", "1"), "ab --python a --python=b --device cuda 1"),
        ("compare", ("results/a/b", "HEAD", "3"), "compare results/a/b HEAD 3"),
        ("history", ("--last", "2"), "history --last 2"),
        ("report", ("results/a/b", "2"), "report results/a/b 2"),
        ("export", ("results/a/b", "0"), "export results/a/b 0"),
        ("prove", ("--seeds", "1"), "prove --seeds 1"),
    ],
)
def test_what_compares_gets_its_arguments_and_ends_with_its_exit_code(checkout, session, arguments, called):
    result = nox(checkout, "--no-venv", "-s", session, "--", *arguments)
    assert result.returncode == int(arguments[-1])
    assert lines_of_its_own(result) == [f"arguments: {called}"]


def test_error_rates_is_a_script_with_arguments_of_its_own(checkout):
    (checkout / "tests/benchmarks").mkdir(parents=True)
    (checkout / "tests/benchmarks/error_rates.py").write_text(PROGRAM)
    result = nox(checkout, "--no-venv", "-s", "error_rates", "--", "--tables", "1")
    assert (result.returncode, lines_of_its_own(result)) == (1, ["arguments: --tables 1"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--torch", "2.13.0", "--torch=2.12.0"), "run without --no-venv, or name two with --python"),
        (("--torch", "2.13.0"), "name two versions of torch"),
        (("--torch",), "name two versions of torch"),
        (("--torch", "2.13.0", "--torch", "2.12.0", "--torch", "2.11.0"), "(got: 2.13.0 2.12.0 2.11.0)"),
        (("--torch", "2.13.0", "--torch", "nightly"), "each as 2.13.0: --torch X --torch Y (got: 2.13.0 nightly)"),
    ],
)
def test_versions_of_torch_that_cannot_be_compared_are_refused_in_one_line(checkout, arguments, says):
    result = nox(checkout, "--no-venv", "-s", "ab", "--", *arguments)
    assert result.returncode == 2
    [line] = lines_of_its_own(result)
    assert says in line


# What is installed


def test_what_cannot_be_installed_ends_in_one_clear_line_and_not_as_a_regression(checkout):
    """The environments are really made, and pip really fails: it may ask no index."""
    result = nox(checkout, "-s", "ab", "--", "--torch", "9.9.9", "--torch", "2.13.0", PIP_NO_INDEX="1")
    assert (result.returncode, result.stdout) == (2, "")
    wanted = "torch==9.9.9+cpu --editable .[torch]"
    assert result.stderr.splitlines()[-1] == f"pip, above, could not install {wanted}: nothing was run"


def test_each_torch_has_an_environment_of_its_own_that_is_made_once(tmp_path, monkeypatch):
    """Really made; only pip, which would need an index, stands in: it notes its arguments."""
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").touch()
    monkeypatch.setattr(noxfile, "answers", lambda _: False)
    monkeypatch.setattr(sys, "platform", "linux")
    commands = []

    def run(*command, **_):
        commands.append(command)
        if "virtualenv" in command:
            subprocess.run(command, check=True)

    own = SimpleNamespace(run=run, virtualenv=SimpleNamespace(location=".nox/ab"))
    for version in ("2.13.0", "2.12.0", "2.13.0"):
        environment = noxfile.Environment.beside(own, f"torch-{version}")
        python = noxfile.install_torch(environment, "cpu", torch=version)
        assert python == str(tmp_path / f".nox/torch-{version}/bin/python")
    prefix = subprocess.check_output([python, "-c", "import sys; print(sys.prefix)"], text=True).strip()
    assert prefix == str(tmp_path / ".nox/torch-2.13.0")
    installed = [command for command in commands if "virtualenv" not in command]
    assert installed == [
        (
            str(tmp_path / f".nox/torch-{version}/bin/python"),
            *("-m", "pip", "install", f"torch=={version}+cpu", "--editable", ".[torch]"),
        )
        for version in ("2.13.0", "2.12.0")
    ]
    assert len(commands) == 4


def test_sessions_that_check_share_an_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").touch()
    monkeypatch.setattr(noxfile, "answers", lambda _: False)
    commands = []

    def run(*command, **_):
        commands.append(command)
        if "virtualenv" in command:
            subprocess.run(command, check=True)

    for name in ("tests", "types"):
        session = SimpleNamespace(
            run=run, venv_backend="virtualenv", virtualenv=SimpleNamespace(location=f".nox/{name}")
        )
        assert noxfile.install_checks(session) == str(tmp_path / ".nox/checks/bin/python")
    assert len(commands) == 2


def test_what_was_installed_is_not_installed_again_until_something_else_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").write_text("one")
    Path("bin").mkdir()
    installed = []
    session = SimpleNamespace(
        venv_backend="virtualenv", bin=str(tmp_path / "bin"), install=lambda *names: installed.append(names)
    )
    for _ in range(2):
        noxfile.install(session, "a==1")
    noxfile.install(session, "a==2")
    Path("pyproject.toml").write_text("two")
    noxfile.install(session, "a==2")
    assert installed == [("a==1",), ("a==2",), ("a==2",)]


def test_the_cpu_build_is_pinned_and_an_unreachable_index_is_not_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").touch()
    Path("bin").mkdir()
    monkeypatch.setattr(noxfile, "TORCH_INDEX", "https://127.0.0.1:9/whl")
    monkeypatch.setattr(sys, "platform", "linux")
    installed = []
    session = SimpleNamespace(venv_backend="virtualenv", bin="bin", install=lambda *names: installed.extend(names))
    noxfile.install_torch(session, "cpu", "pytest")
    assert installed == [f"torch=={noxfile.TORCH}+cpu", "pytest", "--editable", ".[torch]"]


@pytest.mark.parametrize(
    ("arguments", "tag", "wanted"),
    [
        (["--engine", "autograd", "--workload", "line"], "cpu", ()),
        (["--engine", "jax_scan", "--engine", "autograd"], "cpu", ("jax=={jax}",)),
        (["run", "--engine=jax_scan"], "cu130", ("jax[cuda13]=={jax}",)),
        (["--engine", "jax_scan"], "cu126", ("jax[cuda12]=={jax}",)),
        (["--workload", "digits", "--seeds", "8"], "cu130", (noxfile.SCIKIT_LEARN,)),
        (["ab", "main", "--workload=digits", "--engine=jax_scan"], "cpu", (noxfile.SCIKIT_LEARN, "jax=={jax}")),
        (["--workload", "mine/digits.py:Digits"], "cpu", ()),
    ],
)
def test_what_a_name_needs_is_installed_where_it_is_named_and_for_the_cuda_that_torch_has(arguments, tag, wanted):
    assert noxfile.needed_by(arguments, tag) == tuple(each.format(jax=noxfile.JAX) for each in wanted)


@pytest.mark.parametrize("session", ["bench_cpu", "bench_cuda", "ab"])
def test_the_sessions_that_measure_install_it_beside_torch(monkeypatch, session):
    installed = []
    monkeypatch.setattr(noxfile, "cuda_tag", lambda: "cu130")
    monkeypatch.setattr(noxfile, "install_torch", lambda _session, tag, *tools: installed.append((tag, *tools)) or "py")
    monkeypatch.setattr(noxfile, "finish", lambda *_: None)
    getattr(noxfile, session)(SimpleNamespace(posargs=["--engine", "jax_scan"], venv_backend="virtualenv"))
    [(tag, jax)] = installed
    assert (tag, jax) in (("cpu", f"jax=={noxfile.JAX}"), ("cu130", f"jax[cuda13]=={noxfile.JAX}"))


def test_whatever_a_name_needs_is_an_extra_of_the_project():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for name, extra in (("digits", "digits"), ("jax_scan", "jax")):
        (requirement,) = noxfile.needed_by([name])
        assert requirement.partition("==")[0] in {re.split("[<>=]", wanted)[0] for wanted in extras[extra]}


# Images


def test_docker_build_uses_the_engine_that_works_and_names_the_commit(checkout):
    fake_program(checkout, "docker", 'echo "cannot connect" >&2; exit 1')
    fake_program(checkout, "podman", '[ "$1" = info ] && echo buildahVersion || echo podman "$@"')
    extra = {"HARNESS_REVISION": "abc", "HARNESS_BUILD_ARGS": "--network host --label 'a=b c'"}
    result = nox(checkout, "-s", "docker_build", "--", "cuda", **extra)
    assert result.returncode == 0
    [line] = lines_of_its_own(result)
    assert line.startswith("podman build --target cuda --tag localhost/harness:cuda --file docker/Dockerfile")
    assert line.endswith("--build-arg CUDA=cu130 --build-arg REVISION=abc --network host --label a=b c .")


def test_an_image_of_changed_files_does_not_claim_to_be_the_commit(checkout):
    fake_program(checkout, "docker", '[ "$1" = info ] || echo docker "$@"')
    (checkout / "bin/git").symlink_to(shutil.which("git"))
    for command in ("init", "add noxfile.py", "-c user.name=a -c user.email=a@b.c commit -m one"):
        subprocess.run(["git", *command.split()], cwd=checkout, check=True, capture_output=True)
    [clean] = lines_of_its_own(nox(checkout, "-s", "docker_build"))
    (checkout / "noxfile.py").write_text((checkout / "noxfile.py").read_text() + "# changed")
    [changed] = lines_of_its_own(nox(checkout, "-s", "docker_build"))
    assert re.search(r"REVISION=[0-9a-f]{40} \.$", clean)
    assert re.search(r"REVISION=[0-9a-f]{40}-dirty \.$", changed)


def test_docker_bench_runs_without_network_or_privileges_and_ends_with_the_exit_code(checkout):
    digest = f"localhost/harness@sha256:{'0f' * 32}"
    body = f'[ "$1" = image ] && echo {digest}; [ "$1" = run ] || exit 0; echo docker "$@"; exit 4'
    fake_program(checkout, "docker", body)
    result = nox(checkout, "-s", "docker_bench", "--", "cuda", "--rounds", "2")
    assert result.returncode == 4
    [line] = lines_of_its_own(result)
    assert line.endswith("localhost/harness:cuda run --device cuda --rounds 2")
    for flag in (
        "--network=none",
        "--read-only",
        "--cap-drop=all",
        "--gpus=all",
        f"{checkout}/results:/results:z",
        f"--env=HARNESS_IMAGE={digest}",
    ):
        assert flag in line


@pytest.mark.parametrize(
    ("body", "arguments", "says"),
    [
        ("exit 1", ("docker_build",), "neither docker nor podman works"),
        ("exit 1", ("docker_bench",), "neither docker nor podman works"),
        ("exit 0", ("docker_build", "--", "gpu"), "cpu and cuda, not 'gpu'"),
        ("exit 0", ("docker_build", "--", "cuda"), "no lock has cu118, only cpu, cu130"),
        ("exit 0", ("docker_build",), "set HARNESS_REVISION"),
        ('[ "$1" = info ]', ("docker_bench",), "nox -s docker_build -- cpu"),
    ],
)
def test_the_image_sessions_say_in_one_line_what_is_missing(checkout, body, arguments, says):
    fake_program(checkout, "docker", body)
    result = nox(checkout, "-s", *arguments, HARNESS_TORCH_CUDA="cu118")
    assert result.returncode == 2
    [line] = lines_of_its_own(result)
    assert says in line


def test_the_list_of_sessions_is_complete_and_each_has_one_line(checkout):
    listed = [line[2:].split(" -> ") for line in nox(checkout, "-l").stdout.splitlines() if " -> " in line]
    assert [name for name, _ in listed] == [
        *("tests", "tests_deploy", "skypilot", "tests_cloud", "tests_distributed"),
        *("tests_report", "tests_ray", "tests_triton"),
        *(
            "lint",
            "types",
            "imports",
            "bench_cpu",
            "bench_cuda",
            "ab",
            "prove",
            "compare",
            "history",
            "report",
            "export",
        ),
        *("error_rates", "microbench", "docker_build", "docker_bench", "docker_test", "docker_lock"),
    ]
    assert all(line.endswith(".") for _, line in listed)


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ([], "run --device cpu"),
        (["--engine", "manual"], "run --device cpu --engine manual"),
        (["run", "--rounds", "1"], "run --device cpu --rounds 1"),
        (["noise", "--rounds", "10"], "noise --device cpu --rounds 10"),
        (["doctor"], "doctor --device cpu"),
        (["doctor", "--device", "cuda"], "doctor --device cuda"),
        (["show", "results/x/y"], "show results/x/y"),
        (["ab", "HEAD~1", "HEAD"], "ab --device cpu HEAD~1 HEAD"),
        (["compare", "HEAD~1", "HEAD"], "compare HEAD~1 HEAD"),
        (["history"], "history"),
        (["prove", "--seeds", "8"], "prove --seeds 8"),
        (["report", "results/x/y"], "report results/x/y"),
        (["export", "results/x/y"], "export results/x/y"),
        (["collect", "s3://x/y"], "collect s3://x/y"),
        (["merge", "results/x/y", "results/x/z"], "merge results/x/y results/x/z"),
        (["--shard", "0/2"], "run --device cpu --shard 0/2"),
        (["--resume", "results/x/y"], "run --resume results/x/y"),
    ],
)
def test_the_bench_sessions_run_the_command_that_is_named_first(arguments: list[str], called: str) -> None:
    assert " ".join(noxfile.command("cpu", arguments)) == called
